"""Benchmarks: images per second in training and inference, on the backends of this machine and in PyTorch and ONNX
Runtime.

    report = gpucnn.throughput.bench([Case("lenet5", "training", 64)], [gpucnn.get_backend("numba")])

For each case the results are checked, then all contenders take turns (see gpucnn.throughput.timing), among them
register-only multiply-adds, which measure the processor's peak.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpucnn import arguments
from gpucnn.backends.protocol import Backend
from gpucnn.throughput import jobs, onnx_runtime, pytorch
from gpucnn.throughput.agreement import Referee, one_step
from gpucnn.throughput.jobs import JOBS, Case
from gpucnn.throughput.machine import machine
from gpucnn.throughput.peak import Peak, peaks
from gpucnn.throughput.quiet import others_now, warning
from gpucnn.throughput.timing import Timing, interleave, ratio
from gpucnn.throughput.tuning import tune

__all__ = ["JOBS", "Case", "bench", "tune"]

# The check uses no more images than this: its float64 step would otherwise take longer than the timing.
_CHECKED = 128


def bench(
    cases: Sequence[Case],
    backends: Sequence[Backend],
    *,
    seconds: float = 4.0,
    patience: float = 1.0,
    peer: bool = True,
    compiled: bool = True,
    reduced: bool = False,
    deadline: float = float("inf"),
    say: Callable[[str], None] = lambda text: None,
) -> dict:
    """Measure every case on every backend, each contender for `seconds`.

    `patience`: how many times `seconds` a contender may run if other processes disturbed it. `peer` also runs PyTorch,
    if it is installed, with as many threads as each backend, or on the GPU for GPU backends; `compiled` tries
    torch.compile, which takes minutes, as long as time.perf_counter() is below `deadline`; `reduced` also runs PyTorch
    with TF32 and AMP on a GPU, with separate ratios. ONNX Runtime joins in inference on the CPU if it is installed.
    `say` is called with a line of progress.

    Returns a dict that can be written as JSON:
    machine; busy_before, the part of the processors that others used just before (None if unknown); peak_gflops, by
    thread count; notes, sentences;
    results, one row per case and contender: model, input_shape, job, batch, backend, math, threads, images_per_second,
    quartiles (of that), spread (their distance over the median), milliseconds per step, device_milliseconds (the same
    steps by the GPU's clock, between events; None on a CPU), peak_fraction (None on a GPU),
    transfer_seconds, first_step_seconds (including compilation, or loading from the cache), error (of one step, against
    float64, relative to the step; ONNX Runtime's of its outputs), and sample counts; peers' rows have `variant`, and
    PyTorch's `variants`, the rates of all;
    ratios: model, job, batch, backend, math, threads, peer, variant, ratio to the peer's throughput, its quartiles,
    rounds.

    Raises BackendError if a contender's results are wrong: then nothing is timed.
    """
    seconds = arguments.number("seconds", seconds, above=0)
    patience = arguments.number("patience", patience, least=0)
    notes: list[str] = []
    with_pytorch, with_onnx = peer and pytorch.installed(), peer and onnx_runtime.installed()
    if peer and not with_pytorch:
        notes.append("PyTorch is not installed: no ratios to it")
    busy = others_now()
    if (remark := warning(busy)) is not None:
        say(remark)
        notes.append(remark)
    measured = peaks(backend.threads for backend in backends)
    report: dict[str, Any] = {
        "machine": machine(),
        "busy_before": busy,
        "peak_gflops": {},
        "notes": notes,
        "results": [],
        "ratios": [],
    }
    bursts: dict[int, list[Timing]] = {number: [] for number in measured}
    checked: dict[Case, dict[tuple, float]] = {}
    for case in cases:

        def say_of_case(text: str, case: Case = case) -> None:
            say(f"{case}: {text}")

        say_of_case("checking")
        errors = _check(case, backends, with_pytorch, checked)
        say_of_case("compiling or loading kernels")
        prepared = {_Key(b.name, b.math, b.threads): jobs.prepare(case, b) for b in backends}
        tried: dict[_Key, dict] = {}
        for device, threads in _peers(backends) if with_pytorch else ():
            kept, rates, failed = pytorch.trial(
                case,
                device,
                threads,
                compiled=compiled,
                seconds=min(0.6, seconds),
                reduced=reduced,
                deadline=deadline,
                say=say_of_case,
            )
            notes += [note for note in failed if note not in notes]
            for variant, ready in kept.items():
                key = _Key("pytorch", "fast", threads, variant.describe(case.job))
                prepared[key] = ready
                tried[key] = rates
        if with_onnx and case.job == "inference":
            for threads in dict.fromkeys(b.threads for b in backends if b.threads):
                key = _Key("onnxruntime", "fast", threads, "ONNX Runtime")
                prepared[key], errors[key[:3]] = onnx_runtime.prepare(case, threads)
        say_of_case(f"timing {len(prepared)} contenders")
        contenders = {key: ready.contender for key, ready in prepared.items()}
        timings = interleave(contenders | {n: p.contender for n, p in measured.items()}, seconds, patience=patience)
        for number in measured:
            bursts[number].append(timings[number])
        rows = {key: _row(case, key, timings, measured, ready, errors[key[:3]]) for key, ready in prepared.items()}
        for key, rates in tried.items():
            rows[key]["variants"] = rates
        report["results"] += rows.values()
        report["ratios"] += _ratios(case, timings, rows)
    report["peak_gflops"] = {str(n): peak.rate(bursts[n]) / 1e9 for n, peak in measured.items() if bursts[n]}
    return report


class _Key(NamedTuple):
    """A contender of a case; peers have a `variant`."""

    backend: str
    math: str
    threads: int
    variant: str = ""


def _peers(backends: Sequence[Backend]) -> list[tuple[str, int]]:
    """(device, threads) to run PyTorch with: those of the backends."""
    pairs = [("cpu", b.threads) if b.threads else ("cuda", 0) for b in backends]
    return [peer for peer in dict.fromkeys(pairs) if peer[0] == "cpu" or pytorch.cuda()]


def _check(case: Case, backends: Sequence[Backend], peer: bool, checked: dict) -> dict[tuple, float]:
    """Errors by (backend, math, threads), computed once for all cases whose model and checked batch are the same."""
    case = Case(case.model, "training", min(case.batch, _CHECKED))
    if case not in checked:
        referee, errors = Referee(case), {}
        for b in backends:
            state = one_step(case, b)
            errors[b.name, b.math, b.threads] = referee.judge(f"{b.name} ({b.math})", state, b.math == "exact")
        for device, threads in _peers(backends) if peer else ():
            state = pytorch.one_step(case, device, threads)
            errors["pytorch", "fast", threads] = referee.judge(f"PyTorch on {device}", state, False)
        checked[case] = errors
    return checked[case]


def _row(case: Case, key: _Key, timings: dict, peaks: dict[int, Peak], ready: jobs.Prepared, error: float) -> dict:
    timing = timings[key]
    quick, slow = timing.quartiles
    row = {
        "model": case.model,
        "input_shape": list(case.input_shape),
        "job": case.job,
        "batch": case.batch,
        "backend": key.backend,
        "math": key.math,
        "threads": key.threads,
        "images_per_second": case.batch / timing.median,
        "quartiles": [case.batch / slow, case.batch / quick],
        "spread": (slow - quick) / timing.median,
        "milliseconds": 1e3 * timing.median,
        "device_milliseconds": None if timing.device is None else 1e3 * timing.device,
        "peak_fraction": None,
        "transfer_seconds": ready.transfer,
        "first_step_seconds": ready.first,
        "error": error,
        **timing.describe(),
    }
    if key.threads in peaks:
        operations = case.batch * case.operations()
        row["peak_fraction"] = peaks[key.threads].fraction(operations, timing, timings[key.threads])
    if key.variant:
        row["variant"] = key.variant
    return row


def _ratios(case: Case, timings: dict, rows: dict[_Key, dict]) -> list[dict]:
    ratios = []
    for key, row in rows.items():
        if key.variant:
            continue
        about = {name: row[name] for name in ("model", "job", "batch", "backend", "math", "threads")}
        for peer, precision in (*(("pytorch", p) for p in pytorch.PRECISIONS), ("onnxruntime", "float32")):
            theirs = [k for k in rows if (k.backend, k.threads) == (peer, key.threads)]
            theirs = [k for k in theirs if pytorch.precision(k.variant) == precision]
            if theirs:
                best = max(theirs, key=lambda k: rows[k]["images_per_second"])
                ratios.append({**about, "peer": peer, "variant": best.variant, **ratio(timings[key], timings[best])})
    return ratios
