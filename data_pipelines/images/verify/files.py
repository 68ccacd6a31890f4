"""Files of a prepared data set, opened without trusting what lies in its directory, and compared with their records."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.images.circumstances import explained, is_circumstance
from data_pipelines.images.manifest import FileRecord

CHUNK = 1 << 22
"""Bytes read at once, a whole number of tar blocks."""

Look = Callable[[int, memoryview], None]
"""Gets every chunk of a file while it is hashed: where it begins, and its bytes, valid only during the call."""


class DamageError(Exception):
    """A file cannot be used; the message says why, without its name."""


def leads_outside(path: Path, root: Path) -> bool:
    """Whether a symbolic link on the way leads out of the data set's directory `root`, itself given without links."""
    return not f"{os.path.realpath(path)}/".startswith(f"{root}/".replace("//", "/"))


@contextmanager
def opened(root: Path, name: str) -> Iterator[int]:
    """A descriptor of a regular file inside the data set. DamageError when there is none, when it may not be read, and
    when its disk fails at it; CircumstanceError for what is wrong with the machine and would befall every file."""
    path = root / name
    descriptor = -1
    try:
        if leads_outside(path, root):
            raise DamageError("is a symbolic link that leads outside the data set, which is not followed")
        # Files are not mapped into memory here: on a failing disk that kills the process instead of raising.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would block
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamageError("is not a regular file")
        yield descriptor
    except FileNotFoundError:
        raise DamageError("is missing") from None
    except OSError as error:
        if is_circumstance(error) and error.errno not in (errno.EIO, errno.EACCES, errno.EPERM):
            raise explained(str(path), error) from None
        raise DamageError(f"cannot be read ({error.strerror or error})") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def size_of(descriptor: int) -> int:
    return os.fstat(descriptor).st_size


def chunks(descriptor: int, start: int, stop: int, step: int = CHUNK) -> Iterator[tuple[int, memoryview]]:
    """Bytes [start, stop) of a file in pieces of `step` bytes, the last one shorter: where each begins, and its bytes,
    overwritten by the next. Ends early where the file does."""
    buffer = memoryview(bytearray(min(step, max(stop - start, 0))))
    while start < stop:
        filled, wanted = 0, min(step, stop - start)
        while filled < wanted:  # a read may give less than it could
            count = os.preadv(descriptor, [buffer[filled:wanted]], start + filled)
            if count == 0:
                break
            filled += count
        if filled:
            yield start, buffer[:filled]
        if filled < wanted:
            return
        start += filled


def size_differs(descriptor: int, record: FileRecord) -> str | None:
    """A message on how the size of a file differs from its record; None when it does not."""
    size = size_of(descriptor)
    return None if size == record.bytes else f"has {size or 'no'} bytes instead of {record.bytes}"


def content_differs(descriptor: int, record: FileRecord, look: Look | None = None) -> str | None:
    """A message on how the content of a file differs from its record; None when it does not. Reads all of it."""
    digest = hashlib.sha256()
    for start, content in chunks(descriptor, 0, size_of(descriptor)):
        digest.update(content)
        if look:
            look(start, content)
    return None if digest.hexdigest() == record.sha256 else "is not what the manifest says (its SHA-256 differs)"
