"""Images that stay in their file, when somebody cuts it short or writes to it while a network trains on it."""

import os

import numpy as np
import pytest

from gpucnn.data import Mapped, load
from gpucnn.data.array_file import FileArray
from gpucnn.errors import DataError
from gpucnn.training import Callback, load_run
from tests.processes import finish, start
from tests.training import small

X, Y = small.data()


class Damage(Callback):
    """Does something to a file after the first epoch."""

    def __init__(self, change):
        self.change = change

    def on_epoch_end(self, trainer, record):
        if record["epoch"] == 1:
            self.change()


def set_of(folder):
    np.save(folder / "images.npy", np.round(255 * X / X.max()).astype(np.uint8))
    np.save(folder / "labels.npy", Y)
    return folder / "images.npy"


def test_a_file_that_is_cut_short_or_written_to(tmp_path):
    """One sentence, the epochs done are kept, and with the file as it was the run goes on to the same bits."""
    file = set_of(tmp_path)
    content, stamp = file.read_bytes(), os.stat(file)
    train, _ = load(tmp_path)
    whole = small.trainer()
    whole.fit(np.asarray(train.images), train.labels, 3)

    def grow():
        with open(file, "ab") as opened:
            opened.write(b"x")

    def rewrite():
        with open(file, "rb+") as opened:
            opened.seek(len(content) // 2)
            opened.write(bytes(100))

    changes = {
        "cut short": lambda: os.truncate(file, len(content) // 2),
        "in use": lambda: os.truncate(file, 0),
        "written to": rewrite,
        "to while": grow,
    }
    for i, (words, change) in enumerate(changes.items()):
        train, _ = load(tmp_path)
        with pytest.raises(DataError, match=f"images.npy was .*{words}"):
            small.trainer(tmp_path / str(i), callbacks=[Damage(change)]).fit(train.images, train.labels, 3)
        assert load_run(tmp_path / str(i), small.model()).epoch == 1
        file.write_bytes(content)
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        train, _ = load(tmp_path)
        resumed = small.trainer(tmp_path / str(i))
        resumed.fit(train.images, train.labels, 3, resume=True)
        assert resumed.model.weights_sha256() == whole.model.weights_sha256()


def test_a_file_that_is_replaced_or_removed_is_still_read(tmp_path):
    """What is open stays what it was."""
    file = set_of(tmp_path)
    train, _ = load(tmp_path)
    expected = np.asarray(train.images)
    np.save(tmp_path / "other.npy", np.zeros((45, 1, 8, 8), np.uint8))
    os.replace(tmp_path / "other.npy", file)
    assert np.array_equal(np.asarray(train.images), expected)
    file.unlink()
    assert np.array_equal(np.asarray(train.images), expected)


MAPPING = """
import json, os, sys
import numpy as np
from gpucnn.errors import DataError
from gpucnn.training import Callback
from tests.training import small
from tests.faults.test_streaming import Damage

images, labels = small.data()
np.save("images.npy", images)
mapped = np.load("images.npy", mmap_mode="r")[::-1][:40]
size = os.path.getsize("images.npy")
for left in (size, size - 9, 0):
    try:
        damage = Damage(lambda: os.truncate("images.npy", left))
        small.trainer("run" + str(left), callbacks=[damage]).fit(mapped, labels[:40], 2)
        said = None
    except DataError as error:
        said = str(error)
    print(json.dumps(said))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a mapped file from being cut")
def test_a_mapping_of_the_users_own(tmp_path):
    """A np.memmap is looked at before each batch: reading what its file has lost would be a SIGBUS."""
    process = start("import os; os.chdir(" + repr(str(tmp_path)) + ")\n" + MAPPING)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[0] == "null"
    assert all("images.npy was cut short" in line for line in out.splitlines()[1:])


@pytest.mark.parametrize("shape", [(7, 1, 3, 2), (7, 2)])
def test_it_reads_as_an_array_does(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    np.save(tmp_path / "a.npy", array)
    read = FileArray(tmp_path / "a.npy")
    for numbers in ([], [3], [0, 1, 2], [6, 0, 6], range(7)):
        numbers = np.array(numbers, np.int64)
        assert np.array_equal(read[numbers], array[numbers]) and read[numbers].shape == array[numbers].shape
    assert np.array_equal(Mapped(read).select([5, 1])[:], array[[5, 1]])


def test_in_fortrans_order_it_is_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.asfortranarray(np.zeros((5, 8, 8), np.uint8)))
    np.save(tmp_path / "labels.npy", np.zeros(5, int))
    with pytest.raises(DataError, match="in Fortran's order no image lies in one piece"):
        load(tmp_path)


def test_a_forked_process_reads_beside_its_parent(tmp_path):
    """They share one open file, and must not move each other's place in it."""
    code = f"""
import json, os
import numpy as np
from gpucnn.data.array_file import FileArray
array = np.random.default_rng(0).integers(0, 256, (4000, 50), dtype=np.uint8)
np.save({str(tmp_path / "a.npy")!r}, array)
read = FileArray({str(tmp_path / "a.npy")!r})
child = os.fork()
order = np.random.default_rng(child > 0).permutation(4000)
good = all(np.array_equal(read[order], array[order]) for _ in range(20))
if not child:
    os._exit(not good)
print(json.dumps([good, os.waitpid(child, 0)[1]]))
"""
    if not hasattr(os, "fork"):
        pytest.skip("forks")
    assert finish(start(code)) == [True, 0]
