"""Why a network answers as it does: the maps of gpucnn.explain, drawn over the image."""

import textwrap
from collections.abc import Callable

import numpy as np

from gpucnn import explain, figures
from gpucnn.backends.protocol import Backend
from gpucnn.errors import ShapeError
from gpucnn.models.heads import CLASSIFIER
from gpucnn.models.model import Model, a_model
from gpucnn.show.layers import choose
from gpucnn.show.match import show_image

Extent = tuple[float, float, float, float]  # left, right, bottom, top in pixels


def saliency(model: Model, image, path=None, of=None, *, backend=None, math=None, name: str = "") -> np.ndarray:
    """Draw `explain.saliency` of `image` (C, H, W) into the PNG at `path` (None: draw nothing); returns it, (H, W).

    `of` is the class to explain, None the likeliest; `backend` None the model's own; `name` the image's label.
    """
    what = "which pixels change the score most"
    return _shown(model, image, path, of, backend, math, name, what, lambda m, x, c: explain.saliency(m, x[None], c)[0])


def occlusion(
    model: Model, image, path=None, of=None, *, side=None, stride=None, fill=0.0, backend=None, math=None, name=""
) -> np.ndarray:
    """Draw `explain.occlusion` of `image` (C, H, W), whose settings these are; returns it, (P, Q)."""
    settings = {"side": side, "stride": stride, "fill": fill}
    what = "by how much the answer falls without a square there"

    def compute(model: Model, image: np.ndarray, of: int) -> np.ndarray:
        return explain.occlusion(model, image, of, **settings)

    def extent(model: Model, values: np.ndarray, top: int, left: int) -> Extent:
        size, step = explain.squares(model, side, stride)  # each is drawn around its middle, as wide as they are apart
        x, y = (size - step) / 2 - left, (size - step) / 2 - top
        return x, x + values.shape[1] * step, y + values.shape[0] * step, y

    return _shown(model, image, path, of, backend, math, name, what, compute, extent)


def gradcam(
    model: Model, image, path=None, of=None, *, layer: str | None = None, backend=None, math=None, name: str = ""
) -> np.ndarray:
    """Draw `explain.grad_cam` of `image` (C, H, W) at `layer`; returns it, (H, W)."""
    what = "where the layer's maps speak for the answer"

    def compute(model: Model, image: np.ndarray, of: int) -> np.ndarray:
        return explain.grad_cam(model, image[None], of, layer=layer)[0]

    return _shown(model, image, path, of, backend, math, name, what, compute)


def _shown(
    model: Model,
    image,
    path,
    of: int | None,
    backend: str | Backend | None,
    math: str | None,
    name: str,
    what: str,
    compute: Callable[[Model, np.ndarray, int], np.ndarray],
    extent: Callable[[Model, np.ndarray, int, int], Extent] | None = None,
) -> np.ndarray:
    if path is not None:
        figures.check_path(path)
    if len(a_model(model).input_shape) != 3:
        raise ShapeError(f"the picture needs images (C, H, W); the model takes {model.input_shape}")
    model.place(choose(model, backend, math))
    image = np.asarray(image)
    outputs = model.predict(image[None])[0]
    of = int(outputs.argmax()) if of is None else of
    values = compute(model, image, of)
    if path is not None:
        figures.check_finite("the network's answers", outputs)
        figures.check_finite("the values of the picture", values)
        figures.save(_draw(model, image, values, of, outputs, name, what, extent), path)
    return values


def _draw(
    model: Model, image: np.ndarray, values: np.ndarray, of: int, outputs: np.ndarray, name: str, what: str, extent
):
    height, width = model.input_shape[1:]
    top, left = ((have - cut) // 2 for have, cut in zip(image.shape[1:], (height, width), strict=True))
    image = image[:, top : top + height, left : left + width]  # as the model crops it
    across = max(1.9, 3.4 * min(1.8, width / height))
    figure = figures.new_figure(2 * across + 1.4, 4.3 if width <= height else 3.4 * height / width + 1.1)
    panels = figure.subplots(1, 2)
    show_image(panels[0], image)
    panels[0].set_title(figures.cut(name or "the image", 40), fontsize=10)
    panels[1].imshow(image.mean(axis=0), cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
    signed = float(values.min()) < 0
    scale = figures.limit(values)
    drawn = panels[1].imshow(
        values,
        cmap=figures.SIGNED if signed else figures.AMOUNT,
        vmin=-scale if signed else 0,
        vmax=scale,
        alpha=0.75,
        interpolation="nearest",
        extent=extent(model, values, top, left) if extent else (0, width, height, 0),
    )
    panels[1].set(xlim=(0, width), ylim=(height, 0))
    panels[1].set_title(textwrap.fill(what, 18 if across < 2 else 60), fontsize=10)
    figure.colorbar(drawn, ax=panels[1], shrink=0.8, pad=0.02).ax.tick_params(labelsize=8)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
    label = (model.class_names or [str(i) for i in range(len(outputs))])[of]
    classes = model.head == CLASSIFIER
    answer = f"{figures.cut(label, 30)} {outputs[of]:.1%}" if classes else f"output {of} is {outputs[of]:.4g}"
    figure.suptitle(f"{model.name}: {answer}".replace("-", figures.MINUS), fontsize=12)
    return figure
