"""A zip of images, StyleGAN's with its dataset.json among them."""

import os
import stat
import zipfile
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path

from data_pipelines.images.circumstances import is_circumstance
from data_pipelines.images.sources import ImageError, Labels, SourceError
from data_pipelines.images.sources.findings import LABELS_NAME, Findings
from data_pipelines.images.sources.formats import HEAD_BYTES
from data_pipelines.images.sources.image import MAX_BYTES
from data_pipelines.images.sources.naming import list_files, member_name
from data_pipelines.images.sources.parts import Parts, PartsSource, read_part

_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_SIZE = 30
_ENCRYPTED = 0x1


_DOS = (0, 10, 11)
"""Systems whose tools may write backslashes between folders."""


class ZipSource(PartsSource):
    """Every image of a zip in the sorted order of its name, as if it were unpacked; hidden files are left out.

    Labels and splits: naming.list_files. The directory is read once; after that an image is read from where it lies,
    so that no worker holds a directory of its own. Stored and deflated members can be read.
    """

    def __init__(self, path: Path, labels: Labels, tick: Callable[[], object] = lambda: None) -> None:
        """`tick` is called for each file that is looked at. Raises SourceError for a damaged zip, one without images,
        and names that repeat or lead out of it."""
        self.found = Findings("zip")
        entries = list_zip(path, self.found)
        self.parts = Parts([path])
        self._whole, self._crc, self._deflated = array("Q"), array("L"), bytearray()
        names: list[str] = []
        for name, entry in entries.items():
            tick()
            if name.rpartition("/")[2] == LABELS_NAME:
                continue
            unusable = why_unusable(entry)
            head = None
            if unusable is None:
                try:
                    head = read_zipped(path, entry, HEAD_BYTES)
                except ImageError as error:
                    unusable = str(error)
            if self.found.take(len(names), name, entry.file_size, head, unusable):
                names.append(name)
                self.parts.add(0, entry.header_offset, entry.compress_size, unusable)
                self._whole.append(entry.file_size)
                self._crc.append(entry.CRC)
                self._deflated.append(entry.compress_type == zipfile.ZIP_DEFLATED)
        if not names:
            raise SourceError(f"source {path} {self.found.nothing('give the zip that holds the images')}")

        def read_beside(name: str) -> bytes | None:
            if name not in entries:
                return None
            reason = why_unusable(entries[name])
            try:
                if reason is not None:
                    raise ImageError(reason)
                return read_zipped(path, entries[name])
            except ImageError as error:
                raise SourceError(f"{name} in {path} {error}") from None

        self.listing = list_files(str(path), names, self._whole, labels, self.found, read_beside)

    def content(self, i: int, path: Path, offset: int, size: int) -> bytes:
        """The file whose local header is at `offset` and whose stored bytes are `size`. ImageError: it is damaged."""
        data = read_part(path, _start(path, offset), size)
        if self._deflated[i]:
            data = _inflate(data, self._whole[i])
        return _checked(data, self._whole[i], self._crc[i])


def read_zipped(path: Path, entry: zipfile.ZipInfo, first: int | None = None) -> bytes:
    """A file of a zip, or its first bytes. Raises ImageError when it is damaged."""
    start = _start(path, entry.header_offset)
    deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    if first is None:
        data = read_part(path, start, entry.compress_size)
        return _checked(_inflate(data, entry.file_size) if deflated else data, entry.file_size, entry.CRC)
    # Stored blocks and tables may come before the first byte that is of use.
    data = read_part(path, start, min(entry.compress_size, 2 * first + 1024))
    return (_inflate(data, first) if deflated else data)[:first]


def _start(path: Path, offset: int) -> int:
    """The offset of the first byte of the file whose local header is at `offset`."""
    header = read_part(path, offset, _LOCAL_HEADER_SIZE)
    if not header.startswith(_LOCAL_HEADER):
        raise ImageError(f"is damaged (no header at offset {offset} of {path})")
    name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return offset + _LOCAL_HEADER_SIZE + name_and_extra


def _checked(data: bytes, size: int, crc: int) -> bytes:
    if len(data) != size or zlib.crc32(data) != crc:
        raise ImageError("is damaged (its size or its CRC-32 is not the one in the zip's directory)")
    return data


def _inflate(data: bytes, size: int) -> bytes:
    """The content of `data`, or its first size + 1 bytes when it holds more than it claims."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise ImageError(f"is damaged ({error})") from None


def list_zip(path: Path, found: Findings) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip by their names, sorted; hidden ones are left out. Raises SourceError for a damaged zip."""
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as opened:
                infos = opened.infolist()
        except Exception as error:  # it raises nearly anything on damaged input
            if is_circumstance(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SourceError(f"source {path} is a damaged zip ({reason}): get it again") from None
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        written = info.filename.replace("\\", "/") if info.create_system in _DOS else info.filename
        if written.endswith("/"):
            continue
        name = member_name(str(path), written)
        if name is None:
            found.pass_over("hidden and system files", written)
            continue
        if name in entries:
            raise SourceError(f"source {path} holds {name!r} twice: remove one of them")
        if not 0 <= info.header_offset < end:
            raise SourceError(f"source {path} is a damaged zip ({name!r} lies outside the file): get it again")
        entries[name] = info
    return dict(sorted(entries.items()))


def why_unusable(entry: zipfile.ZipInfo) -> str | None:
    """Why a file of a zip cannot be read, if so: the rest of a sentence about it."""
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link, which is not followed"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted: unpack the zip with its password and give the folder"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {entry.compress_type}: unpack the zip and give the folder"
    if entry.file_size > MAX_BYTES:
        return f"has {entry.file_size} bytes, more than {MAX_BYTES}"
    return None
