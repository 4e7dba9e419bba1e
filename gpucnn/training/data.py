"""Images and labels where training steps find them: on the device, or read a batch at a time beside it."""

import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any
from weakref import finalize

import numpy as np

from gpucnn.arguments import integer, refuse, shown
from gpucnn.backends.protocol import Array, Backend
from gpucnn.data.mapped import Mapped
from gpucnn.errors import ConfigurationError, DataError, GpucnnError
from gpucnn.parallel.division import WHOLE, Division

# Of the device's memory: a larger data set stays on the host.
_RESIDENT_SHARE = 0.5


def placed(
    backend: Backend,
    images: np.ndarray | Mapped,
    labels: np.ndarray | None,
    batch_size: int,
    division: Division = WHOLE,
):
    """Resident, or Streamed for images that are mapped or take more than half of the device's memory.

    With a `division` only this process's part of each batch is read.
    """
    room = backend.memory() or math.inf
    if not isinstance(images, Mapped) and images.nbytes > _RESIDENT_SHARE * room:
        images = Mapped(images)
    if isinstance(images, Mapped):
        return Streamed(backend, images, labels, batch_size, division)
    return Resident(backend, images, labels, batch_size)


def digest(images, labels: np.ndarray, dtype) -> str:
    """SHA-256 in hex of images, which are `dtype` or mapped, and labels."""
    data = images.survey(dtype)[0] if isinstance(images, Mapped) else hashlib.sha256(images)
    data.update(np.ascontiguousarray(labels).data)
    return data.hexdigest()


class Resident:
    """Images (M, *image_shape), labels (M,) or values (M, outputs), or none, on the device; the batch's indices."""

    def __init__(self, backend: Backend, images: np.ndarray, labels: np.ndarray | None, batch_size: int):
        self.backend, self.count, self.batch_size = backend, len(images), batch_size
        self.images = backend.array(images)
        self.labels = None if labels is None else backend.array(labels)
        self.indices = backend.zeros((self.batch_size,), np.int64)

    def choose(self, indices: np.ndarray) -> None:
        """The next batch holds the images at `indices`, `batch_size` of them at most."""
        padded = np.zeros(self.batch_size, np.int64)
        padded[: len(indices)] = indices
        self.backend.assign(self.indices, padded)

    def chosen(self, first: int) -> Array:
        """The places of the batch's images from number `first` on."""
        return self.indices[first:]

    def places(self, indices: np.ndarray) -> np.ndarray:
        """Where the images at `indices`, once chosen, are in `images` and `labels`."""
        return indices

    def batches(self, order: np.ndarray) -> list[np.ndarray]:
        """`order` in parts of batch_size; the last may be short."""
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def fingerprint(self) -> str:
        """A hash of what the caller has given since training began; of data that do not change, nothing."""
        return ""

    @property
    def an_epoch(self) -> int:
        """Steps an epoch."""
        return -(-self.count // self.batch_size)

    def close(self) -> None:
        """Nothing more will be asked for."""


class Streamed(Resident):
    """The same for images that stay where they are. On the device lies the batch at hand alone, in place of all images.

    A thread gathers the next two batches on the host while the device computes; `batches` tells it the order. A batch
    is written into the same device arrays each time, so a captured step repeats.
    """

    def __init__(
        self,
        backend: Backend,
        images: Mapped,
        labels: np.ndarray | None,
        batch_size: int,
        division: Division = WHOLE,
    ):
        self.backend, self.count, self.batch_size, self._division = backend, len(images), batch_size, division
        shape = (division.most(batch_size), *images.shape[1:])
        self.images = backend.zeros(shape)
        self.labels = None if labels is None else backend.zeros((shape[0], *labels.shape[1:]), labels.dtype)
        self.indices = backend.array(np.arange(shape[0], dtype=np.int64))
        self._source, self._all_labels = images, labels
        self._free = [np.zeros(shape, backend.dtype) for _ in range(2)]
        self._coming: deque[np.ndarray] = deque()
        self._ahead: deque[tuple[np.ndarray, np.ndarray, Future]] = deque()
        self._reader = _Reader()
        self._first = 0  # the number of the first image that is here

    def places(self, indices: np.ndarray) -> np.ndarray:
        return np.arange(len(indices))

    def batches(self, order: np.ndarray) -> list[np.ndarray]:
        self._forget()
        parts = super().batches(order)
        self._coming.extend(map(self._division.mine, parts))
        self._read_ahead()
        return parts

    def choose(self, indices: np.ndarray) -> None:
        self._first, _ = self._division.part(len(indices))
        indices = self._division.mine(indices)
        if not self._ahead or not np.array_equal(self._ahead[0][0], indices):  # not what was foretold
            self._forget()
            self._coming.append(indices)
            self._read_ahead()
        _, buffer, reading = self._ahead.popleft()
        try:
            reading.result()
            self.backend.assign(self.images, buffer)
        finally:
            self._free.append(buffer)
        if self._all_labels is not None:
            labels = np.zeros((len(buffer), *self._all_labels.shape[1:]), self._all_labels.dtype)
            labels[: len(indices)] = self._all_labels[indices]
            self.backend.assign(self.labels, labels)
        self._read_ahead()

    def chosen(self, first: int) -> Array:
        return self.indices[first - self._first :]

    def close(self) -> None:
        self._forget()
        self._reader.close()

    def _read_ahead(self) -> None:
        while self._free and self._coming:
            indices, buffer = self._coming.popleft(), self._free.pop()
            reading = self._reader.submit(self._source.take, indices, buffer[: len(indices)])
            self._ahead.append((indices, buffer, reading))

    def _forget(self) -> None:
        """Give up what was foretold; waits for the one batch that may be on its way."""
        self._coming.clear()
        while self._ahead:
            _, buffer, reading = self._ahead.popleft()
            if not reading.cancel():
                reading.exception()
            self._free.append(buffer)


class _Reader:
    """A thread that calls functions, one after the other.

    One of concurrent.futures takes nothing more once the main thread has ended, while another thread may train on.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue = SimpleQueue()
        self._end = finalize(self, self._calls.put, None)
        self._thread = Thread(target=_call_all, args=(self._calls,), name="gpucnn-reader", daemon=True)
        self._thread.start()

    def submit(self, function: Callable, *arguments: Any) -> Future:
        if not self._end.alive:
            raise RuntimeError("the reader is closed")
        future: Future = Future()
        self._calls.put((future, function, arguments))
        return future

    def close(self) -> None:
        self._end()
        self._thread.join()


def _call_all(calls: SimpleQueue) -> None:
    while call := calls.get():
        future, function, arguments = call
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
        del call, future, function, arguments  # nothing is kept while it waits


class Fed(Resident):
    """Batches of pairs (images, labels) that come from outside, in place of all images: one step each.

    `batches` is an iterable with a length, gone through once an epoch, or an iterator that gives `steps` an epoch.
    `check` makes checked host arrays of a pair. No batch may be larger than the first. With `compared` the batches are
    hashed, for `fingerprint`. Raises ConfigurationError for what is neither, DataError where the batches end too soon,
    are too large or are no pairs.
    """

    def __init__(
        self, backend: Backend, batches: Iterable, steps: int | None, check: Callable[..., tuple], compared: bool
    ):
        if not isinstance(batches, Iterable):
            raise refuse("batches", batches, "an iterable of (images, labels) pairs, such as a list or a generator")
        self._source, self._check = batches, check
        self._hash = hashlib.sha256() if compared else None
        self._endless = isinstance(batches, Iterator)
        length = _length(batches)
        if steps is None and length is None:
            raise ConfigurationError("the batches have no length; say how many make an epoch: steps=100")
        if isinstance(batches, (list, tuple)) and steps is not None and integer("steps", steps) < len(batches):
            raise ConfigurationError(
                f"steps is {steps}, but there are {len(batches)} batches, of which the others would never be used; "
                "leave steps out, or give an iterator, such as itertools.cycle(batches)"
            )
        self.steps = length if steps is None else integer("steps", steps)
        if not self.steps:
            raise DataError("there are no batches; give at least one")
        self._iterator, self.backend = iter(batches), backend
        self.first = images, labels = self._next(0)
        self._iterator = itertools.chain([self.first], self._iterator)
        self._fresh = True  # the first epoch goes on with the iterator that gave the first batch
        self.batch_size = len(images)
        self.count = self.steps * self.batch_size  # about: batches may be smaller
        self.images = backend.zeros(images.shape)
        self.labels = backend.zeros(labels.shape, labels.dtype)
        self.indices = backend.array(np.arange(self.batch_size, dtype=np.int64))

    def batches(self, order: np.ndarray) -> "Fed":  # type: ignore[override]  # it has a length and is gone through
        return self

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[np.ndarray]:
        """The numbers of each batch's images in it, as the batch is made."""
        if not self._fresh and not self._endless:
            self._iterator = iter(self._source)
        self._fresh = False
        for number in range(self.steps):
            self._now = images, _ = self._next(number)
            if len(images) > self.batch_size:
                raise DataError(
                    f"batch {number + 1} of the epoch has {len(images)} images, more than the {self.batch_size} of the "
                    "first one; make the largest the first"
                )
            yield np.arange(len(images))

    def choose(self, indices: np.ndarray) -> None:
        for array, values in zip((self.images, self.labels), self._now, strict=True):
            full = np.zeros((self.batch_size, *values.shape[1:]), values.dtype)
            full[: len(values)] = values
            self.backend.assign(array, full)

    def _next(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            pair = next(self._iterator)
        except StopIteration:
            raise DataError(
                f"the batches ended after {number} of the epoch's {self.steps}"
                + ("; an iterator must give enough for all epochs, such as a generator that never ends" * self._endless)
            ) from None
        if number == 0 and pair is getattr(self, "first", None):
            return self.first
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise DataError(f"batch {number + 1} is {shown(pair)}; each must be a pair (images, labels)")
        try:
            images, labels = self._check(*pair)
        except GpucnnError as error:
            raise type(error)(f"batch {number + 1} of the epoch: {error}") from None
        if self._hash:
            self._hash.update(digest(images, labels, self.backend.dtype).encode())
        return images, labels

    def fingerprint(self) -> str:
        return self._hash.hexdigest() if self._hash else ""


def _length(batches: Any) -> Any:
    """How many batches there are; None where nobody knows, which a DataLoader only says when asked."""
    try:
        return len(batches)
    except TypeError:
        return None
