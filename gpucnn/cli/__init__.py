"""The `gpucnn` command: a thin shell over the Python API, one module a command.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 `check` found a difference; 2 the input was
wrong, one sentence on stderr says how; 130 interrupted. `gpucnn.__main__` runs it.
"""

from typing import Annotated

import typer

from gpucnn.cli import data
from gpucnn.cli.backends import backends
from gpucnn.cli.bench import bench
from gpucnn.cli.check import check
from gpucnn.cli.compare import compare
from gpucnn.cli.evaluate import evaluate
from gpucnn.cli.exchange import export, import_
from gpucnn.cli.explore import explore
from gpucnn.cli.output import command, out
from gpucnn.cli.predict import predict
from gpucnn.cli.show import app as show
from gpucnn.cli.summary import summary
from gpucnn.cli.sweep import sweep
from gpucnn.cli.train import train
from gpucnn.cli.tune import tune

app = typer.Typer(
    name="gpucnn",
    help="Train small convolutional networks, to the same bits on every backend.\n\n"
    "Start with [bold]gpucnn train[/bold]: it trains LeNet-5 on handwritten digits that come with the program. "
    "Then [bold]gpucnn evaluate[/bold] and [bold]gpucnn predict IMAGE...[/bold] use what it learned.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from gpucnn import __version__

        out(f"gpucnn {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


for _function in (train, evaluate, predict, compare, check, bench, tune, backends, summary, export, explore):
    app.command()(command(_function))
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(command(sweep))
app.command("import")(command(import_))  # a name that Python keeps for itself
data.app.command("list")(command(data.list_sets))
data.app.command("fetch")(command(data.fetch))
app.add_typer(data.app, name="data")
app.add_typer(show)
