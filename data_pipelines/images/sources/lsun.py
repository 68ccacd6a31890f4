"""LMDB databases of image files, as LSUN and stylegan2-pytorch make them."""

import errno
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import lmdb
import numpy as np

from data_pipelines.images.sources import ImageError, Listing, Names, Source, SourceError
from data_pipelines.images.sources.findings import Findings
from data_pipelines.images.sources.formats import HEAD_BYTES
from data_pipelines.images.sources.image import MAX_BYTES

DATA_NAME = "data.mdb"

_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")
_MAGIC_OFFSET = 16

_BOOKKEEPING = re.compile(rb"length|num[-_]?samples|__\w+__|(label|caption|meta)s?[-_]?\d*")
"""Keys of entries that say something about the images."""

_SIZED = re.compile(rb"(\d{1,5})-\d{5,}")
"""Keys of stylegan2-pytorch and its like, which keep each image at several resolutions: `256-00000`."""


def is_lmdb(head: bytes) -> bool:
    """Whether a file that starts with these bytes is an LMDB database."""
    return head[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] == _MAGIC


def find(path: Path) -> dict[str, Path] | None:
    """The databases that a path means: the prefix of each one's names and its file; None when there is none.

    A path is the file, its folder, or a folder with such folders, NAME_train_lmdb and NAME_val_lmdb, as LSUN unpacks.
    Raises SourceError when it is not clear which are meant.
    """
    if path.is_file():
        with path.open("rb") as file:
            return {"": path} if is_lmdb(file.read(32)) else None
    if (path / DATA_NAME).is_file():
        return {"": path / DATA_NAME}
    inside = sorted(path.glob(f"*/{DATA_NAME}"))
    if len(inside) <= 1:
        return {"": inside[0]} if inside else None
    folders = [file.parent.name for file in inside]
    if len(inside) == 2 and folders == [folders[0], folders[0].removesuffix("train_lmdb") + "val_lmdb"]:
        return dict(zip(("train/", "val/"), inside, strict=True))
    raise SourceError(
        f"source {path} holds several databases, {', '.join(folders)}: give one, or a train and a val one"
    )


class LmdbSource(Source):
    """The images of one database in the order of its keys, or those of a train and then those of a val database.

    The format of a value is detected from its content. A sample is named after its key, in hexadecimal where some key
    is no printable text. There are no labels. Entries about the images are skipped; if every image exists at several
    resolutions, the largest is taken. Nothing is written beside a database, not even a lock.
    """

    def __init__(self, databases: dict[str, Path], tick: Callable[[], object] = lambda: None) -> None:
        """`databases`: as `find` gives them. `tick` is called for each entry. Raises SourceError for damaged and empty
        ones."""
        self._databases = databases
        self._sides = {prefix: _largest_side(path) for prefix, path in databases.items()}
        self._hexadecimal = False
        names, sizes, ends = self._list(tick)
        if any(not name.isprintable() for name in names):
            self._hexadecimal = True
            names, sizes, ends = self._list(tick)
        if not names:
            raise SourceError(f"{' and '.join(map(str, databases.values()))} {self.found.nothing('give another one')}")
        test = np.arange(len(names)) >= ends[0] if len(databases) > 1 else None
        self.listing = Listing(names, np.array(sizes, np.int64), test=test)

    def _list(self, tick: Callable[[], object]) -> tuple[Names, "array[int]", list[int]]:
        """All names, the sizes of their values in bytes, and the number of names up to each database's end."""
        sizes, ends = array("q"), list[int]()
        self.found = Findings("LMDB")
        for side in filter(None, self._sides.values()):
            self.found.notes.append(f"its keys hold several resolutions of each image: {side} px is taken")

        def walk() -> Generator[bytes, None, None]:
            for prefix, path in self._databases.items():
                side = self._sides[prefix]
                with _reading(path) as transaction:
                    # As buffers, so that of a value nothing but its length and its head is read.
                    for key, value in transaction.cursor():
                        tick()
                        if self._takes(bytes(key), value, side, len(sizes)):
                            sizes.append(len(value))
                            yield prefix.encode() + (key.hex().encode() if self._hexadecimal else bytes(key))
                ends.append(len(sizes))

        with closing(walk()) as keys:  # a database is not opened again before it is closed
            return Names(keys), sizes, ends

    def _takes(self, key: bytes, value: bytes | memoryview, side: int | None, position: int) -> bool:
        name = key.decode(errors="replace")
        if _BOOKKEEPING.fullmatch(key):
            self.found.pass_over("entries about the images", name)
            return False
        sized = _SIZED.fullmatch(key) if side is not None else None
        if sized and int(sized[1]) != side:
            self.found.pass_over(f"images of {int(sized[1])} px", name)
            return False
        return self.found.take(position, name, len(value), bytes(value[:HEAD_BYTES]), meant=True)

    def read(self, i: int) -> bytes:
        name = self.listing.names[i]
        prefix = next(prefix for prefix in self._databases if name.startswith(prefix))
        key = name.removeprefix(prefix)
        # Opened anew for every image (0.1 ms): nothing is kept out of a pickle, and nothing is left open.
        with _reading(self._databases[prefix]) as transaction:
            value = transaction.get(bytes.fromhex(key) if self._hexadecimal else key.encode())
            if value is None or len(value) != self.listing.sizes[i]:
                raise ImageError("has changed since it was listed")
            if len(value) > MAX_BYTES:
                raise ImageError(f"has {len(value)} bytes, more than {MAX_BYTES}")
            return bytes(value)


def _largest_side(path: Path) -> int | None:
    """The largest resolution that keys name, None when they do not name several."""
    with _reading(path) as transaction:
        sides: Counter[int] = Counter()
        for key in transaction.cursor().iternext(keys=True, values=False):
            if sized := _SIZED.fullmatch(key):
                sides[int(sized[1])] += 1
            elif not _BOOKKEEPING.fullmatch(key):
                return None
    return max(sides) if len(sides) > 1 else None


@contextmanager
def _reading(path: Path) -> Iterator[lmdb.Transaction]:
    """A transaction that gives buffers. Raises SourceError when the database is damaged."""
    try:
        environment = lmdb.open(str(path), subdir=False, create=False, readonly=True, lock=False, readahead=False)
        with environment, environment.begin(buffers=True) as transaction:
            # It is mapped into memory: to touch a page that is not there would end the process.
            pages, page = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
            if path.stat().st_size < pages * page:
                raise SourceError(f"{path} is cut short ({path.stat().st_size} of {pages * page} bytes): get it again")
            yield transaction
    except lmdb.Error as error:
        reason = " ".join(str(error).split())
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EIO, errno.ESTALE):
            if os.strerror(number) in reason:
                raise OSError(number, os.strerror(number)) from None
        raise SourceError(f"{path} is a damaged LMDB database ({reason}): get it again") from None
