"""`fetch` against a server on the loopback interface: whole, broken off, continued, wrong, silent."""

import gzip
import hashlib
import os
import socket
import threading

import numpy as np
import pytest

from gpucnn.cache import Kernels
from gpucnn.data import KNOWN, fetch, load
from gpucnn.data.known import File, KnownSet, home, is_here
from gpucnn.errors import DataError
from tests.data.loopback import serving
from tests.data.test_idx import NAMES, arrays, encode

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with serving({"/big": CONTENT}) as server:
        yield server


def known(monkeypatch, *urls, content=CONTENT, algorithm="sha256", name="big"):
    """A set `toy` of one file."""
    file = File(name, len(content), hashlib.new(algorithm, content).hexdigest(), urls)
    monkeypatch.setitem(KNOWN, "toy", KnownSet("toy", "a toy", (file,)))


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_whole(server, monkeypatch, tmp_path, algorithm):
    known(monkeypatch, server.url + "big", algorithm=algorithm)
    seen = []
    assert not is_here(KNOWN["toy"])
    folder = fetch("toy", progress=lambda *state: seen.append(state))
    assert folder == home() / "toy" == tmp_path / "cache" / "data" / "toy"
    assert [file.name for file in folder.iterdir()] == ["big"]
    assert (folder / "big").read_bytes() == CONTENT and is_here(KNOWN["toy"])
    assert seen[0] == ("big", 0, 300_000) and seen[-1] == ("big", 300_000, 300_000)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert server.requests == [("/big", None)]
    assert fetch("toy") == folder and len(server.requests) == 1  # it is there: nothing is asked


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_where_no_umask_is_set_kernels_may_be_kept_beside_it(server, monkeypatch):
    known(monkeypatch, server.url + "big")
    before = os.umask(0)
    try:
        fetch("toy")
    finally:
        os.umask(before)
    kernels = Kernels("numba")
    kernels.write("relu", b"code")
    assert kernels.read("relu") == b"code"


def test_into_a_folder_of_choice(server, monkeypatch, tmp_path):
    known(monkeypatch, server.url + "big")
    assert fetch("toy", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b" / "big").read_bytes() == CONTENT


def test_broken_off_within_one_call_it_continues(server, monkeypatch):
    known(monkeypatch, server.url + "big")
    server.cut = [100_000, 50_000]
    assert (fetch("toy") / "big").read_bytes() == CONTENT
    assert server.requests == [("/big", None), ("/big", "bytes=100000-"), ("/big", "bytes=150000-")]


def test_broken_off_for_good_the_next_call_continues(server, monkeypatch):
    known(monkeypatch, server.url + "big")
    server.cut = [100_000, 0, 0, 0]
    with pytest.raises(
        DataError, match="broke off after 100,000 of 300,000 bytes.*are kept: run `gpucnn data fetch toy` again"
    ):
        fetch("toy")
    folder = home() / "toy"
    assert [file.name for file in folder.iterdir()] == ["big.part"]
    assert not is_here(KNOWN["toy"])
    server.cut, server.requests[:] = [], []
    assert (fetch("toy") / "big").read_bytes() == CONTENT
    assert server.requests == [("/big", "bytes=100000-")]
    assert [file.name for file in folder.iterdir()] == ["big"]


def test_the_sentence_that_continues_names_the_folder(server, monkeypatch, tmp_path):
    known(monkeypatch, server.url + "big")
    server.cut = [100_000, 0, 0, 0]
    with pytest.raises(DataError, match=f"run `gpucnn data fetch toy --to {tmp_path / 'here'}` again"):
        fetch("toy", tmp_path / "here")


def test_a_server_without_ranges_starts_again(server, monkeypatch):
    known(monkeypatch, server.url + "big")
    server.ranges, server.cut = False, [100_000]
    assert (fetch("toy") / "big").read_bytes() == CONTENT
    assert server.requests == [("/big", None), ("/big", "bytes=100000-")]


def test_what_was_begun_from_another_file_is_fetched_anew(server, monkeypatch):
    known(monkeypatch, server.url + "big")
    (home() / "toy").mkdir(parents=True)
    for begun in (b"x" * 1000, b"x" * 300_000, b"x" * 300_001):
        (home() / "toy" / "big").unlink(missing_ok=True)
        (home() / "toy" / "big.part").write_bytes(begun)
        assert (fetch("toy") / "big").read_bytes() == CONTENT
    (home() / "toy" / "big").write_bytes(CONTENT[:-1] + b"\0")  # damaged on the disk since
    assert (fetch("toy") / "big").read_bytes() == CONTENT


def test_a_server_with_fewer_bytes_than_were_kept(server, monkeypatch):
    known(monkeypatch, server.url + "big")
    server.files["/big"] = CONTENT[:1000]
    (home() / "toy").mkdir(parents=True)
    (home() / "toy" / "big.part").write_bytes(CONTENT[:2000])
    with pytest.raises(DataError, match="broke off after 1,000 of 300,000 bytes"):
        fetch("toy")


def test_another_part_than_was_asked_for(server, monkeypatch):
    known(monkeypatch, server.url + "big")
    server.cut, server.lie = [1000], "bytes 5-299999/300000"
    with pytest.raises(DataError, match="sent another part than was asked for"):
        fetch("toy")
    assert not list((home() / "toy").iterdir())


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), CONTENT + b"more"])
def test_wrong_content_is_removed(server, monkeypatch, wrong):
    known(monkeypatch, server.url + "big")
    server.files["/big"] = wrong
    with pytest.raises(DataError, match="wrong content, its sha256 digest is .* was published.*nothing of it was kept"):
        fetch("toy")
    assert not list((home() / "toy").iterdir())


def test_the_next_mirror_is_tried(server, monkeypatch):
    server.files["/bad"] = CONTENT[::-1]
    known(monkeypatch, server.url + "none", server.url + "bad", server.url + "big")
    assert (fetch("toy") / "big").read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/none", "/bad", "/big"]


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_refusing_server(server, monkeypatch, status):
    known(monkeypatch, server.url + "big")
    server.status = status
    with pytest.raises(DataError, match=f"the server says {status} .*put a file with that digest at"):
        fetch("toy")


def test_a_hanging_server(server, monkeypatch):
    known(monkeypatch, server.url + "big")
    server.hang = threading.Event()
    with pytest.raises(DataError, match=r"no answer for 0.2 seconds"):
        fetch("toy", timeout=0.2)


def test_nobody_there(monkeypatch):
    with socket.socket() as taken:  # bound, but it does not listen
        taken.bind(("127.0.0.1", 0))
        known(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}/big")
        with pytest.raises(DataError, match="refused"):
            fetch("toy")


def test_wrong_names_and_folders(server, monkeypatch, tmp_path):
    known(monkeypatch, server.url + "big")
    with pytest.raises(
        DataError, match="no data set 'mnits' to fetch; there are: mnist, fashion-mnist, cifar-10, cifar-100"
    ):
        fetch("mnits")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write into"):
        fetch("toy", tmp_path / "file")


def test_what_was_fetched_is_loaded_by_name(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="mnist is not here yet: fetch it with `gpucnn data fetch mnist`"):
        load("mnist")
    contents = {f"/{NAMES[key]}.gz": gzip.compress(encode(array)) for key, array in arrays().items()}
    with serving(contents) as server:
        for name in ("mnist", "fashion-mnist"):
            files = tuple(
                File(path[1:], len(data), hashlib.sha256(data).hexdigest(), (server.url + path[1:],))
                for path, data in contents.items()
            )
            classes = tuple(f"kind {i}" for i in range(3)) if KNOWN[name].classes else ()
            monkeypatch.setitem(KNOWN, name, KnownSet(name, "", files, classes))
            fetch(name)
    train, test = load("mnist")
    assert (len(train.images), len(test.images)) == (7, 3) and train.classes == ["0", "1", "2"]
    assert load("fashion-mnist")[0].classes == ["kind 0", "kind 1", "kind 2"]


def test_the_published_digests():
    """Each file has a digest, a size and at least one address that names it; names are those that loading looks for."""
    from gpucnn.data.cifar import _ARCHIVES

    assert set(KNOWN) == {"mnist", "fashion-mnist", "cifar-10", "cifar-100"}
    for name, known_set in KNOWN.items():
        assert known_set.size > 10_000_000
        for file in known_set.files:
            assert file.algorithm in ("md5", "sha256") and int(file.digest, 16) and file.size > 1000
            assert file.urls and all(url.endswith("/" + file.name) for url in file.urls)
        expected = {f"{each}.gz" for each in NAMES.values()} if "mnist" in name else {f"{name}-binary.tar.gz"}
        assert {file.name for file in known_set.files} == expected
    assert {KNOWN["cifar-10"].files[0].name, KNOWN["cifar-100"].files[0].name} == set(_ARCHIVES)
