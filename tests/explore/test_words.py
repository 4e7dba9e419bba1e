"""The page's words: every key that the code uses is there, in both languages, with the same places to fill in."""

import re
from pathlib import Path

from gpucnn.explore import convolution, server, shapes

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
