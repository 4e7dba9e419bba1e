"""All size arithmetic of the project: output sizes, padding, receptive fields and counts.

Symbols, all per spatial axis, the same everywhere:

- I  input size in pixels
- K  kernel size in taps
- D  dilation: distance in pixels between neighboring taps; the kernel covers E = D*(K-1) + 1 pixels
- S  stride: pixels between neighboring windows
- B, A  padding before and after the input, in pixels (P on both sides is B = A = P)
- O  output size: how many windows fit (P, Q in names of the two axes of an output map)

Output size (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", relationship 6):

    floor (the default)   O = floor((I + B + A - E) / S) + 1
    strict                the same, refused unless S divides I + B + A - E
    ceil                  O = ceil((I + B + A - E) / S) + 1, less one if the last window would start at or after I + B
                          (PyTorch's rule: a window must start inside the input or the padding before it)
    "same" padding        O = ceil(I / S), B + A = max((O - 1)*S + E - I, 0), the odd pixel after (TensorFlow's rule)
    transposed            O = (I - 1)*S - B - A + E + R, with R more pixels (output padding) after, R < max(S, D)
                          (relationship 14, PyTorch's formula); I and O swap roles in the window, which is run
                          backwards
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gpucnn import arguments
from gpucnn.arguments import per_axis, truth
from gpucnn.errors import ConfigurationError, ShapeError

Sizes = tuple[int, ...]
PerAxis = int | Iterable[int]  # one for all spatial axes, or one per axis
Padding = str | int | Iterable[int | tuple[int, int]]  # a word, one for all, one per axis, or (before, after) per axis
PADDING_WORDS = ("valid", "same")


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel slides over an input. Every tuple has one entry per spatial axis; padding's are (before, after).

    Made by `window`, `pool_window` or `transposed_window`, which check that the sizes fit; hashable. In ceil mode the
    last window may reach past the input and its padding; `padding` does not grow then: everything outside the input
    counts as padding.
    """

    input: Sizes
    kernel: Sizes
    stride: Sizes
    padding: tuple[tuple[int, int], ...]
    dilation: Sizes
    output: Sizes


def window(
    input: Iterable[int],
    kernel: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    strict: bool = False,
    ceil: bool = False,
) -> Window:
    """The checked sizes of a convolution or pooling over `input`, for any number of spatial axes (none included).

    `input` is the spatial size, (H, W) of an (N, C, H, W) image. `kernel`, `stride` and `dilation` are one positive
    integer or one per axis. `padding` is "valid" (none), "same" (output = ceil(input / stride)), one integer, one per
    axis, or (before, after) per axis. The formulas are at the top of this module.

    Raises ShapeError where the sizes do not fit: a kernel larger than its padded input, a stride that does not divide
    evenly under `strict`, a tuple of the wrong length. Raises ConfigurationError for invalid sizes: negative,
    zero, fractional or boolean values, an unknown padding word, `strict` and `ceil` together.
    """
    strict, ceil = truth("strict", strict), truth("ceil", ceil)
    if strict and ceil:
        raise ConfigurationError("strict and ceil exclude each other: strict refuses the remainder that ceil rounds up")
    input = _sizes(input)
    axes = len(input)
    kernel = per_axis("kernel", kernel, axes)
    stride = per_axis("stride", stride, axes)
    dilation = per_axis("dilation", dilation, axes)
    extents = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel))
    pads = _padding(padding, input, extents, stride)
    output = tuple(
        _output(axis, axes, *sizes, strict=strict, ceil=ceil)
        for axis, sizes in enumerate(zip(input, extents, kernel, stride, pads))
    )
    return Window(input, kernel, stride, pads, dilation, output)


def transposed_window(
    input: Iterable[int],
    kernel: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    dilation: PerAxis = 1,
) -> Window:
    """The window that a transposed convolution over `input` runs backwards.

    A transposed convolution is a convolution's gradient with respect to its input: its input takes the place of that
    convolution's output. So the window's `output` is the transposed convolution's input, and its `input` the transposed
    convolution's output, of size O = (I - 1)*S - B - A + E + output_padding. `padding` cuts off B pixels before and A
    after: one integer, one per axis, or (before, after) per axis. `output_padding` adds pixels after, the ones that a
    convolution's floor drops: it selects one of the S output sizes for which the convolution gives I, and must be less
    than stride or dilation.

    Raises ShapeError if nothing would be left of the output, and for a tuple of the wrong length; ConfigurationError
    for an output padding that is too large and for invalid sizes.
    """
    input = _sizes(input)
    axes = len(input)
    kernel = per_axis("kernel", kernel, axes)
    stride = per_axis("stride", stride, axes)
    dilation = per_axis("dilation", dilation, axes)
    extra = per_axis("output_padding", output_padding, axes, least=0)
    pads = pads_of(padding, axes)
    output = []
    for axis, (i, k, s, (before, after), d, r) in enumerate(zip(input, kernel, stride, pads, dilation, extra)):
        if r >= max(s, d):
            raise ConfigurationError(
                f"output_padding {r}{_where(axis, axes)} is neither less than the stride {s} nor than the dilation "
                f"{d}; use at most {max(s, d) - 1}"
            )
        full = (i - 1) * s + d * (k - 1) + 1 + r
        if full <= before + after:
            raise ShapeError(
                f"padding {_show((before, after))}{_where(axis, axes)} cuts off all of the {full} pixels that an input "
                f"of {i}, a kernel of {k}, stride {s} and dilation {d} make; use less padding"
            )
        output.append(full - before - after)
    return Window(tuple(output), kernel, stride, pads, dilation, input)


def pool_window(
    input: Iterable[int],
    size: PerAxis,
    *,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    strict: bool = False,
    ceil: bool = False,
) -> Window:
    """The window of a pooling: `stride` defaults to `size`, and no window may consist of padding alone.

    Padding is at most half the window (PyTorch's rule), which ensures that. Raises what `window` raises, and
    ShapeError for more padding.
    """
    stride = size if stride is None else stride
    result = window(input, size, stride=stride, padding=padding, strict=strict, ceil=ceil)
    for axis, (pads, k) in enumerate(zip(result.padding, result.kernel)):
        if max(pads) > k // 2:
            raise ShapeError(
                f"pooling padding {_show(pads)}{_where(axis, len(result.kernel))} is more than half the window of {k}, "
                f"so a window could hold no pixel at all; use a padding of at most {k // 2}"
            )
    return result


def pads_of(padding: Any, axes: int) -> tuple[tuple[int, int], ...]:
    """(before, after) for each axis of a padding without a window: one integer, one per axis, or (before, after) pairs.

    Raises ShapeError and ConfigurationError as `window` does, and ConfigurationError for a word.
    """
    sides = arguments.padding(padding, axes)
    sides = sides if isinstance(sides, tuple) else (sides,) * axes
    return tuple(side if isinstance(side, tuple) else (side, side) for side in sides)


def _output(
    axis: int, axes: int, i: int, e: int, k: int, s: int, pads: tuple[int, int], *, strict: bool, ceil: bool
) -> int:
    """O of one axis by the formulas at the top of this module."""
    before, after = pads
    room = i + before + after - e
    if room < 0:
        extent = f"{k}" if e == k else f"{k} (dilated: {e})"
        raise ShapeError(
            f"a kernel of {extent} is larger than the padded input of {i + before + after}{_where(axis, axes)} "
            f"(input {i}, padding {_show(pads)}); a padding of {-((i - e) // 2)}, a smaller kernel or a larger input "
            "would fit"
        )
    if strict and room % s:
        raise ShapeError(
            f"stride {s} does not divide {room} = input {i} + padding {before} + {after} - kernel {e}"
            f"{_where(axis, axes)} evenly; padding {_fitting_padding(i, e, s, pads)} or "
            f"stride {_fitting_stride(room, s)} would fit"
        )
    if not ceil:
        return room // s + 1
    o = -(-room // s) + 1
    return o - 1 if (o - 1) * s >= i + before else o


def _fitting_padding(i: int, e: int, s: int, pads: tuple[int, int]) -> str:
    """The padding nearest to `pads` that stride s divides evenly: symmetric if it was and can be."""
    before, after = pads
    if before == after:
        # I + 2P - E repeats modulo S after at most S steps of P, so a fit is that near or does not exist.
        near = sorted(range(max(0, before - s), before + s + 1), key=lambda p: (abs(p - before), p))
        for p in near:
            if i + 2 * p >= e and (i + 2 * p - e) % s == 0:
                return str(p)
    return f"{(before, after + s - (i + before + after - e) % s)} (before, after)"


def _fitting_stride(room: int, s: int) -> str:
    """The strides nearest to s, below and above, that divide `room` evenly."""
    divisors = [d for d in range(1, room + 1) if room % d == 0]  # room > 0: zero divides evenly and never gets here
    below = [d for d in divisors if d < s][-1:]
    above = [d for d in divisors if d > s][:1]
    return " or ".join(str(d) for d in below + above)


def _padding(padding: Any, input: Sizes, extents: Sizes, stride: Sizes) -> tuple[tuple[int, int], ...]:
    """(before, after) for each axis from any of the forms that `window` takes."""
    padding = arguments.padding(padding, len(input), PADDING_WORDS)
    if padding == "valid":
        return tuple((0, 0) for _ in input)
    if padding == "same":
        totals = (max((-(-i // s) - 1) * s + e - i, 0) for i, e, s in zip(input, extents, stride))
        return tuple((total // 2, total - total // 2) for total in totals)
    return pads_of(padding, len(input))


def _sizes(input: Any) -> Sizes:
    """The sizes of an image's spatial axes."""
    sizes = arguments.sequence("input", input, "one size per spatial axis, such as (32, 32)")
    return tuple(arguments.integer("input", size) for size in sizes)


def _show(pads: tuple[int, int]) -> str:
    return str(pads[0]) if pads[0] == pads[1] else str(pads)


def _where(axis: int, axes: int) -> str:
    return "" if axes == 1 else f" on spatial axis {axis}"


@dataclass(frozen=True, slots=True)
class Field:
    """The receptive field of one value: how many input pixels it sees along each axis, at most.

    `layers` are for each axis the (reach E, step S) of the layers from the input on: each of a layer's values sees E
    neighboring ones of the layer before, and the next one's begin S further on. An input pixel is `Field.pixel(axes)`.
    """

    layers: tuple[tuple[tuple, ...], ...]

    @classmethod
    def pixel(cls, axes: int) -> "Field":
        """The field of an input pixel itself."""
        return cls(((),) * axes)

    @classmethod
    def whole(cls, image: Sizes) -> "Field":
        """The field of a value that sees all of an image."""
        return cls(tuple(((size, 1),) for size in image))

    @property
    def size(self) -> Sizes:
        """How many pixels: from the last layer to the first, n values see E + (n - 1) * S of the layer before (Araujo,
        Norris and Sim, "Computing receptive fields of convolutional neural networks", 2019), rounded up where an
        upsampling made S a fraction.
        """
        return tuple(map(seen, self.layers))

    @property
    def jump(self) -> tuple:
        """The input pixels between two neighboring values, on the average."""
        return tuple(math.prod(step for _, step in layers) for layers in self.layers)

    def after(self, window: Window) -> "Field":
        """The field of a value after one more window."""
        return self.spread(tuple(d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation)), window.stride)

    def spread(self, reach: tuple, step: tuple) -> "Field":
        """The field after a layer whose values see `reach` neighboring values each, `step` values apart, per axis."""
        return Field(tuple((*layers, (e, s)) for layers, e, s in zip(self.layers, reach, step)))


def seen(layers: tuple) -> int:
    """How many input values one sees after layers of these (reach, step)."""
    values = 1
    for reach, step in reversed(layers):
        values = reach + math.ceil((values - 1) * step)
    return values


def conv_parameters(in_channels: int, out_channels: int, kernel: Sizes, *, groups: int = 1, bias: bool = True) -> int:
    """Weights and biases of a convolution: out_channels * (in_channels / groups * prod(K) + 1)."""
    return out_channels * (in_channels // groups * math.prod(kernel) + bias)


def dense_parameters(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Weights and biases of a dense layer: outputs * (inputs + 1)."""
    return outputs * (inputs + bias)


def conv_multiply_adds(in_channels: int, out_channels: int, window: Window, *, groups: int = 1) -> int:
    """Multiply-adds of a convolution of one image: in_channels / groups * prod(K) per value, padding included."""
    return in_channels // groups * math.prod(window.kernel) * out_channels * math.prod(window.output)


def transposed_field(window: Window) -> tuple[Sizes, tuple[Fraction, ...]]:
    """(reach, step) of a transposed convolution for Field.spread; `window` is transposed_window's.

    With g = gcd(S, D), a value sees at most ceil(K * g / S) inputs that are D / g apart, and its neighbors are 1 / S
    of an input away.
    """
    reach = []
    for k, s, d in zip(window.kernel, window.stride, window.dilation):
        g = math.gcd(s, d)
        reach.append((-(-k * g // s) - 1) * (d // g) + 1)
    return tuple(reach), tuple(Fraction(1, s) for s in window.stride)


def conv_transpose_multiply_adds(in_channels: int, out_channels: int, window: Window, *, groups: int = 1) -> int:
    """Multiply-adds of a transposed convolution of one image: each input value meets out_channels / groups * prod(K)
    weights, including those whose product falls into the padding. `window` is transposed_window's."""
    return out_channels // groups * math.prod(window.kernel) * in_channels * math.prod(window.output)


def dense_multiply_adds(inputs: int, outputs: int) -> int:
    """Multiply-adds of a dense layer for one image."""
    return inputs * outputs


def pixel_use(window: Window) -> np.ndarray:
    """How many windows use each input pixel: integers of shape `window.input`.

    A tap that falls between pixels (dilation) does not use them. The count is the product of the axes' counts.
    """
    use = np.ones((), dtype=np.int64)
    for i, k, s, (before, _), d, o in zip(
        window.input, window.kernel, window.stride, window.padding, window.dilation, window.output
    ):
        pixels = (np.arange(o)[:, None] * s + np.arange(k) * d - before).ravel()
        counts = np.bincount(pixels[(pixels >= 0) & (pixels < i)], minlength=i)
        use = np.multiply.outer(use, counts)
    return use


def pool_counts(window: Window, count_include_pad: bool = True) -> np.ndarray:
    """How many taps the average of each output divides by, int64 of shape `window.output`.

    Those inside the image and its padding, or without `count_include_pad` those inside the image. What a last window of
    ceil mode reaches beyond the padding never counts (PyTorch's rule).
    """
    count = np.ones((), np.int64)
    for i, k, s, (before, after), d, p in zip(
        window.input, window.kernel, window.stride, window.padding, window.dilation, window.output, strict=True
    ):
        pixel = np.arange(p)[:, None] * s + np.arange(k) * d - before  # (P, K)
        inside = pixel < i + after if count_include_pad else (pixel >= 0) & (pixel < i)
        count = count[..., None] * inside.sum(1)
    return count
