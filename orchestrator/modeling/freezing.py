"""Keep parameters as they are: no gradient, no optimizer state."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from orchestrator.config import nearest
from orchestrator.errors import InputError

EXAMPLES = "For example `embedding`, `encoder.layers.0` or `encoder.layers.*.norm?.*`."


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Exclude parameters from training.

    Args:
        model: The model, before an optimizer is made for it.
        patterns: Names of parameters or of what holds them, with ``*``, ``?`` and ``[a-z]``.

    Returns:
        Names of the parameters that are frozen now, in the model's order.

    Raises:
        InputError: A pattern fits no parameter, or nothing would be left to train.
    """
    named = dict(model.named_parameters())
    frozen = {name for pattern in patterns for name in fitting(named, pattern)}
    if all(name in frozen or not parameter.requires_grad for name, parameter in named.items()):
        raise InputError(f"freeze: {', '.join(patterns)} leaves nothing to train. Freeze less.")
    for name in frozen:
        named[name].requires_grad_(False)
    return [name for name in named if name in frozen]


def fitting(names: Iterable[str], pattern: str, what: str = "parameter") -> list[str]:
    """Return the names that a pattern fits: whole names, or names of what holds them.

    Args:
        names: All names there are.
        pattern: See `freeze`.
        what: What they are names of, for the message.

    Raises:
        InputError: None; the nearest name is given.
    """
    listed = list(names)
    found = [n for n in listed if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
    if not found:
        near = nearest(pattern, {prefix for name in listed for prefix in _prefixes(name)})
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"{pattern!r} fits no {what} of this model.{hint} {EXAMPLES}")
    return found


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
