"""What the package has by name, the command line and the pages name too: nothing new stays unknown."""

import inspect
from pathlib import Path

import pytest
from typer.main import get_command

from gpucnn import models, optimizers, show
from gpucnn.cli import app
from gpucnn.cli.options import NETWORKS
from gpucnn.cli.settings import OPTIMIZERS, make_optimizer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", models.MODELS)
def test_networks(name):
    assert getattr(models, name) is models.MODELS[name] and name in models.__all__
    assert name in NETWORKS, "gpucnn train --help"
    for page in ("README.md", "docs/training.md"):
        assert name in (ROOT / page).read_text(encoding="utf-8"), page


def test_pictures():
    drawn = {name for name in show.__all__ if inspect.isfunction(getattr(show, name))}
    drawn -= {"inputs", "digit_page"}  # gpucnn predict --picture, and a part of scores
    commands = {name.replace("-", "_") for name in get_command(app).commands["show"].commands}
    assert drawn == commands, "gpucnn/show/__init__.py, and gpucnn/cli/show/__init__.py"


def test_optimizers():
    kinds = optimizers.Optimizer.__subclasses__() + optimizers.Adam.__subclasses__()
    kinds = {kind for kind in kinds if kind.__module__ == optimizers.__name__}
    made = {type(make_optimizer({"optimizer": name, **rates})) for name, rates in OPTIMIZERS.items()}
    assert made == kinds, "gpucnn/cli/settings.py, and gpucnn/optimizers.py"
    (option,) = (option for option in get_command(app).commands["train"].params if option.name == "optimizer")
    assert [name for name in OPTIMIZERS if name not in option.help] == [], "gpucnn train --help, of --optimizer"
