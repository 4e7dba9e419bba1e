"""A multilayer perceptron, as a baseline for convolutional networks."""

from collections.abc import Iterable

from gpucnn.arguments import image_shape, integer, sequence
from gpucnn.layers import Dense, Flatten, Sequential
from gpucnn.models.heads import ending
from gpucnn.models.model import Model

HIDDEN = (300, 100)  # the larger of the two-layer networks that LeCun et al. 1998 compare LeNet-5 with


def mlp(
    input_shape: tuple[int, ...] = (1, 32, 32),
    classes: int | None = None,
    *,
    outputs: int | None = None,
    hidden: Iterable[int] = HIDDEN,
) -> Model:
    """Flatten, a dense layer with ReLU of each size in `hidden`, dense classes (default 10).

    Takes images of any size and rank, (C,) included; without hidden layers it is softmax regression. `outputs` instead
    of `classes` makes a regressor of so many values.
    """
    shape = image_shape("input_shape", input_shape)
    layers = sequence("hidden", hidden, "the size of each hidden layer, such as (300, 100)")
    sizes = [integer("each size of hidden", size) for size in layers]
    units, head, about = ending(classes, outputs)
    return Model(
        Sequential(Flatten(), *(Dense(size, activation="relu") for size in sizes), Dense(units)),
        shape,
        "mlp",
        {"input_shape": list(shape), **about, "hidden": sizes},
        head,
    )
