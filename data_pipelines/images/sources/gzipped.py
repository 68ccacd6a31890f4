"""Files that may be packed with gzip."""

import gzip
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.images.sources import SourceError

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def read_head(path: Path, size: int) -> bytes:
    """The first bytes of a file, or of what it holds when it is gzip. Raises SourceError for a damaged one."""
    with gzip.open(path) if is_gzip(path) else path.open("rb") as file, _explained(path):
        return file.read(size)


def unpack(path: Path, dest: Path, size: int | None = None) -> None:
    """Writes what a gzip file holds to `dest`. Raises SourceError when that is damaged, or is not `size` bytes."""
    with path.open("rb") as file, dest.open("wb") as copy, gzip.GzipFile(fileobj=file) as content, _explained(path):
        if size is None:
            shutil.copyfileobj(content, copy, _CHUNK)
            return
        while copy.tell() <= size and (data := content.read(_CHUNK)):
            copy.write(data)
        if copy.tell() != size:
            more = "more" if copy.tell() > size else f"only {copy.tell()}"
            raise SourceError(f"{path} is damaged ({more} of {size} bytes): get it again")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path} is damaged ({error}): get it again") from None
