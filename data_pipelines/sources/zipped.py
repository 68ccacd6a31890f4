"""A zip of images, StyleGAN's with its dataset.json among them."""

import os
import stat
import zipfile
import zlib
from array import array
from pathlib import Path

from data_pipelines.sources import ImageError, Labels, SourceError
from data_pipelines.sources.image import MAX_BYTES
from data_pipelines.sources.naming import LABELS_NAME, list_files, member_name
from data_pipelines.sources.parts import Parts, PartsSource, read_part

_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_SIZE = 30
_ENCRYPTED = 0x1


class ZipSource(PartsSource):
    """Every file of a zip in the sorted order of its name, as if it were unpacked; hidden ones are left out.

    Labels and splits: naming.list_files. The directory is read once; after that an image is read from where it lies,
    so that no worker holds a directory of its own. Stored and deflated members can be read.
    """

    def __init__(self, path: Path, labels: Labels) -> None:
        """Raises SourceError for a damaged zip, one without files, and names that repeat or lead out of it."""
        entries = _list(path)
        names = [name for name in entries if name != LABELS_NAME]
        if not names:
            raise SourceError(f"source {path} holds no files: give the zip that holds the images")
        self.parts = Parts([path])
        self._whole, self._crc, self._deflated = array("Q"), array("L"), bytearray()
        for name in [*names, *entries.keys() - names]:  # the file with the labels, if there is one, as the last part
            entry = entries[name]
            self.parts.add(0, entry.header_offset, entry.compress_size, _why_unusable(entry))
            self._whole.append(entry.file_size)
            self._crc.append(entry.CRC)
            self._deflated.append(entry.compress_type == zipfile.ZIP_DEFLATED)
        labels_file = None
        if LABELS_NAME in entries:
            try:
                labels_file = bytes(self.read(len(names)))
            except ImageError as error:
                raise SourceError(f"{LABELS_NAME} in {path} {error}") from None
        sizes = self._whole[: len(names)]
        self.listing = list_files(str(path), names, sizes, labels, labels_file, self.holds_image)

    def content(self, i: int, path: Path, offset: int, size: int) -> bytes:
        """The file whose local header is at `offset` and whose stored bytes are `size`. ImageError: it is damaged."""
        header = read_part(path, offset, _LOCAL_HEADER_SIZE)
        if not header.startswith(_LOCAL_HEADER):
            raise ImageError(f"is damaged (no header at offset {offset} of {path})")
        name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = read_part(path, offset + _LOCAL_HEADER_SIZE + name_and_extra, size)
        if self._deflated[i]:
            data = _inflate(data, self._whole[i])
        if len(data) != self._whole[i] or zlib.crc32(data) != self._crc[i]:
            raise ImageError("is damaged (its size or its CRC-32 is not the one in the zip's directory)")
        return data


def _inflate(data: bytes, size: int) -> bytes:
    """What `data` holds, or its first size + 1 bytes when it holds more than it claims."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise ImageError(f"is damaged ({error})") from None


def _list(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip by their names, sorted."""
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as opened:
                infos = opened.infolist()
        except Exception as error:  # it raises nearly anything on damaged input
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SourceError(f"source {path} is a damaged zip ({reason}): get it again") from None
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = None if info.filename.endswith("/") else member_name(str(path), info.filename)
        if name is None:
            continue
        if name in entries:
            raise SourceError(f"source {path} holds {name!r} twice: remove one of them")
        if not 0 <= info.header_offset < end:
            raise SourceError(f"source {path} is a damaged zip ({name!r} lies outside the file): get it again")
        entries[name] = info
    return dict(sorted(entries.items()))


def _why_unusable(entry: zipfile.ZipInfo) -> str | None:
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link, which is not followed"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted: unpack the zip with its password and give the folder"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {entry.compress_type}: unpack the zip and give the folder"
    if entry.file_size > MAX_BYTES:
        return f"has {entry.file_size} bytes, more than {MAX_BYTES}"
    return None
