"""Trainer.fit on the CPU beside PyTorch's eager training, contiguous and channels_last, for networks of every kind.

    python bench/training.py [--threads N] [--seconds 3] [--only NAME] [--batch 8,64] [--dry]

The loss of the first epoch is checked against PyTorch's. All train on the same images, an epoch at a time, by turns;
the ratio to the better of PyTorch's variants is the median over the rounds. Writes the section "training" of
bench/results/training-DATE.json unless --dry.
"""

import argparse
import math
import os
import threading
from dataclasses import dataclass

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.backends.numba.later import later
from gpucnn.models import Model
from gpucnn.optimizers import SGD
from gpucnn.throughput import pytorch
from gpucnn.throughput.jobs import LEARNING_RATE, MOMENTUM
from gpucnn.throughput.report import disturbance
from gpucnn.throughput.timing import Contender, interleave, ratio
from gpucnn.training import Callback, Trainer
from inference import KINDS, READY, build
from record import record

# The ratios that the project holds itself to.
BARS = {
    ("vgg_small", 8): 1.2,
    ("resnet20", 8): 1.2,
    ("vgg_small", 128): 1.4,
    ("resnet20", 128): 1.4,
    ("depthwise separable", 64): 2.0,
    ("1D", 64): 2.0,
    ("3D", 16): 2.0,
}
# Steps and images an epoch at least, so that what `fit` does between epochs weighs no more than it does for users; and
# how much the first epoch's losses may differ, in which batches come in other orders.
_STEPS, _IMAGES, _TOLERANCE = 16, 256, 0.3


@dataclass(frozen=True)
class Training:
    """What is trained: gpucnn.throughput.pytorch.Work."""

    model: str
    batch: int
    job: str = "training"

    def build(self) -> Model:
        return build(self.model)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """The images of an epoch and their labels."""
        model, random = self.build(), np.random.default_rng(1)
        count = max(_STEPS, _IMAGES // self.batch) * self.batch
        images = random.standard_normal((count, *model.input_shape), np.float32)
        return images, random.integers(math.prod(model.output_shape), size=count, dtype=np.int32)


class Fit(Callback):
    """Trainer.fit in a thread of its own, which does an epoch whenever the object is called."""

    def __init__(self, case: Training, threads: int):
        self._begin, self._end = threading.Semaphore(0), threading.Semaphore(0)
        self.losses: list[float] = []
        self._trainer = Trainer(
            case.build(),
            backend=get_backend("numba", threads=threads),
            optimizer=SGD(LEARNING_RATE, momentum=MOMENTUM),
            batch_size=case.batch,
            callbacks=[self],
            progress=False,
        )
        self._thread = threading.Thread(target=self._trainer.fit, args=(*case.data(), 10**9), daemon=True)
        self._thread.start()

    def on_epoch_begin(self, trainer, epoch):
        self._begin.acquire()

    def on_epoch_end(self, trainer, record):
        self.losses.append(record["loss"])
        self._end.release()

    def __call__(self) -> float:
        self._begin.release()
        self._end.acquire()
        return self.losses[-1]

    def stop(self) -> None:
        self._trainer.stop_training()
        self._begin.release()  # one more epoch, unless the thread had not left the last one yet
        self._thread.join()


def measure(case: Training, threads: int, seconds: float) -> dict:
    """The row of a network and batch size."""
    fit, steps = Fit(case, threads), len(case.data()[0]) // case.batch
    found: dict[str, Contender] = {"gpucnn": Contender(fit)}
    for variant in pytorch.variants("training", "cpu", compiled=False, reduced=False):
        if variant.layout == "channels_last" and len(case.build().input_shape) != 3:
            continue
        found[variant.describe("training")] = _epochs(pytorch.prepare(case, variant, "cpu", threads).contender, steps)
    for key, contender in found.items():
        with contender.context():
            loss = contender.call()
        if not abs(loss - fit.losses[0]) < _TOLERANCE * loss:
            raise SystemExit(f"{case.model}: the first epoch's loss is {fit.losses[0]:.3f}, {loss:.3f} in {key}")
    if later.is_busy:
        later.wait()
        fit()
    timings = interleave(found, seconds, patience=3)
    ratios = {key: ratio(timings["gpucnn"], timings[key])["ratio"] for key in found if key != "gpucnn"}
    fit.stop()
    return {
        "network": case.model,
        "batch": case.batch,
        "threads": threads,
        "images_per_second": {key: steps * case.batch / timing.median for key, timing in timings.items()},
        "ratios": ratios,
        "ratio": min(ratios.values()),
        "load": os.getloadavg()[0],
        **timings["gpucnn"].describe(),
    }


def _epochs(contender: Contender, steps: int) -> Contender:
    """An epoch of PyTorch's, which returns its mean loss."""

    def call() -> float:
        losses = [contender.call().detach() for _ in range(steps)]
        return float(sum(losses)) / steps

    return Contender(call, context=contender.context)


def show(row: dict) -> str:
    """A line of a row."""
    bar = BARS.get((row["network"], row["batch"]))
    peers = ", ".join(f"{ratio:.2f} {key}" for key, ratio in sorted(row["ratios"].items(), key=lambda item: item[1]))
    verdict = "" if bar is None else f" met {bar}" if row["ratio"] >= bar else f" MISSED {bar}"
    mine = row["images_per_second"]["gpucnn"]
    head = f"{row['network']:22}{row['batch']:4}{mine:12,.0f} images/s  ratio {row['ratio']:5.2f}{verdict}"
    return f"{head}  ({peers}; quiet {row['quiet_slices']}/{row['slices']})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contender of a case")
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--batch", default="", help="batch sizes, with commas (default: those that have a bar)")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    cases = list(BARS)
    if options.batch:
        cases = [(name, int(batch)) for name in dict.fromkeys((*READY, *KINDS)) for batch in options.batch.split(",")]
    rows = []
    for name, batch in cases:
        if options.only in name:
            rows.append(measure(Training(name, batch), options.threads, options.seconds))
            print(show(rows[-1]), flush=True)
    print(disturbance(rows))
    if not options.dry:
        print(f"written to {record('training', {'results': rows}, name='training')}")


if __name__ == "__main__":
    main()
