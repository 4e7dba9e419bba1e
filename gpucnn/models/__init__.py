"""Models: ready-made networks, and `Model`, which turns any layer into one."""

from gpucnn.models.conversion import conv_to_dense, dense_to_conv, fully_convolutional, sliding_window
from gpucnn.models.fast import cifar_fast
from gpucnn.models.lenet import lenet5
from gpucnn.models.mlp import mlp
from gpucnn.models.model import Model
from gpucnn.models.onnx_export import export_onnx
from gpucnn.models.pytorch import from_pytorch, pytorch_module, pytorch_names, save_pytorch, to_pytorch
from gpucnn.models.registry import MODELS, build_model
from gpucnn.models.resnet import resnet20, resnet56
from gpucnn.models.separable import separable_small
from gpucnn.models.signal import signal_small, volume_small
from gpucnn.models.sizes import at_size
from gpucnn.models.transfer import Matching, load_matching, replace_head
from gpucnn.models.unet import unet_small
from gpucnn.models.vgg import vgg_small

__all__ = [
    "MODELS",
    "Matching",
    "Model",
    "at_size",
    "build_model",
    "cifar_fast",
    "conv_to_dense",
    "dense_to_conv",
    "export_onnx",
    "from_pytorch",
    "fully_convolutional",
    "lenet5",
    "load_matching",
    "mlp",
    "pytorch_module",
    "pytorch_names",
    "replace_head",
    "resnet20",
    "resnet56",
    "save_pytorch",
    "separable_small",
    "signal_small",
    "sliding_window",
    "to_pytorch",
    "unet_small",
    "vgg_small",
    "volume_small",
]
