"""Models: networks ready to use, and `Model`, which makes one of any layer."""

from gpucnn.models.conversion import conv_to_dense, dense_to_conv, fully_convolutional, sliding_window
from gpucnn.models.lenet import lenet5
from gpucnn.models.model import Model
from gpucnn.models.registry import MODELS, build_model
from gpucnn.models.resnet import resnet20
from gpucnn.models.vgg import vgg_small

__all__ = [
    "MODELS", "Model", "build_model", "conv_to_dense", "dense_to_conv", "fully_convolutional", "lenet5", "resnet20",
    "sliding_window", "vgg_small",
]  # fmt: skip
