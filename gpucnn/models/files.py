"""Model files: safetensors with everything needed to make the model again. Nothing is ever unpickled.

A file holds tensors and, in its metadata, one JSON object, `gpucnn`, with the format's version and what the writer
added, and `sha256`, a digest of both, without which no file is read.
"""

import hashlib
import json
import os

import numpy as np

from gpucnn.arguments import instance, shown
from gpucnn.errors import CheckpointError, ConfigurationError, GpucnnError
from gpucnn.models import tensors as safetensors_file
from gpucnn.models.model import Model
from gpucnn.models.registry import MODELS, build_model
from gpucnn.schema import parse
from gpucnn.storage import decoding, first_line, write_file

FORMAT_VERSION = 2
AVERAGE = "average."  # before the names of averaged weights in a checkpoint
ABOUT = {
    "version": int,
    "model": str,
    "arguments": dict,
    "input_shape": [int],
    "structure": object,
    "class_names": ([str], None),
    "image_shape": [int],
    "mean": ([float], None),
    "std": ([float], None),
    "frozen?": [str],
    "changed_settings?": dict,
}


def save(model: Model, path) -> None:
    """Write the model to `path` (by custom *.safetensors): its name and arguments, parameters, running statistics.

    Raises ConfigurationError for a model without weights yet.
    """
    instance("model", model, Model, "a gpucnn.Model")
    about = describe(model)
    if (wrong := _unfit(about, model)) is not None:
        raise ConfigurationError(
            f"the model's {wrong} is {shown(about[wrong])}, which does not fit it; nothing was written"
        )
    write_tensors(path, {f"model.{name}": value for name, value in model.state_dict().items()}, about)


def load(path, model: Model | None = None) -> Model:
    """The model in the file at `path`, or in a training checkpoint.

    A ready-made model is built by its name. For one of your own, make it and pass it as `model`: it gets the file's
    weights. Raises CheckpointError if the file is cut short, altered, of another format version, or of another model.
    """
    instance("model", model, Model, "a gpucnn.Model", optional=True)
    tensors, about = read_tensors(path)
    return restore(path, averaged(tensors), about, model)


def averaged(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A checkpoint's tensors with the averages in place of the model's weights, if it holds averages."""
    return tensors | {
        f"model.{name.removeprefix(AVERAGE)}": value for name, value in tensors.items() if name.startswith(AVERAGE)
    }


def restore(path, tensors: dict[str, np.ndarray], about: dict, model: Model | None = None) -> Model:
    """The model that `tensors` and `about` of the file at `path` describe; see `load`."""
    if model is None:
        if about["model"] not in MODELS:
            raise CheckpointError(
                f"{path} holds a model of your own ({shown(about['model'])}); make it in Python and call "
                "load(path, model=...)"
            )
        with decoding(path, CheckpointError, "model file"):  # its arguments may be anything
            try:
                model = build_model(about["model"], **about["arguments"])
            except (GpucnnError, TypeError) as error:
                raise CheckpointError(
                    f"{path} is damaged, or of a model of your own called {about['model']}: its model cannot be made "
                    f"({first_line(error)}); make your own in Python and call load(path, model=...)"
                ) from None
    check_same_model(path, about, model)
    if (wrong := _unfit(about, model)) is not None:
        raise CheckpointError(f"{path} is damaged: its {wrong} is {shown(about[wrong])}, which does not fit its model")
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    for name, value in weights.items():
        if value.dtype.kind != "f":
            raise CheckpointError(f"{path} is damaged: {name} is {value.dtype}, no floating-point number")
    model.load_state_dict(weights)
    model.class_names = about["class_names"]
    model.image_shape = tuple(about["image_shape"])
    model.mean, model.std = (about[name] and tuple(about[name]) for name in ("mean", "std"))
    if "frozen" in about:  # else those that are frozen stay so
        model.frozen = about["frozen"]
    try:
        model.changed_settings = about.get("changed_settings", {})
    except ConfigurationError as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
    return model


def describe(model: Model) -> dict:
    """What a file says about its model. `structure` holds the settings that no weight shows, such as activations."""
    return {
        "model": model.name,
        "arguments": model.arguments,
        "input_shape": list(model.input_shape),
        "structure": model.structure,
        "class_names": model.class_names,
        "image_shape": list(model.image_shape),
        "mean": model.mean and list(model.mean),
        "std": model.std and list(model.std),
        **{name: now for name in ("frozen", "changed_settings") if (now := getattr(model, name))},
    }


def check_same_model(path, about: dict, model: Model) -> None:
    """Raises CheckpointError unless the file at `path` was made of a model built like `model`."""
    here = describe(model)
    for key in ("model", "input_shape", "structure"):
        there, now = str(about[key]), str(here[key])
        if there != now:
            same = len(os.path.commonprefix((there, now)))  # noqa: RUF071 - two strings, no paths
            start = max(there.rfind(" ", 0, max(same - 20, 0)) + 1, same - 60)  # long structures: where they part
            raise CheckpointError(
                f"{path} is of another model: its {key} has {there[start : same + 30]!r} where this one has "
                f"{now[start : same + 30]!r}"
            )


def _unfit(about: dict, model: Model) -> str | None:
    """Which of the entries about images and classes does not fit the model."""
    shape, need, names = about["image_shape"], model.input_shape, about["class_names"]
    mean, std = about["mean"], about["std"]
    fits = {
        "image_shape": len(shape) == len(need) and shape[0] == need[0] and all(a >= b for a, b in zip(shape, need)),
        "mean": (mean is None) == (std is None) and (mean is None or len(mean) == need[0]),
        "std": std is None or (len(std) == need[0] and min(std) > 0),
        "frozen": set(about.get("frozen", [])) <= set(model.holders()),
        "changed_settings": all(isinstance(found, dict) for found in about.get("changed_settings", {}).values()),
        "class_names": names is None
        or (len(set(names)) == len(names) == model.output_shape[0] and all(map(str.strip, names))),
    }
    return next((name for name, good in fits.items() if not good), None)


def write_tensors(path, tensors: dict[str, np.ndarray], about: dict) -> None:
    """Write host arrays and a JSON-able description as one safetensors file."""
    from safetensors.numpy import save as to_bytes

    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    text = json.dumps({"version": FORMAT_VERSION, **about}, sort_keys=True)
    write_file(path, to_bytes(tensors, metadata={"gpucnn": text, "sha256": _digest(tensors, text)}))


def read_tensors(path, shape: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
    """(tensors, description) as write_tensors got them. Raises CheckpointError for any other, cut or altered file, and
    for a description that has not this `shape` (None: ABOUT; see gpucnn.schema.parse)."""
    tensors, metadata = safetensors_file.read(path)
    text = metadata.get("gpucnn")
    if text is None:
        raise CheckpointError(f"{path} was not written by gpucnn: its metadata does not say what it holds")
    version = parse(text, {"version": int}, path, CheckpointError)["version"]
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this gpucnn reads version {FORMAT_VERSION}, in which a digest "
            "protects all that a file says"
        )
    if metadata.get("sha256") != _digest(tensors, text):
        raise CheckpointError(f"{path} was altered or damaged: it does not have the digest that it was written with")
    return tensors, parse(text, shape or ABOUT, path, CheckpointError)


def _digest(tensors: dict[str, np.ndarray], text: str) -> str:
    """SHA-256 in hex of everything that a file says."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass"))
    for name in sorted(tensors):
        value = tensors[name]
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)
        digest.update(json.dumps([name, value.dtype.str, value.shape]).encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
