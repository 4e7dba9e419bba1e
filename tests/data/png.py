"""PNG files that Pillow cannot write."""

import struct
import zlib


def png(width: int, height: int, data: bytes, *, bits: int = 8, kind: int = 0) -> bytes:
    """A file that announces these sizes; `data` are the compressed lines, `kind` is PNG's number of the colours."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
