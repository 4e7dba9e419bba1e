"""A small network of everything that moves or mixes pixels, for tests of training and of compiling its kernels."""

from gpucnn.layers import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    Conv2d,
    Dense,
    GlobalMaxPool2d,
    MaxPool2d,
    Pad,
    Sequential,
    Upsample,
)
from gpucnn.models import Model


def network() -> Model:
    layer = Sequential(
        Pad(((1, 0), (0, 2)), "constant", 0.5),
        Conv2d(4, 3, padding=1, padding_mode="reflect", activation="relu"),
        MaxPool2d(2),  # one kernel with the convolution
        Upsample(2, mode="linear"),
        Conv2d(3, 3, padding="same", padding_mode="circular", activation="tanh"),
        AdaptiveAvgPool2d((4, 7)),
        Upsample(size=(5, 6)),
        Conv2d(6, 3, groups=3, padding=2, padding_mode="replicate"),
        AdaptiveMaxPool2d((4, 3)),
        AvgPool2d(2, ceil_mode=True),
        GlobalMaxPool2d(),
        Dense(3),
    )
    return Model(layer, (1, 9, 8), "resampling net")
