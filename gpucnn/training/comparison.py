"""Comparing ways to train by several runs each, which differ in their seeds.

A single run says little: with another seed the same settings give another result. So settings are compared by the mean
over seeds, and by the differences between runs of the same seed, whose standard error says how far to trust them.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpucnn.arguments import instance, sequence
from gpucnn.errors import ConfigurationError
from gpucnn.storage import as_path
from gpucnn.training.run import read_history
from gpucnn.training.validation import why_stop

# What may differ between runs of the same settings: bits do not depend on where a run was made.
_NOT_SETTINGS = ("gpucnn", "backend", "threads", "processes", "seed", "train", "class_names", "smaller_is_better")
_SAME = {
    "data_sha256": "trained on other images",
    "images": "trained on another number of images",
    "validation": "validated in another way",
}


@dataclass(frozen=True)
class Difference:
    """Of another group to the best one: the mean over `seeds` of both, and its standard error (None for one seed)."""

    mean: float
    error: float | None
    seeds: int


@dataclass
class Group:
    """Runs of the same settings. `settings` has only those in which the groups compared differ, as "loss.name": value.

    `measures` has what validation measured after each run's best epoch, by name and seed: "loss", "accuracy" of a
    classifier, and the metric that was monitored.
    """

    settings: dict[str, Any]
    runs: dict[int, Path] = field(default_factory=dict)
    measures: dict[str, dict[int, float]] = field(default_factory=dict)
    difference: Difference | None = None

    def mean(self, measure: str) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.measures[measure].values())

    def deviation(self, measure: str) -> float | None:
        """The standard deviation over the seeds (divided by n - 1); None for one."""
        return deviation(self.measures[measure])


def deviation(by_seed: dict[int, float]) -> float | None:
    """The standard deviation over the seeds (divided by n - 1); None for one."""
    return statistics.stdev(by_seed.values()) if len(by_seed) > 1 else None


def compare(runs: Sequence[str | Path], monitor: str = "loss") -> list[Group]:
    """The runs in these folders, grouped by their settings, the best mean of validation's `monitor` first.

    `monitor` is "loss", of which the smallest is the best, or "accuracy" or a metric, as the runs say of it. Each
    group but the first has its `difference` to the first, over the seeds that both have. Raises ConfigurationError for
    runs that cannot be compared fairly: of other images, validated on nothing or in another way, by losses that differ,
    unfinished, or the same settings with the same seed twice.
    """
    instance("monitor", monitor, str, "loss, accuracy or a metric's name")
    folders = [as_path(run) for run in sequence("runs", runs, "the folders of runs")]
    if not folders:
        raise ConfigurationError("no runs were given; give the folders of two or more")
    groups: dict[str, Group] = {}
    first: dict[str, Any] = {}
    smaller: set[str] = set()
    for folder in folders:
        config, history = read_history(folder)
        if config.pop("balanced", False):  # another seed chooses other images for validation, so others are counted
            config["loss"] |= {"class_weights": "balanced"}
        first, smaller = first or config, smaller | history.smaller
        measured = {name: history.column(f"validation_{name}") for name in ("loss", "accuracy", monitor)}
        if not all(isinstance(value, (int, float)) for value in measured[monitor]):
            raise ConfigurationError(
                f"{folder} has no {monitor} in validation; train with --validation 0.1, since whoever chooses by the "
                "test images has nothing left to test with"
            )
        for key, what in _SAME.items():
            if config.get(key) != first.get(key):
                raise ConfigurationError(f"{folder} was {what} than {folders[0]}; compare runs on the same images")
        if monitor == "loss" and config.get("loss") != first.get("loss"):
            raise ConfigurationError(
                f"{folder} measured another loss than {folders[0]}, so that the smaller one need not be better; "
                'compare them by monitor="accuracy" (--monitor accuracy), or by a metric'
            )
        best = history.best_epoch(monitor) or 1
        by = str(config.get("validation", "")).rpartition(" by ")[2]  # what `patience` watched
        if len(history) < config.get("epochs", 0) and not why_stop(history, by, config.get("patience")):
            raise ConfigurationError(f"{folder} has {len(history)} of {config['epochs']} epochs; resume it first")
        settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS} | _start(config)
        group = groups.setdefault(json.dumps(settings, sort_keys=True), Group(_flat(settings)))
        seed = config.get("seed", 0)
        if seed in group.runs:
            raise ConfigurationError(
                f"{folder} repeats {group.runs[seed]}: the same settings and the same seed give the same bits, and no "
                "second result"
            )
        group.runs[seed] = folder
        for name, values in measured.items():
            if values[best - 1] is not None:
                group.measures.setdefault(name, {})[seed] = values[best - 1]
    found = list(groups.values())
    _keep_differences(found)
    return _ranked(found, monitor, monitor in smaller)


def _start(config: dict[str, Any]) -> dict[str, Any]:
    """The weights that `gpucnn train --start` began with: the one of its options that no other setting shows."""
    options = config.get("train")
    return {"start": options["start"]} if isinstance(options, dict) and options.get("start") else {}


def _ranked(groups: list[Group], monitor: str, smaller: bool) -> list[Group]:
    groups.sort(key=lambda group: group.mean(monitor), reverse=not smaller)
    best = groups[0].measures[monitor]
    for group in groups[1:]:
        own = group.measures[monitor]
        pairs = [own[seed] - best[seed] for seed in sorted(own.keys() & best.keys())]
        if pairs:
            error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
            group.difference = Difference(statistics.fmean(pairs), error, len(pairs))
    return groups


def _keep_differences(groups: list[Group]) -> None:
    """Leave out of the settings what all groups have in common."""
    keys = sorted(set().union(*(group.settings for group in groups)))
    differing = [key for key in keys if any(g.settings.get(key) != groups[0].settings.get(key) for g in groups)]
    for group in groups:
        group.settings = {key: group.settings.get(key) for key in differing}


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings inside settings by names with dots."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
