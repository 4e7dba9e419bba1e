"""The data sets that can be fetched by name: where each file lies, its size, and its published digest."""

from dataclasses import dataclass
from pathlib import Path

from gpucnn.cache import folder as cache_folder


@dataclass(frozen=True)
class File:
    """`digest` is in hex, MD5 or SHA-256 by its length; `size` in bytes; `urls` are tried in turn."""

    name: str
    size: int
    digest: str
    urls: tuple[str, ...]

    @property
    def algorithm(self) -> str:
        return {32: "md5", 64: "sha256"}[len(self.digest)]


@dataclass(frozen=True)
class KnownSet:
    """A data set by its name, what it is in a few words, its files, and class names that its files do not hold."""

    name: str
    about: str
    files: tuple[File, ...]
    classes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def _files(mirrors: tuple[str, ...], *rows: tuple[str, int, str]) -> tuple[File, ...]:
    return tuple(File(name, size, digest, tuple(mirror + name for mirror in mirrors)) for name, size, digest in rows)


KNOWN = {
    known.name: known
    for known in (
        # SHA-256 and sizes as TensorFlow Datasets publishes them (tensorflow_datasets, checksums of `mnist`); the same
        # files have the MD5 digests f68b3c2d..., d53e105e..., 9fb629c4... and ec29112d... in torchvision's MNIST.
        KnownSet(
            "mnist",
            "70,000 handwritten digits, 28x28 grey",
            _files(
                (
                    "https://storage.googleapis.com/cvdf-datasets/mnist/",
                    "https://ossci-datasets.s3.amazonaws.com/mnist/",
                ),
                (
                    "train-images-idx3-ubyte.gz",
                    9912422,
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                ),
                (
                    "train-labels-idx1-ubyte.gz",
                    28881,
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                ),
                (
                    "t10k-images-idx3-ubyte.gz",
                    1648877,
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                ),
                ("t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
        ),
        # MD5 as the authors publish them (README of zalandoresearch/fashion-mnist, "Get the Data"), and torchvision's
        # FashionMNIST.
        KnownSet(
            "fashion-mnist",
            "70,000 pieces of clothing, 28x28 grey",
            _files(
                (
                    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                ),
                ("train-images-idx3-ubyte.gz", 26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                ("train-labels-idx1-ubyte.gz", 29515, "25c81989df183df01b3e8a0aad5dffbe"),
                ("t10k-images-idx3-ubyte.gz", 4422102, "bef4ecab320f06d8554ea6380940ec79"),
                ("t10k-labels-idx1-ubyte.gz", 5148, "bb300cfdad3c16e7a12a480ee83cd310"),
            ),
            ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        # SHA-256 as TensorFlow Datasets publishes them (checksums of `cifar10` and `cifar100`); the authors' page,
        # cs.toronto.edu/~kriz/cifar.html, has the MD5 digests c32a1d4a... and 03b5dce0... of the same files.
        KnownSet(
            "cifar-10",
            "60,000 photographs of 10 kinds of things, 32x32 colour",
            _files(
                ("https://www.cs.toronto.edu/~kriz/",),
                (
                    "cifar-10-binary.tar.gz",
                    170052171,
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ),
            ),
        ),
        KnownSet(
            "cifar-100",
            "60,000 photographs of 100 kinds of things, 32x32 colour",
            _files(
                ("https://www.cs.toronto.edu/~kriz/",),
                (
                    "cifar-100-binary.tar.gz",
                    168513733,
                    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                ),
            ),
        ),
    )
}


def home() -> Path:
    """Where fetched sets lie, a folder each."""
    return cache_folder("data")


def is_here(known: KnownSet, folder: Path | None = None) -> bool:
    """Whether all files of a set lie in its folder with their sizes; `fetch` has checked their digests."""
    folder = folder or home() / known.name
    try:
        return all((folder / file.name).stat().st_size == file.size for file in known.files)
    except OSError:
        return False
