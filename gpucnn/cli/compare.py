"""`gpucnn compare`."""

import statistics
from typing import Annotated, Any

import typer

from gpucnn.cli import options
from gpucnn.cli.output import note, print_json, print_table

_LONG = ("structure", "arguments.input_shape", "input_shape", "image_shape")  # the model's name says as much


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)],
    monitor: Annotated[
        str, typer.Option("--monitor", help="What counts in validation: loss, accuracy or a metric.")
    ] = "loss",
    test: Annotated[
        bool,
        typer.Option("--test", help="Test the settings that did best in validation on the test images. Do it once."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Compare settings by their runs: mean and deviation over seeds, in validation.

    Runs that differ in nothing but their seeds make one row. The difference to the best row is that between runs of the
    same seed; below twice its standard error it says little.
    """
    from gpucnn.training.comparison import compare, deviation

    groups = compare(runs, monitor)
    tested = _tested(groups[0]) if test else None
    if json:
        print_json({"groups": [_plain(group) for group in groups], "test": tested})
        return
    names = [name for name in groups[0].measures if all(name in group.measures for group in groups)]
    columns = {"settings": "left", "seeds": "right", **dict.fromkeys(names, "right"), "difference": "right"}
    print_table(
        f"In validation, best {monitor} first; mean ± standard deviation over seeds",
        columns,
        [_row(group, names, group is groups[0]) for group in groups],
    )
    if tested:
        spread = _spread("accuracy", statistics.fmean(tested.values()), deviation(tested))
        note(f"on the test images, the first row's {len(tested)} run{'s' * (len(tested) > 1)}: {spread} right")


def _row(group, names: list[str], first: bool) -> list[str]:
    named = {key: value for key, value in group.settings.items() if key not in _LONG}
    # A part of another kind has other settings: an SGD no beta1.
    had = {key: value for key, value in named.items() if value is not None or "." not in key} or named
    words = ", ".join(f"{key} {value}" for key, value in had.items()) or "all"
    difference = group.difference
    if difference is None:
        apart = "" if first else "no seed in common"
    else:
        apart = f"{difference.mean:+.4f}" + ("" if difference.error is None else f" ± {difference.error:.4f}")
    spreads = [_spread(name, group.mean(name), group.deviation(name)) for name in names]
    return [words, str(len(group.runs)), *spreads, apart]


def _spread(name: str, mean: float, deviation: float | None) -> str:
    form = "{:.2%}" if name == "accuracy" else "{:.4f}"
    return form.format(mean) + ("" if deviation is None else f" ± {form.format(deviation)}")


def _plain(group) -> dict[str, Any]:
    return {
        "settings": group.settings,
        "runs": {str(seed): str(run) for seed, run in group.runs.items()},
        "measures": {name: {"mean": group.mean(name), "deviation": group.deviation(name)} for name in group.measures},
        "difference": group.difference and vars(group.difference),
    }


def _tested(group) -> dict[int, float]:
    """The accuracy of each run's best epoch on the test images, by seed."""
    from gpucnn.cli.runs import test_set
    from gpucnn.errors import ConfigurationError
    from gpucnn.training import Trainer, load_run

    found: dict[int, float] = {}
    for seed, folder in group.runs.items():
        run = load_run(folder, best=True)
        settings = run.config.get("train", {})
        if settings.get("data") is None or "accuracy" not in group.measures:
            raise ConfigurationError(f"{folder} cannot be tested here: it is no classifier trained by `gpucnn train`")
        _, test = test_set(run.model, settings, folder, None)
        _, accuracy = Trainer(run.model, progress=False).evaluate(test.images, test.labels)
        assert accuracy is not None  # a classifier's
        found[seed] = accuracy
    return found
