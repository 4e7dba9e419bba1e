"""All measurements on a machine with a GPU in one run, without network access, within nine minutes.

    python bench/gpu.py FOLDER [--minutes 8.5] [--cache FOLDER] [--only compile,sanitizer,bits,...] [--rehearse]

Needs numpy, cupy with NVRTC, and for the comparison torch; pytest for one part. The parts, most wanted first, so that a
run that is cut off after three minutes has the figures that matter:

    compile      all kernels, in parallel, into --cache: a folder that can be carried to the next machine
    sanitizer    compute-sanitizer (memcheck, racecheck) on one training step of each network
    bits         ten training steps of two networks, compared with the committed hashes
    training     images per second at batches 64, 128 and 512, beside PyTorch: eager as it comes, channels_last,
                 cudnn.benchmark, as a CUDA graph, all in strict float32; TF32 and AMP (bfloat16) reported beside
    compiled     the same with torch.compile, which takes a minute a network
    operations   each operation of a training step and its floor
    checks       every operation against the specification, bit by bit
    tests        tests/cuda/test_device.py
    inference    as training

FOLDER/gpu.json is written after each part and each case. Notes list what there was no time for. With --rehearse
everything runs on the CPU, with small batches on --backend (default numba), to try the script without a GPU.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gpucnn.backends import get_backend
from gpucnn.errors import GpucnnError
from gpucnn.throughput import Case, bench, pytorch
from gpucnn.throughput.jobs import prepare
from gpucnn.throughput.machine import machine
from gpucnn.throughput.profile import profile

# In the order in which they are measured: those of the stated goals first.
CASES = [
    ("lenet5", 64),
    ("lenet5", 512),
    ("vgg_small", 128),
    ("resnet20", 128),
    ("lenet5", 128),
    ("vgg_small", 64),
    ("resnet20", 64),
    ("vgg_small", 512),
    ("resnet20", 512),
]
MODELS = ("lenet5", "vgg_small", "resnet20")
# Seconds that a command may take.
SANITIZER, CHECKS, TESTS = 45, 120, 150


class Clock:
    """The remaining time."""

    def __init__(self, seconds: float):
        self.end = perf_counter() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self.end - perf_counter())


class Run:
    """One run of this script: the backend that is measured, the time left, and the report, written after each part."""

    def __init__(self, backend: str, clock: Clock, folder: Path, rehearse: bool):
        self.backend, self.clock, self.rehearse = backend, clock, rehearse
        self.path = folder / "gpu.json"
        self.notes: list[str] = []
        self.report: dict = {"machine": machine(), "gpu": gpu(), "backend": backend, "notes": self.notes}

    def note(self, text: str) -> None:
        print(f"note: {text}", flush=True)
        self.notes.append(text)

    def keep(self, part: str, content) -> None:
        """Put a part's content into the report on disk, which is whole at any time."""
        self.report[part] = content
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.report, indent=1) + "\n")
        temporary.replace(self.path)

    def batch(self, batch: int) -> int:
        return 8 if self.rehearse else batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where gpu.json is written")
    parser.add_argument("--minutes", type=float, default=8.5, help="in total")
    parser.add_argument("--cache", type=Path, help="compiled kernels are kept here (default: the user's cache)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, commas between them")
    parser.add_argument("--rehearse", action="store_true", help="small batches on --backend, without a GPU")
    parser.add_argument("--backend", default=None, help="default: cupy; with --rehearse, numba")
    options = parser.parse_args()
    if options.cache:
        os.environ["GPUCNN_CACHE"] = str(options.cache.resolve())
    pytorch.import_before_cupy()
    parts = options.only.split(",")
    if wrong := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(wrong)}; the parts are {', '.join(PARTS)}")
    backend = options.backend or ("numba" if options.rehearse else "cupy")
    run = Run(backend, Clock(60 * options.minutes), options.folder, options.rehearse)
    run.keep("started", " ".join(sys.argv))
    try:
        get_backend(backend)
    except GpucnnError as error:
        run.note(f"{backend} is not usable here: {error}")
        run.keep("ended", "nothing was measured")
        sys.exit(1)
    for part in parts:
        if run.clock.left < 5:
            run.note(f"no time was left for {part}")
            continue
        print(f"---- {part}: {run.clock.left:.0f} s left", flush=True)
        started = perf_counter()
        try:
            PARTS[part](run)
        except Exception as error:  # whatever it is, the other parts are still wanted
            traceback.print_exc()
            run.note(f"{part} ended with {type(error).__name__}: {error}")
            run.keep(part, {"passed": False, **run.report.get(part, {})})
        run.keep("seconds", {**run.report.get("seconds", {}), part: perf_counter() - started})
    broken = [part for part in PARTS if isinstance(run.report.get(part), dict) and failed(run.report[part])]
    if broken:
        print(f"FAILED: {', '.join(broken)}; the figures are of a broken program", flush=True)
    run.keep("ended", "failed" if broken else "passed")
    sys.exit(1 if broken else 0)


def failed(part: dict) -> bool:
    """Whether a part, or one of its rows, says that it has not passed. None stands for not finished."""
    rows = [part, *(row for row in part.values() if isinstance(row, dict))]
    return any(row.get("passed") is False for row in rows)


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


# ---- compiling -----------------------------------------------------------------------------------------------------


def compile_all(run: Run) -> None:
    """Every kernel that the other parts use, those of the measured networks first."""
    from gpucnn.backends.cuda.planning import compile_kernels, planned

    device = run.report["gpu"] or {"multiprocessors": 132, "compute_capability": "9.0"}
    cases = [Case(model, job, run.batch(b)) for job in ("training", "inference") for model, b in CASES]
    work: list[Callable] = [partial(prepare, case) for case in (cases[:1] if run.rehearse else cases)]
    if not run.rehearse:
        work += [train_all, check_all]
    kernels = [kernel for each in work for kernel in planned(each, device["multiprocessors"])]
    started = perf_counter()
    try:
        count = compile_kernels(kernels, f"sm_{device['compute_capability'].replace('.', '')}")
    except (ImportError, RuntimeError) as error:  # NVRTC is missing; without a GPU nothing else needs it
        if not run.rehearse:
            raise
        run.note(f"nothing was compiled: {error}")
        return
    print(f"{count} kernels in {perf_counter() - started:.0f} s", flush=True)
    run.keep("compile", {"kernels": count, "seconds": perf_counter() - started})


def train_all(backend) -> None:
    """The networks of `gpucnn check`."""
    from gpucnn.check.networks import NETWORKS, train
    from gpucnn.check.small_networks import SMALL_NETWORKS, train_small

    for network in SMALL_NETWORKS:
        train_small(network, backend)
    if has_digits():
        for network in NETWORKS:
            train(network, backend)


def has_digits() -> bool:
    """Whether scikit-learn, which the digits come with, can be imported."""
    try:
        import sklearn  # noqa: F401 - a spec alone may be found for a broken installation
    except ImportError:
        return False
    return True


def check_all(backend) -> None:
    """The operations of `gpucnn check`."""
    from gpucnn.check.cases import all_cases

    for case in all_cases():
        case.run(backend)


# ---- right or wrong ------------------------------------------------------------------------------------------------


def sanitizer(run: Run) -> None:
    """One step of each network under each tool of compute-sanitizer."""
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if found is None:
        run.note("compute-sanitizer is not installed: no step was run under it")
    tools = ([found, "--tool", "memcheck"], [found, "--tool", "racecheck"]) if found else ([],) * run.rehearse
    rows: dict = {}
    for model in MODELS:
        for tool in tools:
            if run.clock.left < 10:
                run.note(f"no time was left for {tool[-1] if tool else 'a step'} on {model}")
                return
            # Launch by launch: the tools do not look inside a graph on every driver.
            code = f"import gpu; gpu.one_step({model!r}, {run.backend!r})"
            wrapper = [*tool, "--error-exitcode", "9", "--print-limit", "5"] if tool else []
            row = execute([*wrapper, sys.executable, "-c", code], SANITIZER, run)
            print(f"{model} under {tool[-1] if tool else 'nothing'}: {verdict(row)}", flush=True)
            rows[f"{model} {tool[-1] if tool else 'alone'}"] = row
            run.keep("sanitizer", rows)


def one_step(model: str, backend: str) -> None:
    """A training step of eight images, launched kernel by kernel."""
    chosen = get_backend(backend, graph=False)
    prepare(Case(model, "training", 8), chosen)
    chosen.synchronize()


def bits(run: Run) -> None:
    row = execute([sys.executable, "-c", f"import gpu; gpu.train_and_compare({run.backend!r})"], CHECKS, run)
    print(f"ten training steps: {verdict(row)}", flush=True)
    run.keep("bits", row)


def train_and_compare(name: str) -> None:
    """Train the small networks of `gpucnn check` as NumPy does, and with scikit-learn's digits the two whose hashes are
    committed; exits with 1 if a bit differs.
    """
    from gpucnn.check import HASHES
    from gpucnn.check.networks import NETWORKS, train
    from gpucnn.check.small_networks import SMALL_NETWORKS, train_small

    backend, specification = get_backend(name), get_backend("numpy", "exact")
    wrong = [n for n in SMALL_NETWORKS if train_small(n, backend) != train_small(n, specification)]
    compared = [*SMALL_NETWORKS]
    if has_digits():
        wrong += [n for n in NETWORKS if train(n, backend) != json.loads(HASHES.read_text())[n]]
        compared += NETWORKS
    print(f"other weights for {', '.join(wrong)}" if wrong else f"the same weights for {', '.join(compared)}")
    sys.exit(bool(wrong))


def checks(run: Run) -> None:
    code = (
        "import json, sys; from gpucnn.check import check\n"
        f"report = check(['numpy', {run.backend!r}], progress=lambda text: print(text, file=sys.stderr))\n"
        "print(json.dumps(report)); sys.exit(not report['passed'])"
    )
    row = execute([sys.executable, "-c", code], CHECKS, run)
    print(f"checks: {verdict(row)}", flush=True)
    run.keep("checks", row)


def tests(run: Run) -> None:
    """The tests that need a device; one that does not run here counts as failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cuda/test_device.py"]
    row = execute(command, TESTS, run, {} if run.rehearse else {"GPUCNN_REQUIRE_GPU": "1"})
    print(f"tests: {verdict(row)}", flush=True)
    run.keep("tests", row)


def execute(command: list[str], seconds: float, run: Run, environment: dict | None = None) -> dict:
    """Run a command for the time that is left, `seconds` at most: passed (None: not finished), and its last output."""
    paths = [str(ROOT), str(ROOT / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
    limit = min(seconds, run.clock.left)
    settings: dict = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, **settings, timeout=limit, check=False)
    except subprocess.TimeoutExpired as late:
        return {"passed": None, "output": (late.stdout or b"").decode(errors="replace")[-4000:]}
    return {"passed": done.returncode == 0, "output": done.stdout.decode(errors="replace")[-4000:]}


def verdict(row: dict) -> str:
    last = (row["output"].strip().splitlines() or [""])[-1][-200:]
    word = {None: "not finished in time", True: "passed", False: "FAILED"}[row["passed"]]
    return word if row["passed"] else f"{word}: {last}"


# ---- speed ---------------------------------------------------------------------------------------------------------


def throughput(run: Run, job: str, compiled: bool = False) -> None:
    """`bench` for each case as long as there is time; a case's results are written before the next is begun."""
    name = "compiled" if compiled else job
    whole: dict = {"results": [], "ratios": []}
    cases = [Case(model, job, run.batch(batch)) for model, batch in CASES]
    cases = list(dict.fromkeys(cases))
    for number, case in enumerate(cases):
        if run.clock.left < (40 if compiled and not run.rehearse else 5):
            run.note(f"no time was left for {name}: {', '.join(map(str, cases[number:]))}")
            return
        try:
            part = bench(
                [case],
                [get_backend(run.backend)],
                seconds=0.1 if run.rehearse else 0.5,
                compiled=compiled,
                reduced=True,
                deadline=run.clock.end - 30,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )
        except Exception as error:  # a driver's, a compiler's, PyTorch's: the other cases are still wanted
            traceback.print_exc()
            run.note(f"{case}: {type(error).__name__}: {error}")
            continue
        show(part)
        whole["results"] += part["results"]
        whole["ratios"] += part["ratios"]
        for text in part["notes"]:
            if text not in run.notes:
                run.note(text)
        run.keep(name, whole)


def show(part: dict) -> None:
    """Print a case's lines."""
    for row in part["results"]:
        device = row["device_milliseconds"]
        print(
            f"{row['model']:10}{row['job']:10}{row['batch']:5} {row['backend']:11}{row['images_per_second']:13,.0f} "
            f"images/s  {row['milliseconds']:9.3f} ms  {'' if device is None else f'(device {device:9.3f})  '}"
            f"spread {row['spread']:4.0%}  first step {row['first_step_seconds']:6.2f} s  {row.get('variant', '')}",
            flush=True,
        )
        for variant, rate in row.get("variants", {}).items():
            print(f"{'':31}{rate:13,.0f} images/s when tried: {variant}", flush=True)
    for row in part["ratios"]:
        print(f"{'':15}{row['backend']} is {row['ratio']:.2f} times {row['peer']} ({row['variant']})", flush=True)


def operations(run: Run) -> None:
    """Each operation of a training step and its floor; one row per operation and model."""
    rows: list[dict] = []
    device = run.report["gpu"]
    limits = {"peak": device["peak"], "bandwidth": device["bandwidth"]} if device else {}
    for model in MODELS:
        if run.clock.left < 15:
            run.note(f"no time was left for the operations of {model}")
            break
        batch = run.batch(128)
        profiled = profile(Case(model, "training", batch), get_backend(run.backend), seconds=0.05, **limits)
        print(f"\n{model}, one training step of {batch} images on {run.backend}, operation by operation:")
        for row in profiled:
            floor = f"{row['of_floor']:5.0%} of floor speed" if "of_floor" in row else ""
            print(
                f"{row['operation']:26}{row['shape']:24}{1e3 * row['milliseconds']:10.1f} us {row['share']:6.1%}"
                f"{row['gflops']:9,.0f} GFLOP/s{row['gigabytes_per_second']:8,.0f} GB/s  {floor}",
                flush=True,
            )
        rows += [{"model": model, "batch": batch, "backend": run.backend, **row} for row in profiled]
        run.keep("operations", rows)


PARTS = {
    "compile": compile_all,
    "sanitizer": sanitizer,
    "bits": bits,
    "training": lambda run: throughput(run, "training"),
    "compiled": lambda run: throughput(run, "training", compiled=True),
    "operations": operations,
    "checks": checks,
    "tests": tests,
    "inference": lambda run: throughput(run, "inference"),
}


if __name__ == "__main__":
    main()
