"""WebDataset's samples: members of a tar that belong together."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_pipelines.images.sources import SourceError
from data_pipelines.images.sources.findings import LABELS_NAME, Findings, shown_name
from data_pipelines.images.sources.formats import HEAD_BYTES, has_image_ending, has_picture_ending
from data_pipelines.images.sources.naming import MOST_CLASSES, member_name
from data_pipelines.images.sources.parts import Parts, read_part
from data_pipelines.images.sources.tar_members import Member, members

UNUSABLE = {"link": "is a link, which is not followed", "sparse": "is stored without its holes: pack it plainly"}

_META = r"__[^/]*__(/|$)"
"""Names that WebDataset leaves out."""

_LABEL_ENDING = "cls"
_MAX_LABEL_BYTES = 16


def split_key(name: str) -> tuple[str, str] | None:
    """The key of a sample, which the names of all its members start with up to the first dot, and what follows
    the dot; None for a name without either."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return (f"{folder}{slash}{stem}", ending) if stem and dot else None


def is_webdataset(paths: Sequence[Path], tars: Sequence[str], tick: Callable[[], object]) -> bool:
    """Whether tars hold samples rather than plain pictures: some member `cls`, or several images of one sample with
    something else that belongs to them. Any other samples give the same images either way."""
    for path, tar in zip(paths, tars, strict=True):
        key, images, companion = "", 0, False
        for member in members(path, tar):
            tick()
            name = member_name(tar, member.name) if member.holds_content else None
            parts = None if name is None else split_key(name)
            if parts is None:
                continue
            if parts[0] != key:
                key, images, companion = parts[0], 0, False
            end = parts[1].lower()
            if end == _LABEL_ENDING:
                return True
            images += may_be_image(end)
            companion = companion or ("." not in end and not may_be_image(end))
            if images > 1 and companion:
                return True
    return False


def may_be_image(ending: str) -> bool:
    """Whether the member of a sample with this ending may be its image; its format is detected from its content."""
    return has_image_ending(f"a.{ending}")


class Samples:
    """The samples of tars: their parts and their labels."""

    def __init__(self, parts: Parts, tars: Sequence[str], member: str | None, labelled: bool, found: Findings) -> None:
        self._parts, self._tars, self._member, self._labelled, self._found = parts, tars, member, labelled, found
        self.labels: list[int | None] = []
        self.labels_files: list[tuple[str, bytes]] = []

    def names(self) -> Iterator[str]:
        """Names of all samples that should have an image; the rest is noted as they are taken."""
        for number, (tar, path) in enumerate(zip(self._tars, self._parts.files, strict=True)):
            for key, sample in self._samples(tar, path):
                image = self._choose(tar, key, sample)
                if image is not None:
                    self._add(number, path, image)
                elif _LABEL_ENDING in sample or any(map(may_be_image, sample)):
                    wanted = self._member or "an image"
                    reason = f"is a sample without {wanted}, it has {', '.join(sample)}"
                    self._found.take(len(self._parts), key, 0, None, reason, meant=True)
                    self._parts.add(number, 0, 0, reason)
                else:  # a file about the data set
                    for other in sample.values():
                        if other.name.rpartition("/")[2] != LABELS_NAME:
                            self._found.pass_over("files of other kinds", other.name)
                    continue
                label = sample.get(_LABEL_ENDING) if self._labelled else None
                self.labels.append(None if label is None else _read_label(tar, path, key, label))
                yield key if image is None else image.name

    def _add(self, number: int, path: Path, image: Member) -> None:
        unusable = UNUSABLE.get(image.kind)
        head = read_part(path, image.offset, min(image.size, HEAD_BYTES)) if unusable is None else None
        self._found.take(len(self._parts), image.name, image.size, head, unusable, meant=True)
        self._parts.add(number, image.offset, image.size, unusable)

    def _samples(self, tar: str, path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
        """Members by their endings, in small letters, of each sample, and what all of a sample's names start with."""
        keys: set[str] = set()
        current, sample = "", dict[str, Member]()
        for member in members(path, tar):
            if not member.holds_content:
                continue
            name = member_name(tar, member.name)
            if name is None or re.match(_META, name):
                self._found.pass_over("hidden and system files", member.name)
                continue
            if name.rpartition("/")[2] == LABELS_NAME and member.kind == "file":
                self.labels_files.append((name, read_part(path, member.offset, member.size)))
            parts = split_key(name)
            if parts is None:
                self._found.pass_over("files without an ending", name)
                continue
            key, ending = parts
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
        images = [ending for ending in sample if may_be_image(ending)]
        images = images or [
            ending for ending in sample if has_picture_ending(f"a.{ending}")
        ]  # to be named for what it is
        if len(images) > 1:
            found = ", ".join(images)
            raise SourceError(
                f"{tar} holds several images of {shown_name(key)!r} ({found}): say with --member which one to take, "
                "or unpack it and give the folder to take them all"
            )
        return sample[images[0]] if images else None


def _read_label(tar: str, path: Path, key: str, member: Member) -> int:
    text = read_part(path, member.offset, min(member.size, _MAX_LABEL_BYTES)) if member.kind == "file" else b""
    digits = text.strip()
    if not digits.isdigit() or int(digits) >= MOST_CLASSES:
        raise SourceError(
            f"{tar} gives the sample {key!r} at offset {member.offset} the label {text!r}: "
            f"labels are whole numbers from 0 to {MOST_CLASSES - 1}, or ignored with --labels none"
        )
    return int(digits)
