"""`gpucnn sweep`."""

import subprocess
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from gpucnn import interrupts
from gpucnn.arguments import seed as check_seed
from gpucnn.backends.processors import processors
from gpucnn.cli import options
from gpucnn.cli.device import choose
from gpucnn.cli.output import note, print_json, print_table
from gpucnn.cli.processes import together
from gpucnn.cli.settings import make_optimizer, resolve
from gpucnn.cli.train import assemble, train
from gpucnn.errors import ConfigurationError


def sweep(
    context: typer.Context,
    study: Annotated[
        str, typer.Option("--study", help="Folder of the sweep; one that is there is continued.")
    ] = "sweep",
    model: Annotated[str | None, typer.Option("--model", help="Networks, commas between them.")] = None,
    lr: Annotated[
        str | None, typer.Option("--lr", help="Learning rates, or with --trials the range: 1e-4,1e-2.")
    ] = None,
    seed: Annotated[str | None, typer.Option("--seed", help="Seeds, commas between them.")] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", min=1, help="Let Optuna choose so many rates in the range. Default: all combinations."
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Trainings at the same time on this machine.")] = 1,
    json: options.Json = False,
) -> None:
    """Train every combination of networks, learning rates and seeds, and compare them.

    All other options are those of `gpucnn train`, the same for each training. They are compared by their loss in
    validation: without --validation a tenth of the training images is kept for it. The same command on another machine
    that sees the folder adds workers; after an interruption it continues, and what failed is tried again.
    Each training is a run folder in FOLDER/runs.
    """
    from gpucnn.sweep import Plan, Sweep, draw, rows
    from gpucnn.sweep.study import VALIDATION

    plan = None
    if context.args or any(value is not None for value in (model, lr, seed, trials)):
        arguments = _options(context.args)
        settings = resolve(arguments, {}, arguments["recipe"])
        plan = Plan(
            models=_listed("model", model or settings["model"], str),
            rates=_listed("lr", lr or str(settings["lr"]), float),
            seeds=_listed("seed", seed or "0", int),
            arguments=tuple(context.args),
            trials=trials,
        )
        _refuse_early(plan, _options([VALIDATION, *context.args]))
    made = Sweep(study, plan)
    made.try_again()
    kept = f", with {VALIDATION}" if _options(list(made.plan.arguments))["validation"] is None else ""
    note(f"{made.plan.size()} trainings in {made.path}, {workers} at a time here{kept}")
    threads = max(1, processors() // workers)
    command = [sys.executable, "-m", "gpucnn.sweep.worker", str(made.path), str(threads)]
    started: list[subprocess.Popen] = []
    try:
        with interrupts.terminated():  # or a training would go on
            for _ in range(workers - 1):
                started.append(subprocess.Popen(command))
            made.work(threads, note)
            codes = [process.wait() for process in started]
    except BaseException:
        for process in started:
            process.terminate()
        note(f"gpucnn: continue with: gpucnn sweep --study {quote(str(made.path))}")
        raise
    results = rows(made)
    if not any(codes) and (left := made.plan.size() - len(results)):
        have = "trainings have" if left > 1 else "training has"
        note(f"{left} {have} not ended, with other workers; the same command lists all later")
    picture = made.path / "sweep.png"
    _print(results, made.path, json)
    draw(results, picture)  # last: the disk may be full
    if any(codes) or (results and all(row["loss"] is None for row in results)):
        raise ConfigurationError("no training succeeded" if not any(codes) else "a worker failed; see above")


def _options(arguments: list[str]) -> dict[str, Any]:
    """The options of `train` that these arguments give. Raises what train would, before any training starts."""
    alone = typer.Typer()
    alone.command()(train)
    options = typer.main.get_command(alone).make_context("gpucnn train", list(arguments)).params
    if options["run"] is not None or options["resume"]:
        raise ConfigurationError("--run and --resume are chosen for each training; leave them out, or give --study")
    return options


def _refuse_early(plan, options: dict[str, Any]) -> None:
    """Raises what `train` would of any training of the plan, up to its first step: of each network, rate and seed."""
    settings = resolve(options, {}, options["recipe"])
    for lr in plan.rates:
        make_optimizer({**settings, "lr": lr})
    for seed in plan.seeds:
        check_seed(seed)
    with together(None, None) as group:
        for model in plan.models:
            assemble(
                {**settings, "model": model},
                options["monitor"],
                lambda: choose(options["backend"], settings["math"], options["threads"], options["graph"]),
                group,
                options["pieces"],
                resumed=False,
            )


def _print(results: list[dict], path: Path, json: bool) -> None:
    if json:
        print_json({"trainings": results, "picture": str(path / "sweep.png")})
        return
    columns = {"network": "left", "rate": "right", "seed": "right", "loss": "right", "test": "right", "weights": "left"}
    print_table(
        f"Trainings, best first; {path / 'sweep.png'} shows them",
        {**columns, "run": "left"},
        [
            [row["model"], f"{row['lr']:.3g}", str(row["seed"]), *_measured(row), Path(row["run"]).name]
            for row in results
        ],
    )


def _measured(row: dict) -> list[str]:
    if row["loss"] is None:
        return ["failed", "", row.get("failed", "")]
    return [f"{row['loss']:.4f}", f"{row['test_accuracy']:.2%}", row["weights_sha256"][:16]]


def _listed(name: str, text: str, kind: type) -> tuple:
    try:
        return tuple(kind(word.strip()) for word in text.split(","))
    except ValueError:
        raise ConfigurationError(f"--{name} is {text!r}; give numbers with commas between them") from None
