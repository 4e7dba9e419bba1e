"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998), modern or with the original's nonlinearities."""

from typing import Any

from gpucnn.arguments import one_of
from gpucnn.layers import AvgPool2d, BatchNorm, Conv2d, Dense, Flatten, MaxPool2d, Sequential
from gpucnn.models.heads import check_size, ending
from gpucnn.models.model import Model

VARIANTS = ("modern", "1998", "wide")
_LEAST = 16  # 16 - 4 = 12, pooled 6, 6 - 4 = 2, pooled 1


def lenet5(
    input_shape: tuple[int, int, int] = (1, 32, 32),
    classes: int | None = None,
    *,
    outputs: int | None = None,
    variant: str = "modern",
) -> Model:
    """Convolution 6 of 5x5, pool 2x2, convolution 16 of 5x5, pool 2x2, dense 120, 84, classes (default 10).

    `variant` "modern" has ReLU and max pooling; "1998" has tanh, average pooling and LeCun's initial weights. Of the
    original, "1998" leaves out the trained factor and bias of each pooled map, the scale 1.7159 of tanh, the table of
    which maps feed which in the second convolution (all feed all), and the radial basis functions of the last layer.
    "wide" is a larger network of the same plan: padded convolutions of 16 and 32, each with batch norm, dense 128,
    classes. `outputs` instead of `classes` makes a regressor of so many values.

    Images of 28x28 are padded by 2 in the first layer to the 32x32 of the original; both then have 61,706 parameters
    with one channel and ten classes. Other sizes are not padded: at least 16 pixels per side. Raises ShapeError for
    smaller ones.
    """
    shape = check_size("lenet5", input_shape, _LEAST)
    units, head, about = ending(classes, outputs)
    if one_of("variant", variant, VARIANTS) == "wide":
        layers = [
            layer
            for filters in (16, 32)
            for layer in (Conv2d(filters, 5, padding=2, bias=False), BatchNorm(activation="relu"), MaxPool2d(2))
        ]
        body = Sequential(*layers, Flatten(), Dense(128, activation="relu"), Dense(units))
        return Model(body, shape, "lenet5", {"input_shape": list(shape), **about, "variant": variant}, head)
    old = variant == "1998"
    pool = AvgPool2d if old else MaxPool2d
    hidden: dict[str, Any] = {"activation": "tanh", "initializer": "lecun"} if old else {"activation": "relu"}
    last: dict[str, Any] = {"initializer": "lecun"} if old else {}
    return Model(
        Sequential(
            Conv2d(6, 5, padding=2 if shape[1:] == (28, 28) else 0, **hidden),
            pool(2),
            Conv2d(16, 5, **hidden),
            pool(2),
            Flatten(),
            Dense(120, **hidden),
            Dense(84, **hidden),
            Dense(units, **last),
        ),
        shape,
        "lenet5",
        {"input_shape": list(shape), **about, **({"variant": variant} if old else {})},
        head,
    )
