"""One short training run, shared by the tests that need a trained network."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpucnn.cli import app


class Cli:
    """The command line within this process: `cli("train", "--epochs", 1)` gives exit code, stdout and stderr."""

    def __call__(self, *arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    def json(self, *arguments) -> dict:
        """The JSON object of a run that must succeed."""
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def refused(self, *arguments) -> str:
        """stderr of a run that must end with exit code 2, one line, and nothing on stdout."""
        result = self(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return result.stderr


@pytest.fixture(scope="session")
def cli() -> Cli:
    return Cli()


@pytest.fixture(scope="session")
def trained(cli, tmp_path_factory) -> tuple[Path, dict]:
    """(run folder, what train printed) of two epochs on the digits. Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, cli.json("train", "--epochs", 2, "--run", folder)
