"""Model files: safetensors with everything needed to make the model again. Nothing is ever unpickled.

A file holds tensors and one JSON object, `gpucnn`, in its metadata: the format's version, a digest of the tensors, and
what the writer added. It is written beside its final place and renamed, so a name never holds half a file.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from gpucnn.arguments import instance
from gpucnn.arguments import path as checked_path
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.models.model import Model
from gpucnn.models.registry import MODELS, build_model

FORMAT_VERSION = 1
_KEYS = {"version", "digest", "model", "arguments", "input_shape", "structure", "class_names"}


def save(model: Model, path) -> None:
    """Write the model to `path` (by custom *.safetensors): its name and arguments, parameters, running statistics."""
    instance("model", model, Model, "a gpucnn.Model")
    write_tensors(path, {f"model.{name}": value for name, value in model.state_dict().items()}, describe(model))


def load(path, model: Model | None = None) -> Model:
    """The model in the file at `path`, or in a training checkpoint.

    A ready-made model is built by its name. For one of your own, make it and pass it as `model`: it gets the file's
    weights. Raises CheckpointError if the file is cut short, altered, of another format version, or of another model.
    """
    instance("model", model, Model, "a gpucnn.Model", optional=True)
    tensors, about = read_tensors(path)
    return restore(path, tensors, about, model)


def restore(path, tensors: dict[str, np.ndarray], about: dict, model: Model | None = None) -> Model:
    """The model that `tensors` and `about` of the file at `path` describe; see `load`."""
    if model is None:
        if about["model"] not in MODELS:
            raise CheckpointError(
                f"{path} holds a model of your own ({about['model']}); make it in Python and call load(path, model=...)"
            )
        model = build_model(about["model"], **about["arguments"])
    check_same_model(path, about, model)
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    model.class_names = about["class_names"]
    model.image_shape = tuple(about.get("image_shape", model.input_shape))
    model.mean, model.std = (about.get(name) and tuple(about[name]) for name in ("mean", "std"))
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
    }


def check_same_model(path, about: dict, model: Model) -> None:
    """Raises CheckpointError unless the file at `path` was made of a model built like `model`."""
    here = describe(model)
    for key in ("model", "input_shape", "structure"):
        there, now = str(about[key]), str(here[key])
        if there != now:
            same = len(os.path.commonprefix((there, now)))  # noqa: RUF071 - two strings, no paths
            start = there.rfind(" ", 0, max(same - 20, 0)) + 1  # long structures: the place where they part
            raise CheckpointError(
                f"{path} is of another model: its {key} has {there[start : same + 30]!r} where this one has "
                f"{now[start : same + 30]!r}"
            )


def write_tensors(path, tensors: dict[str, np.ndarray], about: dict) -> None:
    """Write host arrays and a JSON-able description as one safetensors file."""
    from safetensors.numpy import save as to_bytes

    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    about = {"version": FORMAT_VERSION, "digest": _digest(tensors), **about}
    write_file(path, to_bytes(tensors, metadata={"gpucnn": json.dumps(about, sort_keys=True)}))


def read_tensors(path) -> tuple[dict[str, np.ndarray], dict]:
    """(tensors, description) as write_tensors got them. Raises CheckpointError for any other, cut or altered file."""
    from safetensors import SafetensorError, safe_open

    path = checked_path("path", path)
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("gpucnn", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: cut short, altered, or no safetensors file ({error})") from None
    if not isinstance(about, dict) or not about.keys() >= _KEYS:
        raise CheckpointError(f"{path} was not written by gpucnn: its metadata does not say what it holds")
    if about.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {about.get('version')}; this gpucnn reads version {FORMAT_VERSION}"
        )
    if about.get("digest") != _digest(tensors):
        raise CheckpointError(f"{path} was altered or damaged: its tensors do not have the digest it was written with")
    return tensors, about


def write_file(path, content: bytes) -> None:
    """Put `content` at `path` all at once: written beside it, flushed to the disk, renamed.

    Raises ConfigurationError where the folder cannot be written to.
    """
    path = Path(checked_path("path", path))
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error


def _digest(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
