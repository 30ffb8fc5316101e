"""IDX, the file format in which MNIST is distributed, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GZIP = b"\x1f\x8b"
UNSIGNED_BYTES = 0x08


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file.

    The file begins with two zeros, the type of the entries, and the number of dimensions; then come the dimensions,
    four bytes each, the highest first, and the entries. Whether it is gzipped shows in its content, not in its name.

    Raises:
        ValueError: There is no such file, it is no IDX file of unsigned bytes, or not all of it is there.
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{path} is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}, not with 00 00")
    kind, dimensions = content[2], content[3]
    if kind != UNSIGNED_BYTES:
        raise ValueError(
            f"{path} holds entries of type 0x{kind:02x}; only unsigned bytes, 0x{UNSIGNED_BYTES:02x}, are read"
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path} ends within its header")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, 4))
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} announces {shape} entries, {math.prod(shape)} bytes, and holds {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
