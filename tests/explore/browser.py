"""A headless Chromium, the distribution's own with its own driver: nothing is downloaded."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1280,900"
)


def why_not() -> str | None:
    """Why no test can use a browser here; None if one is there."""
    try:
        import selenium  # noqa: F401 - whether it is there
    except ModuleNotFoundError:
        return "selenium is not installed"
    missing = [str(file) for file in (CHROMIUM, DRIVER) if not file.exists()]
    return f"{' and '.join(missing)} not installed (Debian: chromium, chromium-driver)" if missing else None


class Browser:
    """What a person does: looks for words, clicks, types, draws. `select` is by CSS."""

    def __init__(self):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        for flag in [*FLAGS.split(), f"--user-data-dir={self._profile.name}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))

    def close(self) -> None:
        self.driver.quit()
        self._profile.cleanup()

    def screen(
        self, width: int = 1280, height: int = 900, scheme: str = "light", motion: str = "no-preference"
    ) -> None:
        """The window's size, and what the system asks pages for."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, address: str, panel: str, language: str = "en", theme: str = "auto") -> None:
        """The panel, as if for the first time."""
        self.driver.get(address)
        self.js(
            f"localStorage.setItem('gpucnn-language', '{language}'); localStorage.setItem('gpucnn-theme', '{theme}')"
        )
        self.driver.get("about:blank")
        self.driver.get(f"{address}#{panel}")
        self.until(lambda: self.all("main h1"))

    def js(self, code: str, *arguments):
        return self.driver.execute_script(code, *arguments)

    def all(self, select: str) -> list:
        return self.driver.find_elements("css selector", select)

    def one(self, select: str):
        """The first such element, once it is there."""
        self.until(lambda: self.all(select), select)
        return self.all(select)[0]

    def named(self, words: str, tag: str = "*"):
        """The element with these words, once it is there."""
        path = f"//main//{tag}[normalize-space()={words!r}]"
        self.until(lambda: self.driver.find_elements("xpath", path), words)
        return self.driver.find_elements("xpath", path)[0]

    def text(self, select: str = "main") -> str:
        found = self.all(select)
        return self.js("return arguments[0].textContent", found[0]) if found else ""

    def until(self, true: Callable, what: str = "", seconds: float = 180) -> None:
        from selenium.common.exceptions import StaleElementReferenceException

        deadline = time.monotonic() + seconds
        while True:
            try:
                if true():
                    return
            except StaleElementReferenceException:
                pass  # it was drawn anew meanwhile
            assert time.monotonic() < deadline, (
                f"waited in vain for {what or true}; the page says: {self.text()[:1500]}"
            )
            time.sleep(0.03)

    def says(self, words: str, select: str = "main", seconds: float = 180) -> None:
        self.until(lambda: words in self.text(select), words, seconds)

    def choose(self, label: str, value: str) -> None:
        """The field with this label set to a value, as if typed and left."""
        path = f"//main//label[span[normalize-space()={label!r}]]/*[self::input or self::select]"
        self.until(lambda: self.driver.find_elements("xpath", path), label)
        field = self.driver.find_elements("xpath", path)[0]
        self.js(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change', {bubbles: true}))",
            field,
            value,
        )

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focus(self, element) -> None:
        self.js("arguments[0].focus()", element)

    def click(self, element) -> None:
        """A click in the middle of the element, scrolled away from the page's head first."""
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def draw(self, element, *points: tuple[int, int]) -> None:
        """A stroke with the mouse, offsets from the element's middle."""
        from selenium.webdriver.common.action_chains import ActionChains

        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        actions = (
            ActionChains(self.driver, duration=10).move_to_element_with_offset(element, *points[0]).click_and_hold()
        )
        for point in points[1:]:
            actions.move_to_element_with_offset(element, *point)
        actions.release().perform()

    def complaints(self) -> list[str]:
        """What the console holds since the last call: errors, warnings, refused loads."""
        return [entry["message"] for entry in self.driver.get_log("browser")]
