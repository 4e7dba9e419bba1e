"""A multilayer perceptron, to see what convolution is worth."""

from collections.abc import Iterable

from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.layers import Dense, Flatten, Sequential
from gpucnn.layers.settings import positive
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
    """Flatten, a dense layer with ReLU of each size in `hidden`, dense classes (10 unless given).

    Takes images of any size and rank, (C,) included; without hidden layers it is softmax regression. `outputs` instead
    of `classes` makes a regressor of so many values.
    """
    shape = tuple(positive("each size of input_shape", size) for size in input_shape)
    if not shape:
        raise ShapeError("mlp takes images of shape (C, *spatial), not ()")
    if isinstance(hidden, (str, bytes)) or not isinstance(hidden, Iterable):
        raise ConfigurationError(f"hidden is {hidden!r}; give the size of each hidden layer, such as (300, 100)")
    sizes = [positive("each size of hidden", size) for size in hidden]
    units, head, about = ending(classes, outputs)
    return Model(
        Sequential(Flatten(), *(Dense(size, activation="relu") for size in sizes), Dense(units)),
        shape,
        "mlp",
        {"input_shape": list(shape), **about, "hidden": sizes},
        head,
    )
