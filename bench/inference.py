"""Model.predict on the CPU beside ONNX Runtime and PyTorch, arrays in, arrays out, for networks of every kind.

    python bench/inference.py [--threads N] [--seconds 3] [--only NAME] [--batch 1,8,128] [--compiled] [--dry]

Results are checked first. For each kind and batch: images a second, the ratio to the better peer (medians by turns, as
gpucnn bench takes them), and for one image the median and the 99th percentile of single calls. Writes the section
"inference" of bench/results/inference-DATE.json unless --dry, where other networks and batches of the same day stay.
"""

import argparse
import functools
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np

from gpucnn import export_onnx
from gpucnn import layers as L
from gpucnn.backends import get_backend
from gpucnn.models import Model, build_model, pytorch_module
from gpucnn.throughput import onnx_runtime, pytorch
from gpucnn.throughput.quiet import others_now, warning
from gpucnn.throughput.report import disturbance
from gpucnn.throughput.timing import Contender, interleave, ratio
from record import record, recorded

# Bars: the ratio to the better peer that the project holds itself to.
BARS = {1: 1.0, 8: 1.0, 128: 1.2}
# Single calls, for a percentile, and the seconds that a tenth of them may take.
_CALLS, _PATIENCE = 2000, 0.3
_TOLERANCE = 1e-3


def _separable(filters: int, channels: int, stride: int) -> list[L.Layer]:
    return [
        L.Conv2d(channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        L.BatchNorm(activation="relu"),
        L.Conv2d(filters, 1, bias=False),
        L.BatchNorm(activation="relu"),
    ]


def _convolutions(conv, pool, filters: tuple[int, ...], kernel: int, **settings) -> list[L.Layer]:
    return [layer for f in filters for layer in (conv(f, kernel, activation="relu", **settings), pool(2))]


KINDS: dict[str, tuple[Callable[[], list[L.Layer]], tuple[int, ...]]] = {
    "5x5, CIFAR": (
        lambda: [
            *_convolutions(L.Conv2d, L.MaxPool2d, (6, 16), 5),
            L.Flatten(),
            L.Dense(120, activation="relu"),
            L.Dense(84, activation="relu"),
            L.Dense(10),
        ],
        (3, 32, 32),
    ),
    "3x3, dense 9216-128": (
        lambda: [
            L.Conv2d(32, 3, activation="relu"),
            L.Conv2d(64, 3, activation="relu"),
            L.MaxPool2d(2),
            L.Flatten(),
            L.Dense(128, activation="relu"),
            L.Dense(10),
        ],
        (1, 28, 28),
    ),
    "3x3, each pooled": (
        lambda: [*_convolutions(L.Conv2d, L.MaxPool2d, (32, 64), 3, padding=1), L.Flatten(), L.Dense(10)],
        (1, 28, 28),
    ),
    "depthwise separable": (
        lambda: [
            L.Conv2d(32, 3, stride=2, padding=1, bias=False),
            L.BatchNorm(activation="relu"),
            *_separable(64, 32, 1),
            *_separable(128, 64, 2),
            *_separable(128, 128, 1),
            *_separable(256, 128, 2),
            L.GlobalAvgPool2d(),
            L.Dense(10),
        ],
        (3, 32, 32),
    ),
    "1D": (
        lambda: [
            L.Conv1d(32, 7, padding=3, activation="relu"),
            L.MaxPool1d(2),
            L.Conv1d(64, 5, padding=2, activation="relu"),
            L.MaxPool1d(2),
            L.Conv1d(128, 3, padding=1, activation="relu"),
            L.GlobalAvgPool1d(),
            L.Dense(6),
        ],
        (9, 128),
    ),
    "3D": (
        lambda: [
            *_convolutions(L.Conv3d, L.MaxPool3d, (16, 32), 3, padding=1),
            L.Flatten(),
            L.Dense(64, activation="relu"),
            L.Dense(10),
        ],
        (1, 16, 16, 16),
    ),
    "GELU": (
        lambda: [
            *(layer for f in (32, 64) for layer in (L.Conv2d(f, 3, padding=1, activation="gelu"), L.MaxPool2d(2))),
            L.Flatten(),
            L.Dense(64, activation="gelu"),
            L.Dense(10),
        ],
        (1, 28, 28),
    ),
    "SiLU": (
        lambda: [
            *(
                layer
                for f, stride in ((32, 1), (64, 2), (64, 2))
                for layer in (L.Conv2d(f, 3, stride=stride, padding=1, bias=False), L.BatchNorm(activation="silu"))
            ),
            L.GlobalAvgPool2d(),
            L.Dense(10),
        ],
        (3, 32, 32),
    ),
    "group norm": (
        lambda: [
            *(
                layer
                for f in (32, 64)
                for layer in (L.Conv2d(f, 3, padding=1), L.GroupNorm(8, activation="relu"), L.AvgPool2d(2))
            ),
            L.Flatten(),
            L.Dense(10),
        ],
        (3, 32, 32),
    ),
    "U-Net": (
        lambda: [
            L.Conv2d(16, 3, padding=1, activation="relu"),
            L.Concat(
                L.Sequential(),
                L.Sequential(
                    L.MaxPool2d(2),
                    L.Conv2d(32, 3, padding=1, activation="relu"),
                    L.Conv2d(32, 3, padding=1, activation="relu"),
                    L.ConvTranspose2d(16, 2, stride=2),
                ),
            ),
            L.Conv2d(16, 3, padding=1, activation="relu"),
            L.Conv2d(2, 1),
        ],
        (1, 48, 48),
    ),
    "64x64": (
        lambda: [
            *_convolutions(L.Conv2d, L.MaxPool2d, (64, 128, 256), 3, padding=1),
            L.GlobalAvgPool2d(),
            L.Dense(10),
        ],
        (3, 64, 64),
    ),
}
READY = {"lenet5": (1, 28, 28), "mlp": (1, 28, 28), "vgg_small": (3, 32, 32), "resnet20": (3, 32, 32)}


def build(name: str) -> Model:
    """A network by its name in READY or KINDS, with its first weights."""
    if name in READY:
        return build_model(name, READY[name], 10).initialize(0)
    make, shape = KINDS[name]
    return Model(L.Sequential(*make()), shape).initialize(0)


def contenders(model: Model, images: np.ndarray, batch: int, threads: int, compiled: bool) -> dict[str, Contender]:
    """Ours and the peers, each going through the images one batch after the other; raises where results differ."""
    parts = list(images.reshape(-1, batch, *images.shape[1:]))
    found = {"gpucnn": _contender(lambda x: model.predict(x, batch), parts)}
    scores = model.place(get_backend("numpy", "fast"))(parts[0])[0].numpy()
    model.place(get_backend("numba", threads=threads))
    if onnx_runtime.installed():
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(model, Path(folder) / "model.onnx")
            session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"), options)
        name = session.get_inputs()[0].name
        _check("ONNX Runtime", session.run(None, {name: parts[0]})[0], scores)
        found["ONNX Runtime"] = _contender(lambda x: session.run(None, {name: x}), parts)
    if pytorch.installed():
        import torch

        for layout, way in itertools.product(pytorch.LAYOUTS, ("", "frozen") if compiled else ("",)):
            memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
            if layout == "channels_last" and images.ndim != 4:
                continue
            network = pytorch_module(model).eval().to(memory_format=memory)
            call = pytorch._compiled(lambda x, network=network: network(x), pytorch.Variant(layout, way))
            inputs = [torch.from_numpy(part).to(memory_format=memory) for part in parts]
            with pytorch.using(threads, inference=True):
                _check("PyTorch", call(inputs[0]).numpy(), scores)
            context = functools.partial(pytorch.using, threads, inference=True)
            found[f"PyTorch, {way or 'eager'}, {layout}"] = _contender(call, inputs, context)
    return found


def _contender(call: Callable, inputs: list, context=None) -> Contender:
    turn = itertools.cycle(inputs)
    settings = {} if context is None else {"context": context}
    return Contender(lambda: call(next(turn)), **settings)


def _check(who: str, theirs: np.ndarray, ours: np.ndarray) -> None:
    error = np.abs(theirs - ours).max() / np.abs(ours).max()
    if not error < _TOLERANCE:
        raise SystemExit(f"{who} computes something else: its scores differ by {error:.1e} of the largest")


def latencies(found: dict[str, Contender]) -> dict[str, list[float]]:
    """Microseconds of single calls, [median, 99th percentile], of all by turns, some hundred calls at a time."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(10):
        for name, contender in found.items():
            with contender.context():
                for _ in range(5):
                    contender.call()
                begun = now = perf_counter()
                for _ in range(_CALLS // 10):
                    contender.call()
                    before, now = now, perf_counter()
                    seconds[name].append(now - before)
                    if now - begun > _PATIENCE:
                        break
    return {name: [1e6 * statistics.median(s), 1e6 * sorted(s)[int(0.99 * len(s))]] for name, s in seconds.items()}


def measure(name: str, batch: int, threads: int, seconds: float, compiled: bool) -> dict:
    """The row of a kind and batch."""
    model = build(name).place(get_backend("numba", threads=threads))
    shape = max(2, 256 // batch) * batch, *model.input_shape
    images = np.random.default_rng(1).standard_normal(shape, np.float32)
    found = contenders(model, images, batch, threads, compiled)
    for contender in found.values():
        with contender.context():
            contender.call()
    timings = interleave(found, seconds, patience=3)
    ratios = {key: ratio(timings["gpucnn"], timings[key])["ratio"] for key in found if key != "gpucnn"}
    row = {
        "network": name,
        "batch": batch,
        "threads": threads,
        "images_per_second": {key: batch / timing.median for key, timing in timings.items()},
        "ratios": ratios,
        "ratio": min(ratios.values(), default=None),
        "load": os.getloadavg()[0],
        **timings["gpucnn"].describe(),
    }
    if batch == 1:
        row["latency_microseconds"] = latencies(found)
    return row


def show(row: dict) -> str:
    """A line of a row."""
    mine, bar = row["images_per_second"]["gpucnn"], BARS.get(row["batch"])
    peers = ", ".join(f"{ratio:.2f} {key}" for key, ratio in sorted(row["ratios"].items(), key=lambda item: item[1]))
    text = f"{row['network']:22}{row['batch']:4}{mine:12,.0f} images/s  ratio {row['ratio'] or 0:5.2f}"
    text += "" if bar is None or row["ratio"] is None else " met " if row["ratio"] >= bar else " MISSED"
    if "latency_microseconds" in row:
        text += "  us " + "; ".join(f"{k} {m:.1f}/{p:.1f}" for k, (m, p) in row["latency_microseconds"].items())
    return f"{text}  ({peers}; quiet {row['quiet_slices']}/{row['slices']})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contender of a case")
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--batch", default="1,8,128", help="batch sizes, with commas")
    parser.add_argument("--compiled", action="store_true", help="PyTorch compiled and frozen too, which takes minutes")
    parser.add_argument("--dry", action="store_true", help="print only")
    given = parser.parse_args()
    busy = others_now()
    print(warning(busy) or "the machine is quiet")
    rows = []
    for name in (*READY, *KINDS):
        if given.only in name:
            for batch in map(int, given.batch.split(",")):
                rows.append(measure(name, batch, given.threads, given.seconds, given.compiled))
                print(show(rows[-1]), flush=True)
    print(disturbance(rows))
    if not given.dry:
        measured = {_case(row) for row in rows}
        before = recorded("inference", name="inference").get("results", [])
        others = [row for row in before if _case(row) not in measured]
        order = {name: number for number, name in enumerate((*READY, *KINDS))}
        rows = sorted([*others, *rows], key=lambda row: (order[row["network"]], row["batch"]))
        print(f"written to {record('inference', {'busy_before': busy, 'results': rows}, name='inference')}")


def _case(row: dict) -> tuple:
    return row["network"], row["batch"], row["threads"]


if __name__ == "__main__":
    main()
