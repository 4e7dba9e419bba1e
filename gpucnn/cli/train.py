"""`gpucnn train`."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from gpucnn.cli import network as network_of
from gpucnn.cli import options
from gpucnn.cli.device import choose
from gpucnn.cli.output import note, print_measured
from gpucnn.cli.processes import together
from gpucnn.cli.runs import forget_fresh, fresh_folder, note_untested, of_run, read_config, refuse_not_finite
from gpucnn.cli.settings import (
    DEFAULTS,
    OPTIMIZERS,
    check_shift,
    cropped,
    make_factors,
    make_loss,
    make_optimizer,
    make_schedule,
    measuring,
    prepare,
    resolve,
)
from gpucnn.errors import ConfigurationError, GpucnnError
from gpucnn.parallel import Processes
from gpucnn.parallel.processes import how_different
from gpucnn.storage import as_path


def _option(name: str, help: str, default: str | None = None, **more: Any) -> Any:
    """An option whose default is in DEFAULTS; None means that it was not given, so that --resume can take the run's."""
    default = default or DEFAULTS[name.removeprefix("--").replace("-", "_")]
    return typer.Option(name, help=f"{help} Default: {default}.", **more)


def _by_optimizer(setting: str) -> str:
    return ", ".join(f"{values[setting]:g} for {name}" for name, values in OPTIMIZERS.items())


def train(
    model: Annotated[str | None, _option("--model", options.NETWORKS)] = None,
    variant: options.Variant = None,
    hidden: options.Hidden = None,
    data: Annotated[
        str | None,
        _option(
            "--data",
            "Images: digits (built in), a set that `gpucnn data fetch` brought, or a path to files: MNIST, CIFAR, "
            ".npz, .npy, .csv, .parquet, or a folder of images a class. With +parts at its end: windows of pages of "
            "them, and a class for those that show none as a whole, for `gpucnn show scores`.",
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="The settings from which the other options differ: digits, or mnist.",
        ),
    ] = "digits",
    epochs: Annotated[int | None, _option("--epochs", "How often to go through the training images.", min=1)] = None,
    batch_size: Annotated[int | None, _option("--batch-size", "Images a step.", min=1)] = None,
    optimizer: Annotated[str | None, _option("--optimizer", "sgd (momentum 0.9), adam or adamw.")] = None,
    lr: Annotated[float | None, _option("--lr", "Learning rate.", _by_optimizer("lr"))] = None,
    weight_decay: Annotated[
        float | None,
        _option("--weight-decay", "How strongly weights are pulled towards zero.", _by_optimizer("weight_decay")),
    ] = None,
    schedule: Annotated[
        str | None, _option("--schedule", "How the learning rate changes: constant, step, cosine or one-cycle.")
    ] = None,
    warmup: Annotated[
        int | None, _option("--warmup", "Steps in which the learning rate rises at the start.", min=0)
    ] = None,
    shift: Annotated[
        int | None, _option("--shift", "Move each training image at random by up to so many pixels.", min=0)
    ] = None,
    crop: Annotated[
        int | None,
        _option(
            "--crop",
            "Cut each training image to so many pixels a side, at random; test images in their middle. The "
            "shift then reaches over the border.",
            "the whole image",
            min=1,
        ),
    ] = None,
    flip: Annotated[
        bool | None, _option("--flip/--no-flip", "Mirror training images left to right at random.", "no")
    ] = None,
    cutout: Annotated[
        int | None,
        _option("--cutout", "Blank a square of so many pixels a side in each training image at random.", min=0),
    ] = None,
    normalize: Annotated[
        bool | None,
        _option("--normalize/--no-normalize", "Bring each channel of all images to mean 0 and deviation 1.", "no"),
    ] = None,
    loss: Annotated[
        str | None,
        _option("--loss", "cross-entropy; or dice, which compares areas, where each pixel gets a class."),
    ] = None,
    metrics: options.Metrics = None,
    label_smoothing: Annotated[
        float | None,
        _option("--label-smoothing", "The part of each label that all classes share, 0 up to below 1.", "0", min=0),
    ] = None,
    class_weights: Annotated[
        str | None,
        _option(
            "--class-weights",
            "How much an image of each class counts: balanced, or a number for each class, such as 1,2,0.5.",
            "all the same",
        ),
    ] = None,
    clip_norm: Annotated[
        float | None, _option("--clip-norm", "Scale a gradient down whose norm is larger than this.", "never")
    ] = None,
    clip_value: Annotated[
        float | None, _option("--clip-value", "Clamp each number of the gradient to plus and minus this.", "never")
    ] = None,
    seed: Annotated[int | None, _option("--seed", "Decides everything random; same seed, same weights.", min=0)] = None,
    validation: Annotated[
        float | None,
        _option(
            "--validation", "Keep this part of the training images, such as 0.1, to find the best epoch with.", "none"
        ),
    ] = None,
    monitor: Annotated[
        str | None,
        _option("--monitor", "What makes an epoch the best in validation: loss, accuracy or a metric."),
    ] = None,
    patience: Annotated[
        int | None,
        _option("--patience", "Stop after so many epochs without a better one in validation.", "never", min=1),
    ] = None,
    mixup: Annotated[
        float | None, _option("--mixup", "Mix images by pairs, with shares of a Beta(so much, so much).", "0", min=0)
    ] = None,
    erase: Annotated[
        float | None, _option("--erase", "Blank a random rectangle in this part of the images.", "0", min=0)
    ] = None,
    ema: Annotated[
        float | None,
        _option("--ema", "Keep a moving average of the weights, such as 0.99, and test it instead.", "none"),
    ] = None,
    start: Annotated[
        str | None,
        _option("--start", "Begin with the weights of a run or model file that fit by name and shape.", "none"),
    ] = None,
    freeze: Annotated[
        str | None, _option("--freeze", "Layers to leave as they are: names or patterns, such as 0,2.*.", "none")
    ] = None,
    lr_factors: Annotated[
        str | None,
        _option("--lr-factors", "Factors of the learning rate for layers: 0=0.1,2.*=0.5.", "1 everywhere"),
    ] = None,
    run: Annotated[
        str | None,
        _option("--run", "Folder for checkpoints, metrics and curves.", "a new one in runs/"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in --run, with its settings, to the same bits as if it had not stopped.",
        ),
    ] = False,
    backend: options.Backend = None,
    math: options.Math = None,
    threads: options.Threads = None,
    graph: options.Graph = True,
    processes: options.Processes = None,
    pieces: Annotated[
        int,
        typer.Option(
            "--pieces", min=1, help="Compute each batch in so many parts, one after the other: less memory, same bits."
        ),
    ] = 1,
    time_limit: options.TimeLimit = None,
    json: options.Json = False,
) -> None:
    """Train a network, test it, and keep it in a run folder.

    Without any option: LeNet-5 on handwritten digits. The test images are used once, after the last epoch; with
    --validation they test the weights of the epoch that did best on the images kept for that.

    Interrupt it with Ctrl-C at any time and continue with --resume, on any backend, in any number of
    processes.
    """
    given = {
        "model": model,
        "data": data,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup": warmup,
        "shift": shift,
        "crop": crop,
        "flip": flip,
        "cutout": cutout,
        "normalize": normalize,
        "seed": seed,
        "math": math,
        "variant": variant,
        "hidden": hidden,
        "validation": validation,
        "monitor": monitor,
        "patience": patience,
        "loss": loss,
        "metrics": metrics,
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "clip_norm": clip_norm,
        "clip_value": clip_value,
        "mixup": mixup,
        "erase": erase,
        "ema": ema,
        "start": start,
        "freeze": freeze,
        "lr_factors": lr_factors,
    }
    if run is not None:
        as_path(run)
    with together(processes, time_limit) as group:
        group.same(given, how_different)
        settings = group.on_first(lambda: resolve(given, read_config(run) if resume else {}, recipe))
        resumed = group.on_first(lambda: resume and (Path(run or "") / "checkpoint.safetensors").is_file())
        if resumed and data is None:
            of_run(settings, run)
        trainer, train_set, test_set = group.agreed(
            lambda: assemble(
                settings, monitor, lambda: choose(backend, settings["math"], threads, graph), group, pieces, resumed
            )
        )
        stem = f"{settings['model']}-{Path(settings['data']).stem}"
        folder = group.on_first(lambda: Path(run) if run else fresh_folder(stem))  # others may have no --run
        trainer.run = folder
        stopping = {name: settings[name] for name in ("validation", "monitor", "patience")}
        names = options.listed(settings["metrics"])
        try:
            history = trainer.fit(train_set.images, train_set.labels, settings["epochs"], resume=resume, **stopping)
            if not group.first:
                return
            best = _go_to_the_best(trainer, history, settings) if settings["validation"] is not None else {}
            if settings["ema"] and not best:
                trainer.restore_average()
            plain = measuring(trainer.model, trainer.backend, settings["loss"], names, processes=1)
            measured = plain.measure(test_set.images, test_set.labels)
            refuse_not_finite(folder, measured["loss"])
        except KeyboardInterrupt:
            note(f"gpucnn: interrupted; continue with: gpucnn train --resume --run {quote(str(folder))}")
            raise typer.Exit(130) from None
        except GpucnnError:
            if run is None and group.first:
                forget_fresh(folder)
            raise
    values = {
        "backend": trainer.backend.name,
        "math": trainer.backend.math,
        "epochs": len(history),
        **best,
        **{f"test_{name}": measured[name] for name in ("accuracy", "loss", *names)},
        "seconds": history.seconds,
        "images_per_second": history.images_per_second,
        "weights_sha256": trainer.model.weights_sha256(),
        "run": str(folder),
    }
    print_measured(values, train_set.classes, json)


def assemble(
    settings: dict[str, Any], monitor: str | None, backend, group: Processes, pieces: int, resumed: bool
) -> tuple:
    """(trainer, images to train on, images to test with); `backend` makes the backend."""
    made = network_of.options(settings["variant"], settings["hidden"])
    if monitor is not None and settings["validation"] is None:
        raise ConfigurationError(f"--monitor {monitor} needs --validation, the part of the images to measure it on")
    # Wrong names fail before the slow imports and before a run folder is made.
    optimizer, schedule = make_optimizer(settings), make_schedule(settings)

    import gpucnn.data
    from gpucnn.data.dataset import shown_before
    from gpucnn.data.load import path_of
    from gpucnn.metrics import named
    from gpucnn.models import build_model
    from gpucnn.training import Trainer
    from gpucnn.training.validation import check_fraction, check_stopping

    metrics = options.listed(settings["metrics"])
    stopping = settings["validation"], settings["monitor"], settings["patience"]
    check_stopping(*stopping, metrics=[named(name) for name in metrics])
    if settings["validation"] is not None:
        check_fraction(settings["validation"])
    device = backend()
    train_set, test_set = gpucnn.data.load(settings["data"])
    note_untested(test_set)
    if path_of(settings["data"]) and (remark := shown_before(train_set.images, test_set.images, "test")):
        note(remark)
    shape = cropped(train_set.images.shape[1:], settings["crop"])
    check_shift(shape, settings["shift"])
    network = build_model(settings["model"], shape, len(train_set.classes), **made)
    network.class_names = train_set.classes
    prepare(network, settings, resumed=resumed)
    names = (
        *("batch_size", "shift", "flip", "cutout", "normalize", "clip_norm", "clip_value", "seed"),
        *("mixup", "erase", "ema"),
    )
    trainer = Trainer(
        network,
        backend=device,
        optimizer=optimizer,
        schedule=schedule,
        crop=settings["crop"] is not None,
        loss=make_loss(settings),
        lr_factors=make_factors(settings["lr_factors"]),
        metrics=metrics,
        about={"train": {**settings, "math": device.math}},
        processes=group,
        pieces=pieces,
        **{name: settings[name] for name in names},
    )
    return trainer, train_set, test_set


def _go_to_the_best(trainer, history, settings: dict[str, Any]) -> dict[str, Any]:
    """Give the trainer's model the best epoch's weights; what to print of it."""
    epoch = trainer.restore_best()
    note(f"testing the weights of epoch {epoch} of {len(history)}, the best by validation {settings['monitor']}")
    record = history.epochs[epoch - 1]
    return {"best_epoch": epoch, **{k: record[k] for k in ("validation_accuracy", "validation_loss") if k in record}}
