"""`gpucnn explore`."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from gpucnn import interrupts
from gpucnn.cli import options
from gpucnn.cli.output import note, out
from gpucnn.cli.runs import RUNS, fresh_folder
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.extras import install

_MOST = 20  # runs that are found in runs/


def explore(
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="A run folder to look at; may be repeated. Default: the newest ones in runs/."),
    ] = None,
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, show_default=False, help="Port to listen on. Default: a free one."),
    ] = 0,
    browser: Annotated[
        bool,
        typer.Option(
            "--browser/--no-browser",
            show_default=False,
            help="Open the page in the browser, or print its address only.",
        ),
    ] = True,
    backend: options.Backend = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, show_default=False, help="CPU threads of one request. Default: 1.")
    ] = 1,
) -> None:
    """Open a page where convolution can be touched: slide a filter, draw a digit, watch a run, compare bits.

    The page is served from this machine to this machine alone, until Ctrl-C.
    """
    folders = [_folder(path) for path in run] if run else _found()
    try:
        from gpucnn.explore.server import Server
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("starlette", "uvicorn"):
            raise
        raise ConfigurationError(f"the page needs {package}, which is not installed: {install('explore')}") from None
    server = Server(folders, lambda: fresh_folder("explore").resolve(), port=port, backend=backend, threads=threads)
    note(f"gpucnn explore on {server.explorer.engine.backend.name}; Ctrl-C ends it")
    out(server.address)

    def opened() -> None:
        if browser and not webbrowser.open(server.address):
            note("no browser could be opened; open the address above in one")

    with interrupts.terminated():  # or a training that the page has started would go on
        server.run(opened)


def _folder(path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{path} is no folder; give the folder of a run")
    return folder.resolve()


def _found() -> list[Path]:
    """The newest runs in runs/, the newest first."""
    files = sorted(RUNS.glob("*/config.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    return [file.parent.resolve() for file in files[:_MOST]]
