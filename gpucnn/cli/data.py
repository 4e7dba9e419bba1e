"""`gpucnn data`: the data sets that are known by name."""

from shlex import quote
from typing import Annotated, Any

import typer

from gpucnn import terminal
from gpucnn.cli import options
from gpucnn.cli.output import note, out, print_json, print_table, print_values


def list_sets(json: options.Json = False) -> None:
    """List the data sets that are known by name, and which of them are here."""
    from gpucnn.data.known import KNOWN, home, is_here

    sets: list[dict[str, Any]] = [
        {
            "name": "digits",
            "here": True,
            "megabytes": 0.0,
            "about": "1,797 handwritten digits, 8x8 grey; built in",
            "folder": None,
        },
        {
            "name": "shapes",
            "here": True,
            "megabytes": 0.0,
            "about": "1,000 generated images, a class for each pixel; built in",
            "folder": None,
        },
        *(
            {
                "name": known.name,
                "here": is_here(known),
                "megabytes": round(known.size / 1e6, 1),
                "about": known.about,
                "folder": str(home() / known.name),
            }
            for known in KNOWN.values()
        ),
    ]
    if json:
        print_json({"sets": sets})
        return
    rows = [
        [
            each["name"],
            "yes" if each["here"] else "no",
            f"{each['megabytes']:,.0f}" if each["folder"] else "",
            each["about"],
            each["folder"] or "",
        ]
        for each in sets
    ]
    columns = {"name": "left", "here": "left", "MB": "right", "what": "left", "folder": "left"}
    print_table("Data sets", columns, rows)
    out("Fetch one with: gpucnn data fetch NAME. Train on it with: gpucnn train --data NAME.")


def fetch(
    name: Annotated[str, typer.Argument(help="mnist, fashion-mnist, cifar-10 or cifar-100.")],
    to: Annotated[
        str | None,
        typer.Option("--to", help="The folder to put it in. Default: where `--data NAME` looks, in gpucnn's cache."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Download a known data set and check it against its published digest.

    A download that broke off continues where it did. Nothing is unpacked.
    """
    import gpucnn.data

    with _Progress() as progress:
        folder = gpucnn.data.fetch(name, to, progress=progress)
    use = f"gpucnn train --data {name if to is None else quote(str(folder))}"
    values = {"data": name, "folder": str(folder), "use": use}
    (print_json if json else print_values)(values)


class _Progress:
    """Bars on a terminal, else a line for each file as it starts and ends."""

    def __init__(self):
        self._bars, self._tasks, self._told = None, {}, {}

    def __enter__(self):
        if terminal.is_watched():
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

            columns = "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
            self._bars = Progress(*columns, console=terminal.console())
            self._bars.start()
        return self

    def __exit__(self, *error):
        if self._bars:
            self._bars.stop()

    def __call__(self, file: str, done: int, size: int) -> None:
        if self._bars:
            if file not in self._tasks:
                self._tasks[file] = self._bars.add_task(file, total=size)
            self._bars.update(self._tasks[file], completed=done)
            return
        if file not in self._told and done < size:
            note(f"{file}: {'from byte ' + format(done, ',') if done else 'fetching'}, {size / 1e6:,.1f} MB in all")
        if done == size and self._told.get(file) != "whole":
            note(f"{file}: whole, its digest is being checked")
        self._told[file] = "whole" if done == size else "begun"


app = typer.Typer(help="List and fetch data sets that are known by name.", no_args_is_help=True)
