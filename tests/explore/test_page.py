"""Every panel used as a person would, by mouse and by keyboard, in a real browser; its console stays empty."""

import json
import re
import shutil
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gpucnn.data import load
from gpucnn.explore.body import MOST_BYTES
from gpucnn.models import lenet5, mlp, vgg_small
from gpucnn.training import Trainer
from tests.explore.browser import Browser, why_not
from tests.explore.conftest import Listening

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no browser: {why_not()}")

PANELS = ("convolution", "digits", "runs", "bits", "shapes")
RIGHT, DOWN, UP, LEFT = "\ue014", "\ue015", "\ue013", "\ue012"  # arrow keys, as WebDriver has them
ENTER, DELETE = "\ue007", "\ue017"
MINUS = "\N{MINUS SIGN}"
READY = {"convolution": ".total", "digits": ".pad", "runs": ".confusion", "bits": "button.primary", "shapes": "tfoot"}


@pytest.fixture(scope="module")
def started():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(started):
    started.screen()
    started.complaints()
    yield started
    assert started.complaints() == []
    assert re.findall(r"undefined|NaN|\bfalse|\bnull|\[object", started.text()) == []


# ---- convolution by hand ---------------------------------------------------------------------------------------------


def cell(browser, grid: str, row: int, column: int):
    rows = browser.all(f'[data-grid="{grid}"] .row')
    return rows[row].find_elements("css selector", ".cell")[column]


def outputs(browser) -> list[list[str]]:
    browser.one('[data-grid="output-0"]')
    return browser.js(
        "return [...document.querySelectorAll('[data-grid=\"output-0\"] .row')]"
        ".map((row) => [...row.children].map((cell) => cell.textContent))"
    )


def rule(size: int, padding: int, extent: int, stride: int, output: int) -> str:
    """The size rule as the page writes it."""
    return f"⌊({size} + {padding} + {padding} {MINUS} {extent}) / {stride}⌋ + 1 = {output}"


def test_convolution_by_mouse(browser, listening):
    browser.open(listening.address, "convolution")
    table = outputs(browser)
    assert len(table) == len(table[0]) == 7
    assert [table[i][i] for i in (1, 2, 4, 5)] == ["9"] * 4  # as on the tour: all nine agree
    browser.click(cell(browser, "output-0", 2, 2))
    browser.says("Row 2, column 2 of the output: 9")
    assert browser.text(".total b") == "9"
    browser.click(cell(browser, "input-0", 1, 7))  # the window's middle goes there
    browser.says("Row 0, column 6 of the output: 3")
    browser.click(browser.named("Blur", "button"))
    browser.until(lambda: outputs(browser)[0][0] == f"{MINUS}0.38", "a blurred corner")
    browser.choose("Stride", "2")
    browser.until(lambda: len(outputs(browser)) == 4, "a smaller output")
    browser.says(rule(9, 0, 3, 2, 4))
    browser.choose("Padding", "1")
    browser.says(rule(9, 1, 3, 2, 5))


def test_convolution_by_keyboard(browser, listening):
    browser.open(listening.address, "convolution")
    browser.focus(browser.one('[data-grid="output-0"]'))
    browser.press(RIGHT, RIGHT, DOWN)
    browser.says("Row 1, column 2 of the output")
    browser.focus(browser.one('[data-grid="input-0"]'))
    browser.press(LEFT, UP)
    browser.says("Row 0, column 1 of the output")
    browser.focus(browser.one("#play"))
    browser.press(ENTER)
    browser.says("Row 1, column 0 of the output")  # it went on by itself
    browser.says("Pause")


def test_an_image_is_drawn_by_mouse_and_by_keyboard(browser, listening):
    browser.open(listening.address, "convolution")
    browser.click(browser.named("Empty", "button"))
    browser.until(lambda: {text for row in outputs(browser) for text in row} == {"0"}, "an empty output")
    browser.click(browser.named("draws"))
    browser.click(cell(browser, "input-0", 3, 3))
    browser.until(lambda: outputs(browser)[2][2] == "1", "the filter's middle")
    browser.focus(browser.one('[data-grid="input-0"]'))
    browser.press(RIGHT, RIGHT, " ")
    browser.until(lambda: outputs(browser)[2][4] == "1", "a second pixel")
    browser.press(" ")
    browser.until(lambda: outputs(browser)[2][4] == "0", "the second pixel erased")


def test_an_image_that_comes_late_takes_nobodys_place(browser, listening, monkeypatch):
    """The digit takes a second the first time."""
    momentary = listening.server.explorer.momentary
    digit = momentary["digit"]
    monkeypatch.setitem(momentary, "digit", lambda body: (time.sleep(0.5), digit(body))[1])
    browser.open(listening.address, "convolution")
    browser.one('[data-grid="input-0"]')
    browser.click(browser.named("Digit", "button"))
    browser.click(browser.named("Edge", "button"))
    asked = "return performance.getEntriesByType('resource').some((one) => one.name.endsWith('api/digit'))"
    browser.until(lambda: browser.js(asked), "the digit")
    time.sleep(0.5)
    assert len(browser.all('[data-grid="input-0"] .row')) == 9  # it has 8
    assert browser.text('.chip[aria-pressed="true"]') == "Edge"


def test_what_does_not_fit_is_told(browser, listening):
    browser.open(listening.address, "convolution")
    browser.choose("Stride", "4")
    browser.click(browser.named("Refuse a stride that leaves pixels over"))
    browser.says("stride 4 does not divide 6", ".refusal")
    browser.says("would fit", ".refusal")
    browser.click(browser.one("#language"))
    browser.says("스트라이드 4", ".refusal")
    assert browser.js("return document.querySelector('.refusal p').lang") == "ko"
    browser.click(browser.one("#language"))
    browser.says("stride 4 does not divide 6", ".refusal")
    browser.choose("Stride", "3")
    browser.until(lambda: not browser.all(".refusal"), "the refusal gone")
    browser.says(rule(9, 0, 3, 3, 3))


def test_channels_flipping_modes_and_pooling(browser, listening):
    browser.open(listening.address, "convolution")
    browser.click(browser.named("Colours", "button"))
    browser.until(lambda: len(browser.all('[data-grid^="input-"]')) == 3, "three channels")
    assert len(browser.all(".editor")) == 3
    browser.click(browser.named("Corner 2\N{MULTIPLICATION SIGN}2", "button"))
    browser.until(lambda: browser.text('[data-grid="filter-0"]') == "1110", "the corner")
    browser.click(browser.named("Flip the filter (true convolution)"))
    browser.until(lambda: browser.text('[data-grid="filter-0"]') == "0111", "the corner turned round")
    browser.choose("Padding", "1")
    browser.choose("What lies outside", "circular")
    browser.says(rule(8, 1, 2, 1, 9))
    browser.click(browser.named("Max pooling"))
    browser.until(lambda: len(browser.all('[data-grid^="output-"]')) == 3, "three pooled maps")
    browser.says("largest of 1")
    assert browser.all(".cell.winner")
    browser.click(browser.named("Average pooling"))
    browser.says("mean of 4")


def test_what_lies_outside_takes_no_part_in_a_maximum(browser, listening):
    """It has no number there: a 0 beside pixels of -1 would be the largest."""
    browser.open(listening.address, "convolution")
    browser.click(browser.named("Max pooling"))
    browser.says("largest of 4")
    browser.choose("Padding", "1")
    browser.says("largest of 1", ".total")
    assert [cell(browser, "input-0", 0, 0).text, cell(browser, "input-0", 1, 1).text] == ["", f"{MINUS}1"]
    browser.says(f"Row 0, column 0 of the output: {MINUS}1")
    browser.click(browser.named("Average pooling"))
    browser.says("mean of 4", ".total")
    assert cell(browser, "input-0", 0, 0).text == "0"


def test_a_weight_is_typed_and_a_picture_is_uploaded(browser, listening, tmp_path):
    browser.open(listening.address, "convolution")
    outputs(browser)
    field = browser.one(".editor input")
    browser.js("arguments[0].select()", field)
    field.send_keys("5\t")
    browser.until(lambda: browser.text('[data-grid="filter-0"]').startswith("5"), "the typed weight")
    file = BytesIO()
    Image.new("L", (30, 20), 255).save(file, "PNG")
    (tmp_path / "white.png").write_bytes(file.getvalue())
    browser.one("input[type=file]").send_keys(str(tmp_path / "white.png"))
    shade = "[...document.querySelectorAll('[data-grid=\"input-0\"] .cell')].map((c) => c.style.backgroundColor)"
    browser.until(lambda: browser.js(f"return {shade}") == ["rgb(250, 250, 250)"] * 144, "12 by 12 white pixels")
    (tmp_path / "broken.png").write_bytes(file.getvalue()[:40])
    browser.one("input[type=file]").send_keys(str(tmp_path / "broken.png"))
    browser.says("cannot read the uploaded file", ".refusal")
    # A phone's photo, of 24 million pixels and as many bytes as grain makes.
    grain = np.random.default_rng(0).integers(0, 256, (4284, 5712), np.uint8)
    grain[2000:] //= 4
    Image.fromarray(grain).save(tmp_path / "photo.jpg", quality=50)
    assert (tmp_path / "photo.jpg").stat().st_size > 5e6
    browser.one("input[type=file]").send_keys(str(tmp_path / "photo.jpg"))
    browser.until(lambda: browser.js(f"return new Set({shade}).size") > 1 and not browser.all(".refusal"), "the photo")
    (tmp_path / "film.png").write_bytes(bytes(MOST_BYTES + 1))
    browser.one("input[type=file]").send_keys(str(tmp_path / "film.png"))
    browser.says("the file has more than 32 MiB", ".refusal")
    (tmp_path / "film.png").write_bytes(b"no picture")
    browser.one("input[type=file]").send_keys(str(tmp_path / "film.png"))
    browser.says("does not begin as one", ".refusal")
    assert len(browser.all(".refusal")) == 1 and browser.one("input[type=file]").get_attribute("value") == ""
    assert "413" in browser.complaints().pop()


# ---- draw a digit ----------------------------------------------------------------------------------------------------


def test_a_digit_is_drawn_by_mouse(browser, listening):
    browser.open(listening.address, "digits")
    browser.says("Nothing drawn yet")
    pad = browser.one(".pad")
    browser.draw(pad, (0, -90), (0, -30), (0, 30), (0, 90))
    browser.until(lambda: len(browser.all("button.bar")) == 10, "ten bars")
    browser.says("1", ".verdict b")
    for words in ("How your drawing was prepared", "Which pixels counted for “1”", "2 · Conv2d + ReLU", "120 values"):
        browser.says(words)
    browser.click(browser.one("button.bar:nth-child(8)"))
    browser.says("Which pixels counted for “7”")
    browser.click(browser.named("dark on light"))
    browser.says("dark on light: turned round")
    browser.click(browser.named("Clear", "button"))
    browser.says("Nothing drawn yet")
    browser.click(browser.named("A real one", "button"))
    browser.until(lambda: len(browser.all("button.bar")) == 10, "ten bars")


def test_two_fingers_draw_two_strokes_and_a_menu_none(browser, listening):
    from selenium.webdriver.common.action_chains import ActionChains

    def ink(x: int, y: int) -> int:
        code = "return document.querySelector('.pad').getContext('2d').getImageData(arguments[0], arguments[1], 1, 1)"
        return browser.js(f"{code}.data[0]", x, y)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    browser.open(listening.address, "digits")
    box = browser.js("return document.querySelector('.pad').getBoundingClientRect()", browser.one(".pad"))
    left, right = box["left"] + box["width"] / 4, box["left"] + box["width"] * 3 / 4
    top = box["top"] + 60
    touch("touchStart", (left, top))
    touch("touchStart", (left, top), (right, top))
    for down in (20, 40, 60):
        touch("touchMove", (left, top + down), (right, top + down))
    touch("touchEnd")
    browser.until(lambda: len(browser.all("button.bar")) == 10, "ten bars")
    assert (ink(70, 100), ink(210, 100), ink(140, 100)) == (255, 255, 0)
    browser.click(browser.named("Clear", "button"))
    ActionChains(browser.driver).context_click(browser.one(".pad")).perform()
    assert ink(140, 140) == 0


def test_a_digit_is_drawn_by_keyboard(browser, listening):
    browser.open(listening.address, "digits")
    browser.focus(browser.one(".pad"))
    browser.press(*[UP] * 9, " ", *[DOWN] * 18, " ")
    browser.until(lambda: len(browser.all("button.bar")) == 10, "ten bars")
    browser.says("1", ".verdict b")
    browser.focus(browser.one("button.bar:nth-child(5)"))
    browser.press(ENTER)
    browser.says("Which pixels counted for “4”")
    browser.focus(browser.one(".pad"))
    browser.press(DELETE)
    browser.says("Nothing drawn yet")


def test_undo_and_a_real_one_lift_the_pen(browser, listening):
    """Arrow keys went on with the stroke before, or with none."""
    asked = "return performance.getEntriesByType('resource').some((one) => one.name.endsWith('api/example'))"
    browser.open(listening.address, "digits")
    for name in ("Undo", "A real one"):
        browser.focus(browser.one(".pad"))
        browser.press(" ", *[DOWN] * 3)
        browser.until(lambda: len(browser.all("button.bar")) == 10, "ten bars")
        browser.click(browser.named(name, "button"))
        browser.until(lambda name=name: browser.js(asked) if name == "A real one" else not browser.all("button.bar"))
        browser.focus(browser.one(".pad"))
        browser.press(LEFT, LEFT)  # an error would be a complaint


def test_a_class_that_another_network_lacks(browser, run, wide, tmp_path):
    with Listening([run, wide], tmp_path) as server:
        browser.open(server.address, "digits")
        browser.click(browser.named("A real one", "button"))
        browser.click(browser.one("button.bar:nth-child(10)"))
        browser.says("Which pixels counted for “9”")
        browser.choose("Network", "1")
        browser.until(lambda: len(browser.all("button.bar")) == 3, "the three classes of the other network")
        browser.driver.get("about:blank")  # before its server ends


def test_a_real_one_keeps_its_proportions_and_its_refusal_is_told(browser, wide, tmp_path):
    for name, data in (("wide", None), ("nowhere", str(tmp_path / "nowhere.npz"))):
        shutil.copytree(wide, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["train"]["data"] = data or config["train"]["data"]
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    with Listening([tmp_path / "wide", tmp_path / "nowhere"], tmp_path / "new") as server:
        browser.open(server.address, "digits")
        browser.click(browser.named("A real one", "button"))
        browser.says("box 42\N{MULTIPLICATION SIGN}14", ".step:nth-child(2)")  # 6x2 pixels, each of 140 / 20
        browser.choose("Network", "1")
        browser.says("nowhere.npz", ".refusal")
        browser.click(browser.named("Clear", "button"))
        browser.until(lambda: not browser.all(".refusal"), "an empty pad")
        browser.click(browser.named("A real one", "button"))
        browser.says("nowhere.npz", ".refusal")
        browser.driver.get("about:blank")  # before its server ends


@pytest.mark.slow
def test_without_a_run_one_is_trained_and_its_curves_grow(browser, tmp_path):
    with Listening([], tmp_path) as server:
        browser.open(server.address, "digits")
        browser.says("No trained network yet")
        browser.click(browser.named("Train a network", "button"))
        browser.says("Epoch ", seconds=300)
        browser.until(lambda: browser.all(".learn .chart polyline"), "curves", 300)
        browser.until(lambda: browser.all(".pad"), "the pad", 300)
        browser.open(server.address, "runs")
        browser.says("30 / 30")
        browser.says("After epoch 30")
        browser.driver.get("about:blank")  # before its server ends


# ---- watch a run -----------------------------------------------------------------------------------------------------


def test_a_run_is_watched(browser, listening):
    browser.open(listening.address, "runs")
    browser.says("four-epochs")
    browser.says("4 / 4")
    browser.until(lambda: len(browser.all(".chart polyline")) == 6, "curves of training and validation, rates, speeds")
    browser.says("of 359 test images right")
    assert len(browser.all(".confusion tbody tr")) == 10
    browser.says("After epoch 4")
    before = browser.js("return document.querySelector('.filtermaps canvas').toDataURL()")
    browser.focus(browser.one("#epoch"))
    browser.press(LEFT, LEFT)
    browser.says("After epoch 2")
    browser.until(
        lambda: browser.js("return document.querySelector('.filtermaps canvas').toDataURL()") != before, "other filters"
    )
    browser.one("#sample")
    # Found and changed in one go: the filters of the epoch may still be on their way and draw it anew.
    browser.js("const s = document.querySelector('#sample'); s.value = '7'; s.dispatchEvent(new Event('change'))")
    browser.says("It is a")
    browser.focus(browser.one(".chart svg"))
    browser.press(LEFT)
    browser.says("epoch 3", ".readout")
    browser.click(browser.one("#show-0"))
    browser.says("Tick a run to see its curves")


def test_several_runs_side_by_side(browser, run, copied, tmp_path):
    with Listening([run, copied], tmp_path / "new") as server:
        browser.open(server.address, "runs")
        browser.says("copied")
        browser.click(browser.one("#show-1"))
        browser.until(lambda: len(browser.all(".chart polyline")) == 12, "the curves of both")
        browser.says("copied validation", ".readout")
        browser.click(browser.one("#run-1"))
        browser.until(lambda: browser.all('#run-1[aria-pressed="true"]'), "the second in focus")
        browser.driver.get("about:blank")  # before its server ends


def test_a_run_of_many_classes_and_few_images_after_another(browser, run, tmp_path):
    """Nothing of the run looked at before stays: not the number of its test image, not its confusion."""
    rng = np.random.default_rng(0)
    file, labels = tmp_path / "many.npz", np.arange(600) % 120
    np.savez(file, images=rng.random((600, 4, 4), np.float32), labels=labels)
    train, _ = load(file)
    trainer = Trainer(
        mlp((1, 4, 4), classes=120, hidden=[8]), run=tmp_path / "many", about={"train": {"data": str(file)}}
    )
    trainer.fit(train.images, train.labels, epochs=1)
    with Listening([run, tmp_path / "many"], tmp_path / "new") as server:
        browser.open(server.address, "runs")
        browser.says("of 359 test images right")
        browser.one("#sample")
        browser.js("const s = document.querySelector('#sample'); s.value = '300'; s.dispatchEvent(new Event('change'))")
        browser.until(lambda: browser.one("#sample").get_attribute("value") == "300", "image 300")
        browser.click(browser.one("#run-1"))
        assert "of 359 test images right" not in browser.text()
        browser.says("of 120 test images right")
        browser.says("120 classes are too many for a table; gpucnn show confusion draws them.")
        browser.until(lambda: browser.one("#sample").get_attribute("value") == "0", "image 0")
        browser.driver.get("about:blank")  # before its server ends


def test_another_run_in_the_same_folder(browser, copied, tmp_path):
    """With as many epochs: its confusion takes the place of the first one's, and nothing stays of one that is gone."""
    train, _ = load("digits")
    trainer = Trainer(lenet5(), run=tmp_path / "other", about={"train": {"data": "digits"}}, progress=False)
    trainer.fit(train.images[:64], train.labels[:64], epochs=4)
    with Listening([copied], tmp_path / "new") as server:
        browser.open(server.address, "runs")
        browser.says("of 359 test images right")
        before = browser.text(".columns")
        shutil.move(copied, tmp_path / "first")
        shutil.move(tmp_path / "other", copied)
        browser.until(lambda: "of 359" in browser.text(".columns") != before, "the confusion of the other", 20)
        shutil.rmtree(copied)
        browser.says("No epoch is kept in this folder.", seconds=20)
        browser.says("stopped", "tbody")
        assert "of 359" not in browser.text()
        browser.driver.get("about:blank")  # before its server ends


def test_a_loss_below_0_is_drawn_within_its_picture(browser, listening):
    browser.open(listening.address, "runs")
    code = """
    return import("./pictures.js").then(({ chart }) => arguments[0].map((losses) =>
      chart("", [{ name: "", points: losses.map((y, x) => [x, y]) }], { low: 0 }).querySelector("polyline")
        .getAttribute("points").split(" ").map((point) => Number(point.split(",")[1]))))
    """
    for first, last in browser.js(code, [[2, 1], [1, -2], [-1, -3]]):
        assert 0 <= first < last <= 190  # downwards


def test_long_names_of_classes(browser, tmp_path):
    """Nothing is wider than a phone's screen, and the bars of all classes have one scale. So it is with a run's name,
    and a name from right to left turns no number round."""
    names = ["n02085620-" + "Chihuahua_" * 4, *(f"n{i}" for i in range(9))]
    train, _ = load("digits")
    model = mlp((1, 32, 32), hidden=[4])
    model.class_names = names
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(train.images[:200], train.labels)):
        Image.fromarray(np.uint8(255 * image[0])).save(tmp_path / "data" / names[label] / f"{i}.png")
    folder = tmp_path / ("run-" * 60)
    trainer = Trainer(model, run=folder, about={"train": {"data": str(tmp_path / "data")}})
    trainer.fit(train.images[:200], train.labels[:200], epochs=1)
    browser.screen(1000, 844)
    with Listening([folder], tmp_path / "new") as server:
        browser.open(server.address, "runs")
        browser.says("Chihuahua_", ".mistakes")
        assert "finished" in browser.one(".badge").text
        assert browser.js("return document.querySelector('.badge').getBoundingClientRect().right") < 1000
        browser.screen(390, 844)
        code = 'return import("./strings.js").then(({ t }) => t("runs.says", { what: arguments[0], chance: "5%" }))'
        assert browser.js(code, "one") == "says one: 5%"
        assert browser.js(code, "\N{HEBREW LETTER ALEF}") == "says \u2068\N{HEBREW LETTER ALEF}\u2069: 5%"
        assert browser.js("return document.documentElement.scrollWidth") <= 390
        browser.open(server.address, "digits")
        browser.click(browser.named("A real one", "button"))
        browser.says("Chihuahua_", ".bars")
        assert browser.js("return document.documentElement.scrollWidth") <= 390
        lines = "return [...document.querySelectorAll('.track')].map((e) => e.getBoundingClientRect())"
        assert len(browser.all(".track")) == 10
        assert len({(round(line["left"]), round(line["width"])) for line in browser.js(lines)}) == 1
        browser.driver.get("about:blank")  # before its server ends


def test_filters_of_colours_and_more_maps_than_are_drawn(browser, tmp_path):
    """Each channel of a filter has a picture; how far the colours reach, and what is left out, is said."""
    images, labels = np.random.default_rng(0).random((40, 3, 32, 32), np.float32), np.arange(40) % 2
    np.savez(tmp_path / "colours.npz", images=images, labels=labels)
    about = {"train": {"data": str(tmp_path / "colours.npz")}}
    trainer = Trainer(vgg_small((3, 32, 32), 2), run=tmp_path / "run", about=about, backend="numba", progress=False)
    trainer.fit(images, labels, epochs=1)
    weights = trainer.model.state_dict()["0.weight"]
    with Listening([tmp_path / "run"], tmp_path / "new") as server:
        browser.open(server.address, "runs")
        browser.says("Each one from top to bottom")
        reds = browser.js(
            "return [...document.querySelectorAll('.filtermaps canvas')].map((one) =>"
            " one.getContext('2d').getImageData(0, 0, 3, 3).data.filter((_, i) => i % 4 === 0).map(Number))"
        )
        browser.complaints()  # that pixels were read
        far = np.abs(weights).max()
        signed = np.where(weights < 0, 247 + weights / far * (247 - 33), 247 - weights / far * (247 - 214))
        found = [list(one.values()) if isinstance(one, dict) else one for one in reds]
        assert np.array(found).reshape(weights.shape) == pytest.approx(signed, abs=3)
        low, high = (f"{value:.2f}".rstrip("0").replace("-", MINUS) for value in (weights.min(), weights.max()))
        browser.says(f"from {low} to {high} · Each", ".filters")
        browser.says("the first 32", ".layers")
        browser.driver.get("about:blank")  # before its server ends


def test_images_of_many_channels_and_of_values_up_to_255(browser, listening):
    """The first by their mean, the others as colours of what they mean: not by one channel, not all white, and not
    black where they are below 0."""
    browser.open(listening.address, "runs")
    code = """
    return import("./pictures.js").then(({ picture }) => arguments[0].map(([shape, values]) =>
      [...picture(Object.assign(Float32Array.from(values), { shape }), "")
        .getContext("2d").getImageData(0, 0, 2, 1).data]))
    """
    normal, bands, colours, grey = browser.js(
        code,
        [
            [[3, 1, 2], [-1, 1, 0, -1, -1, 0]],
            [[4, 1, 2], [1, 0, 0, 1, 0, 1, 0, 1]],
            [[3, 1, 2], [255, 0, 51, 0, 0, 102]],
            [[1, 1, 2], [0, 1]],
        ],
    )
    assert colours == [255, 51, 0, 255, 0, 0, 102, 255]
    assert normal == pytest.approx([0, 127, 0, 255, 255, 0, 127, 255], abs=1)
    assert 0 < bands[0] < bands[4] < 255 and grey[0] < bands[0] and bands[4] < grey[4]
    browser.complaints()  # that pixels were read twice, which no page does


# ---- same bits -------------------------------------------------------------------------------------------------------


def test_bits_are_compared_and_a_rule_is_broken(browser, listening):
    browser.open(listening.address, "bits")
    browser.focus(browser.named("Train on every backend", "button"))
    browser.press(ENTER)
    browser.says("All 6,720 bits of 210 weights are equal", seconds=180)
    assert len(browser.all(".bitstable tbody tr")) == 24
    browser.click(browser.named("Show all 210", "button"))
    assert len(browser.all(".bitstable tbody tr")) == 210
    assert not browser.all("tr.differs")
    browser.click(browser.named("Add in another order", "button"))
    browser.says("First difference: step", seconds=180)
    assert browser.all(".flip")
    browser.says("After 100 steps")
    assert len(browser.all(".chart polyline")) == 2


# ---- shapes ----------------------------------------------------------------------------------------------------------


def test_a_network_is_built_by_mouse(browser, listening):
    browser.open(listening.address, "shapes")
    browser.says("61,706", "tfoot")
    browser.click(browser.named("Depthwise", "button"))
    browser.says("groups=16", "pre")
    browser.click(browser.named("Empty", "button"))
    browser.says("No layers yet")
    browser.click(browser.one("#add option[value='Flatten']"))
    browser.click(browser.named("Add layer", "button"))
    browser.click(browser.one("#add option[value='Dense']"))
    browser.click(browser.named("Add layer", "button"))
    browser.says("7,850", "tfoot")  # 784 * 10 + 10
    browser.says("Dense(10)", "pre")
    browser.click(browser.one("[aria-label='Remove layer 0']"))
    browser.says("put Flatten() before it", ".refusal")
    assert browser.all(".item.wrong")


def test_a_network_is_built_by_keyboard(browser, listening):
    browser.open(listening.address, "shapes")
    browser.says("61,706", "tfoot")
    browser.focus(browser.one("[aria-label='Move layer 1 up']"))
    browser.press(ENTER)
    browser.until(lambda: browser.text("tbody tr:first-child").startswith("0MaxPool2d"), "the pooling first")
    assert browser.js("return document.activeElement.id") == "layer-0"  # the focus went with it
    field = browser.one("#layer-1 input")
    browser.focus(field)
    browser.js("arguments[0].select()", field)
    browser.press("9\t")
    browser.says("Conv2d(9, 5", "pre")


# ---- the frame -------------------------------------------------------------------------------------------------------


def test_tabs_by_keyboard(browser, listening):
    browser.open(listening.address, "convolution")
    browser.focus(browser.one("#tab-convolution"))
    for panel in (*PANELS[1:], PANELS[0]):
        browser.press(RIGHT)
        browser.until(lambda panel=panel: browser.all(f".panel.{panel}"), panel)
        assert browser.js("return document.activeElement.id") == f"tab-{panel}"
        assert browser.js("return document.querySelectorAll('[aria-selected=true]').length") == 1


def test_the_panel_is_skipped_to_and_stays(browser, listening):
    browser.open(listening.address, "shapes")
    browser.says("61,706", "tfoot")
    browser.focus(browser.one(".skip"))
    browser.press(ENTER)
    assert browser.js("return [document.activeElement.id, location.hash]") == ["panel", "#shapes"]
    assert browser.text("h1") == "Shapes"


def test_the_language_is_changed_and_kept(browser, listening):
    browser.open(listening.address, "shapes")
    browser.click(browser.one("#language"))
    browser.says("형태", "h1")
    assert browser.js("return document.documentElement.lang") == "ko"
    browser.driver.refresh()
    browser.says("형태", "h1")
    browser.click(browser.one("#language"))
    browser.says("Shapes", "h1")


def test_light_and_dark(browser, listening):
    def ground() -> str:
        return browser.js("return getComputedStyle(document.body).backgroundColor")

    browser.open(listening.address, "bits")
    light = ground()
    browser.screen(scheme="dark")
    browser.until(lambda: ground() != light, "dark, as the system has it")
    browser.click(browser.one("#theme"))
    assert ground() == light
    browser.screen(scheme="light")
    browser.click(browser.one("#theme"))
    assert ground() != light


CONTRAST = """
const channel = (v) => (v /= 255, v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const rgba = (text) => (canvas.clearRect(0, 0, 1, 1), canvas.fillStyle = text, canvas.fillRect(0, 0, 1, 1),
  [...canvas.getImageData(0, 0, 1, 1).data]);
const bad = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility({ checkOpacity: true })) continue;
  if (element.closest("[disabled], noscript, .skip, .confusion .none, .outside")) continue;
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
  let ground = [255, 255, 255];
  for (const [r, g, b, a] of layers.reverse()) ground = ground.map((v, i) => v + ([r, g, b][i] - v) * (a / 255));
  const style = getComputedStyle(element);
  const ink = rgba(element instanceof SVGElement ? style.fill : style.color);
  const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 90)}`);
}
return bad;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.slow
def test_words_can_be_read(browser, listening, panel, scheme):
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3), and a name for all that can be used (4.1.2)."""
    browser.screen(scheme=scheme)
    browser.open(listening.address, panel)
    ready = {
        "convolution": ".total",
        "digits": ".pad",
        "runs": ".confusion",
        "bits": "button.primary",
        "shapes": "tfoot",
    }
    browser.one(ready[panel])
    if panel == "digits":
        browser.click(browser.named("A real one", "button"))
        browser.one("button.bar")
    assert browser.js(CONTRAST) == []
    tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    usable = {
        "button",
        "checkbox",
        "combobox",
        "radio",
        "slider",
        "spinbutton",
        "tab",
        "textbox",
        "grid",
        "application",
    }
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored") and node["role"]["value"] in usable and not node.get("name", {}).get("value")
    ]
    assert nameless == []


def test_a_network_fits_into_320_pixels(browser, listening):
    """Which is what 1,280 are at four times their size (WCAG 2.2, 1.4.10)."""
    browser.screen(320, 600)
    browser.open(listening.address, "shapes")
    browser.one("tfoot")
    assert browser.js("return document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.slow
def test_a_phone_shows_all_without_scrolling_sideways(browser, listening, panel, language):
    browser.screen(390, 844)
    browser.open(listening.address, panel, language)
    ready = {
        "convolution": ".total",
        "digits": ".pad",
        "runs": ".confusion",
        "bits": "button.primary",
        "shapes": "tfoot",
    }
    browser.one(ready[panel])
    assert browser.js("return document.documentElement.scrollWidth") <= 390
    small = browser.js(
        "return [...document.querySelectorAll('main button, header button')].filter((b) => b.checkVisibility())"
        ".map((b) => [b.textContent, b.getBoundingClientRect()]).filter(([, r]) => r.height < 24 || r.width < 24)"
        ".map(([words]) => words)"
    )
    assert small == []  # targets of 24 pixels at least (WCAG 2.2, 2.5.8)


def test_colours_that_say_something_stay(browser, listening):
    """On paper, which browsers print without backgrounds, and with the system's forced colours."""

    def look(select: str, name: str = "backgroundColor") -> str:
        browser.one(select)
        return browser.js("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", select, name)

    browser.open(listening.address, "convolution")
    dark = look('[data-grid="input-0"] .cell')
    forced = {"features": [{"name": "forced-colors", "value": "active"}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", forced)
    assert look('[data-grid="input-0"] .cell') == dark != look(".card")
    for other, chosen in (
        (".chip[aria-pressed=false]", ".chip[aria-pressed=true]"),
        (".segmented input:not(:checked) + span", ".segmented input:checked + span"),
    ):
        assert look(other) != look(chosen)
    assert look("#tab-bits", "borderBottomColor") != look("#tab-convolution", "borderBottomColor")
    browser.click(browser.one("#tab-digits"))
    browser.click(browser.named("A real one", "button"))
    for select in (".track i", ".track i.plain", ".key"):
        assert look(select) != look(".card")
        assert look(select, "printColorAdjust") == "exact"
    assert look(".bar.chosen", "outlineStyle") == "solid"


def test_a_phone_that_is_turned(browser, listening):
    browser.screen(640, 360)
    browser.open(listening.address, "convolution")
    browser.choose("Width", "16")
    browser.says(rule(16, 0, 3, 1, 14))
    wide = "return document.querySelector('[data-grid=\"output-0\"]').getBoundingClientRect().right"
    browser.screen(320, 640)
    browser.until(lambda: browser.js(wide) <= 320, "an output as wide as the screen", 10)


def test_nothing_moves_where_motion_is_unwanted(browser, listening):
    browser.screen(motion="reduce")
    browser.open(listening.address, "convolution")
    browser.one(".frame")
    assert browser.js("return getComputedStyle(document.querySelector('.frame')).transitionDuration") == "0s"


def test_a_server_that_has_ended_is_told(browser, run, tmp_path):
    with Listening([run], tmp_path) as server:
        browser.open(server.address, "convolution")
        browser.one('[data-grid="output-0"]')
    browser.choose("Stride", "2")
    browser.says("The server does not answer", "#lost")
    assert all("ERR_CONNECTION_REFUSED" in line for line in browser.complaints())


def test_same_bits_does_not_wait_for_a_server_that_has_ended(browser, run, tmp_path):
    with Listening([run], tmp_path) as server:
        browser.open(server.address, "bits")
        compare = browser.named("Train on every backend", "button")
    browser.click(compare)
    browser.says("The server does not answer", "#lost")
    browser.until(lambda: not browser.all(".busy"), "an end of the waiting", 10)
    assert all("ERR_CONNECTION_REFUSED" in line for line in browser.complaints())


def test_a_server_that_was_started_anew_at_the_same_port_is_told(browser, run, tmp_path):
    with Listening([run], tmp_path) as server:
        browser.open(server.address, "convolution")
        browser.one('[data-grid="output-0"]')
    with Listening([run], tmp_path, int(server.address.split(":")[2].partition("/")[0])):
        browser.choose("Stride", "2")
        browser.says("The server does not answer", "#lost")
    assert all("404" in line for line in browser.complaints())
