"""Sliding windows over whole arrays: fields of zeros with the images in them, and their slices tap by tap."""

import numpy as np

from gpucnn.geometry import Window


def place(x: np.ndarray, offsets: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """x (N, C, *I) in a field of zeros (N, C, *sizes): field[offset + i * step] = x[i]; what is outside is cut off.

    Zero padding, cropping, and the zeros between the gradients of a stride are all this.
    """
    field = np.zeros((*x.shape[:2], *sizes), x.dtype)
    source, target = [slice(None)] * 2, [slice(None)] * 2
    for size, offset, room, step in zip(x.shape[2:], offsets, sizes, steps, strict=True):
        first = max(0, -(offset // step))  # the smallest i with offset + i * step >= 0
        stop = max(first, min(size, -((offset - room) // step)))  # the smallest i with offset + i * step >= room
        source.append(slice(first, stop))
        target.append(slice(offset + first * step, offset + stop * step, step))
    field[tuple(target)] = x[tuple(source)]
    return field


def field_sizes(window: Window) -> tuple[int, ...]:
    """*F: the number of pixels per axis that windows cover, padding included, uncovered pixels excluded."""
    return tuple(
        (p - 1) * s + (k - 1) * d + 1
        for p, s, k, d in zip(window.output, window.stride, window.kernel, window.dilation, strict=True)
    )


def padded(x: np.ndarray, window: Window) -> np.ndarray:
    """x (N, C, *I) with zeros where windows extend outside it: (N, C, *F), see field_sizes."""
    return place(x, tuple(before for before, _ in window.padding), field_sizes(window), (1,) * len(window.input))


def unpadded(field: np.ndarray, window: Window) -> np.ndarray:
    """The images' pixels (N, C, *I) of a field (N, C, *F); +0 for pixels that no window covers."""
    return place(field, tuple(-before for before, _ in window.padding), window.input, (1,) * len(window.input))


def taps(window: Window) -> list[tuple[slice, ...]]:
    """For each kernel position, row-major, the slices of a field (N, C, *F) that the outputs (N, C, *P) read there."""
    return [
        (
            slice(None),
            slice(None),
            *(
                slice(r * d, r * d + (p - 1) * s + 1, s)
                for r, d, p, s in zip(position, window.dilation, window.output, window.stride, strict=True)
            ),
        )
        for position in np.ndindex(window.kernel)
    ]
