"""Where the scripts of this folder keep their results: bench/results/NAME-YYYY-MM-DD.json, one file per day and
processor, those after the first with -2, -3, ... behind the date.
"""

import datetime
import itertools
import json
from pathlib import Path

from gpucnn.throughput.machine import machine

RESULTS = Path(__file__).parent / "results"


def of_today(name: str = "cpu", folder: Path = RESULTS) -> Path:
    """The day's file of this processor: the first that is not another's."""
    today, here = datetime.datetime.now(datetime.UTC).date().isoformat(), machine()["processor"]
    paths = (folder / f"{name}-{today}{f'-{number}' * (number > 1)}.json" for number in itertools.count(1))
    return next(path for path in paths if not path.exists() or here in _processors(path))


def _processors(path: Path) -> set[str]:
    """Those of a file's sections."""
    return {section["machine"]["processor"] for section in json.loads(path.read_text()).values()}


def recorded(section: str, *, name: str = "cpu", folder: Path = RESULTS) -> dict:
    """A section of the day's file; empty if there is none."""
    path = of_today(name, folder)
    return json.loads(path.read_text()).get(section, {}) if path.exists() else {}


def record(section: str, report: dict, *, name: str = "cpu", folder: Path = RESULTS) -> Path:
    """Write `report` as one section of the day's file, next to those of other scripts; returns the path.

    Each section names the machine and the time of the measurement.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = of_today(name, folder)
    content = json.loads(path.read_text()) if path.exists() else {}
    content[section] = {"machine": machine(), **report}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
    return path
