"""The tiles of a network's kernels, measured on the GPU at hand and kept for later runs.

The operations of a training step and of a prediction are repeated alone, recorded as a whole step would be, with each
of the tiles that the model of gpucnn.backends.cuda.tiles ranks first. The fastest is kept. No bit depends on it.
"""

import contextlib
import copy
import statistics
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from gpucnn.arguments import instance, integer
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.launcher import Launcher
from gpucnn.backends.cuda.measured import Request
from gpucnn.backends.cuda.planning import compile_kernels
from gpucnn.backends.cuda.tiles import Tile
from gpucnn.backends.protocol import Backend
from gpucnn.errors import BackendError
from gpucnn.inference.ends import joined
from gpucnn.inference.recorded import compute
from gpucnn.inference.trace import trace
from gpucnn.models import Model
from gpucnn.throughput.profile import Call, logged

# In one recording, so that the host's launches cost nothing; and how many times each recording is timed, by turns.
_REPETITIONS, _ROUNDS = 10, 9


def tune(
    model: Model,
    batch_size: int,
    backend: Backend,
    *,
    candidates: int = 8,
    again: bool = False,
    processes: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """Measure the tiles of each convolution, dense layer and gradient of `model` on batches of `batch_size` images.

    `backend` is get_backend("cupy"). Of each kernel's tiles the `candidates` that the tile model ranks first are timed,
    without those whose registers spill. What was measured before stays, unless `again`. Each result is stored as soon
    as it is known, so an interruption loses no other, and what is captured afterwards uses it. With more `processes`
    they compile the kernels first; as always, a script that starts processes has `if __name__ == "__main__":`. `say` is
    called with a line of progress. `model` itself does not change.

    Returns a row for each kernel and shape that was measured: operation, shape (of its first batch), kernel, tile,
    microseconds, model_tile (the model's choice), model_microseconds (None if it spills) and candidates (how many were
    timed).

    Raises BackendError for another backend, ConfigurationError if results cannot be stored.
    """
    instance("model", model, Model, "a Model, such as gpucnn.models.vgg_small()")
    count, most = integer("batch_size", batch_size), integer("candidates", candidates)
    processes = integer("processes", processes)
    if not isinstance(backend, CudaBackend):
        raise BackendError(f"tiles are measured on the backend cupy; {backend.name}'s kernels have none to choose from")
    rows: list[dict] = []
    known: set[Request] = set()
    pending = []
    for call in _operations(copy.deepcopy(model).place(backend), count, backend):
        for request in _requests(backend, call):
            if request not in known and (again or not backend.tiles.is_measured(request)):
                pending.append((call, request))
            known.add(request)
    kernels = {request: _kernels(backend, call, request, most) for call, request in pending}
    if processes > 1:
        say(f"compiling the kernels of {len(pending)} operations, as far as they are not cached")
        every = [kernel for tiles in kernels.values() for needed in tiles.values() for kernel in needed]
        with contextlib.suppress(BackendError):  # whatever does not compile is left out below
            compile_kernels(every, backend.launcher.architecture, processes)
    for number, (call, request) in enumerate(pending, 1):
        tiles = [tile for tile, needed in kernels[request].items() if _is_usable(backend, needed)]
        times = _times(backend, call.work, request, tiles)
        if not times:
            say(f"{number} of {len(pending)}: {call.name} of {call.shape}: no tile compiles without spills")
            continue
        best, first = min(times, key=times.__getitem__), request.candidates[0]
        backend.tiles.keep(request, best)
        row = {
            "operation": call.name,
            "shape": call.shape,
            "kernel": request.kernel,
            "tile": list(best),
            "microseconds": 1e6 * times[best],
            "model_tile": list(first),
            "model_microseconds": 1e6 * times[first] if first in times else None,
            "candidates": len(times),
        }
        rows.append(row)
        say(f"{number} of {len(pending)}: {_sentence(row)}")
    return rows


def _sentence(row: dict) -> str:
    text = f"{row['operation']} of {row['shape']}: {row['microseconds']:.1f} us with the tile {row['tile']}"
    if row["tile"] == row["model_tile"]:
        return f"{text}, the model's"
    before = "which spills" if row["model_microseconds"] is None else f"{row['model_microseconds']:.1f} us"
    return f"{text}; the model's {row['model_tile']}: {before}"


def _operations(model: Model, count: int, backend: Backend) -> list[Call]:
    """The operations of a training step, without its loss and update, and those of a prediction."""
    images = np.random.default_rng(0).standard_normal((count, *model.input_shape), np.float32)
    model.layer.need_input_gradient(False)
    x = backend.pack(images)
    with logged(backend) as calls:
        model.mode.training = True
        y, backward = model.layer(x)
        backward(y)
    model.mode.training = False
    try:
        graph = joined(trace(lambda batch: model.layer(batch)[0], model.input_shape, lambda array: array))
    except Exception:  # whatever a layer raises that looks for values: it is predicted by the operations above
        return calls
    with logged(backend) as predicting:
        compute(graph, x)
    return calls + predicting


def _requests(backend: CudaBackend, call: Call) -> list[Request]:
    """The kernels of an operation that have a choice of tiles."""
    backend.tiles.requested.clear()
    with _collecting(backend):
        call.work()
    return [request for request in backend.tiles.requested if len(request.candidates) > 1]


def _kernels(backend: CudaBackend, call: Call, request: Request, most: int) -> dict[Tile, list[tuple[str, str]]]:
    """The kernels that the operation needs with each of the first tiles."""
    found = {}
    for tile in request.candidates[:most]:
        with backend.tiles.trial(request, tile), _collecting(backend) as kernels:
            call.work()
        found[tile] = list(kernels)
    return found


class _Collecting:
    """In the place of a launcher: launches nothing, and notes which kernels were requested."""

    def __init__(self, launcher):
        self._launcher = launcher
        self.kernels: dict[tuple[str, str], None] = {}

    def __getattr__(self, name: str):
        return getattr(self._launcher, name)

    def kernel(self, file: str, expression: str = "") -> None:
        self.kernels[file, expression] = None

    def launch(self, *arguments, **options) -> None:
        pass

    def clear(self, array) -> None:
        pass


@contextlib.contextmanager
def _collecting(backend: CudaBackend) -> Iterator[dict[tuple[str, str], None]]:
    launcher, collecting = backend.launcher, _Collecting(backend.launcher)
    backend.launcher = cast(Launcher, collecting)
    try:
        yield collecting.kernels
    finally:
        backend.launcher = launcher


def _is_usable(backend: CudaBackend, kernels: list[tuple[str, str]]) -> bool:
    try:
        return not any(backend.launcher.spilled(backend.launcher.kernel(*kernel)) for kernel in kernels)
    except BackendError:
        return False


def _times(backend: CudaBackend, work: Callable[[], Any], request: Request, tiles: list[Tile]) -> dict[Tile, float]:
    """Seconds of device time for `work` with each of the tiles: medians of several recordings' replays, by turns."""

    def repeated() -> None:
        for _ in range(_REPETITIONS):
            work()

    replays = {}
    for tile in tiles:
        with backend.tiles.trial(request, tile):
            replays[tile] = backend.capture(repeated)
    samples: dict[Tile, list[float]] = {tile: [] for tile in tiles}
    for _ in range(_ROUNDS):
        for tile, replay in replays.items():
            samples[tile].append(backend.elapsed(replay))
    return {tile: statistics.median(times) / _REPETITIONS for tile, times in samples.items()}
