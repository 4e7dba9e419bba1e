"""Reading the shape of a layer's input."""

from gpucnn.errors import ShapeError

_AXES = {1: "(C, W)", 2: "(C, H, W)", 3: "(C, D, H, W)"}


def image_shape(shape: tuple[int, ...], axes: int | None = 2) -> tuple[int, tuple[int, ...]]:
    """(C, the spatial sizes) of a layer's input; raises ShapeError for other than `axes` spatial axes (None: 1 to
    3).
    """
    if len(shape) - 1 not in (_AXES if axes is None else [axes]):
        expected = ", ".join(_AXES.values()) if axes is None else _AXES[axes]
        raise ShapeError(f"needs images of shape {expected}, not {tuple(shape)}")
    return shape[0], tuple(shape[1:])
