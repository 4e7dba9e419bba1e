"""What decides a training's bits, as checkpoints, run folders and other processes compare it."""

import json
from functools import partial
from inspect import isfunction
from types import ModuleType
from typing import Any

import numpy as np

from gpucnn import arguments
from gpucnn.errors import ConfigurationError
from gpucnn.models.files import describe
from gpucnn.training.data import digest

# Of the class in trainer.py, which imports this module.
Trainer = Any

CHANGEABLE = ("optimizer", "schedule", "loss")  # whose settings callbacks may change
PLAIN = (bool, int, float, str)  # what a checkpoint keeps of them


def settings_of(trainer: Trainer, epochs: int, images, labels: np.ndarray) -> dict:
    """All that decides the bits beside the model: a run resumes only where these agree."""
    settings = {
        "optimizer": trainer.optimizer.settings(),
        "schedule": trainer.schedule.settings(),
        # Rates that depend on the run's length fix it; a run with others can be extended.
        "epochs": epochs if trainer.schedule.uses_steps else None,
        "seed": trainer.seed,
        "batch_size": trainer.batch_size,
        "shift": trainer.shift,
        "loss": trainer.loss.settings(),
        "clip": trainer.clip.settings(),
        "math": trainer.backend.math,
        "dtype": np.dtype(trainer.backend.dtype).name,
        "images": len(images),
        "data_sha256": digest(images, labels, trainer.backend.dtype),
    }
    settings |= {
        name: getattr(trainer, name)
        for name in ("crop", "flip", "cutout", "normalize", "mixup", "erase", "ema")
        if getattr(trainer, name)
    }
    if getattr(trainer.loss, "class_weights", None) == "balanced":
        settings["balanced"] = True  # the loss's settings say which weights came of it
    if trainer.lr_factors:  # of several patterns that match, the first counts
        settings["lr_factors"] = [*trainer.lr_factors.items()]
    if trainer.augment:
        settings["augment"] = _augmentation(trainer.augment)
    if trainer.model.frozen:
        settings["frozen"] = trainer.model.frozen
    if trainer.schedule.uses_steps and trainer.history.epochs:
        settings["first_epoch"] = len(trainer.history) + 1
    return {name: _as_kept(f"the trainer's {name}", value) for name, value in settings.items()}


def _augmentation(augment: Any) -> str:
    """Its name; of an object, a method of it or a functools.partial, the call that made it, as far as numbers and text
    tell. What an object merely keeps, such as a counter, is no setting.
    """
    if isinstance(augment, partial):
        of = {f"argument {number}": value for number, value in enumerate(augment.args, 1)} | augment.keywords
        return f"partial {arguments.call(_augmentation(augment.func), _told(of))}"
    name = getattr(augment, "__qualname__", type(augment).__qualname__)
    owner = getattr(augment, "__self__", augment)
    if isfunction(owner) or isinstance(owner, (type, ModuleType)):
        return name
    try:
        parameters = arguments.signature(type(owner)).parameters
    except (TypeError, ValueError):  # of some classes in C
        return name
    own = _told({parameter: getattr(owner, parameter, None) for parameter in parameters})
    return arguments.call(name, own) if own else name


def _told(values: dict[str, Any]) -> dict[str, Any]:
    """Those that a text can tell: numbers, text, and sequences of them."""

    def told(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            entries = [told(entry) for entry in value]
            return None if None in entries else entries
        plain = value.item() if isinstance(value, np.generic) else value
        return plain if isinstance(plain, PLAIN) else None

    return {name: plain for name, value in values.items() if (plain := told(value)) is not None}


def _as_kept(name: str, value: Any) -> Any:
    """A setting as it comes back from a file: lists, not tuples."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        if isinstance(value, dict) and "name" in value:
            return {key: _as_kept(f"{value['name']}.{key}", entry) for key, entry in value.items()}
        raise ConfigurationError(
            f"{name} is {arguments.a_kind(value)}, which no checkpoint can hold: settings are numbers and text; give "
            "what is no setting a name that begins with _"
        ) from None


def changes(trainer: Trainer, settings: dict) -> dict[str, dict[str, Any]]:
    """What a callback has changed since `settings_of` gave `settings`: by part and name, the values that are now."""
    changed = {}
    for part in CHANGEABLE:
        now, before = getattr(trainer, part).settings(), settings[part]
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in now.items()}
        changed[part] = {n: v for n, v in plain.items() if n in before and isinstance(v, PLAIN) and v != before[n]}
    return {part: values for part, values in changed.items() if values}


def config_of(trainer: Trainer, epochs: int, settings: dict) -> dict:
    """What the run folder's config.json says. Raises ConfigurationError for an `about` that would say it otherwise, or
    that JSON has not.
    """
    from gpucnn import __version__

    smaller = sorted(trainer.history.smaller - {"loss"})
    told = {"smaller_is_better": smaller} if smaller else {}
    where = {"backend": trainer.backend.name, "threads": trainer.backend.threads, "processes": trainer.processes.size}
    config = {"gpucnn": __version__, **describe(trainer.model), **settings, "epochs": epochs, **told, **where}
    if taken := sorted(map(str, config.keys() & trainer.about.keys())):
        raise ConfigurationError(f"about has {taken[0]!r}, which a run's config.json says itself; take another name")
    try:
        json.dumps(trainer.about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"about cannot be written to config.json: {error}; give numbers and text") from None
    return {**config, **trainer.about}


def identity_of(trainer: Trainer, settings: dict, epochs: int, patience: int | None) -> dict:
    """What must be the same in all processes that train together."""
    weights = trainer.model.weights_sha256()
    limits = {"epochs": epochs, "patience": patience, "pieces": trainer.pieces}
    return {**describe(trainer.model), **settings, **limits, "initial weights": weights}
