"""IDX files of images and labels: MNIST, Fashion-MNIST and their like."""

import hashlib
import math
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources import Labels, SourceError, listing_of
from data_pipelines.images.sources.findings import Findings
from data_pipelines.images.sources.gzipped import is_gzip, read_head, unpack
from data_pipelines.images.sources.parts import Parts, PartsSource, read_part
from data_pipelines.images.sources.spool import Spool

_NAME = re.compile(
    r"(?P<set>emnist-[a-z]+-|)(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx(?P<axes>[13])-ubyte(\.gz)?"
)
_AXES = {"images": 3, "labels": 1}
_UBYTE = 8

_MOST_OF_GZIP = 1032
"""Bytes that a byte of gzip becomes at most."""

_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
"""Fashion-MNIST's classes, which none of its files names; its authors' README does."""
_NAMES = {"657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": _FASHION}
"""By the SHA-256 of a split's labels, what the classes of a set are called."""

Splits = dict[str, dict[str, Path]]
"""By split, `train` first, the file of its `images` and perhaps the one of its `labels`."""

_EMNIST = "emnist-"


def find(path: Path) -> Splits | None:
    """The IDX files in a folder, or where torchvision puts them below it (`raw`, `MNIST/raw`, `EMNIST/raw`); None when
    there are none with images. Raises SourceError when there are those of several sets."""
    folders = [path, path / "raw"]
    if not any(map(_has_images, folders)):
        folders = [folder / "raw" for folder in sorted(path.iterdir()) if _has_images(folder / "raw")]
    found = {f"{folder}/{name}*": splits for folder in folders for name, splits in _sets(folder).items()}
    if len(found) > 1:
        raise SourceError(
            f"source {path} holds several sets, {', '.join(found)}: give the folder of one, or put its files into one"
        )
    return next(iter(found.values()), None)


def _has_images(folder: Path) -> bool:
    return bool(_sets(folder))


def _sets(folder: Path) -> dict[str, Splits]:
    """By what the names of their files start with, the sets that have images."""
    sets: dict[str, Splits] = {}
    # of a file and its .gz the plain one is kept
    for name in sorted(os.listdir(folder), reverse=True) if folder.is_dir() else ():
        match = _NAME.fullmatch(name)
        if match and int(match["axes"]) == _AXES[match["what"]] and (folder / name).is_file():
            found = sets.setdefault(match["set"], {"train": {}, "t10k": {}, "test": {}})
            found[match["split"]][match["what"]] = folder / name
    return {
        name: {split: files for split, files in found.items() if files}
        for name, found in sets.items()
        if any("images" in files for files in found.values())
    }


class IdxSource(PartsSource):
    """The grey images of IDX files, those for training first; t10k (or test) is the source's own test split.

    A sample is called after its split and its number there, `train/00000`; classes are numbers, and Fashion-MNIST's
    have their names. What is compressed is copied to the spool first. EMNIST's images, which are stored transposed, are
    turned upright.
    """

    def __init__(self, splits: Splits, labels: Labels, spool: Spool) -> None:
        """Raises SourceError for files that are damaged or do not belong together."""
        self.parts = Parts([])
        self.found = Findings("IDX files")
        self._transposed = next(iter(next(iter(splits.values())).values())).name.startswith(_EMNIST)
        if self._transposed:
            self.found.notes.append("EMNIST stores its images with rows and columns exchanged: they are turned upright")
        self._sides: list[tuple[int, int]] = []
        names: list[str] = []
        numbers: list[int] = []
        known: tuple[str, ...] = ()
        for split, files in splits.items():
            if "images" not in files:
                raise SourceError(f"{files['labels']} has no images beside it: add them or remove it")
            count = self._add_images(files["images"], spool)
            names += [f"{split}/{row:05d}" for row in range(count)]
            if "labels" in files and labels != "none":
                content = _read_labels(files["labels"], count, spool)
                known = known or _NAMES.get(hashlib.sha256(content).hexdigest(), ())
                numbers += content
        if numbers and len(numbers) != len(names):
            raise SourceError("only some of its images have a file of labels: add the others, or give --labels none")
        classes = known or (tuple(str(k) for k in range(1 + max(numbers))) if numbers else ())
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
        pixels = np.frombuffer(read_part(path, offset, size), np.uint8).reshape(self._sides[self.parts.file[i]])
        return (pixels.T if self._transposed else pixels)[..., None]


def _read_labels(path: Path, count: int, spool: Spool) -> bytes:
    plain, (labels,), start = _open(path, 1, spool)
    if labels != count:
        raise SourceError(f"{path} has {labels} labels for {count} images: get both from the same place")
    return bytes(read_part(plain, start, labels))


def _open(path: Path, axes: int, spool: Spool) -> tuple[Path, tuple[int, ...], int]:
    """A plain file with uint8 numbers, their shape, and where they start. Raises SourceError unless all are there."""
    packed = is_gzip(path)
    start = 4 + 4 * axes
    header = read_head(path, start)
    if len(header) < start or header[:4] != bytes([0, 0, _UBYTE, axes]):
        raise SourceError(f"{path} is not an IDX file with {axes} axes of bytes: get it again")
    shape = tuple(int.from_bytes(header[4 * k : 4 * k + 4], "big") for k in range(1, axes + 1))
    size, stored = start + math.prod(shape), path.stat().st_size
    if packed and size <= _MOST_OF_GZIP * stored:
        return spool.copy_of_file(path, lambda copy: unpack(path, copy, size)), shape, start
    if size != stored:
        raise SourceError(f"{path} claims {shape}, which its {stored} bytes do not hold: get it again")
    return path, shape, start
