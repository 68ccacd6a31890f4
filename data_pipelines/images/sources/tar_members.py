"""The members of a local tar, header by header, trusting none of them.

Python's tarfile ends without a word at a damaged header or where a tar was cut, and reads extended headers of any
size, one inside the other, into memory.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_pipelines.images.sources import SourceError

_BLOCK = 512
_ZEROS = bytes(_BLOCK)

_MAX_EXTENSION = 1 << 20
"""Bytes of an extended header; real ones hold a name and a few attributes."""

_GNU_SPARSE_EXTENDED = 482
_GNU_SPARSE_CONTINUED = 504


@dataclass(frozen=True, slots=True)
class Member:
    """A member: its content is the `size` bytes at `offset` when it is a file, else it has none."""

    name: str
    kind: Literal["file", "link", "sparse", "folder", "other"]
    """A sparse file is one stored without its holes; `other` are devices and pipes."""
    offset: int
    size: int

    @property
    def holds_content(self) -> bool:
        """Whether it is a file, or a link to one."""
        return self.kind not in ("folder", "other")


def is_tar(block: bytes) -> bool:
    """Whether a file that starts with these 512 bytes is a tar with at least one member."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def members(path: Path, where: str) -> Iterator[Member]:
    """All members in their order. `where`: the name of the tar in messages.

    Raises SourceError, naming the offset, for a header that is damaged, for a tar that ends inside a member or
    without its end marker, and for one with more behind that.
    """
    with path.open("rb", buffering=0) as file:
        yield from _Walk(file.fileno(), where).members()


class _Walk:
    def __init__(self, fd: int, where: str) -> None:
        self._fd, self._where = fd, where
        self._end = os.fstat(fd).st_size
        self._position = 0
        self._common: dict[str, str] = {}  # attributes of all members that follow

    def members(self) -> Iterator[Member]:
        own: dict[str, str] = {}  # attributes of the next member
        while (header := self._header()) is not None:
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                own |= self._attributes(header)
            elif header.type == tarfile.XGLTYPE:
                self._common |= self._attributes(header)
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                own["path"] = _text(self._extension(header).partition(b"\0")[0])
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                self._skip(header.size, header.name)
            else:
                yield self._member(header, self._common | own)
                own = {}
        if own:
            raise self._damaged("a name is followed by no member")

    def _header(self) -> tarfile.TarInfo | None:
        """The next header, None at the end marker."""
        block = os.pread(self._fd, _BLOCK, self._position)
        if block == _ZEROS:
            self._check_rest()
            return None
        if len(block) < _BLOCK:
            raise self._damaged("it ends without an end marker, so that it was cut")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._damaged(str(error)) from None
        self._position += _BLOCK
        if header.type == tarfile.GNUTYPE_SPARSE and block[_GNU_SPARSE_EXTENDED]:
            while os.pread(self._fd, _BLOCK, self._position)[_GNU_SPARSE_CONTINUED:][:1] > b"\0":
                self._position += _BLOCK
            self._position += _BLOCK
        return header

    def _member(self, header: tarfile.TarInfo, attributes: dict[str, str]) -> Member:
        name = attributes.get("path", header.name)
        size = header.size
        if "size" in attributes:
            if not (attributes["size"].isascii() and attributes["size"].isdigit() and len(attributes["size"]) < 20):
                raise self._damaged(f"{name!r} has the size {attributes['size'][:20]!r}")
            size = int(attributes["size"])
        offset = self._position
        # What is no file has no content whatever its size says, except in types that nobody knows.
        if header.isreg() or header.type not in tarfile.SUPPORTED_TYPES:
            self._skip(size, name)
        if header.issym() or header.islnk():
            return Member(name, "link", offset, 0)
        if not header.isreg():
            return Member(name, "folder" if header.isdir() else "other", offset, 0)
        sparse = header.type == tarfile.GNUTYPE_SPARSE or "sparse" in attributes
        return Member(name, "sparse" if sparse else "file", offset, size)

    def _skip(self, size: int, name: str) -> None:
        if not 0 <= size <= self._end - self._position:
            raise self._damaged(f"{name!r} claims {size} bytes, but the file ends before that")
        self._position += (size + _BLOCK - 1) // _BLOCK * _BLOCK

    def _extension(self, header: tarfile.TarInfo) -> bytes:
        if header.size > _MAX_EXTENSION:
            raise self._damaged(f"an extended header claims {header.size} bytes")
        offset = self._position
        self._skip(header.size, "an extended header")
        return os.pread(self._fd, header.size, offset)

    def _attributes(self, header: tarfile.TarInfo) -> dict[str, str]:
        """The attributes in a pax header, a sequence of `length key=value\\n`, that matter here."""
        data = self._extension(header)
        found: dict[str, str] = {}
        start = 0
        while start < len(data) and data[start] != 0:
            digits = data[start : start + 20].partition(b" ")[0]
            length = int(digits) if digits.isdigit() else 0
            key, equals, value = data[start + len(digits) + 1 : start + length].partition(b"=")
            if not equals or value[-1:] != b"\n":
                raise self._damaged("an extended header is not a list of attributes")
            if key in (b"path", b"size"):
                found[key.decode()] = _text(value[:-1])
            elif key.startswith(b"GNU.sparse."):
                found["sparse"] = ""
            start += length
        return found

    def _check_rest(self) -> None:
        start = self._position
        while rest := os.pread(self._fd, 1 << 20, start):
            if rest.count(0) != len(rest):
                raise self._damaged("it has an end marker here with more behind it, perhaps several tars in a row")
            start += len(rest)

    def _damaged(self, reason: str) -> SourceError:
        return SourceError(f"{self._where} is a damaged tar at offset {self._position} ({reason}): get it again")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
