"""Models by name."""

from gpucnn.errors import ConfigurationError
from gpucnn.models.lenet import lenet5
from gpucnn.models.model import Model
from gpucnn.models.resnet import resnet20
from gpucnn.models.vgg import vgg_small

MODELS = {"lenet5": lenet5, "vgg_small": vgg_small, "resnet20": resnet20}


def build_model(name: str, input_shape: tuple[int, ...], classes: int) -> Model:
    """The ready-made model called `name` for images of `input_shape` (C, H, W).

    Raises ConfigurationError for an unknown name, ShapeError for images too small for it.
    """
    if name not in MODELS:
        raise ConfigurationError(f"no model {name!r}; use one of {', '.join(MODELS)}")
    return MODELS[name](tuple(input_shape), classes)
