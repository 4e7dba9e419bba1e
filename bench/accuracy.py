"""Seconds and epochs to 99.0% of MNIST's test images: LeNet-5 here and in PyTorch, from the same first weights.

    GPUCNN_MNIST=FOLDER python bench/accuracy.py [--seeds 0,1,2,3,4] [--threads N] [--dry]

FOLDER holds MNIST's four IDX files. Both sides have the same recipe and the same batches in the same order, and take
turns, an epoch each; PyTorch runs eager with channels_last and fused SGD, the fastest way for this network that
compiles nothing. Seconds are those of training alone, kernels and allocations warm: the test images are looked at
after each epoch with the clock stopped. The recipe is the same for both, and was not searched for. Writes the section
"accuracy" of bench/results/cpu-DATE.json unless --dry.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import gpucnn
from gpucnn import arithmetic
from gpucnn.backends import get_backend
from gpucnn.backends.numba.later import later
from gpucnn.models import Model, lenet5, pytorch_module
from gpucnn.optimizers import SGD
from gpucnn.schedules import OneCycle, Schedule
from gpucnn.throughput import pytorch
from gpucnn.throughput.quiet import others_now, warning
from gpucnn.training import Callback, Trainer
from record import record, recorded

GOAL = 0.99
EPOCHS, BATCH, RATE, MOMENTUM, DECAY = 10, 64, 0.05, 0.9, 5e-4
SCHEDULE = OneCycle()
_VARIANT = pytorch.Variant("channels_last", "", "fused")


class Clock:
    """The seconds of training so far, and the first epoch after which GOAL was reached."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.accuracies: list[float] = []
        self.reached: dict | None = None
        self.last = 0.0

    def start(self) -> None:
        self.last = perf_counter()

    def stop(self) -> None:
        self.seconds += perf_counter() - self.last

    def note(self, accuracy: float) -> None:
        self.accuracies.append(accuracy)
        if accuracy >= GOAL and self.reached is None:
            self.reached = {"epochs": len(self.accuracies), "seconds": self.seconds}

    def report(self) -> dict:
        reached = self.reached or {"epochs": None, "seconds": None}
        return {**reached, "accuracies": self.accuracies, "all_epochs_seconds": self.seconds}


class Peer:
    """PyTorch's side: the same network, recipe and batches."""

    def __init__(self, model: Model, images: Any, labels: np.ndarray, seed: int, schedule: Schedule):
        import torch

        self.network = pytorch_module(model).to(memory_format=torch.channels_last).train()
        self.images = torch.from_numpy(images).to(memory_format=torch.channels_last)
        self.labels = torch.from_numpy(labels).long()
        self.optimizer = torch.optim.SGD(self.network.parameters(), RATE, MOMENTUM, weight_decay=DECAY, fused=True)
        self.seed, self.schedule = seed, schedule

    def epoch(self, epoch: int, epochs: int) -> None:
        import torch
        from torch.nn.functional import cross_entropy

        order = arithmetic.permutation(self.seed, len(self.images), epoch)
        batches = torch.from_numpy(np.asarray(order, np.int64)).split(BATCH)
        for number, batch in enumerate(batches, start=epoch * len(batches)):
            for group in self.optimizer.param_groups:
                group["lr"] = RATE * self.schedule(number, epochs * len(batches), epoch)
            self.optimizer.zero_grad(set_to_none=True)
            cross_entropy(self.network(self.images[batch]), self.labels[batch]).backward()
            self.optimizer.step()

    def accuracy(self, images: Any, labels: np.ndarray) -> float:
        import torch

        self.network.eval()
        with torch.inference_mode():
            scores = [self.network(part) for part in torch.from_numpy(images).split(1000)]
        self.network.train()
        return float((torch.cat(scores).argmax(1).numpy() == labels).mean())


class Turns(Callback):
    """Clocks our epochs, and lets PyTorch do one after each of them."""

    def __init__(self, peer: Peer | None, test: gpucnn.data.Dataset, epochs: int, threads: int):
        self.peer, self.test, self.epochs, self.threads = peer, test, epochs, threads
        self.ours, self.theirs = Clock(), Clock()

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        self.ours.start()

    def on_epoch_end(self, trainer: Trainer, record: dict) -> None:
        self.ours.stop()
        scores = trainer.model.predict(self.test.images)
        self.ours.note(float((scores.argmax(1) == self.test.labels).mean()))
        if self.peer is None:
            return
        with pytorch.using(self.threads):
            self.theirs.start()
            self.peer.epoch(record["epoch"] - 1, self.epochs)
            self.theirs.stop()
            self.theirs.note(self.peer.accuracy(self.test.images, self.test.labels))


def race(
    seed: int, train: gpucnn.data.Dataset, test: gpucnn.data.Dataset, threads: int, peer: bool, epochs: int = EPOCHS
) -> dict:
    """One seed: what both sides needed."""
    model = lenet5(train.images.shape[1:], len(train.classes)).initialize(seed)
    them = Peer(model, train.images, train.labels, seed, SCHEDULE) if peer else None
    turns = Turns(them, test, epochs, threads)
    trainer = Trainer(
        model,
        backend=get_backend("numba", threads=threads),
        optimizer=SGD(lr=RATE, momentum=MOMENTUM, weight_decay=DECAY),
        schedule=SCHEDULE,
        batch_size=BATCH,
        seed=seed,
        progress=False,
        callbacks=[turns],
    )
    later.wait()  # for kernels of the race before
    trainer.fit(train.images, train.labels, epochs)
    found = {"seed": seed, "gpucnn": turns.ours.report(), "weights_sha256": model.weights_sha256()}
    return found | ({"pytorch": turns.theirs.report()} if peer else {})


def summary(rows: list[dict]) -> dict:
    """Medians over the seeds that reached GOAL, and how many did, for each side."""
    found = {}
    for side in ("gpucnn", "pytorch"):
        reached = [row[side] for row in rows if side in row and row[side]["epochs"] is not None]
        if any(side in row for row in rows):
            found[side] = {
                "reached": len(reached),
                **{k: statistics.median(r[k] for r in reached) if reached else None for k in ("epochs", "seconds")},
                "last_accuracy": statistics.median(row[side]["accuracies"][-1] for row in rows),
            }
    return found


def folder() -> str:
    """Where MNIST's files are, by the environment; ends the program if it does not say."""
    named = os.environ.get("GPUCNN_MNIST")
    if not named or not Path(named).is_dir():
        sys.exit(f"GPUCNN_MNIST is {named or 'not set'}; set it to the folder of MNIST's four IDX files")
    return named


def main(say: Callable[[str], None] = lambda text: print(text, flush=True)) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0,1,2,3,4", help="those of today that were run before are kept")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-pytorch", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    train, test = gpucnn.data.load(folder())
    busy = others_now()
    if (remark := warning(busy)) is not None:
        say(remark)
    peer = pytorch.installed() and not options.no_pytorch
    # Both sides have compiled and allocated before the clock starts.
    few = gpucnn.data.Dataset(train.images[:512], train.labels[:512], train.classes, train.name)
    race(0, few, test, options.threads, peer, epochs=1)
    recipe = {
        "network": "lenet5",
        "epochs": EPOCHS,
        "batch": BATCH,
        "optimizer": f"SGD, momentum {MOMENTUM}, weight decay {DECAY}",
        "rate": RATE,
        "schedule": "one-cycle",
        "pytorch": _VARIANT.describe("training"),
        "threads": options.threads,
    }
    rows = [] if options.dry else recorded("accuracy").get("results", [])
    for seed in map(int, options.seeds.split(",")):
        rows = [row for row in rows if row["seed"] != seed] + [race(seed, train, test, options.threads, peer)]
        for side in ("gpucnn", "pytorch"):
            if side in rows[-1]:
                found = rows[-1][side]
                reached = f"after {found['epochs']} epochs, {found['seconds']:.2f} s" if found["epochs"] else "never"
                say(f"seed {seed}: {side} {GOAL:.1%} {reached}; {found['accuracies'][-1]:.2%} after {EPOCHS}")
        if not options.dry:
            found = summary(rows)
            record("accuracy", {"goal": GOAL, "recipe": recipe, "busy_before": busy, "summary": found, "results": rows})
    for side, row in summary(rows).items():
        say(f"{side}: {row}")


if __name__ == "__main__":
    main()
