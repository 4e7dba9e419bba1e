"""Requests made of anything: each gets an answer in a sentence, none an error of the server's own, and it goes on."""

import json
import time

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.explore.conftest import TOKEN

SETTINGS = {"suppress_health_check": list(HealthCheck), "deadline": None}
NAMES = "status curves look results draw example convolve digit presets kinds build bits".split()  # noqa: SIM905 - short
KEYS = (
    *("run", "runs", "epoch", "image", "drawing", "of", "operation", "filter", "stride", "padding", "mode", "dilation"),
    *("size", "flip", "strict", "value", "layers", "kind", "channels", "height", "width", "bytes", "out_channels"),
    *("kernel_size", "emulate"),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["conv", "max", "avg", "zeros", "reflect", "Conv2d", "Dense", "AAAA", "../../etc/passwd"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(KEYS), values, max_size=9)
sizes = st.integers(-1, 20)
images = st.integers(1, 3).flatmap(
    lambda c: st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
        lambda hw: st.lists(st.floats(-9, 9), min_size=c * hw[0] * hw[1], max_size=c * hw[0] * hw[1]).map(
            lambda v: [
                [v[(k * hw[0] + r) * hw[1] : (k * hw[0] + r + 1) * hw[1]] for r in range(hw[0])] for k in range(c)
            ]
        )
    )
)
nearly = st.fixed_dictionaries(
    {
        "operation": st.sampled_from(["conv", "max", "avg"]),
        "image": images,
        "filter": images,
        "stride": sizes,
        "padding": sizes,
        "dilation": sizes,
        "size": sizes,
        "mode": st.sampled_from(["zeros", "constant", "reflect", "replicate", "circular"]),
        "flip": st.booleans(),
        "strict": st.booleans(),
    }
)


def sound(page, response) -> None:
    """An answer, a refusal, or the blame for a bad request; JSON without NaN in each case."""
    assert response.status_code in (200, 400), response.text
    answer = json.loads(response.text, parse_constant=lambda text: pytest.fail(f"{text} in JSON"))
    assert isinstance(answer, dict)
    if response.status_code == 400:
        assert isinstance(answer["error"], str) and len(answer["error"]) < 400


@pytest.fixture
def client(page):
    yield page
    assert page("status")["runs"]  # it goes on


def ask(page, name: str, content: bytes):
    return page.client.post(f"/{TOKEN}/api/{name}", content=content)


@pytest.mark.slow
@seed(16)
@settings(max_examples=300, **SETTINGS)
@given(name=st.sampled_from(NAMES[:-1]), body=bodies)
def test_any_values(client, name, body):
    sound(client, ask(client, name, json.dumps(body).encode()))


@seed(17)
@settings(max_examples=150, **SETTINGS)
@given(body=nearly)
def test_convolutions_that_nearly_fit(client, body):
    sound(client, ask(client, "convolve", json.dumps(body).encode()))


@seed(18)
@settings(max_examples=100, **SETTINGS)
@given(name=st.sampled_from(NAMES), content=st.binary(max_size=60))
def test_any_bytes(client, name, content):
    if content.strip() not in (b"", b"{}"):
        sound(client, ask(client, name, content))


@seed(19)
@settings(max_examples=60, **SETTINGS)
@given(content=st.binary(max_size=300), head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]))
def test_any_upload(client, content, head):
    sound(client, client.client.post(f"/{TOKEN}/api/upload/8/1", content=head + content))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"run":' * 50_000,
        b'{"run": ' + b"9" * 6000 + b"}",
        b'{"run": 1e999}',
        b'{"run": NaN}',
        b"\xff\xfe",
    ],
    ids=["nested lists", "nested objects", "long integer", "infinity", "nan", "no utf-8"],
)
def test_json_that_is_meant_to_hurt(client, content):
    started = time.monotonic()
    assert ask(client, "look", content).status_code == 400
    assert time.monotonic() - started < 20


def test_names_that_are_none(client):
    for name in ("", "none", "__class__", "status/", "status%2f..%2ftrain", "computed"):
        assert ask(client, name, b"{}").status_code in (404, 405)
