"""Files that appear whole or not at all: written beside their names, put on disk, then renamed.

Whoever reads meanwhile sees the old file or the new one, also after a crash of the machine.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Puts a file's content, or a folder's entries (new names, renames), on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve(path: Path, size: int) -> None:
    """Makes a new file for whose `size` bytes of zeros the disk has room; OSError when it has not.

    They are set aside, not written, where the file system can do that, and touched one by one (by the C library) where
    it cannot.
    """
    with open(path, "xb") as file:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, *, durable: bool = True, shared: bool = False) -> Iterator[Path]:
    """A temporary path, which becomes the file `path` at the end of the block; nothing changes if the block raises.

    Its folder is made. The temporary name is hidden and has the ending of `path`.

    durable: on disk when the block has ended; not for what can simply be made again, such as pictures.
    shared: several processes may write `path` at once, the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f".{os.getpid()}" if shared else ""
    partial = path.with_name(f".{path.stem}{writer}.partial{path.suffix}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
        if durable:
            sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file, or leaves it as it was."""
    with replacing(path) as partial:
        partial.write_text(text)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, which becomes the folder `path`, on disk, at the end of the block; nothing is left if the
    block raises. OSError if `path` is there by then, and is not an empty folder."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        partial.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
