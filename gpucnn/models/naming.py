"""Patterns for the names of layers and parameters: "0", "4.body.*", "*.bias"."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from gpucnn.arguments import refuse
from gpucnn.errors import ConfigurationError


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern`, in which * stands for any characters, is `name` or a layer that it is part of.

    "4" matches "4", "4.body.0" and "4.body.0.weight".
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def check_pattern(pattern: object, names: Iterable[str], of: str) -> str:
    """`pattern`, if it matches one of `names`; raises ConfigurationError, which lists them, for another."""
    if not isinstance(pattern, str):
        raise refuse("a pattern", pattern, "a name or pattern as text, such as '0' or '4.*'")
    names = list(names)
    if not any(matches(pattern, name) for name in names):
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise ConfigurationError(f"{pattern!r} matches no {of}; there are {shown}")
    return pattern
