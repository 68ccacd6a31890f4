"""Tars of images, and WebDataset's shards."""

import glob
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from data_pipelines.images.sources import Labels, Names, SourceError
from data_pipelines.images.sources.fetching import fetch
from data_pipelines.images.sources.findings import LABELS_NAME, Findings, is_hidden
from data_pipelines.images.sources.formats import HEAD_BYTES, has_image_ending
from data_pipelines.images.sources.gzipped import is_gzip, unpack
from data_pipelines.images.sources.naming import list_files, member_name
from data_pipelines.images.sources.parts import Parts, PartsSource, read_part
from data_pipelines.images.sources.samples import UNUSABLE, Samples, is_webdataset
from data_pipelines.images.sources.splits import split_by_archives
from data_pipelines.images.sources.spool import Spool
from data_pipelines.images.sources.tar_members import Member, members
from data_pipelines.images.transport import is_elsewhere, shown

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")


def expand(where: str) -> list[str]:
    """The tars that a URL or pattern means: `::` and braces as WebDataset has them, and `*`, `?`, `[...]` for files.

    Raises SourceError for a pattern that is wrong, and where a file is missing.
    """
    from webdataset.shardlists import expand_urls  # takes seconds, for it imports torch

    try:
        patterns: list[str] = expand_urls(where)
    except (ValueError, AssertionError) as error:  # unbalanced braces; ${NAME} where WDS_NAME is not set
        raise SourceError(f"source {where} is not a valid pattern ({error}): correct it") from None
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


def is_tar_name(name: str) -> bool:
    return name.lower().endswith(TAR_ENDINGS)


def find(folder: Path) -> list[str] | None:
    """The tars of a folder that holds shards rather than images: besides them only files about them."""
    names = [name for name in os.listdir(folder) if not is_hidden(name)]
    shards = sorted(str(folder / name) for name in names if is_tar_name(name))
    if not shards or any(has_image_ending(name) or (folder / name).is_dir() for name in names):
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
    """The images of tars, as if they were unpacked, or the samples of WebDataset's shards.

    Plain tars: every image in the sorted order of its name, tar by tar. Shards (samples.is_webdataset, or when `member`
    is given): the samples in the order of the tars and of their members, grouped as WebDataset does. A sample is the
    members in a row that are called the same up to the first dot of their file name. Its image is the one with an
    image's ending, or the one with the ending `member`; a sample has that member's name. Its label is the whole number
    in its member `cls`; where no sample has one, labels and splits are those of naming.list_files.
    """

    def __init__(
        self,
        where: str,
        tars: Sequence[str],
        labels: Labels,
        member: str | None,
        spool: Spool,
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        """`tick` is called for each image. Raises SourceError for tars that are damaged or cannot be had, samples with
        several images or out of order, names that repeat or lead out of a tar, and labels that are no numbers."""
        self.parts = Parts([local_tar(tar, spool) for tar in tars])
        where, tars = shown(where), [shown(tar) for tar in tars]
        ending = None if member is None else member.removeprefix(".").lower()
        grouped = ending is not None or is_webdataset(self.parts.files, tars, tick)
        self.found = Findings("WebDataset shards" if grouped else "tar" if len(tars) == 1 else f"{len(tars)} tars")
        given: list[int | None] | None = None
        if grouped:
            samples = Samples(self.parts, tars, ending, labels == "auto", self.found)
            names = Names(_ticking(samples.names(), tick))
            labels_files = samples.labels_files
            given = samples.labels if any(label is not None for label in samples.labels) else None
        else:
            plain = _Plain(self.parts, tars, self.found)
            names = Names(_ticking(plain.names(), tick))
            labels_files = plain.labels_files
        if not names:
            hint = "name the images' ending with --member" if member is None else f"none ends in {member}"
            raise SourceError(f"source {where} {self.found.nothing(hint)}")
        if len(dict(labels_files)) < len(labels_files):
            raise SourceError(f"source {where} holds several files {LABELS_NAME}: leave one of them")
        sizes = self.parts.size
        self.listing = list_files(where, names, sizes, labels, self.found, dict(labels_files).get, given)
        if self.listing.test is None and (tests := split_by_archives(list(tars))) is not None:
            self.listing = replace(self.listing, test=np.array(tests)[np.array(self.parts.file)])
            self.found.notes.append(f"{sum(tests)} of the {len(tests)} tars are for testing, by their names")
        if _repeat(self.listing.names):  # they often differ only within a shard
            stems = _stems(tars)
            told_apart = (f"{stems[tar]}/{name}" for tar, name in zip(self.parts.file, self.listing.names, strict=True))
            self.listing = replace(self.listing, names=Names(told_apart))


class _Plain:
    """Every image of tars in the sorted order of its name, tar by tar."""

    def __init__(self, parts: Parts, tars: Sequence[str], found: Findings) -> None:
        self._parts, self._tars, self._found = parts, tars, found
        self.labels_files: list[tuple[str, bytes]] = []

    def names(self) -> Iterator[str]:
        """The names, while their parts are noted."""
        for number, (tar, path) in enumerate(zip(self._tars, self._parts.files, strict=True)):
            for name, member in sorted(self._files(tar, path).items()):
                unusable = UNUSABLE.get(member.kind)
                head = read_part(path, member.offset, min(member.size, HEAD_BYTES)) if unusable is None else None
                if name.rpartition("/")[2] == LABELS_NAME:
                    if unusable is None:
                        self.labels_files.append((name, read_part(path, member.offset, member.size)))
                elif self._found.take(len(self._parts), name, member.size, head, unusable):
                    self._parts.add(number, member.offset, member.size, unusable)
                    yield name

    def _files(self, tar: str, path: Path) -> dict[str, Member]:
        files: dict[str, Member] = {}
        for member in members(path, tar):
            name = member_name(tar, member.name)
            if not member.holds_content:
                if member.kind != "folder":
                    self._found.pass_over("pipes and devices", member.name)
            elif name is None:
                self._found.pass_over("hidden and system files", member.name)
            elif name in files:
                raise SourceError(f"{tar} holds {name!r} twice, again at offset {member.offset}: remove one of them")
            else:
                files[name] = member
        return files


def _ticking(names: Iterator[str], tick: Callable[[], object]) -> Iterator[str]:
    for name in names:
        tick()
        yield name


def _repeat(names: Names) -> bool:
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    # No set of millions of names unless there is reason to think that some are the same.
    return len(np.unique(hashes)) < len(names) and len(set(names)) < len(names)


def _stems(tars: Sequence[str]) -> list[str]:
    """The prefix for the names of each tar's samples: its file name without endings, or its number."""
    stems = [posixpath.basename(urlsplit(tar).path if is_elsewhere(tar) else tar).split(".tar")[0] for tar in tars]
    return stems if len(set(stems)) == len(stems) else [f"{number:06d}" for number in range(len(tars))]
