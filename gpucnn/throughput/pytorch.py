"""The peer: the same network with the same weights in PyTorch, at the best of its settings.

PyTorch is used if it is installed and never needed. It gets what an ordinary loop of its users has and what speeds that
up: inputs that lie ready in memory in the variant's layout, gradients set to None, SGD in its foreach or fused form,
inference mode, the same number of threads. Nothing is gathered from a data set, which our own step does.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import types
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from gpucnn.models import Model, pytorch_module, pytorch_names
from gpucnn.throughput.agreement import LOGITS, RATE, State
from gpucnn.throughput.jobs import LEARNING_RATE, MOMENTUM, Case, Prepared
from gpucnn.throughput.timing import Contender, interleave

LAYOUTS = ("contiguous", "channels_last")
PRECISIONS = ("float32", "TF32", "AMP")


def installed() -> bool:
    """Whether PyTorch can be imported; it is not imported for the answer."""
    return importlib.util.find_spec("torch") is not None


def import_before_cupy() -> None:
    """Import PyTorch if it is installed: version 2.11 cannot be imported after it (cupy issue 9827)."""
    if installed():
        import torch  # noqa: F401


def cuda() -> bool:
    """Whether PyTorch sees a GPU."""
    if not installed():
        return False
    import torch

    return torch.cuda.is_available()


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way of running PyTorch.

    `compiled` is "" (eager), "compiled", or "frozen" (compiled, the weights taken as constants: for inference);
    `optimizer` is "foreach" or "fused"; `graph` replays a CUDA graph; `precision` is "float32", "TF32" (factors rounded
    to 10 bits) or "AMP" (automatic mixed precision in bfloat16); `benchmark` lets cuDNN try its algorithms out.
    """

    layout: str = "contiguous"
    compiled: str = ""
    optimizer: str = "foreach"
    graph: bool = False
    precision: str = PRECISIONS[0]
    benchmark: bool = False

    def describe(self, job: str) -> str:
        """In words, as in "compiled, channels_last, fused SGD"."""
        words = [self.compiled or "eager", self.layout]
        words += [f"{self.optimizer} SGD"] if job == "training" else []
        words += ["CUDA graph"] * self.graph + ["cudnn.benchmark"] * self.benchmark
        return ", ".join(words + [self.precision] * (self.precision != PRECISIONS[0]))


@contextlib.contextmanager
def using(threads: int, *, inference: bool = False, gpu: Variant | None = None):
    """PyTorch on so many threads (0: left alone), in inference mode or not; `gpu` sets precision and cuDNN's choice."""
    import torch

    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if gpu is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = gpu.precision == "TF32"
        torch.backends.cudnn.benchmark = gpu.benchmark
    with torch.inference_mode() if inference else contextlib.nullcontext():
        yield


def precision(described: str) -> str:
    """The precision of a variant from its description."""
    return next((p for p in PRECISIONS if described.endswith(p)), PRECISIONS[0])


# ---- the same network ----------------------------------------------------------------------------------------------


def translate(model: Model):
    """`model` as a torch.nn.Module with the same weights, ready to train.

    Raises ConfigurationError for a layer that has no counterpart.
    """
    return pytorch_module(model).train()


def tensors(network, model: Model) -> dict[str, Any]:
    """The tensors of `model`'s counterpart by our names, where they lie now: moving a network replaces some."""
    state = network.state_dict(keep_vars=True)
    return {ours: state[theirs] for ours, theirs in pytorch_names(model).items()}


def one_step(case: Case, device: str = "cpu", threads: int = 0) -> State:
    """What gpucnn.throughput.agreement.one_step computes, by PyTorch in float32."""
    import torch
    from torch.nn.functional import cross_entropy

    model = case.build()
    network = translate(model).to(device)
    images, labels = (torch.from_numpy(a[: case.batch]).to(device) for a in case.data())
    with using(threads, gpu=Variant() if device != "cpu" else None):
        optimizer = torch.optim.SGD(network.parameters(), RATE, MOMENTUM)
        cross_entropy(network(images), labels.long()).backward()
        optimizer.step()
        network.eval()
        with torch.no_grad():
            logits = network(images).cpu().numpy()
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors(network, model).items()} | {LOGITS: logits}


# ---- variants ------------------------------------------------------------------------------------------------------


def variants(job: str, device: str, *, compiled: bool, reduced: bool) -> list[Variant]:
    """All that are tried for a job. `compiled` adds torch.compile's; `reduced`, on a GPU, those of less precision.

    On a GPU torch.compile's are captured in a CUDA graph and SGD is fused, which is what serves small networks there.
    Eager is tried as it comes and with cuDNN's benchmark, everything else with it: sizes never change here.
    """
    if device == "cpu":
        compilations = ["", "compiled"] if compiled else [""]
        if compiled and job == "inference":
            compilations.append("frozen")
        optimizers = ("foreach", "fused") if job == "training" else ("foreach",)
        return [Variant(*choice) for choice in itertools.product(LAYOUTS, compilations, optimizers)]
    ways = [("", False, False), ("", False, True), ("", True, True)] + [("compiled", True, True)] * compiled
    return [
        Variant(layout, way, "fused", graph, precision, benchmark)
        for precision in (PRECISIONS if reduced else PRECISIONS[:1])
        for way, graph, benchmark in ways
        for layout in LAYOUTS
        if benchmark or precision == PRECISIONS[0]
    ]


class Work(Protocol):
    """What `prepare` needs of a Case."""

    @property
    def job(self) -> str: ...
    @property
    def batch(self) -> int: ...
    def build(self) -> Model: ...
    def data(self) -> tuple[np.ndarray, np.ndarray]: ...


def prepare(case: Work, variant: Variant, device: str, threads: int) -> Prepared:
    """PyTorch's side of a case; runs the first repetition, which compiles. Raises what PyTorch raises."""
    import torch

    images, labels = case.data()
    network = translate(case.build())
    training = case.job == "training"

    def context():
        return using(threads, inference=not training, gpu=variant if device != "cpu" else None)

    started = perf_counter()
    memory = torch.channels_last if variant.layout == "channels_last" else torch.contiguous_format
    network = network.to(device, memory_format=memory).train(training)
    # Ours predicts from an array on the host to another: so does PyTorch, which needs no copy for that on the CPU.
    where = device if training else "cpu"
    inputs = [part.to(where, memory_format=memory) for part in torch.from_numpy(images).split(case.batch)]
    targets = list(torch.from_numpy(labels).long().to(device).split(case.batch))
    wait = _waiter(device)
    wait()
    transferred = perf_counter()
    make = _training_step if training else _inference_step
    with context():
        call = make(network, inputs, targets, variant)
        call()
        wait()
    first = perf_counter() - transferred
    elapsed = None if device == "cpu" else _elapsed
    return Prepared(Contender(call, wait, context, elapsed), transferred - started, first)


def _elapsed(work: Callable[[], Any]) -> float:
    """Seconds of the GPU for what `work` asks for, between two events."""
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3  # from milliseconds


def _training_step(network, inputs: list, targets: list, variant: Variant) -> Callable[[], Any]:
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, **{variant.optimizer: True})

    forward = _forward(network, variant)

    def loss_of(x, t):
        return cross_entropy(forward(x), t)

    loss_of = _compiled(loss_of, variant)

    def step(x, t):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, t)
        loss.backward()
        optimizer.step()
        return loss

    return _by_turns(step, list(zip(inputs, targets, strict=True)), variant)


def _inference_step(network, inputs: list, targets: list, variant: Variant) -> Callable[[], Any]:
    device = targets[0].device

    forward = _forward(network, variant)

    def scores(x):
        return forward(x)

    step = _compiled(scores, variant)
    if device.type == "cpu":
        return _by_turns(step, [(x,) for x in inputs], variant)
    if not variant.graph:
        return _by_turns(lambda x: step(x.to(device)).cpu(), [(x,) for x in inputs], variant)
    return _by_turns(step, [(x,) for x in inputs], variant, device)


def _forward(network, variant: Variant) -> Callable:
    """The network's outputs in float32, computed in the variant's precision."""
    if variant.precision != "AMP":
        return network
    import torch

    def forward(x):
        # A CUDA graph must convert the weights anew in each replay, so there they are not cached.
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=not variant.graph):
            return network(x).float()

    return forward


def _by_turns(step: Callable, batches: list[tuple], variant: Variant, device=None) -> Callable[[], Any]:
    """A function that does `step` on the next batch each time it is called.

    With a `device` the batches are on the host, and a graph's results are brought there.
    """
    turn = itertools.cycle(batches)
    if not variant.graph:
        return lambda: step(*next(turn))
    import torch

    fixed = tuple(tensor.clone() if device is None else tensor.to(device) for tensor in batches[0])
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step(*fixed)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(*fixed)

    # The graph has the addresses of what the step owns, such as the momentum: the default keeps it alive as long.
    def replay(step=step):
        for place, tensor in zip(fixed, next(turn), strict=True):
            place.copy_(tensor)
        graph.replay()
        return result if device is None else result.cpu()

    return replay


def _compiled(function: Callable, variant: Variant) -> Callable:
    if not variant.compiled:
        return function
    import torch

    # torch.compile keeps what it compiled by code object and gives up after a few entries: each variant gets its own.
    own = types.FunctionType(
        function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}"),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made = torch.compile(own, fullgraph=True, dynamic=False)
    if variant.compiled != "frozen":
        return made
    from torch._inductor import config

    ready = False

    def frozen(*arguments):
        nonlocal ready
        if ready:
            return made(*arguments)
        with config.patch(freezing=True):
            result = made(*arguments)
        ready = True
        return result

    return frozen


_numbers = itertools.count()


def trial(
    case: Case,
    device: str,
    threads: int,
    *,
    compiled: bool,
    seconds: float,
    say: Callable[[str], None],
    reduced: bool = False,
    deadline: float = float("inf"),
) -> tuple[dict[Variant, Prepared], dict[str, float], list[str]]:
    """Every variant for `seconds`, by turns: those to go on with, images a second of all, and notes on what failed.

    The best goes on, and each within a tenth of it, three at most, of each precision. Once time.perf_counter() has
    reached `deadline`, nothing more is compiled.
    """
    notes, prepared = [], {}
    for variant in variants(case.job, device, compiled=compiled, reduced=reduced):
        name = variant.describe(case.job)
        if variant.compiled and perf_counter() > deadline:
            notes.append(f"PyTorch, {name}, was left out of {case}: no time left to compile it")
            continue
        try:
            say(f"PyTorch: {name}")
            prepared[variant] = prepare(case, variant, device, threads)
        except Exception as error:  # torch.compile fails in many ways, none of which is ours
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            notes.append(f"PyTorch, {name}, does not run here: {type(error).__name__}: {reason[:200]}")
    timings = interleave({v: p.contender for v, p in prepared.items()}, seconds)
    rates = {v: case.batch / t.median for v, t in timings.items()}
    kept = [v for kind in PRECISIONS for v in _best({v: r for v, r in rates.items() if v.precision == kind})]
    return {v: prepared[v] for v in kept}, {v.describe(case.job): rate for v, rate in rates.items()}, notes


def _best(rates: dict[Variant, float]) -> list[Variant]:
    """The variants within a tenth of the best, three at most."""
    best = sorted(rates, key=rates.__getitem__, reverse=True)[:3]
    return [v for v in best if rates[v] >= 0.9 * rates[best[0]]]


# ---- one operation -------------------------------------------------------------------------------------------------


def convolution_contenders(x, w, dy, padding: int, threads: int, device: str = "cpu") -> dict[Any, Contender]:
    """("pytorch", pass, layout) -> contender for a convolution and its two gradients; empty without PyTorch."""
    if not installed():
        return {}
    import torch

    contenders = {}
    for layout in LAYOUTS:
        memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        x_, w_, dy_ = (torch.from_numpy(a).to(device, memory_format=memory) for a in (x, w, dy))

        def forward(x=x_, w=w_):
            return torch.nn.functional.conv2d(x, w, padding=padding)

        def gradient(wanted, x=x_, w=w_, dy=dy_):
            settings = None, (1, 1), (padding, padding), (1, 1), False, (0, 0), 1
            return torch.ops.aten.convolution_backward(dy, x, w, *settings, wanted)

        calls = {
            "forward": forward,
            "input gradient": lambda gradient=gradient: gradient((True, False, False)),
            "weight gradient": lambda gradient=gradient: gradient((False, True, False)),
        }
        for name, call in calls.items():
            contenders["pytorch", name, layout] = Contender(
                call, _waiter(device), lambda: using(threads, inference=True)
            )
    return contenders


def _waiter(device: str) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if device != "cpu" else lambda: None
