"""Models by name."""

from collections.abc import Callable

from gpucnn.arguments import one_of, signature
from gpucnn.errors import ConfigurationError
from gpucnn.models.fast import cifar_fast
from gpucnn.models.lenet import lenet5
from gpucnn.models.mlp import mlp
from gpucnn.models.model import Model
from gpucnn.models.resnet import resnet20, resnet56
from gpucnn.models.separable import separable_small
from gpucnn.models.signal import signal_small, volume_small
from gpucnn.models.unet import unet_small
from gpucnn.models.vgg import vgg_small

MODELS: dict[str, Callable[..., Model]] = {
    "lenet5": lenet5,
    "vgg_small": vgg_small,
    "resnet20": resnet20,
    "mlp": mlp,
    "resnet56": resnet56,
    "separable_small": separable_small,
    "cifar_fast": cifar_fast,
    "signal_small": signal_small,
    "volume_small": volume_small,
    "unet_small": unet_small,
}


def build_model(
    name: str, input_shape: tuple[int, ...], classes: int | None = None, *, outputs: int | None = None, **options
) -> Model:
    """The ready-made model called `name` for images of `input_shape` (C, H, W): a classifier of so many classes
    (default 10), or a regressor of so many outputs. `options` are the model's own: lenet5's `variant`, mlp's `hidden`,
    cifar_fast's and unet_small's `widths`.

    Raises ConfigurationError for an unknown name or option, ShapeError for images too small for it.
    """
    one_of("model", name, MODELS)
    own = set(signature(MODELS[name]).parameters)
    for option in options:
        if option not in own:
            having = ", ".join(other for other in MODELS if option in signature(MODELS[other]).parameters)
            raise ConfigurationError(f"{name} has no option {option!r}" + (f"; {having} has it" if having else ""))
    return MODELS[name](input_shape, classes, outputs=outputs, **options)
