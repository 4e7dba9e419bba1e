"""What names and numbers on the command line say of a network."""

from typing import Any

from gpucnn.errors import ConfigurationError

MOST = 1 << 30  # of anything that a network is made of


def parse_shape(text: str) -> tuple[int, ...]:
    """(C, H, W) from "1x32x32", and so for one and three spatial axes; raises ConfigurationError for anything else."""
    try:
        shape = tuple(int(size) for size in text.lower().split("x"))
    except ValueError:
        shape = ()
    if not 2 <= len(shape) <= 4 or not 1 <= min(shape) <= max(shape) <= MOST:
        raise ConfigurationError(
            f"--input-shape is {text[:80]!r}; expected two to four whole numbers such as 1x32x32, none above {MOST:,}"
        )
    return shape


def options(variant: str | None, hidden: str | None) -> dict[str, Any]:
    """What of --variant and --hidden was given, as build_model takes it."""
    found: dict[str, Any] = {} if variant is None else {"variant": variant}
    if hidden is not None:
        try:
            found["hidden"] = [int(size) for size in hidden.split(",") if size.strip()]
        except ValueError:
            found["hidden"] = [0]
        if not all(1 <= size <= MOST for size in found["hidden"]):
            raise ConfigurationError(
                f"--hidden is {hidden[:80]!r}; expected whole numbers from 1 to {MOST:,}, such as 300,100"
            )
    return found


def head(classes: int | None, outputs: int | None) -> dict[str, int]:
    """What of --classes and --outputs was given, as build_model takes it."""
    return {name: size for name, size in (("classes", classes), ("outputs", outputs)) if size is not None}
