"""Same bits: a tiny network trained on each backend, its weights compared bit by bit, and one rule broken on purpose.

The rule that is broken is the contract's third, in what order the weight gradients of a batch's images are added: as a
balanced tree. `OneByOne` adds them one after the other, as a plain loop would; every other rule stands.
"""

from typing import Any

import numpy as np

from gpucnn.backends import backends, get_backend
from gpucnn.backends.batch import Batch
from gpucnn.backends.numpy.exact import NumpyExact
from gpucnn.backends.protocol import Array, Backend
from gpucnn.data import load
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.explore.body import Body
from gpucnn.explore.engine import packed
from gpucnn.geometry import Window
from gpucnn.layers import Conv2d, Dense, Flatten, MaxPool2d, Sequential
from gpucnn.models import Model
from gpucnn.optimizers import Adam
from gpucnn.training import Callback, Trainer

IMAGES, STEPS, LONG = 40, 5, 100


class OneByOne(NumpyExact):
    """The specification with one rule broken: the images' weight gradients of a convolution are added in a row."""

    def conv_weight_gradient(self, dy: Batch, x: Batch, window: Window, groups: int, out: Array) -> None:
        """Starts from zero and adds the gradient of each image alone."""
        total, part = np.zeros(out.shape, out.dtype), np.empty(out.shape, out.dtype)
        for image in range(dy.images):
            one = slice(image, image + 1)
            super().conv_weight_gradient(
                self.batch(dy.data[one, ..., 0]), self.batch(x.data[one, ..., 0]), window, groups, part
            )
            total += part
        out[...] = total


class _Keep(Callback):
    """All weights after each step, one row a step."""

    def __init__(self):
        self.rows: list[np.ndarray] = []

    def on_epoch_end(self, trainer: Any, record: dict) -> None:
        self.rows.append(np.concatenate([value.ravel() for value in trainer.model.state_dict().values()]))


def train(backend: Backend, steps: int) -> tuple[np.ndarray, Model]:
    """(weights (steps, W) float32 after each step, the model). Each step's batch holds all 40 digits of 8x8 pixels."""
    digits, _ = load("digits")
    images = np.ascontiguousarray(digits.images[:IMAGES, :, ::4, ::4])  # (N, 1, 8, 8)
    layer = Sequential(Conv2d(2, 3, activation="relu"), MaxPool2d(2), Flatten(), Dense(10))
    model, kept = Model(layer, (1, 8, 8), "tiny"), _Keep()
    trainer = Trainer(model, backend=backend, optimizer=Adam(0.05), batch_size=IMAGES, callbacks=[kept], progress=False)
    trainer.fit(images, digits.labels[:IMAGES], steps)
    return np.array(kept.rows), model


def compare(body: Body) -> dict[str, Any]:
    """The weights after five steps on every backend that is usable here, beside the specification's.

    With `emulate` the CUDA kernels run on the CPU where there is no GPU.
    """
    emulate = body.truth("emulate")
    columns, missing = [], []
    expected, model = train(get_backend("numpy", "exact"), STEPS)
    for row in reversed(backends()):  # the specification first
        name = row["name"]
        if "exact" not in row["math"]:
            continue
        if row["usable"]:
            weights, trained = (expected, model) if name == "numpy" else train(get_backend(name, "exact"), STEPS)
            columns.append(_column(name, row["device"], weights, expected, trained))
        elif name == "cupy" and emulate and why_not() is None:
            backend = get_emulated_backend()
            weights, trained = train(backend, STEPS)
            columns.append(_column(backend.name, "CPU", weights, expected, trained))
        else:
            missing.append({"name": name, "reason": row["reason"]})
    return {"steps": STEPS, "images": IMAGES, "names": _names(model), "columns": columns, "missing": missing}


def _column(name: str, device: str, weights: np.ndarray, expected: np.ndarray, model: Model) -> dict[str, Any]:
    return {
        "name": name,
        "device": device,
        "bits": packed(weights[-1].view(np.uint32)),
        "values": packed(weights[-1]),
        "differing": np.flatnonzero(_differs(weights[-1], expected[-1])).tolist(),
        "sha256": model.weights_sha256(),
    }


def break_rule(body: Body) -> dict[str, Any]:
    """The same training with the rule broken: the first bit that differs, and what becomes of it in 100 steps."""
    right, model = train(get_backend("numpy", "exact"), LONG)
    wrong, other = train(OneByOne(), LONG)
    differs = _differs(right, wrong)
    answer: dict[str, Any] = {"steps": LONG, "weights": right.shape[1], "names": _names(model), "first": None}
    if differs.any():
        step = int(differs.any(axis=1).argmax())
        weight = int(differs[step].argmax())
        pair = [values[step, weight] for values in (right, wrong)]
        codes = [int(value.view(np.uint32)) for value in pair]
        answer["first"] = {
            "step": step + 1,
            "weight": weight,
            "bits": [f"{code:032b}" for code in codes],
            "hex": [f"{code:08x}" for code in codes],
            "values": [np.format_float_positional(value, unique=True) for value in pair],
            "differing": [place for place in range(32) if (codes[0] ^ codes[1]) >> (31 - place) & 1],
        }
    _, test = load("digits")
    images = np.ascontiguousarray(test.images[:, :, ::4, ::4])
    said = [network.predict(images) for network in (model, other)]
    answers = [row.argmax(axis=1) for row in said]
    return {
        **answer,
        "counts": differs.sum(axis=1).tolist(),
        "largest": np.abs(right.astype(np.float64) - wrong).max(axis=1).tolist(),
        "bits": [packed(values[-1].view(np.uint32)) for values in (right, wrong)],
        "sha256": [network.weights_sha256() for network in (model, other)],
        "probability": float(np.abs(said[0] - said[1]).max()),
        "answers": int((answers[0] != answers[1]).sum()),
        "tested": len(images),
    }


def _differs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.view(np.uint32) != b.view(np.uint32)


def _names(model: Model) -> list[str]:
    """A name for each weight: its parameter and its place in it."""
    return [
        f"{name}[{', '.join(map(str, place))}]"
        for name, value in model.state_dict().items()
        for place in np.ndindex(value.shape)
    ]
