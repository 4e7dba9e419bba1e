"""LeNet-5 (LeCun et al. 1998) as it is built today: ReLU, max pooling, softmax."""

from gpucnn.layers import Conv2d, Dense, Flatten, MaxPool2d, Sequential
from gpucnn.models.model import Model


def lenet5(input_shape: tuple[int, int, int] = (1, 32, 32), classes: int = 10) -> Model:
    """Convolution 6 of 5x5, pool 2x2, convolution 16 of 5x5, pool 2x2, dense 120, 84, classes.

    Images of 28x28 get a padding of 2 in the first layer and so become the 32x32 of the original; both then have 61,706
    parameters with one channel and ten classes. Any other size that fits is taken as it is: 16 pixels a side at least.
    """
    padding = 2 if tuple(input_shape[1:]) == (28, 28) else 0
    return Model(
        Sequential(
            Conv2d(6, 5, padding=padding, activation="relu"),
            MaxPool2d(2),
            Conv2d(16, 5, activation="relu"),
            MaxPool2d(2),
            Flatten(),
            Dense(120, activation="relu"),
            Dense(84, activation="relu"),
            Dense(classes),
        ),
        input_shape, "lenet5", {"input_shape": list(input_shape), "classes": classes},
    )  # fmt: skip
