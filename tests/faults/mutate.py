"""Damaging files: blindly, and with the knowledge of a format, so that what is wrong lies behind a right checksum."""

import gzip
import io
import json
import re
import struct
import tarfile
import warnings
import zipfile
import zlib

import numpy as np

NUMBERS = [0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**18, 10**30, 10**400]
VALUES = [
    *NUMBERS,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    None,
    True,
    "",
    "x",
    "\0",
    "\ud800",
    "a" * 5000,
    [],
    {},
]
VALUES += [
    [[]],
    [1],
    [[1, 2], [3]],
    {"a": 1},
    [None],
    ["1", "x", "32"],
    [1, 32, 32],
    "lenet5",
    "mlp",
    "1998",
    [10**9] * 3,
]
WORDS = [
    b"\0",
    b"\xff" * 8,
    b"NaN",
    b"-1",
    b"9" * 400,
    b"(" * 300,
    b"[" * 3000,
    b"'|O'",
    b"'<U99999999'",
    b"True",
    b"\n",
]
WORDS += [
    b"{",
    b"}",
    b",",
    b"'",
    b"None",
    b"\x93NUMPY\x03\0\xff\xff\xff\x7f",
    b"PK\x01\x02",
    b"\x1f\x8b\x08",
    b"\x7fELF",
]


def blind(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bits, bytes or pieces of it changed, cut off, put in or swapped; most at the beginning or the end."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 5, 30]))):
        if not data:
            return bytes(data)
        region = int(rng.integers(3))  # where headers are, where directories are, anywhere
        size = len(data)
        low, high = ((0, min(size, 200)), (max(0, size - 200), size), (0, size))[region]
        place, other = (int(rng.integers(low, high)) for _ in range(2))
        what = int(rng.integers(9))
        if what <= 2:
            data[place] ^= 1 << int(rng.integers(8))
        elif what == 3:
            data[place] = int(rng.integers(256))
        elif what == 4:
            del data[place:]
        elif what == 5:
            del data[place : place + int(rng.integers(1, 40))]
        elif what == 6:
            data[place:place] = WORDS[int(rng.integers(len(WORDS)))]
        elif what == 7:
            word = WORDS[int(rng.integers(len(WORDS)))]
            data[place : place + len(word)] = word
        else:
            data[place:place] = data[other : other + int(rng.integers(1, 100))]
    return bytes(data)


def value_in(tree, rng: np.random.Generator):
    """The same JSON with one value somewhere replaced, removed or moved."""
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        key = str(rng.choice(sorted(tree)))
        chance = rng.random()
        if chance < 0.15:
            return {name: value for name, value in tree.items() if name != key}
        if chance < 0.25:
            return {**tree, key: tree[str(rng.choice(sorted(tree)))]}
        return {**tree, key: value_in(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        place = int(rng.integers(len(tree)))
        if rng.random() < 0.3:
            return tree[:place] + tree[place + 1 :] if rng.random() < 0.5 else [*tree, tree[place]]
        return [*tree[:place], value_in(tree[place], rng), *tree[place + 1 :]]
    return VALUES[int(rng.integers(len(VALUES)))]


def json_text(content: bytes, rng: np.random.Generator) -> bytes:
    """One value of a JSON text, or of one line of it, is another."""
    if rng.random() < 0.2:
        return blind(content, rng)
    if content.count(b"\n") > 1 and not content.startswith(b"{\n"):
        lines = content.splitlines()
        place = int(rng.integers(len(lines)))
        lines[place] = json.dumps(value_in(json.loads(lines[place]), rng)).encode()
        return b"\n".join(lines) + b"\n"
    return json.dumps(value_in(json.loads(content), rng)).encode()


def model_file(content: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file: its header or, under a digest that is right again, what it says of the model."""
    if rng.random() < 0.3:
        return blind(content, rng)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if rng.random() < 0.4 or "__metadata__" not in header or "gpucnn" not in header["__metadata__"]:
        text = json.dumps(value_in(header, rng)).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + size :]
    from safetensors.numpy import load, save

    from gpucnn.models.files import _digest

    tensors = load(content)
    if rng.random() < 0.3:
        name = str(rng.choice(sorted(tensors)))
        array = tensors.pop(name)
        kinds = np.float64, np.float16, np.int32, np.bool_, np.uint8
        with np.errstate(all="ignore"):
            made = [None, array[..., :0], array.reshape(-1), array.astype(kinds[int(rng.integers(5))]), array * np.inf]
        with_other = made[int(rng.integers(len(made)))]
        if with_other is not None:
            tensors[name] = with_other
    about = value_in(json.loads(header["__metadata__"]["gpucnn"]), rng)
    text = json.dumps(about)
    return save(tensors, {"gpucnn": text, "sha256": _digest(tensors, text)})


def npy(content: bytes, rng: np.random.Generator) -> bytes:
    """A .npy file, its header most of all."""
    if rng.random() < 0.4:
        return blind(content, rng)
    length = int.from_bytes(content[8:10], "little")
    text = content[10 : 10 + length]
    parts = re.split(rb"([,: ()'{}])", text)
    for _ in range(int(rng.integers(1, 4))):
        numbers = [str(number).encode() for number in NUMBERS]
        parts[int(rng.integers(len(parts)))] = (WORDS + numbers)[int(rng.integers(len(WORDS) + len(numbers)))]
    text = b"".join(parts)
    return content[:8] + (len(text) & 0xFFFF).to_bytes(2, "little") + text + content[10 + length :]


def npz(content: bytes, rng: np.random.Generator) -> bytes:
    """A .npz archive: blindly, or one of its members under a right checksum."""
    if rng.random() < 0.4:
        return blind(content, rng)
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(content)) as old:
        warnings.simplefilter("ignore")
        names = old.namelist()
        chosen = str(rng.choice(names))
        with zipfile.ZipFile(made, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as new:
            for name in names:
                data = old.read(name)
                if name == chosen:
                    chance = rng.random()
                    if chance < 0.1:
                        continue
                    if chance < 0.2:
                        new.writestr(name, data)
                    data = npy(data, rng)
                new.writestr(name, data)
    return made.getvalue()


def gz(content: bytes, rng: np.random.Generator) -> bytes:
    """A gzip file: blindly, or what it unpacks to."""
    return blind(content, rng) if rng.random() < 0.3 else gzip.compress(blind(gzip.decompress(content), rng), 1)


def tar_gz(content: bytes, rng: np.random.Generator) -> bytes:
    """A .tar.gz: blindly, in what it unpacks to, or a member's header with a right checksum."""
    if rng.random() < 0.5:
        return gz(content, rng)
    plain = bytearray(gzip.decompress(content))
    starts = [i for i in range(0, len(plain), 512) if plain[i + 257 : i + 262] == b"ustar"]
    start = starts[int(rng.integers(len(starts)))]
    head = bytearray(blind(bytes(plain[start : start + 512]), rng)[:512].ljust(512, b"\0"))
    if rng.random() < 0.4:
        head[156] = int(rng.choice(list(b"xgLKS0123456789ADMNVX")))  # another kind of member: pax, long names, holes
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    plain[start : start + 512] = head
    return gzip.compress(bytes(plain), 1)


def pax(rng: np.random.Generator) -> bytes:
    """An archive whose member has extended headers of any kind."""
    keys = [
        "size",
        "path",
        "mtime",
        "GNU.sparse.major",
        "GNU.sparse.minor",
        "GNU.sparse.realsize",
        "GNU.sparse.map",
        "uid",
    ]
    info = tarfile.TarInfo("data_batch_1.bin")
    info.size = 3073
    some = rng.choice(keys, int(rng.integers(1, 5)), replace=False)
    texts = ["", "x", "-1", "0", "1", "9" * 300, "1,2", "1e9", "3073", "\0", "é"]
    info.pax_headers = {str(key): texts[int(rng.integers(len(texts)))] for key in some}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info, io.BytesIO(bytes(3073)))
    return made.getvalue()


def png(content: bytes, rng: np.random.Generator) -> bytes:
    """A PNG with one chunk changed under a right checksum, or blindly."""
    if rng.random() < 0.4:
        return blind(content, rng)
    chunks, place = [], 8
    while place < len(content):
        size = struct.unpack(">I", content[place : place + 4])[0]
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    which = int(rng.integers(len(chunks)))
    kind, data = chunks[which]
    if kind == b"IDAT" and rng.random() < 0.7:
        data = zlib.compress(blind(zlib.decompress(data), rng))
    else:
        data = blind(data or b"\0", rng)
    kinds = [kind, kind, kind, b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"acTL", b"gAMA"]
    chunks[which] = kinds[int(rng.integers(len(kinds)))], data
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return content[:8] + b"".join(packed)
