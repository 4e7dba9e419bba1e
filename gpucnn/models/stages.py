"""What a network's predictions are made of: operations that plans compute, and between them what only Python knows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gpucnn.backends.batch import Batch
from gpucnn.inference.graph import Graph
from gpucnn.inference.trace import trace
from gpucnn.layers.base import Layer
from gpucnn.layers.container import Sequential
from gpucnn.own_code import own_code
from gpucnn.recordable import declaration, is_recordable

Compute = Callable[[Batch], Batch]
Model = Any  # gpucnn.models.Model, whose module imports this one

# A plan pays where it has one of these: what other operations take is less than the way into a plan and out of it.
_HEAVY = ("conv", "dense", "transposed conv")


@dataclass(eq=False)
class Stage:
    """`compute` in inference mode; where plans can do it, its `graph`, and for how many images at most."""

    compute: Compute
    graph: Graph | None = None
    most: int = 0


def stages_of(model: Model, finish: Compute | None) -> list[Stage]:
    """The stages of `finish(outputs)`, of the outputs if None. It is to be called in inference mode."""
    splits = model.backend.splits
    if not _is_known([model]) or (finish is None and not splits):
        return [Stage(_composed([model.layer], finish))]
    layers = list(_leaves(model.layer)) if splits else [model.layer]
    by_kind = groupby(layers, lambda layer: _is_known(list(layer.walk())))
    runs = [(known, list(run)) for known, run in by_kind] or [(True, [])]
    stages = []
    for known, run in runs:
        last = run is runs[-1][1]
        compute = _composed(run, finish if last else None)
        shape = run[0].input_shape if run else model.input_shape
        stage = _traced(compute, shape, model) if known else Stage(compute)
        if stage.graph and len(runs) > 1 and not any(node.operation in _HEAVY for node in stage.graph.nodes):
            stage.graph = None
        stages.append(stage)
    return stages


def _leaves(layer: Layer) -> Iterator[Layer]:
    """The layers that an input passes through in order. A subclass may have other children than layers in a row."""
    if declaration(layer, "chain") and type(layer).children is Sequential.children:
        for _, child in layer.children():
            yield from _leaves(child)
    else:
        yield layer


def _is_known(parts: list[Any]) -> bool:
    """Whether tracing these layers finds out all that they do, until a setting or their code changes."""
    return all(map(is_recordable, parts)) and own_code(map(type, parts)).whole


def _composed(layers: list[Layer], finish: Compute | None) -> Compute:
    def compute(x: Batch) -> Batch:
        y, _ = Sequential.apply(layers, x)
        return y if finish is None else finish(y)

    return compute


def _traced(compute: Compute, shape: tuple[int, ...], model: Model) -> Stage:
    try:
        graph = trace(compute, shape, model._weights.readable)
        return Stage(compute, graph, model.backend.images_at_once(graph))
    except Exception:  # whatever a layer raises that looks for values: by itself it raises it again
        return Stage(compute)
