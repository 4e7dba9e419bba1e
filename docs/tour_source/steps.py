"""What the tour's steps compute and draw: a function for each heading of the second level, in their order.

Each takes the folder for its pictures (None: draws nothing) and the names that the page has so far, those of its Python
blocks and of earlier steps. It returns the names that the step's text refers to.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gpucnn
from gpucnn import data, figures, functional, show
from gpucnn.errors import ShapeError
from gpucnn.geometry import window
from gpucnn.layers import Conv2d
from gpucnn.models import Model, lenet5
from gpucnn.optimizers import AdamW
from gpucnn.schedules import Cosine
from gpucnn.summary import summary
from tour_source import pictures

DIAGONAL = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
RED_DIAGONAL = [DIAGONAL, -np.ones((3, 3)), -np.ones((3, 3))]
BLOCKS = [[32, 10, 11, 17], [4, 14, 9, 19], [20, 4, 14, 16], [8, 12, 27, 7]]
NUMBER = 3  # the test image whose maps are shown
SPECIFICATION: dict[str, Any] = {"backend": "numpy", "math": "exact"}

Names = dict[str, Any]


def at(folder: Path | None, name: str) -> Path | None:
    """A picture's path."""
    return None if folder is None else folder / f"{name}.png"


def grid(values) -> str:
    """A map of numbers as text."""
    return str(np.asarray(values).tolist())


def refusal(action: Callable[[], object]) -> str:
    """The sentence with which gpucnn refuses, as a block."""
    try:
        action()
    except ShapeError as error:
        return textwrap.fill(str(error), 110, initial_indent=" " * 4, subsequent_indent=" " * 4)
    raise AssertionError("nothing was refused")


def pattern(folder: Path | None, names: Names) -> Names:
    """A filter that finds a pattern."""
    matching = [[-1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    different = [[-1, -1, -1], [1, -1, -1], [-1, 1, 1]]
    cross = -np.ones((9, 9))
    for i in range(1, 8):
        cross[i, i] = cross[i, 8 - i] = 1
    if folder is not None:
        Image.fromarray(np.uint8(255 * (cross > 0))).save(folder / "cross.png")
    best = show.match(cross, DIAGONAL, at(folder, "match"), name="a cross", **SPECIFICATION)
    highest = [(int(row), int(column)) for row, column in np.argwhere(best.scores == best.score)]
    return {
        "DIAGONAL": DIAGONAL,
        "grid": grid,
        "first": show.match(matching, DIAGONAL, at(folder, "match-small"), **SPECIFICATION),
        "second": show.match(different, DIAGONAL, **SPECIFICATION),
        "different": different,
        "agree": int((np.array(different) == np.array(DIAGONAL)).sum()),
        "best": best,
        "highest": highest,
        "places": ", ".join(map(str, highest)),
    }


def colours(folder: Path | None, names: Names) -> Names:
    """A filter of three channels."""
    image, block = names["image"], names["block"]
    strokes = -np.ones((3, 6, 16))
    for i in range(1, 5):
        strokes[0, i, [i, i + 5]] = 1  # red and white
        strokes[1, i, [i + 5, i + 10]] = 1  # white and green
        strokes[2, i, i + 5] = 1
    if folder is not None:
        pixels = np.uint8(255 * (np.moveaxis(strokes, 0, -1) > 0))
        Image.fromarray(pixels).save(folder / "colours-image.png")
    found = show.match(strokes, RED_DIAGONAL, at(folder, "colours"), name="three strokes", **SPECIFICATION)
    sums = [functional.conv(image[:, [c]], block[:, [c]], **SPECIFICATION).item() for c in range(3)]
    mixing = Model(Conv2d(32, 1, bias=False), (64, 56, 56))
    return {
        **dict(zip(("red", "green", "blue"), sums)),
        "volume": functional.conv(image, block, names["bias"], **SPECIFICATION).item(),
        **dict(zip(("red_score", "white_score", "green_score"), found.scores[1, [1, 6, 11]])),
        "ten": Model(Conv2d(10, 5), (3, 32, 32)),
        "per_filter": Model(Conv2d(1, 5), (3, 32, 32)).parameter_count,
        "mixed": mixing,
        "mixing": summary(mixing).rows[0].multiply_adds // int(np.prod(mixing.output_shape)),
    }


def correlation(folder: Path | None, names: Names) -> Names:
    """Convolution and correlation."""
    spot, numbers = names["spot"], names["numbers"]
    correlated = functional.conv(spot[None, None], numbers[None, None], **SPECIFICATION)[0, 0]
    turned = functional.conv(spot[None, None], numbers[None, None, ::-1, ::-1], **SPECIFICATION)[0, 0]
    convolved = functional.convolve(spot, numbers, "valid", **SPECIFICATION)
    assert (turned == convolved).all()  # as the text says
    if folder is not None:
        pictures.flip(spot, numbers, correlated, convolved, folder / "flip.png")
    return {}


def border(folder: Path | None, names: Names) -> Names:
    """Without padding."""
    bare = window((7, 7), 3)
    often = show.pixel_use(bare, at(folder, "no-padding"))
    impulse = np.zeros((1, 1, 5, 5), np.float32)
    impulse[0, 0, 2, 2] = 1
    _, test = data.load("digits")
    plain, kept = [test.images[[NUMBER]]], [test.images[[NUMBER]]]
    for _ in range(7):
        plain.append(functional.conv(plain[-1], impulse, **SPECIFICATION))
        kept.append(functional.conv(kept[-1], impulse, padding=2, **SPECIFICATION))
    if folder is not None:
        pictures.border([maps[0, 0] for maps in plain], [maps[0, 0] for maps in kept], folder / "border.png")
    return {
        "bare": bare,
        "often": often,
        "small": show.pixel_use(window((3, 3), 2)),
        "outer": often.size - int(np.prod(bare.output)),
        "shrunk": [maps.shape[-1] for maps in plain],
        "too_small": refusal(lambda: functional.conv(plain[-1], impulse, **SPECIFICATION)),
    }


def padding(folder: Path | None, names: Names) -> Names:
    """Padding."""
    padded = window((7, 7), 3, padding=1)
    return {
        "padded": padded,
        "padded_use": show.pixel_use(padded, at(folder, "padding")),
        "large": window((32, 32), 5, padding=2),
    }


def stride(folder: Path | None, names: Names) -> Names:
    """Stride, and the size rule."""
    two = window((7, 7), 3, stride=2)
    return {
        "two": two,
        "two_places": int(np.prod(two.output)),
        "one_places": int(np.prod(names["bare"].output)),
        "rarely": show.pixel_use(two, at(folder, "stride-2")),
        "uneven": refusal(lambda: window((7, 7), 3, stride=3, strict=True)),
    }


def pooling(folder: Path | None, names: Names) -> Names:
    """Pooling."""
    image = np.array(BLOCKS, np.float32)[None, None]
    largest = functional.max_pool(image, 2, **SPECIFICATION)[0, 0]
    means = functional.avg_pool(image, 2, **SPECIFICATION)[0, 0]
    if folder is not None:
        pictures.pooling(image[0, 0], largest, means, folder / "pooling.png")
    return {"largest": largest, "means": means}


def network(folder: Path | None, names: Names) -> Names:
    """LeNet-5, layer by layer."""
    lenet = lenet5((1, 32, 32), 10)
    layers = summary(lenet)
    return {
        "lenet": lenet,
        "layers": textwrap.indent(str(layers), "    "),
        "shared": next(row for row in layers.rows if row.kind == "Conv2d"),
    }


def gradient_step(folder: Path | None, names: Names) -> Names:
    """What a gradient step does to a filter."""
    x, w, target = (np.array([[values]], np.float32) for values in ([1, 2, 0], [3, -1], [3, 5]))
    y = functional.conv(x, w, **SPECIFICATION)
    before, dy = functional.mean_squared(y, target, **SPECIFICATION)
    _, dw, _ = functional.conv_backward(dy, x, w, **SPECIFICATION)
    stepped = functional.conv(x, w - np.float32(0.125) * dw, **SPECIFICATION)
    kept = names["kept"]
    if folder is not None:
        pictures.gradient_step(kept, folder / "step.png")
    return {
        "y_first": y[0, 0, 0],
        "y_short": target[0, 0, 0] - y[0, 0, 0],
        "y_second": y[0, 0, 1],
        "dw_second": dw[0, 0, 1],
        "loss_before": before,
        "loss_after": functional.mean_squared(stepped, target, **SPECIFICATION)[0],
        "corner_gradient": kept[0][2][0, 0],
        "corner_weight": kept[1][1][0, 0],
        "last_loss": names["loss"],
    }


class Learned:
    """LeNet-5 trained on `name`, its first layer's filters `before`, and its predictions for the test images."""

    def __init__(self, name: str = "digits", shift: int = 4):
        self.train, self.test = data.load(name)
        self.model = lenet5((1, 32, 32), len(self.train.classes))
        self.model.class_names = self.train.classes
        trainer = gpucnn.Trainer(
            self.model,
            backend="numba",
            optimizer=AdamW(lr=0.002, weight_decay=0.5),
            schedule=Cosine(),
            seed=0,
            shift=shift,
            progress=False,
        )
        self.before = self.model.state_dict()["0.weight"].copy()
        self.history = trainer.fit(self.train.images, self.train.labels, epochs=20)
        self.probabilities = trainer.predict(self.test.images)


def learning(folder: Path | None, names: Names) -> Names:
    """Training and its curves, confusion and mistakes."""
    learned = Learned()
    test, predicted = learned.test, learned.probabilities.argmax(axis=1)
    show.filters(learned.before, at(folder, "filters-before"))
    if folder is not None:
        show.curves(learned.history, folder / "curves.png")
    counts = show.confusion(test.labels, predicted, test.classes, at(folder, "confusion"))
    worst = show.mistakes(test.images, test.labels, learned.probabilities, test.classes, at(folder, "mistakes"))
    history = learned.history["accuracy"]
    return {"learned": learned, "history": history, "right": int(counts.trace()), "worst": worst[0]}


def inside(folder: Path | None, names: Names) -> Names:
    """Filters and feature maps."""
    model, test = names["learned"].model, names["learned"].test
    show.filters(model, at(folder, "filters"))
    truth = test.classes[test.labels[NUMBER]]
    name = f"test image {NUMBER}: {truth}"
    layers, probabilities = show.maps(model, test.images[NUMBER], at(folder, "maps"), backend="numba", name=name)
    after = model.state_dict()["0.weight"]
    return {
        "turned": int((names["learned"].before * after < 0).sum()),
        "sizes": [figures.shape(step.values.shape) for step in layers],
        "answer": model.class_names[int(probabilities.argmax())],
        "certainty": probabilities.max(),
        "truth": truth,
        "NUMBER": NUMBER,
    }


def page(folder: Path | None, names: Names) -> Names:
    """The network slides over a page."""
    learned = names["learned"]
    values, places = show.digit_page(learned.test.images)
    whole = show.scores(learned.model, values, backend="numba")
    result = show.scores(Learned("digits+parts", shift=2).model, values, at(folder, "scores"), backend="numba")
    after, before = (found(scores, places, learned.test) for scores in (result, whole))
    return {
        "page": result,
        "digits": len(places),
        "before": before,
        "before_wrong": len(whole.found) - before,
        "after": after,
        "after_wrong": len(result.found) - after,
    }


def found(scores: show.Scores, places: list[tuple[int, int]], test: data.Dataset) -> int:
    """How many of the digits at `places` are found where they are, to within 8 pixels, as what they are."""
    return sum(
        any(
            max(abs(sighting.box[0] - top), abs(sighting.box[1] - left)) <= 8 and sighting.label == test.classes[label]
            for sighting in scores.found
        )
        for (top, left), label in zip(places, test.labels)
    )


def bits(folder: Path | None, names: Names) -> Names:
    """The same hash on two backends."""
    learned, hashes = names["learned"], {}
    for backend in ("numpy", "numba"):
        model = lenet5((1, 32, 32), 10)
        trainer = gpucnn.Trainer(model, backend=backend, math="exact", seed=0, shift=2, progress=False)
        trainer.fit(learned.train.images, learned.train.labels, epochs=1)
        hashes[backend] = model.weights_sha256()
    assert len(set(hashes.values())) == 1  # as the text says
    return {"hashes": hashes, "trained_hash": learned.model.weights_sha256()[:16]}


QUICK = (pattern, colours, correlation, border, padding, stride, pooling, network, gradient_step)
TRAINED = (learning, inside, page, bits)
