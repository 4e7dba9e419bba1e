"""How commands speak: results on stdout, progress and notes on stderr, errors as one sentence."""

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import typer

from gpucnn.errors import GpucnnError


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function with GpucnnError or a lack of memory turned into one sentence and exit code 2, Ctrl-C into 130."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        _tell_of_compiling()
        try:
            function(*args, **kwargs)
        except GpucnnError as error:
            note(f"gpucnn: {' '.join(str(error).split())}")
            raise typer.Exit(2) from None
        except MemoryError as error:  # sizes typed with too many digits, most often
            note(f"gpucnn: there is not enough memory for this; choose smaller sizes ({str(error) or 'out of memory'})")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            note("gpucnn: interrupted")
            raise typer.Exit(130) from None

    return run


def _tell_of_compiling() -> None:
    from gpucnn.backends.compilation import listeners

    if _compiling not in listeners:
        listeners.append(_compiling)


def _compiling(kernel: str) -> None:
    note(f"compiling {kernel}; kept for later runs")


def note(text: str) -> None:
    """A line to stderr."""
    typer.echo(text, err=True)


def print_json(values: dict[str, Any]) -> None:
    """The one JSON object of a --json run."""
    sys.stdout.write(json.dumps(values, indent=2) + "\n")
    sys.stdout.flush()


def print_values(values: dict[str, Any]) -> None:
    """A dictionary for people: a name and its value a line."""
    width = max(map(len, values))
    for name, value in values.items():
        typer.echo(f"{name.ljust(width)}  {_text(name, value)}")


def _text(name: str, value: Any) -> str:
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    if name == "probability":
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:.4f}" if name.endswith("loss") else f"{value:,.1f}"
    return str(value)


def print_table(title: str, columns: dict[str, str], rows: list[list[str]]) -> None:
    """A table for people; columns maps each heading to "left" or "right"."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading, side in columns.items():
        table.add_column(heading, justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # markup off: a file name may hold brackets. Pipes and files have no width of their own.
    Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False).print(table)
