"""Writing a shard of a prepared data set: one writer per level, and the record that a finished shard leaves behind."""

import zlib
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from data_pipelines.images.arrays import write_array
from data_pipelines.images.decode import ImageFormat, encode
from data_pipelines.images.manifest import INDEX_DTYPE, FileRecord, OutputFile, Split
from data_pipelines.images.sources.remarks import Remark
from data_pipelines.settings import Settings


class ShardRecord(Settings):
    """The record of a finished shard, kept until the whole data set is finished."""

    split: Split
    positions: tuple[int, ...]
    """Positions in the source of the samples that it holds, in order."""
    skipped: dict[int, str]
    """Positions of the files that were left out, and why."""
    remarks: dict[Remark, tuple[int, ...]] = {}
    """Positions of the samples that each is true of."""
    files: dict[int, FileRecord]
    indexes: dict[int, FileRecord]

    @classmethod
    def find(cls, root: Path, name: str) -> Self | None:
        """The record of that name if there is one and all its files are there."""
        try:
            record = cls.model_validate_json((root / name).read_bytes())
            files = [*record.files.values(), *record.indexes.values()]
            whole = all((root / file.name).stat().st_size == file.bytes for file in files)
        except (FileNotFoundError, ValidationError):
            return None
        return record if whole else None


class ArrayWriter:
    """Makes one level of a shard as an array, in memory and written at the end."""

    def __init__(self, root: Path, name: str, count: int, resolution: int, channels: int) -> None:
        self._root, self._name = root, f"{name}.npy"
        self._rows = np.empty((count, channels, resolution, resolution), np.uint8)
        self._count = 0

    def add(self, pixels: NDArray[np.uint8], position: int, label: int | None) -> None:
        self._rows[self._count] = pixels.transpose(2, 0, 1)
        self._count += 1

    def finish(self) -> tuple[FileRecord, FileRecord | None]:
        return write_array(self._root, self._name, self._rows[: self._count]), None


class TarWriter:
    """Makes one level of a shard as a WebDataset tar, written as the images come, and then its index."""

    def __init__(self, root: Path, name: str, output: OutputFile, file_format: ImageFormat, quality: int) -> None:
        import webdataset  # takes seconds, for it imports torch: only where it is needed

        self._root, self._name, self._output = root, name, output
        self._format, self._quality = file_format, quality
        self._extension = "png" if file_format == "png" else "jpg"
        self._tar = webdataset.TarWriter(output, user="sivae", group="sivae", mtime=0, compress=False, encoder=False)
        self._index: list[tuple[int, int, int]] = []

    def add(self, pixels: NDArray[np.uint8], position: int, label: int | None) -> None:
        data = encode(pixels, self._format, self._quality)
        sample: dict[str, str | bytes] = {"__key__": f"{position:08d}", self._extension: data}
        if label is not None:
            sample["cls"] = str(label).encode()
        self._tar.write(sample)
        # Members are sorted by ending, so the image is the last one, padded to a whole number of blocks.
        offset = self._tar.tarstream.offset - (len(data) + 511) // 512 * 512
        self._index.append((offset, len(data), zlib.crc32(data)))

    def finish(self) -> tuple[FileRecord, FileRecord | None]:
        self._tar.close()
        record = self._output.finish()
        index = np.array(self._index, dtype=INDEX_DTYPE)
        return record, write_array(self._root, f"{self._name}.index.npy", index)
