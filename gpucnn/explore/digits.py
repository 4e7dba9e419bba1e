"""Draw a digit: what a trained network makes of a drawing, and which pixels counted."""

from typing import Any

import numpy as np

from gpucnn import explain
from gpucnn.data.drawing import MEASURED, Style
from gpucnn.data.images import white_of
from gpucnn.errors import ConfigurationError, DataError
from gpucnn.explore.body import Body
from gpucnn.explore.engine import packed
from gpucnn.explore.runs import Runs, layer_maps, numbers
from gpucnn.models.heads import CLASSIFIER
from gpucnn.show.layers import steps

CANVAS = 320  # pixels a side at most


class Digits:
    """Reads drawings with the networks of `runs`; each set is measured once."""

    def __init__(self, runs: Runs):
        self._runs = runs
        self._measured: dict[int, tuple[Style, float, float]] = {}

    def read(self, body: Body) -> dict[str, Any]:
        """What the network of `run` sees in `drawing`, prepared as its training images were and, beside it, as it is.

        `of` is the class to explain, null for the likeliest. Raises DataError for an empty drawing, ConfigurationError
        for a network that gives no classes.
        """
        index = self._runs.index(body)
        drawing = body.picture("drawing", CANVAS) / np.float32(255)
        (style, *levels), model = self._measure(index), self._runs.model(index)
        if model.head != CLASSIFIER or len(model.output_shape) != 1:
            raise ConfigurationError(f"{model.name} does not tell classes apart; choose the run of a classifier")
        prepared = style.prepare(drawing)
        plain = _stretched(drawing, style, *levels)
        maps, probabilities = steps(model, prepared.image, self._runs.backend)
        (unprepared,) = model.predict(plain[None])
        of = body.optional_integer("of", 0, len(probabilities) - 1)
        of = int(probabilities.argmax()) if of is None else of
        top, left, bottom, right = prepared.box
        return {
            "classes": model.class_names or [str(label) for label in range(len(probabilities))],
            "probabilities": numbers(probabilities),
            "unprepared": numbers(unprepared),
            "of": of,
            "image": packed(prepared.image),
            "plain": packed(plain),
            "ink": packed((prepared.ink * 255).astype(np.uint8)),
            "light_ink": prepared.light_ink,
            "box": {"top": top, "left": left, "bottom": bottom, "right": right},
            "scale": prepared.scale,
            "moved": list(prepared.moved),
            "style": {
                "shape": list(style.shape),
                "light_ink": style.ink > style.paper,
                "block": style.block,
                "longest": style.longest,
                "centre": [{"by": kind, "at": place} for kind, place in style.centre],
            },
            "maps": [layer_maps(step) for step in maps],
            "gradient": packed(explain.input_gradient(model, prepared.image[None], of)[0]),
            "occlusion": packed(explain.occlusion(model, prepared.image, of, fill=style.paper)),
        }

    def _measure(self, index: int) -> tuple[Style, float, float]:
        """(the style of the training images, their black, their white): their paper and ink where these are unknown."""
        train, _ = self._runs.data(index)
        if id(train) not in self._measured:  # sets are kept by the runs, so an id is not used again
            some = np.asarray(train.images[:MEASURED])
            style = Style.of(some)
            try:
                black, white = 0.0, white_of(some)
            except DataError:
                black, white = sorted((style.paper, style.ink))
            self._measured[id(train)] = style, black, white
        return self._measured[id(train)]

    def warm_up(self, index: int) -> None:
        """Compile what a drawing needs."""
        image = np.asarray(self._runs.data(index)[1].images[0])
        (style, *_), model = self._measure(index), self._runs.model(index)
        steps(model, image, self._runs.backend)
        explain.input_gradient(model, image[None], 0)
        explain.occlusion(model, image, 0, fill=style.paper)

    def example(self, body: Body) -> dict[str, Any]:
        """Test image `image` of the run's set as grey values from 0 to 1, to begin with."""
        index = self._runs.index(body)
        _, test = self._runs.data(index)
        number = body.integer("image", 0, 10**6) % len(test.images)
        _, black, white = self._measure(index)
        grey = np.clip((np.asarray(test.images[number]).mean(axis=0) - black) / (white - black), 0, 1)
        return {"image": packed(grey), "label": test.classes[test.labels[number]], "number": number}


def _stretched(drawing: np.ndarray, style: Style, black: float, white: float) -> np.ndarray:
    """The drawing at the network's size, in its range, and nothing more: what a newcomer would give it."""
    from PIL import Image

    channels, height, width = style.shape
    small = Image.fromarray(drawing).resize((width, height), Image.Resampling.BILINEAR)
    return np.repeat(np.float32(black) + np.asarray(small)[None] * np.float32(white - black), channels, axis=0)
