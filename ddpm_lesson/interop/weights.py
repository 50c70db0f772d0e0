"""Weights into a network, with errors that say which name or shape does not fit."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

TABLE = "time_embedding.timembedding.0.weight"  # the sines and cosines, (T, ch): held, not trained


def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights into the module.

    weights: all of the module's names, no others. A linear layer's (C, C) and a 1x1 convolution's (C, C, 1, 1) are
    taken for each other. Raises ValueError for missing or unexpected names, for other shapes, and for another dtype
    than the module's, which a copy would round without a word.
    """
    held = module.state_dict()
    missing, unexpected = held.keys() - weights.keys(), weights.keys() - held.keys()
    if missing or unexpected:
        raise ValueError(
            f"expected the {len(held)} weights of this {type(module).__name__}, got {len(weights)}: "
            f"missing {some(missing)}; unexpected {some(unexpected)}"
        )
    for name, old in held.items():
        if _without_ones(weights[name].shape) != _without_ones(old.shape):
            raise ValueError(f"expected {name} to be {tuple(old.shape)}, got {tuple(weights[name].shape)}")
        if weights[name].dtype != old.dtype:
            raise ValueError(f"expected {name} to be {old.dtype} as the others, got {weights[name].dtype}")
    module.load_state_dict({name: weights[name].reshape(old.shape) for name, old in held.items()})


def some(names: Iterable) -> str:
    """The first three names in alphabetical order and how many more there are."""
    names = sorted(map(str, names))
    rest = [f"and {len(names) - 3} more"] if len(names) > 3 else []
    return ", ".join(names[:3] + rest) or "none"


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """(C, C, 1, 1) as (C, C); every other shape as it is."""
    return tuple(shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape)
