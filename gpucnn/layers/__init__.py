"""The layers. Each returns `(y, backward)`; gpucnn.layers.base shows how to write your own."""

from gpucnn.layers.activation import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from gpucnn.layers.base import Layer, Mode, Parameter, Statistic, image_mask
from gpucnn.layers.container import Concat, Residual, Sequential
from gpucnn.layers.conv import Conv1d, Conv2d, Conv3d, Convolution
from gpucnn.layers.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, TransposedConvolution
from gpucnn.layers.counterparts import TorchModule
from gpucnn.layers.dense import Dense, Flatten
from gpucnn.layers.dropout import Dropout
from gpucnn.layers.norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm
from gpucnn.layers.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
    GlobalPool,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from gpucnn.layers.resampling import Pad, Upsample
from gpucnn.layers.whitening import Whitening2d

__all__ = [
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Concat",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Convolution",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalAvgPool3d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "GlobalMaxPool3d",
    "GlobalPool",
    "GroupNorm",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Mode",
    "Pad",
    "Parameter",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Statistic",
    "Tanh",
    "TorchModule",
    "TransposedConvolution",
    "Upsample",
    "Whitening2d",
    "image_mask",
]
