"""Tars of images, and WebDataset's shards."""

import glob
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from data_pipelines.sources import Labels, Names, SourceError
from data_pipelines.sources.fetching import fetch
from data_pipelines.sources.gzipped import is_gzip, unpack
from data_pipelines.sources.naming import LABELS_NAME, MOST_CLASSES, list_files, member_name
from data_pipelines.sources.parts import Parts, PartsSource, read_part
from data_pipelines.sources.spool import Spool
from data_pipelines.sources.tar_members import Member, members
from data_pipelines.transport import is_elsewhere, shown

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")

IMAGE_ENDINGS = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "ppm", "gif", "avif", "jp2")
"""Which members of a sample may be its image; of what kind it is, its content says."""

_UNUSABLE = {"link": "is a link, which is not followed", "sparse": "is stored without its holes: pack it plainly"}

_META = r"__[^/]*__(/|$)"
"""Names that WebDataset leaves out."""

_LABEL_ENDING = "cls"
_MAX_LABEL_BYTES = 16


def expand(where: str) -> list[str]:
    """The tars that a URL or pattern means: `::` and braces as WebDataset has them, and `*`, `?`, `[...]` for files.

    Raises SourceError for a pattern that is wrong, and where a file is missing.
    """
    from webdataset.shardlists import expand_urls  # takes seconds, for it imports torch

    try:
        patterns: list[str] = expand_urls(where)
    except (ValueError, AssertionError) as error:  # unbalanced braces; ${NAME} where WDS_NAME is not set
        raise SourceError(f"source {where} is no pattern ({error}): correct it") from None
    found: list[str] = []
    for pattern in patterns:
        if pattern.startswith("file://"):
            pattern = url2pathname(urlsplit(pattern).path)
        if is_elsewhere(pattern) or Path(pattern).exists():
            found.append(pattern)
        else:
            matches = sorted(glob.glob(pattern, recursive=True))
            if not matches:
                raise SourceError(f"source {pattern} does not exist")
            found += matches
    return found


def find(folder: Path) -> list[str] | None:
    """The tars of a folder that holds shards rather than images: besides them only files about them."""
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    shards = sorted(str(folder / name) for name in names if name.endswith(TAR_ENDINGS))
    if not shards or any(_may_be_image(name.lower()) or (folder / name).is_dir() for name in names):
        return None
    return shards


def local_tar(tar: str, spool: Spool) -> Path:
    """A plain tar on disk: itself, or a copy of what has to be fetched or unpacked. Raises SourceError."""
    if is_elsewhere(tar):
        # A body that was cut, or comes from a pipe whose first command failed, looks whole but for its end marker.
        def check(copy: Path) -> None:
            for _ in members(copy, "it"):
                pass

        return spool.copy(tar, lambda copy: fetch(tar, copy, check))
    path = Path(tar)
    return spool.copy_of_file(path, lambda copy: unpack(path, copy)) if is_gzip(path) else path


class TarSource(PartsSource):
    """The samples of tars in the order of the tars and of their members, grouped as WebDataset does.

    A sample is the members in a row that are called the same up to the first dot of their file name. Its image is the
    one with an ending of IMAGE_ENDINGS, or the one with the ending `member`; a sample has that member's name. Its label
    is the whole number in its member `cls`; where no sample has one, labels and splits are those of naming.list_files.
    """

    def __init__(self, where: str, tars: Sequence[str], labels: Labels, member: str | None, spool: Spool) -> None:
        """Raises SourceError for tars that are damaged or cannot be had, samples with several images or out of order,
        names that lead out of a tar, and labels that are no numbers."""
        self.parts = Parts([local_tar(tar, spool) for tar in tars])
        where, tars = shown(where), [shown(tar) for tar in tars]
        ending = None if member is None else member.removeprefix(".").lower()
        found = _Found(self.parts, tars, ending, labels == "auto")
        names = Names(found.names())
        if not names:
            endings = member or ", ".join(IMAGE_ENDINGS)
            raise SourceError(f"source {where} holds no members that end in {endings}: name the images' with --member")
        if len(found.labels_files) > 1:
            raise SourceError(f"source {where} holds several files {LABELS_NAME}: leave one of them")
        self.listing = list_files(
            where,
            names,
            self.parts.size,
            labels,
            next(iter(found.labels_files), None),
            self.holds_image,
            found.labels if any(label is not None for label in found.labels) else None,
        )
        if _repeat(names):  # they often differ only within a shard
            stems = _stems(tars)
            told_apart = (f"{stems[tar]}/{name}" for tar, name in zip(self.parts.file, names, strict=True))
            self.listing = replace(self.listing, names=Names(told_apart))


class _Found:
    """What the samples of tars come to: their parts, and beside them their labels."""

    def __init__(self, parts: Parts, tars: Sequence[str], member: str | None, labelled: bool) -> None:
        self._parts, self._tars, self._member, self._labelled = parts, tars, member, labelled
        self.labels: list[int | None] = []
        self.labels_files: list[bytes] = []

    def names(self) -> Iterator[str]:
        """Names of all samples that should have an image; the rest is noted as they are taken."""
        for number, (tar, path) in enumerate(zip(self._tars, self._parts.files, strict=True)):
            for key, sample in self._samples(tar, path):
                image = self._choose(tar, key, sample)
                if image is not None:
                    self._parts.add(number, image.offset, image.size, _UNUSABLE.get(image.kind))
                elif _LABEL_ENDING in sample or any(map(_may_be_image, sample)):
                    wanted = self._member or "an image"
                    self._parts.add(number, 0, 0, f"is a sample without {wanted}, it has {', '.join(sample)}")
                else:  # a file about the data set
                    continue
                label = sample.get(_LABEL_ENDING) if self._labelled else None
                self.labels.append(None if label is None else _read_label(tar, path, key, label))
                yield key if image is None else image.name

    def _samples(self, tar: str, path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
        """Members by their endings, in small letters, of each sample, and what all of a sample's names start with."""
        from webdataset.tariterators import base_plus_ext  # takes seconds, for it imports torch

        keys: set[str] = set()
        current, sample = "", dict[str, Member]()
        for member in members(path, tar):
            name = None if member.kind == "other" else member_name(tar, member.name)
            if name is None or re.match(_META, name):
                continue
            if name == LABELS_NAME and member.kind == "file":
                self.labels_files.append(read_part(path, member.offset, member.size))
            key, ending = base_plus_ext(name)
            if key is None:  # a name without a dot
                continue
            if key != current:
                if sample:
                    yield current, sample
                if key in keys:
                    raise SourceError(
                        f"{tar} holds the key {key!r} again at offset {member.offset}: each may be there only "
                        "once, with all its members in a row"
                    )
                keys.add(key)
                current, sample = key, {}
            if ending.lower() in sample:
                raise SourceError(f"{tar} holds {name!r} twice, again at offset {member.offset}: remove one of them")
            sample[ending.lower()] = member if name == member.name else replace(member, name=name)
        if sample:
            yield current, sample

    def _choose(self, tar: str, key: str, sample: dict[str, Member]) -> Member | None:
        if self._member is not None:
            return sample.get(self._member)
        images = [ending for ending in sample if _may_be_image(ending)]
        if len(images) > 1:
            found = ", ".join(images)
            raise SourceError(f"{tar} holds several images of {key!r} ({found}): say with --member which one to take")
        return sample[images[0]] if images else None


def _may_be_image(ending: str) -> bool:
    return ending.rsplit(".", 1)[-1] in IMAGE_ENDINGS


def _read_label(tar: str, path: Path, key: str, member: Member) -> int:
    text = read_part(path, member.offset, min(member.size, _MAX_LABEL_BYTES)) if member.kind == "file" else b""
    digits = text.strip()
    if not digits.isdigit() or int(digits) >= MOST_CLASSES:
        raise SourceError(
            f"{tar} gives the sample {key!r} at offset {member.offset} the label {text!r}: "
            f"labels are whole numbers from 0 to {MOST_CLASSES - 1}, or ignored with --labels none"
        )
    return int(digits)


def _repeat(names: Names) -> bool:
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    # No set of millions of names unless there is reason to think that some are the same.
    return len(np.unique(hashes)) < len(names) and len(set(names)) < len(names)


def _stems(tars: Sequence[str]) -> list[str]:
    """What to put before the names of each tar's samples: its file name without endings, or its number."""
    stems = [posixpath.basename(urlsplit(tar).path if is_elsewhere(tar) else tar).split(".tar")[0] for tar in tars]
    return stems if len(set(stems)) == len(stems) else [f"{number:06d}" for number in range(len(tars))]
