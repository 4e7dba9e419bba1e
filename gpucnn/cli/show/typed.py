"""Images, patterns and sizes that are typed as text."""

from gpucnn.errors import ConfigurationError, DataError


def channels(what: str, text: str):
    """(C, R, S) float32 from '1,2;3,4/5,6;7,8'."""
    import numpy as np

    found = [np.array(_numbers(what, part), np.float32) for part in text.split("/")]
    if len({channel.shape for channel in found}) > 1:
        sizes = ", ".join("x".join(map(str, channel.shape)) for channel in found)
        raise DataError(f"{what} is {text!r}, channels of {sizes} numbers; they must be of one size")
    return np.stack(found)


def _numbers(what: str, text: str) -> list[list[float]]:
    """Rows of numbers from '1,2;3,4'."""
    try:
        rows = [[float(cell) for cell in row.split(",")] for row in text.split(";")]
    except ValueError:
        rows = []
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise DataError(f"{what} is {text!r}; expected rows of equally many numbers, such as '1,-1,-1;-1,1,-1;-1,-1,1'")
    return rows


def sizes(option: str, text: str):
    """An integer, a tuple of them from '2x3', or the words that padding takes."""
    if option == "--padding" and text in ("same", "valid"):
        return text
    try:
        values = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        words = ", same or valid" if option == "--padding" else ""
        raise ConfigurationError(
            f"{option} is {text!r}; expected a whole number such as 2, one per axis such as 2x3{words}"
        ) from None
    return values[0] if len(values) == 1 else values
