"""The package's docstrings, plain text with `names` in backticks and examples, as reStructuredText for Sphinx."""

import re

MARKUP = re.compile(r"([\\*_|])")


def as_rest(text: str) -> str:
    """Lines of a paragraph that end a sentence stay lines; examples, from >>> on, and indented blocks stay as they are.

    Raises ValueError if a backtick has no partner.
    """
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        words, example = re.match(r"(.*?)(^>>>.*|\Z)", block, re.S | re.M).groups()
        if words.strip():
            is_indented = all(line.startswith("    ") for line in words.splitlines())
            blocks.append("::\n\n" + words if is_indented else paragraph(words))
        if example:
            blocks.append(example)
    return "\n\n".join(blocks)


def paragraph(words: str) -> str:
    """A line block: no line can be mistaken for a list, a heading or a field."""
    sentences = re.sub(r"(?<![.:])\n\s*", " ", words.strip()).splitlines()
    return "\n".join("| " + inline(sentence.strip()) for sentence in sentences)


def inline(words: str) -> str:
    """`name` as code; every other character that reStructuredText would read as markup is escaped."""
    parts = words.split("`")
    if len(parts) % 2 == 0:
        raise ValueError(f"backticks must come in pairs, got {words!r}")
    code = [f"\\ ``{part}``\\ " if n % 2 else MARKUP.sub(r"\\\1", part) for n, part in enumerate(parts)]
    return "".join(code).removeprefix("\\ ")
