"""The page's words: every key that the code uses is there, in both languages, with the same places to fill in."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gpucnn.errors import GpucnnError
from gpucnn.explore import convolution, server, shapes
from gpucnn.explore.body import Body

STATIC = Path(server.__file__).with_name("static")
TEXT = (STATIC / "strings.js").read_text(encoding="utf-8")
ROWS = re.findall(r'^  "?([\w.]+)"?: \["((?:[^"\\]|\\.)*)", "((?:[^"\\]|\\.)*)"\],$', TEXT, re.MULTILINE)
WORDS = {key: (english, korean) for key, english, korean in ROWS}


def used() -> set[str]:
    """Keys in t("...") and in the page's data-t and data-label; those put together at run time as patterns."""
    found = set()
    for file in STATIC.iterdir():
        if file.name == "strings.js":
            continue
        text = file.read_text(encoding="utf-8")
        found |= set(re.findall(r'\bt\(\s*"([\w.]+)"', text))
        found |= set(re.findall(r'data-(?:t|label)="([\w.]+)"', text))
        found |= set(re.findall(r'"((?:runs|bits|shapes|digits|conv)\.\w+)"', text))
        found |= {re.sub(r"\$\{[^}]*\}", "*", key) for key in re.findall(r"\bt\(`([^`]+)`", text)}
    return found


def fits(pattern: str) -> set[str]:
    return {key for key in WORDS if re.fullmatch(re.escape(pattern).replace(r"\*", r"\w+"), key)}


def test_every_line_of_the_table_is_read():
    assert len(ROWS) == len(WORDS) == len(re.findall(r"^  \S+: \[", TEXT, re.MULTILINE)) > 150


def test_every_key_is_there_and_every_word_is_used():
    needed = set()
    for key in used():
        assert fits(key), f"{key} is used and has no words"
        needed |= fits(key)
    assert set(WORDS) - needed == set()


def test_both_languages_fill_in_the_same():
    for key, (english, korean) in WORDS.items():
        assert set(re.findall(r"\{(\w+)\}", english)) == set(re.findall(r"\{(\w+)\}", korean)), key
        assert english and korean


def test_korean_is_korean():
    same = {key for key, (_, korean) in WORDS.items() if not re.search("[가-힣]", korean)}
    assert same <= {"preset.lenet5", "mode.zeros"}


def test_what_the_server_names_has_words():
    presets = convolution.presets()
    assert {f"image.{name}" for name in presets["images"]} <= set(WORDS)
    assert {f"filter.{name}" for name in presets["filters"]} <= set(WORDS)
    assert {f"preset.{name}" for name in shapes.kinds()["presets"]} <= set(WORDS)


_STRING = r'("(?:[^"\\]|\\.)*")'
_TEXT = (STATIC / "refusals.js").read_text(encoding="utf-8")
REFUSALS = re.findall(rf"^  \[{_STRING}, {_STRING}\],$", _TEXT, re.MULTILINE)
KOREAN = [(re.compile(json.loads(pattern)), json.loads(korean)) for pattern, korean in REFUSALS]


def test_korean_refusals_fill_in_what_was_caught():
    assert len(KOREAN) > 20
    for pattern, korean in KOREAN:
        numbers = {int(number) for number in re.findall(r"\$(\d+)", korean)}
        assert numbers <= set(range(1, pattern.groups + 1)), korean
        assert re.search("[가-힣]", korean.replace("$", ""))


def refusals(count: int, rng: np.random.Generator):
    """What is refused of random requests of the two panels in which settings may not fit."""

    def some(settings):
        for setting in settings:
            if rng.random() < 0.5:
                high = min(setting["high"], 6 if rng.random() < 0.8 else 10**6)
                choices = setting["choices"] or range(setting["low"], high + 1)
                yield setting["name"], choices[int(rng.integers(len(choices)))]

    kinds = shapes.kinds()["kinds"]
    for _ in range(count):
        chosen = [str(kind) for kind in rng.choice(list(kinds), int(rng.integers(1, 5)))]
        network = [{"kind": kind, **dict(some(kinds[kind]))} for kind in chosen]
        sizes = {axis: int(rng.choice([1, 4, 9, 33])) for axis in ("channels", "height", "width")}
        yield shapes.build(Body(json.dumps({**sizes, "layers": network}).encode())).get("refused")
        image = np.zeros((1, *rng.integers(1, 9, 2))).tolist()
        window = {"stride": int(rng.integers(1, 5)), "padding": int(rng.integers(5)), "image": image}
        if rng.random() < 0.5:
            window |= {"operation": "max", "size": int(rng.integers(1, 5))}
        else:
            window |= {"operation": "conv", "filter": np.ones((1, *rng.integers(1, 5, 2))).tolist()}
            window |= {"dilation": int(rng.integers(1, 4)), "strict": bool(rng.random() < 0.5)}
            window |= {"mode": str(rng.choice(["constant", "reflect", "replicate", "circular"]))}
        try:
            convolution.convolve(Body(json.dumps(window).encode()))
        except GpucnnError as error:
            yield str(error)


def test_what_the_engine_refuses_has_korean_words():
    seen = set()
    for text in filter(None, refusals(1500, np.random.default_rng(0))):
        inner = re.sub(r"^layer \d+ \(\w+\): ", "", text)
        found = [number for number, (pattern, _) in enumerate(KOREAN) if pattern.fullmatch(inner)]
        assert len(found) == 1, text
        seen |= set(found)
    assert len(seen) >= 9


@pytest.mark.parametrize(
    "text",
    [
        "nothing is drawn: every pixel has the same value",
        "there is no run yet; train a network first",
        "four-epochs has not finished an epoch yet",
        "four-epochs has kept no weights of epoch 9",
        "cannot read the uploaded file as a PNG, JPEG, WebP, BMP, TIFF or GIF image: it does not begin as one",
        "the uploaded file cannot be read: cut short, altered, or no image file (OSError: image file is truncated)",
        "the uploaded file announces 10000x10000 pixels; images of more than 89,478,485 are refused",
        "the file has more than 32 MiB; choose a smaller one",
        "unet_small-1 gives a class to each pixel, not to an image, which this page does not show",
        "there is not enough memory for this; choose smaller sizes",
    ],
)
def test_what_is_refused_elsewhere_has_korean_words(text):
    assert sum(bool(pattern.fullmatch(text)) for pattern, _ in KOREAN) == 1
