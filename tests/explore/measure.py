"""How quick the page is: python -m tests.explore.measure > bench/results/explore-DATE.json

Times of the page's first contentful paint, panel by panel, and from each change of a stroke until the answer with the
maps is drawn, both as the browser measures them. Run it when nothing else does.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gpucnn.explore.training import train
from gpucnn.throughput.machine import machine
from gpucnn.throughput.quiet import others_now
from tests.explore.browser import Browser
from tests.explore.record import THREE

PAINT = "return performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"
STROKES = "return performance.getEntriesByName('stroke').map(entry => entry.duration)"


def spread(milliseconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    return {
        "count": len(milliseconds),
        "median_ms": round(statistics.median(milliseconds), 1),
        "95th_ms": round(float(np.percentile(milliseconds, 95)), 1),
        "most_ms": round(max(milliseconds), 1),
    }


def paints(browser: Browser, address: str) -> list[float]:
    """The first paint of each panel, three times."""
    found: list[float] = []
    for panel in ("convolution", "digits", "runs", "bits", "shapes") * 3:
        browser.open(address, panel)
        browser.until(lambda: browser.js(PAINT), "a first paint")
        found += browser.js(PAINT)
    return found


def strokes(browser: Browser, address: str) -> list[float]:
    """Answers while a digit is drawn, ten times."""
    browser.open(address, "digits")
    browser.one(".pad")
    time.sleep(3)  # kernels are loaded when the panel opens
    for shift in range(10):
        browser.draw(browser.one(".pad"), *[(x * 0.6 - 20 + 4 * shift, y * 0.6) for x, y in THREE])
        browser.says("Which pixels counted")
        time.sleep(0.3)
        browser.click(browser.named("Clear", "button"))
    return browser.js(STROKES)


def main() -> None:
    """Measure, and print the report."""
    report: dict = {"machine": machine(), "busy_elsewhere": others_now(2)}
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "lenet5-digits"
        train(run)
        started = time.monotonic()
        command = [sys.executable, "-m", "gpucnn", "explore", "--run", str(run), "--no-browser"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
            assert server.stdout is not None
            address = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
            report["command_until_address_ms"] = round(1000 * (time.monotonic() - started))
            browser = Browser()
            try:
                browser.screen()
                browser.driver.get(address)
                browser.until(lambda: browser.js(PAINT), "a first paint")
                report["first_load_ms"] = round(browser.js(PAINT)[0], 1)
                report["first_paint"] = spread(paints(browser, address))
                report["stroke"] = spread(strokes(browser, address))
            finally:
                browser.close()
                server.terminate()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
