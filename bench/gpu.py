"""All measurements on a machine with a GPU in one run, without network access, within nine minutes.

    python bench/gpu.py [--minutes 8.5] [--backends cupy,numba-cuda,numba] [--only checks,tests,throughput,kernels]

In this order: `gpucnn check` on these backends; the tests marked gpu; throughput of the three networks, with PyTorch
eager, compiled and as CUDA graphs, in strict float32 and TF32, contiguous and channels_last; each operation of a
training step compared with its floor. Notes list what there was no time for. Writes bench/results/gpu-DATE.json after
each part and prints tables. With --rehearse batches are small and nothing is written, to try the script on any backend.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from gpucnn.backends import backends, get_backend
from gpucnn.errors import GpucnnError
from gpucnn.throughput import Case, bench
from gpucnn.throughput.profile import profile
from record import record

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("checks", "tests", "throughput", "kernels")
MODELS, BATCHES = ("lenet5", "vgg_small", "resnet20"), (512, 64, 2048)
# torch.compile takes most of a minute per network: it is tried with this batch only, in training.
COMPILED_BATCH = 512
# Seconds that the commands of the first two parts may take, and those reserved for the kernels.
CHECKS, TESTS, KERNELS = 60, 90, 75


class Clock:
    """The remaining time."""

    def __init__(self, seconds: float):
        self.end = perf_counter() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self.end - perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.5, help="in total")
    parser.add_argument("--backends", default="cupy,numba-cuda,numba", help="the GPU backends first")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run")
    parser.add_argument("--rehearse", action="store_true", help="small batches, nothing written")
    options = parser.parse_args()
    clock, parts = Clock(60 * options.minutes), options.only.split(",")
    names, notes = usable(options.backends.split(","))
    report = {"gpu": gpu(), "backends": names, "notes": notes}
    keep = (lambda: None) if options.rehearse else lambda: record("gpu", report, name="gpu")
    if "checks" in parts:
        report["checks"] = checks(names, min(CHECKS, clock.left))
        keep()
    if "tests" in parts:
        report["tests"] = tests(min(TESTS, clock.left))
        keep()
    failed = [part for part in ("checks", "tests") if report.get(part, {}).get("passed") is False]
    if failed and not options.rehearse:
        print(f"FAILED: {' and '.join(failed)}; the figures below are of a broken program", flush=True)
    reserve = KERNELS if "kernels" in parts else 0
    if "throughput" in parts:
        batches = (8,) if options.rehearse else BATCHES
        report["throughput"] = {"results": [], "ratios": []}
        for part in throughput(names, batches, clock, reserve, notes):
            merge(report["throughput"], part, notes)
            keep()
    if "kernels" in parts:
        report["kernels"] = kernels(names, 8 if options.rehearse else 512, clock, report["gpu"], notes)
        keep()
    for note in notes:
        print(f"note: {note}")


def usable(requested: list[str]) -> tuple[list[str], list[str]]:
    """The names that are usable here, and a sentence for each that is not."""
    known = {row["name"]: row for row in backends()}
    names = [name for name in requested if known.get(name, {}).get("usable")]
    reasons = {name: known[name]["reason"] if name in known else "there is no such backend" for name in requested}
    return names, [f"{name} is not usable here: {reasons[name]}" for name in requested if name not in names]


def gpu() -> dict | None:
    """The GPU's name, its peak float32 operations and memory bytes per second by its clocks; None without a GPU."""
    try:
        import cupy

        device = cupy.cuda.Device()
        attributes, major, minor = device.attributes, *map(int, divmod(int(device.compute_capability), 10))
        name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
    except Exception as error:  # CuPy missing, no driver, no device: all mean that there is none
        print(f"no GPU: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    # Float32 units of a multiprocessor: CUDA programming guide, "Throughput of native arithmetic instructions".
    units = 64 if (major, minor) in ((7, 0), (7, 2), (7, 5), (8, 0)) else 128
    clock = 1e3 * attributes["ClockRate"]
    return {
        "name": name,
        "compute_capability": f"{major}.{minor}",
        "multiprocessors": attributes["MultiProcessorCount"],
        "clock_mhz": clock / 1e6,
        "peak": 2 * units * attributes["MultiProcessorCount"] * clock,
        "bandwidth": 2 * 1e3 * attributes["MemoryClockRate"] * attributes["GlobalMemoryBusWidth"] / 8,
    }


def checks(names: list[str], seconds: float) -> dict:
    """`gpucnn check` in another process: passed (None: not within the time), and its report."""
    options = [part for name in names for part in ("--backend", name)]
    code, out, error = run([sys.executable, "-m", "gpucnn", "check", *options, "--json"], seconds)
    print(f"checks: {verdict(code)}", flush=True)
    report = json.loads(out) if code in (0, 1) and out.strip() else {"error": error[-2000:]}
    return {"passed": None if code is None else code == 0, "report": report}


def tests(seconds: float) -> dict:
    """The tests marked gpu; one that does not run here counts as failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    code, out, error = run(command, seconds, {"GPUCNN_REQUIRE_GPU": "1"})
    # pytest's code 5: there are no such tests.
    print(f"tests: {verdict(code)}: {out.strip().splitlines()[-1] if out.strip() else error[-200:]}", flush=True)
    return {"passed": None if code is None else code == 0, "output": out[-4000:]}


def verdict(code: int | None) -> str:
    """The exit code (None: a timeout) in words."""
    return "not finished in time" if code is None else "passed" if code == 0 else "FAILED"


def run(command: list[str], seconds: float, environment: dict | None = None) -> tuple[int | None, str, str]:
    """(exit code, or None if it took longer, stdout, stderr)."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as late:
        return None, *((part or b"").decode(errors="replace") for part in (late.stdout, late.stderr))
    return done.returncode, done.stdout, done.stderr


def throughput(names: list[str], batches: tuple[int, ...], clock: Clock, reserve: float, notes: list[str]):
    """A report of `bench` for each case, as long as there is time, in the order that covers most soonest."""
    order = [Case(m, job, b) for b, job, m in itertools.product(batches, ("training", "inference"), MODELS)]
    for number, case in enumerate(order):
        share = (clock.left - reserve) / (len(order) - number)
        if share < 2:
            notes.append(f"no time was left for {', '.join(map(str, order[number:]))}")
            return
        try:
            yield bench(
                [case],
                [get_backend(name) for name in names],
                seconds=min(0.8, share / 12),
                compiled=case.batch == COMPILED_BATCH and case.job == "training",
                tf32=True,
                deadline=perf_counter() + 2 * share,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )
        except GpucnnError as error:
            notes.append(f"{case}: {error}")


def merge(whole: dict, part: dict, notes: list[str]) -> None:
    """Add one case's report and print its lines."""
    whole["results"] += part["results"]
    whole["ratios"] += part["ratios"]
    whole["machine"] = part["machine"]
    notes += [note for note in part["notes"] if note not in notes]
    for row in part["results"]:
        device = row["device_milliseconds"]
        print(
            f"{row['model']:10}{row['job']:10}{row['batch']:5} {row['backend']:11}{row['images_per_second']:13,.0f} "
            f"images/s  {row['milliseconds']:9.3f} ms  {'' if device is None else f'(device {device:9.3f})  '}"
            f"spread {row['spread']:4.0%}  first step {row['first_step_seconds']:6.2f} s  "
            f"transfer {1e3 * row['transfer_seconds']:7.1f} ms  {row.get('variant', '')}",
            flush=True,
        )
    for row in part["ratios"]:
        print(f"{'':15}{row['backend']} is {row['ratio']:.2f} times PyTorch ({row['variant']})", flush=True)


def kernels(names: list[str], batch: int, clock: Clock, device: dict | None, notes: list[str]) -> list[dict]:
    """Each operation of a training step on the first backend and its floor; one row per operation and model."""
    rows: list[dict] = []
    limits = {"peak": device["peak"], "bandwidth": device["bandwidth"]} if device else {}
    for name, model in itertools.product(names[:1], MODELS):
        if clock.left < 15:
            notes.append(f"no time was left for the operations of {model}")
            break
        operations = profile(Case(model, "training", batch), get_backend(name), seconds=0.1, **limits)
        print(f"\n{model}, one training step of {batch} images on {name}, operation by operation:")
        for row in operations:
            floor = f"{row['of_floor']:5.0%} of floor speed" if "of_floor" in row else ""
            print(
                f"{row['operation']:26}{row['shape']:24}{1e3 * row['milliseconds']:10.1f} us {row['share']:6.1%}"
                f"{row['gflops']:9,.0f} GFLOP/s{row['gigabytes_per_second']:8,.0f} GB/s  {floor}"
            )
        rows += [{"model": model, "batch": batch, "backend": name, **row} for row in operations]
    return rows


if __name__ == "__main__":
    main()
