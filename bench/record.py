"""Where the scripts of this folder keep their results: bench/results/NAME-YYYY-MM-DD.json, one file per day."""

import datetime
import json
from pathlib import Path

from gpucnn.throughput.machine import machine

RESULTS = Path(__file__).parent / "results"


def of_today(name: str = "cpu", folder: Path = RESULTS) -> Path:
    """The day's file."""
    return folder / f"{name}-{datetime.datetime.now(datetime.UTC).date().isoformat()}.json"


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
