"""One operation at a time: a 3x3 convolution forward and its two gradients, compared with the processor's peak.

Multiply-adds are counted twice. `operations` counts each tap of each output, as is usual, taps on padding
included; `inside` leaves out the taps on padding, which a kernel may skip. A fraction of the peak by the second count
cannot exceed 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpucnn import arguments
from gpucnn.backends import get_backend
from gpucnn.backends.batch import Batch
from gpucnn.backends.protocol import Backend
from gpucnn.errors import BackendError
from gpucnn.geometry import Window, conv_multiply_adds, pool_counts, window
from gpucnn.throughput import pytorch
from gpucnn.throughput.peak import peaks
from gpucnn.throughput.timing import Contender, interleave, ratio

PASSES = ("forward", "input gradient", "weight gradient")


@dataclass(frozen=True)
class Convolution:
    """A padded 3x3 convolution of `size` x `size` images from `channels` to `filters`."""

    size: int
    channels: int
    filters: int

    @property
    def window(self) -> Window:
        return window((self.size, self.size), 3, padding=1)

    @property
    def operations(self) -> int:
        """Two per multiply-add, for one image, taps on padding included; the same for all three passes."""
        return 2 * conv_multiply_adds(self.channels, self.filters, self.window)

    @property
    def inside(self) -> int:
        """The same without taps on padding."""
        return 2 * self.channels * self.filters * int(pool_counts(self.window, count_include_pad=False).sum())

    def __str__(self) -> str:
        return f"{self.size}x{self.size}, {self.channels} to {self.filters}"


CONVOLUTIONS = (
    Convolution(32, 32, 32),
    Convolution(16, 32, 64),
    Convolution(16, 64, 64),
    Convolution(8, 64, 128),
    Convolution(8, 128, 128),
)


def arrays(convolution: Convolution, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random (x, w, dy) in float32."""
    random = np.random.default_rng(0)
    images, outputs = (convolution.window.input, convolution.window.output)
    x = random.standard_normal((batch, convolution.channels, *images), np.float32)
    w = random.standard_normal((convolution.filters, convolution.channels, 3, 3), np.float32)
    dy = random.standard_normal((batch, convolution.filters, *outputs), np.float32)
    return x, w, dy


def prepare(convolution: Convolution, batch: int, backend: Backend) -> dict[str, tuple[Callable, Callable]]:
    """For each pass (call, result): `call` repeats it on the device, `result()` is its output on the host."""
    x, w, dy = arrays(convolution, batch)
    images, gradients, weights = backend.pack(x), backend.pack(dy), backend.array(w)
    out = backend.zeros(w.shape)
    kept: dict[str, Batch] = {}

    # What the first run left is dropped first, so that recording finds the memory again.
    def forward() -> None:
        kept.pop("forward", None)
        kept["forward"] = backend.conv(images, weights, None, convolution.window)

    def input_gradient() -> None:
        kept.pop("input gradient", None)
        kept["input gradient"] = backend.conv_input_gradient(gradients, weights, convolution.window)

    def weight_gradient() -> None:
        backend.conv_weight_gradient(gradients, images, convolution.window, 1, out)

    results = {
        "forward": lambda: backend.unpack(kept["forward"]),
        "input gradient": lambda: backend.unpack(kept["input gradient"]),
        "weight gradient": lambda: backend.host(out),
    }
    works = dict(zip(PASSES, (forward, input_gradient, weight_gradient), strict=True))
    return {name: (backend.capture(work), results[name]) for name, work in works.items()}


def largest_error(convolution: Convolution, batch: int, results: dict[str, np.ndarray], reference: Backend) -> float:
    """The error of the results against a float64 `reference` in units of the derived bound; right ones stay below 1.

    The bound of a sum of k products in float32 in any order is k * 2**-24 * sum(|a||b|), to first order.
    """
    parts = x, _w, dy = [a.astype(np.float64) for a in arrays(convolution, batch)]
    magnitudes = [abs(a) for a in parts]
    positions = batch * int(np.prod(convolution.window.output))
    terms = {"forward": 9 * x.shape[1], "input gradient": 9 * dy.shape[1], "weight gradient": positions}
    exact, scale = (
        {name: result() for name, (_, result) in _reference(convolution, reference, *operands).items()}
        for operands in (parts, magnitudes)
    )
    return max(
        float(np.max(abs(results[name] - exact[name]) / ((terms[name] + 2) * 2.0**-24 * scale[name])))
        for name in PASSES
    )


def _reference(convolution: Convolution, backend: Backend, x, w, dy) -> dict[str, tuple[None, Callable]]:
    out = np.zeros_like(w)

    def weight_gradient():
        backend.conv_weight_gradient(backend.pack(dy), backend.pack(x), convolution.window, 1, out)
        return out

    return {
        "forward": (None, lambda: backend.unpack(backend.conv(backend.pack(x), w, None, convolution.window))),
        "input gradient": (
            None,
            lambda: backend.unpack(backend.conv_input_gradient(backend.pack(dy), w, convolution.window)),
        ),
        "weight gradient": (None, weight_gradient),
    }


def measure(
    convolutions: Sequence[Convolution],
    batch: int,
    backend: Backend,
    seconds: float,
    *,
    patience: float = 1.0,
    peer: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> dict:
    """Check, then time each pass of each convolution, taking turns with the peak and, if it is installed, PyTorch.

    Returns `results`, one per convolution and pass: operation, pass, batch, backend, threads, milliseconds and their
    quartiles, gflops (taps on padding counted), peak_fraction, peak_fraction_inside (padding not counted),
    pytorch_milliseconds by memory layout and the ratio to the better one; and `largest_error` in units of the bound.
    """
    seconds = arguments.number("seconds", seconds, above=0)
    patience = arguments.number("patience", patience, least=0)
    threads = backend.threads
    results, worst = [], 0.0
    peak = peaks({threads}).get(threads)
    for convolution in convolutions:
        say(f"{convolution}, batch {batch}")
        works = prepare(convolution, batch, backend)
        error = largest_error(
            convolution,
            batch,
            {name: result() for name, (_, result) in works.items()},
            get_backend("numpy", "fast", dtype=np.float64),
        )
        if not error <= 1:
            raise BackendError(
                f"{backend.name} computes the convolution {convolution} wrongly: {error:.2g} times the error bound; "
                "run gpucnn check"
            )
        worst = max(worst, error)
        contenders = {name: Contender(call, backend.synchronize) for name, (call, _) in works.items()}
        if peak:
            contenders["peak"] = peak.contender
        if peer:
            contenders |= pytorch.convolution_contenders(*arrays(convolution, batch), 1, threads)
        timings = interleave(contenders, seconds, patience=patience)
        for name in PASSES:
            timing = timings[name]
            low, high = timing.quartiles
            row = {
                "operation": str(convolution),
                "pass": name,
                "batch": batch,
                "backend": backend.name,
                "threads": threads,
                "milliseconds": 1e3 * timing.median,
                "quartiles": [1e3 * low, 1e3 * high],
                "gflops": batch * convolution.operations / timing.median / 1e9,
                **timing.describe(),
            }
            if peak:
                row["peak_fraction"] = peak.fraction(batch * convolution.operations, timing, timings["peak"])
                row["peak_fraction_inside"] = peak.fraction(batch * convolution.inside, timing, timings["peak"])
            theirs = {key[2]: t for key, t in timings.items() if key[:2] == ("pytorch", name)}
            if theirs:
                best = min(theirs, key=lambda layout: theirs[layout].median)
                row["pytorch_milliseconds"] = {layout: 1e3 * t.median for layout, t in theirs.items()}
                row["ratio"] = ratio(timing, theirs[best])["ratio"]
            results.append(row)
    return {"results": results, "largest_error": worst}
