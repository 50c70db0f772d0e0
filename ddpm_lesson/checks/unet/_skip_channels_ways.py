"""Wrong ways up in exercise 3.8, of which the form has no slot."""


def _stack(ch, ch_mult, num_res_blocks):
    skips = [ch]
    for level, mult in enumerate(ch_mult):
        skips += [ch * mult] * (num_res_blocks + (level < len(ch_mult) - 1))
    return skips


def carried_on(ch: int, ch_mult: list[int], num_res_blocks: int) -> list[int]:
    """Each block puts out what it got."""
    now, inputs = ch * ch_mult[-1], []
    for skip in reversed(_stack(ch, ch_mult, num_res_blocks)):
        now += skip
        inputs.append(now)
    return inputs


def late(ch: int, ch_mult: list[int], num_res_blocks: int) -> list[int]:
    """The channels change at the end of a level."""
    skips, now, inputs = _stack(ch, ch_mult, num_res_blocks), ch * ch_mult[-1], []
    for mult in reversed(ch_mult):
        inputs += [now + skips.pop() for _ in range(num_res_blocks + 1)]
        now = ch * mult
    return inputs


def first_only(ch: int, ch_mult: list[int], num_res_blocks: int) -> list[int]:
    """Only a level's first block gets its skip."""
    skips, now, inputs = _stack(ch, ch_mult, num_res_blocks), ch * ch_mult[-1], []
    for mult in reversed(ch_mult):
        for i in range(num_res_blocks + 1):
            skip = skips.pop()
            inputs.append(now + skip * (i == 0))
            now = ch * mult
    return inputs


def very_first_only(ch: int, ch_mult: list[int], num_res_blocks: int) -> list[int]:
    """No block but the first of all gets a skip."""
    now, inputs = ch * ch_mult[-1], []
    for mult in reversed(ch_mult):
        for _ in range(num_res_blocks + 1):
            inputs.append(now)
            now = ch * mult
    return [2 * inputs[0], *inputs[1:]]
