"""IDX files of images and labels: MNIST, Fashion-MNIST and their like."""

import math
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.sources import Labels, SourceError, listing_of
from data_pipelines.sources.gzipped import is_gzip, read_head, unpack
from data_pipelines.sources.parts import Parts, PartsSource, read_part
from data_pipelines.sources.spool import Spool

_NAME = re.compile(r"(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx(?P<axes>[13])-ubyte(\.gz)?")
_AXES = {"images": 3, "labels": 1}
_UBYTE = 8

_MOST_OF_GZIP = 1032
"""Bytes that a byte of gzip becomes at most."""

Splits = dict[str, dict[str, Path]]
"""By split, `train` first, the file of its `images` and perhaps the one of its `labels`."""


def find(folder: Path) -> Splits | None:
    """The IDX files in a folder, None when there are none with images."""
    found: Splits = {"train": {}, "t10k": {}, "test": {}}
    for name in sorted(os.listdir(folder), reverse=True):  # of a file and its .gz the plain one is kept
        match = _NAME.fullmatch(name)
        if match and int(match["axes"]) == _AXES[match["what"]] and (folder / name).is_file():
            found[match["split"]][match["what"]] = folder / name
    splits = {split: files for split, files in found.items() if files}
    return splits if any("images" in files for files in splits.values()) else None


class IdxSource(PartsSource):
    """The grey images of IDX files, those for training first; t10k (or test) is the source's own test split.

    A sample is called after its split and its number there, `train/00000`; classes are numbers. What is compressed is
    copied to the spool first.
    """

    def __init__(self, splits: Splits, labels: Labels, spool: Spool) -> None:
        """Raises SourceError for files that are damaged or do not belong together."""
        self.parts = Parts([])
        self._sides: list[tuple[int, int]] = []
        names: list[str] = []
        numbers: list[int] = []
        for split, files in splits.items():
            if "images" not in files:
                raise SourceError(f"{files['labels']} has no images beside it: add them or remove it")
            count = self._add_images(files["images"], spool)
            names += [f"{split}/{row:05d}" for row in range(count)]
            if "labels" in files and labels != "none":
                numbers += _read_labels(files["labels"], count, spool)
        if numbers and len(numbers) != len(names):
            raise SourceError("only some of its images have a file of labels: add the others, or give --labels none")
        classes = tuple(str(k) for k in range(1 + max(numbers))) if numbers else ()
        test = [not name.startswith("train/") for name in names] if len(splits) > 1 else None
        self.listing = listing_of(names, self.parts.size, classes, numbers or None, test)

    def _add_images(self, path: Path, spool: Spool) -> int:
        plain, (count, height, width), start = _open(path, 3, spool)
        if count == 0 or height * width == 0:
            raise SourceError(f"{path} holds no images")
        self.parts.files.append(plain)
        self._sides.append((height, width))
        for row in range(count):
            self.parts.add(len(self._sides) - 1, start + row * height * width, height * width)
        return count

    def content(self, i: int, path: Path, offset: int, size: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 1]."""
        return np.frombuffer(read_part(path, offset, size), np.uint8).reshape(*self._sides[self.parts.file[i]], 1)


def _read_labels(path: Path, count: int, spool: Spool) -> list[int]:
    plain, (labels,), start = _open(path, 1, spool)
    if labels != count:
        raise SourceError(f"{path} has {labels} labels for {count} images: get both from the same place")
    return list(read_part(plain, start, labels))


def _open(path: Path, axes: int, spool: Spool) -> tuple[Path, tuple[int, ...], int]:
    """A plain file with uint8 numbers, their shape, and where they start. Raises SourceError unless all are there."""
    packed = is_gzip(path)
    start = 4 + 4 * axes
    header = read_head(path, start)
    if len(header) < start or header[:4] != bytes([0, 0, _UBYTE, axes]):
        raise SourceError(f"{path} is no IDX file with {axes} axes of bytes: get it again")
    shape = tuple(int.from_bytes(header[4 * k : 4 * k + 4], "big") for k in range(1, axes + 1))
    size, stored = start + math.prod(shape), path.stat().st_size
    if packed and size <= _MOST_OF_GZIP * stored:
        return spool.copy_of_file(path, lambda copy: unpack(path, copy, size)), shape, start
    if size != stored:
        raise SourceError(f"{path} claims {shape}, which its {stored} bytes do not hold: get it again")
    return path, shape, start
