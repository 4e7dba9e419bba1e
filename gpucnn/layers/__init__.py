"""The layers. Each returns `(y, backward)`; gpucnn.layers.base says how to write one of your own."""

from gpucnn.layers.activation import ReLU, Sigmoid, Tanh
from gpucnn.layers.base import Layer, Mode, Parameter, Statistic, present
from gpucnn.layers.container import Concat, Residual, Sequential
from gpucnn.layers.conv import Conv2d
from gpucnn.layers.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from gpucnn.layers.dense import Dense, Flatten
from gpucnn.layers.dropout import Dropout
from gpucnn.layers.norm import BatchNorm
from gpucnn.layers.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = [
    "AvgPool2d", "BatchNorm", "Concat", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Dense",
    "Dropout", "Flatten", "GlobalAvgPool2d", "Layer", "MaxPool2d", "Mode", "Parameter", "ReLU", "Residual", "Sequential",
    "Sigmoid", "Statistic", "Tanh", "present",
]  # fmt: skip
