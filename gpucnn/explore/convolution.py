"""Convolution by hand: one filter on one small image, with every product.

The specification computes it, NumPy's exact math, which needs no compilation. A product is what the engine makes of a
filter that has this one weight and zeros beside it; the sums are the convolution itself.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from gpucnn import functional, geometry
from gpucnn.data.images import InMemory, open_image, pixels
from gpucnn.errors import DataError
from gpucnn.explore.body import Body
from gpucnn.explore.engine import packed

SIDE, CHANNELS, KERNEL, PADDING = 16, 3, 7, 6  # at most: pixels a side, channels, taps a side, padding
_SPECIFICATION: dict[str, Any] = {"backend": "numpy", "math": "exact"}
_MODES = "zeros", "constant", "reflect", "replicate", "circular"


def convolve(body: Body) -> dict[str, Any]:
    """One of the operations "conv", "max" and "avg" (pooling) on `image` (C, H, W).

    A convolution takes `filter` (C, K, L), `flip` for the true one, which turns the filter round, and all settings; a
    pooling takes `size`. The answer has the engine's `output` and, of each output position, all `products` or the pixel
    that wins. Raises what the engine raises for settings that do not fit.
    """
    operation = body.choice("operation", ("conv", "max", "avg"))
    image = body.array("image", 3, SIDE)[None]
    if image.shape[1] > CHANNELS:
        raise DataError(f"the image has {image.shape[1]} channels; at most {CHANNELS} are shown")
    stride, padding = body.integer("stride", 1, SIDE), body.integer("padding", 0, PADDING)
    settings = {"stride": stride, "padding": padding, "strict": body.truth("strict")}
    if operation == "conv":
        return _conv(body, image, settings)
    return _pool(operation, image, body.integer("size", 1, SIDE), settings)


def _conv(body: Body, image: np.ndarray, settings: dict) -> dict[str, Any]:
    weights = body.array("filter", 3, KERNEL)
    dilation, mode = body.integer("dilation", 1, SIDE), body.choice("mode", _MODES)
    value = body.number("value", -1e3, 1e3, 0.0) if mode == "constant" else 0.0
    if body.truth("flip"):
        weights = np.ascontiguousarray(weights[:, ::-1, ::-1])
    more = {**settings, "dilation": dilation, "padding_mode": mode, "padding_value": value, **_SPECIFICATION}
    output = functional.conv(image, weights[None], **more)
    taps = np.eye(weights.size, dtype=np.float32).reshape(-1, *weights.shape) * weights
    products = functional.conv(image, taps, **more)
    window = geometry.window(
        image.shape[2:],
        weights.shape[1:],
        stride=settings["stride"],
        padding=settings["padding"],
        dilation=dilation,
        strict=settings["strict"],
    )
    outside = functional.pad(image, window.padding, mode, value, **_SPECIFICATION)
    return {
        **_about(window, outside, output),
        "filter": packed(weights),
        # (C*K*L, P, Q): the products at each position, in the filter's order
        "products": packed(products[0]),
    }


def _pool(operation: str, image: np.ndarray, size: int, settings: dict) -> dict[str, Any]:
    compute = functional.max_pool if operation == "max" else functional.avg_pool
    output = compute(image, size, **settings, **_SPECIFICATION)
    window = geometry.pool_window(image.shape[2:], size, **settings)
    outside = functional.pad(image, window.padding, **_SPECIFICATION)
    # Of a maximum what lies outside takes no part: only pixels are counted.
    counts = geometry.pool_counts(window, count_include_pad=operation == "avg")
    answer = {**_about(window, outside, output), "counts": packed(counts)}
    if operation == "max":
        # The pixel that wins is the one to which the output's gradient goes.
        dy = np.zeros((output[0, 0].size, *output.shape[1:]), np.float32)
        dy.reshape(len(dy), output.shape[1], -1)[np.arange(len(dy)), :, np.arange(len(dy))] = 1
        every = np.repeat(image, len(dy), axis=0)
        winners = functional.max_pool_backward(dy, every, size, **settings, **_SPECIFICATION)
        answer["winners"] = packed((winners != 0).astype(np.uint8).reshape(*output.shape[2:], *image.shape[1:]))
    return answer


def _about(window: geometry.Window, padded: np.ndarray, output: np.ndarray) -> dict[str, Any]:
    """What both have: the padded image, the output, the size rule's numbers, and how often each pixel is used."""
    axes = []
    for i, k, s, (before, after), d, o in zip(*asdict(window).values()):
        extent = d * (k - 1) + 1
        axes.append(
            {
                "input": i,
                "kernel": k,
                "extent": extent,
                "stride": s,
                "before": before,
                "after": after,
                "dilation": d,
                "output": o,
                "left": (i + before + after - extent) % s,
            }
        )
    return {
        "axes": axes,
        "padded": packed(padded[0]),
        "output": packed(output[0]),
        "use": packed(geometry.pixel_use(window)),
    }


def presets() -> dict[str, Any]:
    """Images and filters to begin with, by name; "digit" is null, since `digit` takes a second to load."""
    cross = -np.ones((9, 9))
    for i in range(1, 8):
        cross[i, i] = cross[i, 8 - i] = 1
    edge = np.zeros((9, 9))
    edge[:, 5:] = 1
    rows, columns = np.mgrid[:8, :8]
    colours = np.stack([columns / 7, rows / 7, ((rows + columns) % 4 < 2) * 1.0]).round(2)
    images = {
        "cross": cross[None],
        "edge": edge[None],
        "checks": (np.indices((8, 8)).sum(axis=0) % 2)[None] * 1.0,
        "colours": colours,
        "empty": np.zeros((1, 8, 8)),
    }
    filters = {
        "diagonal": [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]],
        "vertical": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
        "horizontal": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
        "outline": [[0, -1, 0], [-1, 4, -1], [0, -1, 0]],
        "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
        "blur": [[1, 2, 1], [2, 4, 2], [1, 2, 1]],
        "one": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
        "corner": [[1, 1], [1, 0]],
    }
    filters["blur"] = (np.array(filters["blur"]) / 16).tolist()
    return {"images": {"digit": None, **{name: image.tolist() for name, image in images.items()}}, "filters": filters}


def digit() -> dict[str, Any]:
    """A handwritten digit of 8x8 pixels."""
    from gpucnn.data import load

    _, test = load("digits")
    return {"image": test.images[3][:, ::4, ::4].tolist()}


def shrink(content: bytes, side: int, channels: int) -> dict[str, Any]:
    """The middle of an uploaded image file as `image` (channels, side, side), values / 255 rounded to two decimals."""
    from PIL import Image, ImageOps

    image = open_image(InMemory(content, "the uploaded file")).convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (side, side), Image.Resampling.BOX)  # squeezed, circles would be ellipses
    return {"image": pixels(image, channels).round(2).tolist()}
