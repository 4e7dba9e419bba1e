"""The results of a sweep: a table, and a picture of the loss over the learning rate."""

import math
from pathlib import Path
from typing import Any

from gpucnn import figures
from gpucnn.sweep.study import Sweep


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """A dictionary for each training that has ended or failed, best first: number, model, lr, seed, loss (in
    validation; None if it failed) and what `gpucnn train --json` printed or, as `failed`, why not; `run` is its folder.
    """
    found = []
    for trial in sweep.study.get_trials(deepcopy=False):
        told = {name: value for name, value in trial.user_attrs.items() if name != "failed" or value is not None}
        if (trial.state.is_finished() or "failed" in told) and len(trial.params) == 3:
            run = str(sweep.folder(trial.number, trial.params))
            found.append({"number": trial.number, **trial.params, "loss": trial.value, **told, "run": run})
    return sorted(found, key=lambda row: (math.inf if row["loss"] is None else row["loss"], row["number"]))


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG: for each model the loss of each training over its learning rate, and the mean over the seeds."""
    good = [row for row in results if row["loss"] is not None]
    canvas = figures.new_figure(7, 4.5)
    axes = canvas.subplots()
    for model in sorted({row["model"] for row in good}):
        own = [row for row in good if row["model"] == model]
        (points,) = axes.plot([row["lr"] for row in own], [row["loss"] for row in own], "o", label=model, alpha=0.6)
        rates = sorted({row["lr"] for row in own})
        losses = [[row["loss"] for row in own if row["lr"] == rate] for rate in rates]
        axes.plot(rates, [sum(values) / len(values) for values in losses], "-", color=points.get_color())
    axes.grid(alpha=0.3)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss in validation")
    if good:
        axes.legend()
    figures.save(canvas, path)
