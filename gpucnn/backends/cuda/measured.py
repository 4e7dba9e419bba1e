"""Which tile a kernel has: the fastest of those that were measured on this GPU, or else the model's first.

`gpucnn tune` measures (gpucnn.throughput.tuning). One file per device in the cache folder holds what it found; a tile
is only taken from there if the model names it among those that the kernel may have for the shape. No bit depends on it.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from gpucnn.backends.cuda.tiles import Tile, conv_tiles, dense_tiles, gradient_tiles, pooled_conv_tiles
from gpucnn.cache import Kernels
from gpucnn.errors import BackendError, ConfigurationError

_MODEL = {
    "conv": conv_tiles,
    "input gradient": conv_tiles,
    "pooled conv": pooled_conv_tiles,
    "weight gradient": gradient_tiles,
    "dense": dense_tiles,
    "dense gradients": dense_tiles,
}
_STORE = Kernels("tiles")


@dataclass(frozen=True)
class Request:
    """A kernel for a shape, which is what its function of the model takes; `groups` are the convolution's."""

    kernel: str
    groups: int
    shape: tuple

    @property
    def candidates(self) -> tuple[Tile, ...]:
        """The tiles that it may have, the model's choice first."""
        return _MODEL[self.kernel](*self.shape)

    def __str__(self) -> str:
        return f"{self.kernel}, {self.groups} groups, {self.shape}"


class Tiles:
    """The tiles of the kernels on `device`; without one, the model's alone."""

    def __init__(self, device: str | None = None):
        self._device = device
        self._measured = _load(device) if device else {}
        self._trial: dict[Request, Tile] = {}
        self.requested: dict[Request, None] = {}  # since somebody cleared it

    def choose(self, kernel: str, *shape, groups: int = 1) -> Tile | None:
        """The tile; None if the kernel has none for the shape. Raises ValueError for one that is too large."""
        request = Request(kernel, groups, shape)
        self.requested[request] = None
        candidates = request.candidates
        tile = self._trial.get(request) or (self._measured.get(str(request)) if self._measured else None)
        return tile if tile in candidates else next(iter(candidates), None)

    def is_measured(self, request: Request) -> bool:
        return self._measured.get(str(request)) in request.candidates

    @contextlib.contextmanager
    def trial(self, request: Request, tile: Tile) -> Iterator[None]:
        """In this context, `request` gets `tile`."""
        self._trial[request] = tile
        try:
            yield
        finally:
            del self._trial[request]

    def keep(self, request: Request, tile: Tile) -> None:
        """From now on, in later processes too, `request` gets `tile`. Raises ConfigurationError if not stored."""
        if self._device is not None:
            self._measured = {**_load(self._device), str(request): tile}  # another process may have added some
            name, content = _name(self._device), _written(self._device, self._measured)
            _STORE.write(name, content)
            if _STORE.read(name) != content:
                raise ConfigurationError(f"measured tiles cannot be written to {_STORE.folder}; is the disk full?")


def _name(device: str) -> str:
    return (
        f"{''.join(c if c.isalnum() else '-' for c in device)[:60]}-{hashlib.sha256(device.encode()).hexdigest()[:16]}"
    )


def _written(device: str, tiles: dict[str, Tile]) -> bytes:
    return json.dumps({"device": device, "tiles": tiles}, indent=1).encode()


def _load(device: str) -> dict[str, Tile]:
    """What was stored for the device; nothing if that is missing, damaged or something else."""
    try:
        stored = json.loads(_STORE.read(_name(device)) or b"")
        tiles = stored["tiles"] if stored["device"] == device else {}
        return {str(key): tuple(map(int, tile)) for key, tile in tiles.items()}
    except (BackendError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
