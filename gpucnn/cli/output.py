"""How commands speak: results on stdout, progress and notes on stderr, errors as one sentence."""

import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from gpucnn import cache, interrupts
from gpucnn.errors import ConfigurationError, GpucnnError
from gpucnn.storage import first_line

_silent: list[bool] = []
_WIDE = 20  # columns are more than a terminal has room for
_TOO_LARGE = ("array is too big", "Maximum allowed dimension", "too large to convert", "maximum supported dimension")


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function with what may go wrong turned into one sentence and exit code 2, and Ctrl-C into 130."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        try:
            with interrupts.one_chance():
                _refuse_absurd(kwargs)
                _tell_of_compiling()
                function(*args, **kwargs)
        except KeyboardInterrupt:
            note("gpucnn: interrupted")
            raise typer.Exit(interrupts.EXIT) from None
        except GpucnnError as error:
            reason = str(error)
        except OSError as error:
            reason = f"{error.filename or 'the system'}: {first_line(error)}"
        except ImportError as error:  # of a package that is missing, or that the memory has no room for
            if (error.name or "gpucnn").startswith("gpucnn"):
                raise
            reason = (
                f"a package that gpucnn needs cannot be imported ({first_line(error)}); install gpucnn again with pip, "
                "or give it more memory"
            )
        except (MemoryError, OverflowError, ValueError) as error:  # sizes typed with too many digits, most often
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in _TOO_LARGE):
                raise
            reason = f"there is not enough memory for this; choose smaller sizes ({str(error) or 'out of memory'})"
        else:
            return
        note(f"gpucnn: {' '.join(reason.split())}")
        raise typer.Exit(2) from None

    return run


def _refuse_absurd(options: dict[str, Any]) -> None:
    """Numbers that no machine word holds are typing errors, whatever they are of."""
    for name, value in options.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 1 << 64:
                option = name.replace("_", "-")
                raise ConfigurationError(f"--{option} is {str(number)[:20]}... of {len(str(number))} digits; give less")


def ready() -> None:
    """Make sure that no file takes the place of a stream that is closed, and that every name can be printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    if sys.stderr is None:  # or print(file=sys.stderr) would mean sys.stdout
        sys.stderr = os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def leave(program: Callable[[], Any]) -> NoReturn:
    """Run the program and leave with its exit code; with 2 where what it printed was lost."""
    try:
        program()
        code: Any = 0
    except SystemExit as error:
        code = error.code
    except (OSError, GpucnnError) as error:  # of what is no command: --help and --version
        note(f"gpucnn: {first_line(error)}")
        code = 2
    interrupts.no_more()
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)  # or Python fails at it again
            if not code:
                note(f"gpucnn: standard output cannot be written: {first_line(error)}")
            code = code or 2
    sys.exit(code)


def _tell_of_compiling() -> None:
    from gpucnn.backends.compilation import listeners

    if _compiling not in listeners:
        listeners.append(_compiling)


def _compiling(kernel: str) -> None:
    note(f"compiling {kernel}; kept for later runs" if _kept() else f"compiling {kernel}")


@functools.cache
def _kept() -> bool:
    """Whether what is compiled is kept; says why where it is not, once."""
    if refusal := cache.refusal():
        note(f"compiled kernels are not kept for later runs: {refusal}")
    return refusal is None


def silence() -> None:
    """From now on notes and results are dropped: another process speaks for all."""
    _silent.append(True)


def note(text: str) -> None:
    """A line to stderr; where that is not possible, nobody is there to be told."""
    if not _silent:
        say(text)


def say(text: str) -> None:
    """The same in any process."""
    with contextlib.suppress(OSError, ValueError):
        typer.echo(printable(text), err=True)


def out(text: str) -> None:
    """Lines to stdout. Raises ConfigurationError where they cannot be written."""
    if _silent:
        return
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the results cannot be written to standard output: {first_line(error)}") from None


def printable(text: str) -> str:
    """One line without signs that steer a terminal, which names in files may hold."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def print_json(values: dict[str, Any]) -> None:
    """The one JSON object of a --json run."""
    out(json.dumps(values, indent=2))


def print_values(values: dict[str, Any]) -> None:
    """A dictionary for people: a name and its value a line."""
    width = max(map(len, values))
    for name, value in values.items():
        out(f"{name.ljust(width)}  {printable(_text(name, value))}")


def print_measured(values: dict[str, Any], classes: list[str], json: bool) -> None:
    """Results of which some may be a list, a value a class, or a list of them, a confusion matrix."""
    lists = {name: value for name, value in values.items() if isinstance(value, list)}
    if json:
        print_json({**values, "classes": classes} if lists else values)
        return
    print_values({name: value for name, value in values.items() if name not in lists})
    matrices = {name: value for name, value in lists.items() if isinstance(value[0], list)}
    if columns := {name: value for name, value in lists.items() if name not in matrices}:
        rows = [
            [name, *("" if v is None else f"{v:.4f}" for v in row)] for name, *row in zip(classes, *columns.values())
        ]
        print_table("", {"": "left", **dict.fromkeys(columns, "right")}, rows)
    for name, matrix in matrices.items():
        if len(matrix) > _WIDE:
            out(f"{name}: --json prints the {len(matrix)} rows, and gpucnn show confusion draws them")
            continue
        rows = [[name, *map(str, row)] for name, row in zip(classes, matrix)]
        title = f"{name}: a row a class, a column for each that the network took it for"
        print_table(title, {"": "left", **dict.fromkeys(classes, "right")}, rows)


def _text(name: str, value: Any) -> str:
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    if name == "probability":
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:,.1f}" if "second" in name else f"{value:.4f}"
    return str(value)


def print_table(title: str, columns: dict[str, str], rows: list[list[str]]) -> None:
    """A table for people; columns maps each heading to "left" or "right"."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    utf = "utf" in (getattr(sys.stdout, "encoding", None) or "utf").lower()
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD if utf else box.ASCII2)
    for heading, side in columns.items():
        table.add_column(printable(heading), justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    terminal = sys.stdout is not None and sys.stdout.isatty()
    # markup off: a file name may hold brackets. Pipes and files have no width of their own.
    drawn, width = io.StringIO(), None if terminal else 160
    Console(file=drawn, force_terminal=terminal, width=width, markup=False, emoji=False, highlight=False).print(table)
    out(drawn.getvalue().removesuffix("\n"))
