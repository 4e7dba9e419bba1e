"""How long users wait: for kernels to be compiled, and beside another busy process.

    python bench/waiting.py [--only cold|busy] [--threads N] [--rounds 5] [--dry]

"cold": from the start of the process, with an empty cache, to the end of LeNet-5's first step; then, for networks of
other kinds, to the first step and to full speed, which comes when the kernels for their shapes have been compiled.
"busy": Trainer.fit with N threads and with one, by turns alone and beside a process that spins. Writes both as sections
of bench/results/waiting-DATE.json unless --dry.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from record import record
from training import Fit, Training

# The kinds, the least common last; and how long the first step may take, from the start of the process.
FIRST, NETWORKS = (
    ("lenet5", 64),
    (
        ("mlp", 64),
        ("vgg_small", 128),
        ("resnet20", 128),
        ("cifar_fast", 64),
        ("separable_small", 64),
        ("signal_small", 64),
        ("volume_small", 16),
    ),
)
FIRST_BAR, BAR, FULL_SPEED_BAR = 15.0, 4.0, 30.0
# The part of its quiet speed that training keeps beside a process that spins.
BUSY, BUSY_BAR = (("lenet5", 64), ("vgg_small", 128)), 0.45

_CHILD = """
import json, sys, time
import numpy as np
from gpucnn import models
from gpucnn.backends import get_backend
from gpucnn.backends.numba.later import later
from gpucnn.training import Callback, Trainer

name, batch, threads, stay = sys.argv[1], *map(int, sys.argv[2:])

class Clock(Callback):
    epochs = []
    after = 0

    def on_epoch_end(self, trainer, record):
        self.epochs.append([time.time(), record["images_per_second"], later.is_busy])
        self.after += not later.is_busy
        if not stay or self.after > 2:
            trainer.stop_training()

model = getattr(models, name)()
count = batch * (12 if stay else 1)
images = np.random.default_rng(0).random((count, *model.input_shape), np.float32)
labels = np.arange(count) % model.output_shape[0]
backend = get_backend("numba", threads=threads)
trainer = Trainer(model, backend=backend, batch_size=batch, callbacks=[Clock()], progress=False)
trainer.fit(images, labels, 100_000)
print(json.dumps(Clock.epochs))
"""


def _train(name: str, batch: int, threads: int, cache: str, stay: bool) -> tuple[float, list]:
    """When a process started that trains with this cache, and its epochs: of one step, or many with `stay`."""
    started = time.time()
    command = [sys.executable, "-c", _CHILD, name, str(batch), str(threads), str(int(stay))]
    done = subprocess.run(
        command, env={**os.environ, "GPUCNN_CACHE": cache}, stdout=subprocess.PIPE, text=True, check=True
    )
    return started, json.loads(done.stdout)


def cold(threads: int) -> list[dict]:
    """A row a network."""
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as cache:
        for name, batch in (FIRST, *NETWORKS):
            started, [[ended, *_]] = _train(name, batch, threads, cache, stay=False)
            row = {"network": name, "batch": batch, "threads": threads, "first_step_seconds": ended - started}
            bar = BAR if rows else FIRST_BAR
            started, epochs = _train(name, batch, threads, cache, stay=True)
            row["full_speed_seconds"] = next(ended for ended, _, busy in epochs if not busy) - started
            meanwhile = [speed for _, speed, busy in epochs if busy]
            row["meanwhile_images_per_second"] = statistics.median(meanwhile) if meanwhile else None
            row["images_per_second"] = epochs[-1][1]
            rows.append(row)
            met = row["first_step_seconds"] <= bar and row["full_speed_seconds"] <= FULL_SPEED_BAR
            verdict = f"{'met' if met else 'MISSED'} {bar:.0f} and {FULL_SPEED_BAR:.0f} s"
            print(
                f"{name:16}{batch:4}  first step {row['first_step_seconds']:5.1f} s, full speed after "
                f"{row['full_speed_seconds']:5.1f} s  {verdict} "
                f"({meanwhile[0] if meanwhile else 0:,.0f} images/s meanwhile, then {row['images_per_second']:,.0f})",
                flush=True,
            )
    return rows


def _speed(fit: Fit, images: int, seconds: float = 2.0) -> float:
    """Images a second of whole epochs, for about so long."""
    epochs, started = 0, time.perf_counter()
    while epochs == 0 or time.perf_counter() < started + seconds:
        fit()
        epochs += 1
    return epochs * images / (time.perf_counter() - started)


def busy(threads: int, rounds: int) -> list[dict]:
    """A row a network."""
    rows = []
    for name, batch in BUSY:
        case = Training(name, batch)
        images = len(case.data()[0])
        fits = {"team": Fit(case, threads), "one": Fit(case, 1)}
        for fit in fits.values():
            _speed(fit, images)
        found: dict[str, list[float]] = {f"{who} {when}": [] for who in fits for when in ("quiet", "busy")}
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            for _ in range(rounds):
                for when, command in (("quiet", signal.SIGSTOP), ("busy", signal.SIGCONT)):
                    other.send_signal(command)
                    for who, fit in fits.items():
                        found[f"{who} {when}"].append(_speed(fit, images))
        finally:
            other.kill()
            other.wait()
        for fit in fits.values():
            fit.stop()
        speeds = {key: statistics.median(values) for key, values in found.items()}
        kept = speeds["team busy"] / speeds["team quiet"]
        rows.append({"network": name, "batch": batch, "threads": threads, "images_per_second": speeds, "kept": kept})
        met = kept >= BUSY_BAR and speeds["team busy"] >= speeds["one busy"]
        verdict = f"{'met' if met else 'MISSED'} {BUSY_BAR:.0%}"
        print(
            f"{name:16}{batch:4}  keeps {kept:.0%} of {speeds['team quiet']:,.0f} images/s: "
            f"{speeds['team busy']:,.0f}, and one thread {speeds['one busy']:,.0f}  {verdict}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5, help="of the part 'busy'")
    parser.add_argument("--only", choices=("cold", "busy"))
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    for section, measure in (("cold", cold), ("busy", lambda threads: busy(threads, options.rounds))):
        if options.only in (None, section):
            rows = measure(options.threads)
            if not options.dry:
                print(f"written to {record(section, {'results': rows}, name='waiting')}")


if __name__ == "__main__":
    main()
