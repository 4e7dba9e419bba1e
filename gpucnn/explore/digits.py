"""Draw a digit: what a trained network makes of a drawing, and which pixels counted."""

from typing import Any

import numpy as np

from gpucnn import explain
from gpucnn.data.drawing import Style
from gpucnn.errors import ConfigurationError
from gpucnn.explore.body import Body
from gpucnn.explore.engine import packed
from gpucnn.explore.runs import Runs, layer_maps
from gpucnn.models.heads import CLASSIFIER
from gpucnn.show.layers import steps

CANVAS = 320  # pixels a side at most


class Digits:
    """Reads drawings with the networks of `runs`; each set's style is measured once."""

    def __init__(self, runs: Runs):
        self._runs = runs
        self._styles: dict[int, Style] = {}

    def read(self, body: Body) -> dict[str, Any]:
        """What the network of `run` sees in `drawing`, prepared as its training images were and, beside it, as it is.

        `of` is the class to explain, null for the likeliest. Raises DataError for an empty drawing, ConfigurationError
        for a network that gives no classes.
        """
        index = self._runs.index(body)
        drawing = body.picture("drawing", CANVAS) / np.float32(255)
        style, model = self._style(index), self._runs.model(index)
        if model.head != CLASSIFIER or len(model.output_shape) != 1:
            raise ConfigurationError(f"{model.name} does not tell classes apart; choose the run of a classifier")
        prepared = style.prepare(drawing)
        plain = _stretched(drawing, style)
        maps, probabilities = steps(model, prepared.image, self._runs.backend)
        (unprepared,) = model.predict(plain[None])
        of = body.optional_integer("of", 0, len(probabilities) - 1)
        of = int(probabilities.argmax()) if of is None else of
        top, left, bottom, right = prepared.box
        return {
            "classes": model.class_names or [str(label) for label in range(len(probabilities))],
            "probabilities": [float(p) for p in probabilities],
            "unprepared": [float(p) for p in unprepared],
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

    def _style(self, index: int) -> Style:
        train, _ = self._runs.data(index)
        if id(train) not in self._styles:  # sets are kept by the runs, so an id is not used again
            self._styles[id(train)] = Style.of(train.images)
        return self._styles[id(train)]

    def warm_up(self, index: int) -> None:
        """Compile what a drawing needs."""
        image = np.asarray(self._runs.data(index)[1].images[0])
        style, model = self._style(index), self._runs.model(index)
        steps(model, image, self._runs.backend)
        explain.input_gradient(model, image[None], 0)
        explain.occlusion(model, image, 0, fill=style.paper)

    def example(self, body: Body) -> dict[str, Any]:
        """Test image `image` of the run's set as grey values, to begin with."""
        _, test = self._runs.data(self._runs.index(body))
        number = body.integer("image", 0, 10**6) % len(test.images)
        grey = np.asarray(test.images[number]).mean(axis=0)
        return {"image": packed(grey), "label": test.classes[test.labels[number]], "number": number}


def _stretched(drawing: np.ndarray, style: Style) -> np.ndarray:
    """The drawing at the network's size and nothing more: what a newcomer would give it."""
    from PIL import Image

    channels, height, width = style.shape
    small = Image.fromarray(drawing).resize((width, height), Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(small, np.float32)[None], channels, axis=0)
