"""A short run with snapshots, and the page's server around it: in this process, or listening for a browser."""

import asyncio
import base64
import shutil
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest

from gpucnn import data
from gpucnn.explore.engine import Engine
from gpucnn.explore.server import Explorer, Server, application
from gpucnn.explore.training import train
from gpucnn.models import mlp
from gpucnn.training import Trainer

TOKEN, PORT = "a-token-for-tests", 4321
KINDS = {"f4": "<f4", "u4": "<u4", "i4": "<i4", "u1": "u1"}


def unpacked(value):
    """Arrays as the page decodes them, anywhere in an answer."""
    if isinstance(value, list):
        return [unpacked(part) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"shape", "type", "data"}:
        return np.frombuffer(base64.b64decode(value["data"]), KINDS[value["type"]]).reshape(value["shape"])
    return {name: unpacked(part) for name, part in value.items()}


class Client:
    """Requests to an ASGI application in this process; what it raises is raised here."""

    def __init__(self, application):
        self._application = application

    def request(self, method: str, path: str, **more) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._application)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}") as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())

    def get(self, path: str, **more) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more) -> httpx.Response:
        return self.request("POST", path, **more)


class Page:
    """Asks as the page does: `page("convolve", image=...)` is the decoded answer."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        self.client = Client(application(explorer, TOKEN, PORT))

    def __call__(self, name: str, **body):
        response = self.client.post(f"/{TOKEN}/api/{name}", json=body)
        assert response.status_code == 200, response.text
        return unpacked(response.json())


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run of four epochs. Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("explore") / "four-epochs"
    train(folder, 4)
    return folder


@pytest.fixture(scope="session")
def wide(tmp_path_factory) -> Path:
    """A run of three classes, on images of 8x20 pixels from 0 to 255. Read only."""
    folder = tmp_path_factory.mktemp("wide")
    images = np.zeros((60, 8, 20), np.float32)
    for number, image in enumerate(images):
        image[1:7, 8 + number % 3 : 10 + number % 3] = 255
    np.savez(folder / "wide.npz", images=images, labels=np.arange(60) % 3)
    digits, _ = data.load(folder / "wide.npz")
    about = {"train": {"data": str(folder / "wide.npz")}}
    trainer = Trainer(mlp((1, 8, 20), classes=3, hidden=[8]), run=folder / "wide", about=about, progress=False)
    trainer.fit(digits.images, digits.labels, 1)
    return folder / "wide"


@pytest.fixture(scope="session")
def engine():
    made = Engine()
    yield made
    made.close()


def folders_in(place: Path):
    """A maker of new run folders in `place`."""
    numbers = iter(range(1000))

    def fresh() -> Path:
        folder = place / f"explore-{next(numbers)}"
        folder.mkdir(parents=True)
        return folder

    return fresh


@pytest.fixture
def page(run, engine, tmp_path) -> Page:
    explorer = Explorer([run], folders_in(tmp_path), engine)
    yield Page(explorer)
    explorer.process.stop()


@pytest.fixture
def empty(engine, tmp_path) -> Page:
    """Without any run."""
    explorer = Explorer([], folders_in(tmp_path), engine)
    yield Page(explorer)
    explorer.process.stop()


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


class Listening:
    """A server that listens, in a thread of its own."""

    def __init__(self, folders, place: Path, port: int = 0):
        self.server = Server(folders, folders_in(place), port=port)
        self.address = self.server.address
        self._thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> "Listening":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def listening(run, tmp_path_factory):
    with Listening([run], tmp_path_factory.mktemp("trained")) as server:
        yield server
