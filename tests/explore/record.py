"""Takes the pictures of docs/explore.md: python -m tests.explore.record

Trains a network first, walks through the panels as the page's text tells, and keeps a picture of each.
"""

import base64
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from gpucnn.explore.training import train
from tests.explore.browser import Browser
from tests.explore.conftest import Listening

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "explore"
THREE = [(-52, -66), (-30, -86), (0, -92), (28, -80), (34, -54), (18, -32), (-8, -22), (24, -8), (38, 18), (26, 44)]
THREE += [(-4, 56), (-34, 50), (-54, 32)]


def keep(browser: Browser, name: str, height: int, width: int = 1280) -> None:
    """The page from its top, so many pixels of it, in 256 colours."""
    browser.js("scrollTo(0, 0); document.activeElement.blur()")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    taken = browser.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    with Image.open(BytesIO(base64.b64decode(taken))) as opened:
        small = opened.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(PICTURES / f"{name}.png", optimize=True)


def walk(browser: Browser, address: str) -> None:
    """Each panel as docs/explore.md tells it."""
    browser.screen(motion="reduce")
    browser.open(address, "convolution")
    browser.choose("Padding", "1")
    browser.says("= 9")
    browser.focus(browser.one('[data-grid="output-0"]'))
    browser.press(*["\ue015"] * 2, *["\ue014"] * 2)
    browser.says("Row 2, column 2")
    keep(browser, "convolution", 1180)
    browser.open(address, "digits")
    browser.click(browser.named("dark on light"))
    browser.draw(browser.one(".pad"), *[(x * 0.62 - 40, y * 0.62 - 30) for x, y in THREE])
    browser.says("Which pixels counted")
    keep(browser, "digits", 1260)
    browser.open(address, "runs")
    browser.says("test images right")
    keep(browser, "runs", 1360)
    browser.screen(scheme="dark")
    browser.open(address, "bits")
    browser.click(browser.named("Add in another order", "button"))
    browser.says("After 100 steps", seconds=300)
    keep(browser, "bits", 1190)
    browser.screen()
    browser.open(address, "shapes")
    browser.says("61,706", "tfoot")
    keep(browser, "shapes", 900)
    browser.screen(390, 844)
    browser.open(address, "convolution", "ko")
    browser.one(".total")
    keep(browser, "phone", 844, 390)


def main() -> None:
    """Take all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "lenet5-digits"
        train(run)
        with Listening([run], Path(place) / "new") as server:
            browser = Browser()
            try:
                walk(browser, server.address)
            finally:
                browser.close()


if __name__ == "__main__":
    main()
