"""Arrays in .npy files: written deterministically, and read without trusting what their headers claim."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data_pipelines.images.manifest import FileRecord, OutputFile


def write_array(root: Path, name: str, array: NDArray[Any]) -> FileRecord:
    with OutputFile(root, name) as output:
        np.lib.format.write_array(output, array, allow_pickle=False)
        return output.finish()


def map_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array in a file, mapped into memory. ValueError when it is not of this type and shape; OSError."""
    with path.open("rb") as file:
        offset = _check(file, os.fstat(file.fileno()).st_size, np.dtype(dtype), shape)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", offset, shape).view(np.ndarray)  # indexing a memmap itself is slow


def parse_array(data: bytes, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array in a file's bytes. ValueError when it is not of this type and shape."""
    offset = _check(io.BytesIO(data), len(data), np.dtype(dtype), shape)
    return np.frombuffer(data, dtype, offset=offset).reshape(shape)


def _check(file: BinaryIO, size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """The offset of the array's first byte. Nothing is allocated on the word of the header."""
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"it has version {version} of the format")
        held, fortran, kind = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # the header is a Python literal: its parser raises nearly anything
        raise ValueError(f"it is not an array ({' '.join(str(error).split()) or type(error).__name__})") from None
    if (held, fortran, kind) != (shape, False, dtype):
        raise ValueError(f"it holds {kind} {list(held)}, not {dtype} {list(shape)}")
    start = file.tell()
    if size != start + dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise ValueError(f"it has {size} bytes, which is not what {dtype} {list(shape)} takes")
    return start
