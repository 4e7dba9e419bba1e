"""What the package has by name, the command line and the pages name too: nothing new stays unknown."""

from pathlib import Path

import pytest
from typer.main import get_command

from gpucnn import models, optimizers
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


def test_optimizers():
    kinds = optimizers.Optimizer.__subclasses__() + optimizers.Adam.__subclasses__()
    kinds = {kind for kind in kinds if kind.__module__ == optimizers.__name__}
    assert {type(make_optimizer({"optimizer": name, **rates})) for name, rates in OPTIMIZERS.items()} == kinds
    (option,) = (option for option in get_command(app).commands["train"].params if option.name == "optimizer")
    assert all(name in option.help for name in OPTIMIZERS)
