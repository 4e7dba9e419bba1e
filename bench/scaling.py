"""Training in several processes: measured on this machine, and modelled for up to 1,024 of them.

    python bench/scaling.py measure FILE [NETWORK]     one and two processes, messages and bytes of a step, as JSON
    python bench/scaling.py model FILE                 the tables of docs/scaling.md, as Markdown
    python bench/scaling.py overlap                    whether MPI exchanges while a process computes, as Markdown

The first and the last start mpirun and take about a minute once kernels are cached; nothing else should run meanwhile.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

NETWORKS = {"lenet5": 64, "vgg_small": 64, "resnet20": 64}  # images a process where each has as many
CASES = [(1, 1), (1, 2), (2, 1)]  # (processes, threads each)
SECONDS = 1.0  # of steps for a number

# (name, bytes a second, seconds of latency): what such networks usually give, not measured.
NETS = [("10 Gbit/s", 10e9 / 8, 30e-6), ("100 Gbit/s", 100e9 / 8, 3e-6), ("400 Gbit/s", 400e9 / 8, 2e-6)]
COUNTS = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
LONG = 1 << 19  # gpucnn.parallel.joined's


def steps(network: str, batch: int) -> dict:
    """In each process: seconds, messages and bytes of a training step on `batch` images, all processes together."""
    from gpucnn.backends import get_backend
    from gpucnn.models import build_model
    from gpucnn.optimizers import SGD
    from gpucnn.parallel import Division, join
    from gpucnn.training.data import placed
    from gpucnn.training.steps import TrainingSteps

    processes = join()
    backend = get_backend("numba", threads=int(os.environ["THREADS"]))
    random = np.random.default_rng(0)
    images = random.random((batch, 1, 32, 32), np.float32)
    labels = random.integers(0, 10, batch).astype(np.int32)
    model = build_model(network, (1, 32, 32), 10).initialize(0).place(backend)
    model.layer.need_input_gradient(False)
    optimizer = SGD(0.001)
    optimizer.place(backend, model.values.size)
    data, division = placed(backend, images, labels, batch), Division(processes.size, processes.rank)
    training = TrainingSteps(model, optimizer, data, processes=processes, division=division)
    order = np.arange(batch)
    for number in range(4):
        training.run(order, number, 1.0)
    before, taken = list(processes.sent), []
    enough = max(5, math.ceil(SECONDS / processes.from_first(_seconds(training, order))))
    before = list(processes.sent)
    for number in range(enough):
        taken.append(_seconds(training, order, number))
    sent = [(after - b) / enough for after, b in zip(processes.sent, before)]
    return {
        "processes": processes.size, "threads": backend.threads, "network": network, "batch": batch,
        "step": float(np.median(taken)), "messages": sent[0], "bytes": sent[1], "weights": 4 * model.parameter_count,
    }  # fmt: skip


def _seconds(training, order, number: int = 4) -> float:
    started = time.perf_counter()
    training.run(order, number, 1.0)
    return time.perf_counter() - started


def measure(path: Path, *names: str) -> None:
    """Write all measurements as JSON, or replace those of the networks named."""
    from gpucnn.parallel.launch import mpirun

    command, settings = mpirun()
    found = json.loads(path.read_text()) if path.exists() else []
    names = names or tuple(NETWORKS)
    found = [row for row in found if row["network"] not in names]
    for network in names:
        own = NETWORKS[network]
        for processes, threads in CASES:
            for batch in (own, 2 * own) if (processes, threads) != (1, 1) else (own // 4, own // 2, own, 2 * own):
                program = [sys.executable, __file__, "steps", network, str(batch)]
                environment = {**os.environ, **settings, "THREADS": str(threads)}
                start = [*command, "-n", str(processes)] if processes > 1 else []
                done = subprocess.run(
                    [*start, *program], env=environment, capture_output=True, text=True, check=True, timeout=600
                )
                found.append(json.loads(done.stdout.splitlines()[-1]))
                print(found[-1], file=sys.stderr)
    path.write_text(json.dumps(found, indent=1))


# ---- whether an exchange beside the computation would gain -----------------------------------------------------------


def beside() -> None:
    """In each of two processes: milliseconds to gather a network's gradients, after computing and while computing."""
    from mpi4py import MPI

    from gpucnn.models import build_model

    world, matrix = MPI.COMM_WORLD, np.random.default_rng(0).random((160, 160), np.float32)
    product = np.empty_like(matrix)

    def compute(times: int) -> None:
        for _ in range(times):
            np.matmul(matrix, matrix, out=product)

    def median(work: Callable[[], None]) -> float:
        taken = []
        for _ in range(300):
            world.Barrier()
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
        return world.allreduce(float(np.median(taken))) / world.size * 1e3

    lines = ["| network | KB | exchange | computation | one after the other | at once | at once, asked 4 times |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for network in NETWORKS:
        mine = np.zeros(build_model(network, (1, 32, 32), 10).parameter_count, np.float32)
        into = np.zeros((world.size, mine.size), np.float32)

        def gather(mine=mine, into=into) -> None:
            world.Allgather(mine, into)

        alone = median(gather)
        quarter = max(1, round(alone / median(partial(compute, 1))))  # so the computation takes four times as long

        def after(times=4 * quarter, gather=gather) -> None:
            compute(times)
            gather()

        def at_once(parts: int, quarter=quarter, mine=mine, into=into) -> None:
            request = world.Iallgather(mine, into)
            for _ in range(parts):
                compute(4 * quarter // parts)
                request.Test()
            request.Wait()

        numbers = [alone, median(partial(compute, 4 * quarter)), median(after)]
        numbers += [median(partial(at_once, parts)) for parts in (1, 4)]
        lines.append(f"| {network} | {mine.nbytes / 1e3:,.0f} | " + " | ".join(f"{n:.3f}" for n in numbers) + " |")
    if world.rank == 0:
        print("\n".join(lines))


def overlap() -> None:
    """Print the table of `beside`."""
    from gpucnn.parallel.launch import mpirun

    command, settings = mpirun()
    environment = {**os.environ, **settings, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "-n", "2", sys.executable, __file__, "beside"], env=environment, check=True, timeout=600)


# ---- the model -------------------------------------------------------------------------------------------------------


def compute(found: list[dict], network: str, images: float, processes: int) -> float:
    """Seconds of a step on so many images in each process of one thread: a line through what was measured with so many
    processes, 1 or 2. With 2 it holds all that sharing a batch costs but the network."""
    own = [row for row in found if row["network"] == network and (row["processes"], row["threads"]) == (processes, 1)]
    slope, constant = np.polyfit([row["batch"] / processes for row in own], [row["step"] for row in own], 1)
    return max(constant, 0.0) + slope * images


def exchange(row: dict, processes: int, speed: float, latency: float) -> float:
    """Seconds of a step's messages. Gathering takes log2(P) rounds; a process receives what all others send, or twice
    the vector where that is more (gpucnn.parallel.joined). `row` was measured with 2 processes."""
    rounds, weights = math.ceil(math.log2(processes)), row["weights"]
    measured_long = row["bytes"] > 1.2 * weights
    small = row["bytes"] - weights * (1.5 if measured_long else 1)  # with 2 processes, the slices gathered are half
    messages = row["messages"] - (2 if measured_long else 0)
    seconds = messages * rounds * latency + (processes - 1) * small / speed
    if (weights + small) * processes <= LONG:
        return seconds + (processes - 1) * weights / speed
    return seconds + 2 * (rounds * latency + weights * (processes - 1) / processes / speed)


def model(path: Path) -> None:
    """Print the tables."""
    found = json.loads(path.read_text())
    print("| network | batch | processes x threads | ms a step | images/s | messages a step | KB a step |")
    print("|---|--:|--|--:|--:|--:|--:|")
    for row in found:
        shape = f"{row['processes']} x {row['threads']}"
        rate = f"{row['batch'] / row['step']:,.0f}"
        sent = f"{row['messages']:.0f} | {row['bytes'] / 1e3:,.1f}"
        print(f"| {row['network']} | {row['batch']} | {shape} | {row['step'] * 1e3:.2f} | {rate} | {sent} |")
    for network, own in NETWORKS.items():
        row = next((r for r in found if r["network"] == network and r["processes"] == 2), None)
        if row is None:
            continue
        for kind in ("weak", "strong"):
            total = "each process 64 images" if kind == "weak" else "1,024 images in all"
            print(f"\n{network}, {kind} scaling ({total}), modelled: ms a step, and speedup over one process\n")
            print("| processes | " + " | ".join(name for name, _, _ in NETS) + " |\n|--:|" + "--:|" * len(NETS))
            for count in COUNTS:
                images = own if kind == "weak" else max(16, 1024 / count)
                whole = compute(found, network, own * count if kind == "weak" else 1024, 1)
                cells = []
                for _, speed, latency in NETS:
                    seconds = compute(found, network, images, 2) + exchange(row, count, speed, latency)
                    cells.append(f"{seconds * 1e3:.2f}, {whole / seconds:.1f}x")
                print(f"| {count} | " + " | ".join(cells) + " |")


def main() -> None:
    """See the top of this file."""
    kind, *arguments = sys.argv[1:]
    if kind == "steps":
        result = steps(arguments[0], int(arguments[1]))
        from gpucnn.parallel import started

        if started()[0] == 0:
            print(json.dumps(result))
    elif kind in ("overlap", "beside"):
        {"overlap": overlap, "beside": beside}[kind]()
    else:
        {"measure": measure, "model": model}[kind](Path(arguments[0]), *arguments[1:])


if __name__ == "__main__":
    main()
