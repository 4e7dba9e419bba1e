"""The safetensors format: reading any file of it, without mapping it and without trusting it."""

import json
from operator import itemgetter

import numpy as np

from gpucnn.backends.memory import host_memory
from gpucnn.errors import CheckpointError
from gpucnn.storage import as_path, decoding, read_file

_FORMAT = "safetensors file"
# Of those that NumPy has; bfloat16 and the types of 8 bits are refused by their names.
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def content_of(path) -> bytes:
    """All bytes of the file at `path`; raises CheckpointError where the memory would not hold what they make twice."""
    with decoding(path, CheckpointError, _FORMAT):
        if (as_path(path) / "checkpoint.safetensors").is_file():
            raise CheckpointError(f"{path} is a run's folder; its network is gpucnn.training.load_run(folder).model")
    return read_file(path, CheckpointError, _FORMAT, most=host_memory() // 2 or 1 << 34)


def read(path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of the safetensors file at `path`. Raises CheckpointError for any other file."""
    return parse(content_of(path), path)


def parse(content: bytes, path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of a safetensors file's content; `path` is for messages."""
    from safetensors import deserialize

    with decoding(path, CheckpointError, _FORMAT):
        tensors = {}
        for name, part in sorted(deserialize(content), key=itemgetter(0)):  # they come in another order each time
            if part["dtype"] not in _TYPES:
                raise CheckpointError(
                    f"{path} holds {name} as {part['dtype']}, which NumPy does not have; convert it to float32"
                )
            tensors[name] = np.frombuffer(part["data"], _TYPES[part["dtype"]]).reshape(part["shape"])
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return tensors, header.get("__metadata__") or {}
