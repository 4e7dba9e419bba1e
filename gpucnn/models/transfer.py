"""Weights of one model for another: partial loading, a new head."""

import copy
from dataclasses import dataclass, field
from typing import Any

from gpucnn.arguments import instance, weights
from gpucnn.errors import CheckpointError, ConfigurationError, GpucnnError
from gpucnn.layers import Dense, Layer, Sequential
from gpucnn.layers.shared import Shared
from gpucnn.models.files import averaged, read_tensors
from gpucnn.models.heads import ending
from gpucnn.models.model import Model
from gpucnn.models.naming import check_pattern, matches
from gpucnn.models.registry import MODELS, build_model


@dataclass
class Matching:
    """What `load_matching` did, by the names of parameters and running statistics; print it.

    `loaded` were set; `different` have other shapes, (in the source, in the model); `missing` are in the model alone,
    `unused` in the source alone. `normalization` tells whether the model took over the source's mean and std.
    """

    loaded: list[str] = field(default_factory=list)
    different: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    normalization: bool = False

    def __str__(self) -> str:
        shapes = [f"{name} {there} there, {here} here" for name, (there, here) in self.different.items()]
        parts = {"other shape": shapes, "only in the model": self.missing, "not used": self.unused}
        lines = [f"{len(self.loaded)} tensors loaded: {', '.join(self.loaded)}"]
        lines += [f"{len(names)} {what}: {', '.join(names)}" for what, names in parts.items() if names]
        return "\n".join(lines + ["images are normalized as the source's were"] * self.normalization)


def load_matching(source, model: Model, *patterns: str) -> Matching:
    """Set those weights and running statistics of `model` that `source` has by the same names and shapes.

    `source` is a model file, a checkpoint, another Model, or arrays by name. `patterns` of layer or parameter names,
    "0" or "4.*", restrict it to what they match. The others keep their values; a model without weights yet gets its
    initial ones (seed 0) first. A model without normalization takes over that of a file or model with as many channels.
    Raises CheckpointError if nothing matches.
    """
    instance("model", model, Model, "a gpucnn.Model")
    about: dict[str, Any] = {}
    if isinstance(source, Model):
        prepared = source.preparation
        state, about = source.state_dict(), {"mean": prepared.mean, "std": prepared.std}
    elif isinstance(source, dict):
        state = {name: weights(name, value) for name, value in source.items()}
    else:
        tensors, about = read_tensors(source)
        state = {n.removeprefix("model."): v for n, v in averaged(tensors).items() if n.startswith("model.")}
    own, report = {part.name: part.shape for part in (*model.parameters, *model.running)}, Matching()
    for pattern in patterns:
        check_pattern(pattern, own, f"layer or parameter of {model.name}")
    for name, shape in own.items():
        if patterns and not any(matches(pattern, name) for pattern in patterns):
            continue
        if name not in state:
            report.missing.append(name)
        elif state[name].shape != shape:
            report.different[name] = (state[name].shape, shape)
        else:
            report.loaded.append(name)
    report.unused = [name for name in sorted(state) if name not in report.loaded and name not in report.different]
    if not report.loaded:
        raise CheckpointError(
            f"nothing in the source matches this model ({model.name}): it has {', '.join(list(state)[:5])} ..., the "
            f"model {', '.join(list(own)[:5])} ..."
        )
    loaded = {name: weights(name, state[name]) for name in report.loaded}
    model.initialize_new(0)
    model.load_state_dict(model.state_dict() | loaded)
    if model.mean is None and about.get("mean") and len(about["mean"]) == model.input_shape[0]:
        model.mean, model.std = tuple(about["mean"]), tuple(about["std"])
        report.normalization = True
    return report


def replace_head(
    model: Model, classes: int | None = None, *, outputs: int | None = None, head: Layer | None = None, seed: int = 0
) -> Model:
    """A new model with the weights of `model` and another last layer, whose initial weights `seed` decides.

    The last Dense gets as many units as there are `classes` (default 10), or `outputs` for a regressor. Or `head`, any
    layer, takes the last layer's place. Frozen layers stay frozen, except in the head. A model without weights yet
    gives one without. Raises ConfigurationError if the model does not end with a Dense, or a `head` has nothing to
    replace.
    """
    instance("model", model, Model, "a gpucnn.Model, such as gpucnn.load(path)")
    instance("head", head, Layer, "a layer, such as Sequential(Dense(64), Dense(5))", optional=True)
    last, place = _last(model.layer)
    if last is model.layer:
        raise ConfigurationError(f"{model.name} is one layer, {type(last).__name__}; make it a Sequential with a head")
    if head is None and type(last) is not Dense:
        why = "which has other places too" if isinstance(last, Shared) else "not with Dense"
        raise ConfigurationError(
            f"{model.name} ends with {type(last).__name__}, {why}; give head=, the layer to put in its place"
        )
    units, kind, about = ending(classes, outputs)
    if head is None and _is_ready_made(model) and not model.changed_settings:
        arguments = {name: v for name, v in model.arguments.items() if name not in ("classes", "outputs")}
        new = build_model(model.name, **arguments, **about)
    else:
        body = copy.deepcopy(model.layer)
        if head is None:
            head = Dense(units, bias=last.use_bias, activation=last.activation, initializer=last.initializer)
        else:
            kind = kind if classes or outputs else model.head
        chain = body
        while isinstance(chain.layers[-1], Sequential) and chain.layers[-1].layers:
            chain = chain.layers[-1]
        chain.layers = (*chain.layers[:-1], head)
        new = Model(body, model.input_shape, "custom", head=kind)
    if model.initialized:
        own = new.initialize(seed).state_dict()
        kept = {n: v for n, v in model.state_dict().items() if n in own and not matches(place, n)}
        new.load_state_dict(own | kept)
    new.image_shape, new.mean, new.std = model.image_shape, model.mean, model.std
    new.frozen = [name for name in model.frozen if not matches(place, name)]
    if model.backend is not None:
        new.place(model.backend)
    return new


def _last(layer: Layer) -> tuple[Any, str]:
    """The last layer, and its place by name: one that has other places too has the name of the first of them."""
    places = []
    while isinstance(layer, Sequential) and layer.layers:
        places.append(str(len(layer.layers) - 1))
        layer = layer.layers[-1]
    return layer, ".".join(places) if isinstance(layer, Shared) else layer.name


def _is_ready_made(model: Model) -> bool:
    """Whether the registry makes such a model: one of the user's may have a name from there."""
    try:
        return model.name in MODELS and build_model(model.name, **model.arguments).structure == model.structure
    except (GpucnnError, TypeError):
        return False
