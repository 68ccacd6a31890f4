"""Finds what exactly is wrong in a tar: a slow walk from member to member, for tars that may be damaged."""

import os
import re
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.verify.faults import Fault, printable
from data_pipelines.images.verify.files import chunks, size_of
from data_pipelines.images.verify.tars import BLOCK, Cut, Gap, Member, padded, walk

TOO_MANY = 1000
"""Faults in one tar after which the rest is only counted."""

DAMAGED = "is damaged (its CRC-32 differs)"
RESIZED = "has another size in its header than in the index"

_MEMBERS = 8  # of one sample that are looked at together, which are more than it may have


@dataclass(frozen=True)
class Expected:
    """The expected content of a tar shard."""

    file: str
    index_file: str
    start: int
    """Number of its first sample."""
    count: int
    ending: str
    """Of its images."""
    labelled: bool
    labels: NDArray[np.int64] | None
    """[count] labels of its samples if it is labelled and they are known."""

    @property
    def members(self) -> list[str]:
        return ["cls", self.ending] if self.labelled else [self.ending]


class Examination:
    """Compares a tar with what it should hold and, if there is one, with its index."""

    def __init__(self, descriptor: int, expected: Expected, index: NDArray[np.void] | None, intact: bool) -> None:
        """`intact`: the tar has the checksum that it should have, so that a contradiction is the index's fault."""
        self.faults: list[Fault] = []
        self.keys: NDArray[np.int64] = np.full(expected.count, -1)
        """[count] keys of the samples that are whole, as numbers; -1 for the others."""
        self.images: NDArray[np.int64] = np.full((expected.count, 2), -1)
        """[count, 2] first byte and size of the image of every sample that has a whole one; -1 for the others."""
        self.guesses: dict[int, str] = {}
        """Keys, by sample, that stand in damaged headers and may be wrong themselves."""
        self._descriptor, self._expected, self._index, self._intact = descriptor, expected, index, intact
        self._rows: dict[int, int] = {}
        if index is not None:
            self._rows = dict(zip(index["offset"].tolist(), range(expected.count), strict=True))
        self._explained = np.zeros(expected.count, bool)  # samples that were found, or whose absence was reported
        self._next = 0  # row of the next sample if none is missing
        self._strangers = 0  # images that are not where the index says
        self._strayed = False  # whether the member before had a wrong size, so that no header is expected after it
        self._torn = False  # whether the sample at hand may have lost members to a gap
        self._unsure = False  # without an index nobody knows how many samples a gap has swallowed
        self._walk()

    def _walk(self) -> None:
        sample: list[Member] = []
        ended = False
        for found in walk(self._descriptor):
            if isinstance(found, Member):
                more = sample and found.key == sample[-1].key and found.ending not in [m.ending for m in sample]
                if sample and not (more and len(sample) < _MEMBERS):
                    self._sample(sample)
                    sample = []
                sample.append(found)
            elif isinstance(found, Gap):
                sample = self._close(sample)
                self._gap(found, sample)
                sample = []
            else:
                sample = self._close(sample)
                self._cut(found, sample)
                sample, ended = [], True
            if len(self.faults) > TOO_MANY:
                return
        if sample:
            self._sample(sample)
        if not ended:
            self._end()

    def _close(self, sample: list[Member]) -> list[Member]:
        """Judge a sample before something that is no member, unless it is not whole and that is the reason."""
        if sample and sorted(m.ending for m in sample) == self._expected.members:
            self._sample(sample)
            return []
        return sample

    def _fault(self, what: str, row: int | None, offset: int | None, key: str | None) -> None:
        known = row is not None and row < self._expected.count and not self._unsure
        sample = self._expected.start + row if row is not None and known else None
        self.faults.append(Fault(self._expected.file, what, offset, key, sample))

    def _sample(self, members: list[Member]) -> None:
        """Members that follow one another and have the same key."""
        key, endings = members[0].key, sorted(m.ending for m in members)
        image = next((m for m in members if m.ending == self._expected.ending), None)
        torn, self._torn = self._torn, False
        if image is None and torn:
            return
        row = self._next if self._index is None or image is None else self._rows.get(image.offset)
        if row is None or row >= self._expected.count:
            self._strangers += 1
            return
        self._next = row + 1
        if image is None:
            self._explained[row] = True
            self._fault(f"has no .{self._expected.ending} member", row, members[0].header, key)
            return
        already, self._explained[row] = self._explained[row], True
        if self._index is not None and image.size != self._index["size"][row]:
            self._strayed = True
            self._fault(RESIZED, row, image.header, key)
            return
        what = None if already and torn else self._wrong_members(endings)
        place = image.header
        if what is None:
            what, place = self._wrong_content(image, row)
        if what is None and self._expected.labelled:
            label = next((m for m in members if m.ending == "cls"), None)
            what, place = (None, 0) if label is None else self._wrong_label(label, row)
        if what is None and not re.fullmatch(r"[0-9]{1,18}", key):
            what, place = "has a key that is not a number", image.header
        if what is not None:
            self._fault(what, row, place, key)
            return
        if not self._unsure:
            self.images[row] = image.offset, image.size
            self.keys[row] = int(key)

    def _wrong_members(self, endings: list[str]) -> str | None:
        missing = [ending for ending in self._expected.members if ending not in endings]
        if missing:
            return f"has no .{missing[0]} member"
        more = [ending for ending in endings if ending not in self._expected.members]
        return f"has a member .{printable(more[0])} that does not belong there" if more else None

    def _wrong_content(self, image: Member, row: int) -> tuple[str | None, int]:
        if image.size == 0:
            return "is empty", image.header
        if self._index is not None and self._crc(image) != self._index["crc"][row]:
            return DAMAGED, image.offset
        return self._wrong_padding(image)

    def _wrong_label(self, label: Member, row: int) -> tuple[str | None, int]:
        if self._expected.labels is not None:
            text = os.pread(self._descriptor, min(label.size, BLOCK), label.offset)
            if text != str(self._expected.labels[row]).encode():
                return "has another label in its .cls member than in labels.npy", label.offset
        return self._wrong_padding(label)

    def _wrong_padding(self, member: Member) -> tuple[str | None, int]:
        end = member.offset + member.size
        if any(os.pread(self._descriptor, padded(member.size) - member.size, end)):
            return "has other bytes than zeros after its content", end
        return None, end

    def _crc(self, member: Member) -> int:
        crc = 0
        for _, content in chunks(self._descriptor, member.offset, member.offset + member.size):
            crc = zlib.crc32(content, crc)
        return crc

    def _gap(self, gap: Gap, sample: list[Member]) -> None:
        """Something that is no member, after the members `sample` of a sample that is not whole."""
        self._torn = True
        row, lost = self._next, 1
        if self._index is not None:
            begins, ends = _spans(self._index, len(self._expected.members))
            rows = np.flatnonzero((begins < gap.stop) & (ends > gap.start) & ~self._explained)
            row, lost = (int(rows[0]), len(rows)) if len(rows) else (self._expected.count, 0)
            self._explained[rows] = True
            strayed, self._strayed = self._strayed, False
            if strayed and not lost:
                return
        more = f", and {lost} samples are lost with it" if lost > 1 else ""
        known = row < self._expected.count
        self._fault(gap.what + more, row, gap.start, sample[0].key if sample and known else None)
        if known and (guess := self._name(gap.start)):
            self.guesses[self._expected.start + row] = guess
        self._unsure |= self._index is None

    def _cut(self, cut: Cut, sample: list[Member]) -> None:
        member = cut.member or (sample[0] if sample else None)
        rows = np.flatnonzero(~self._explained)
        if self._index is not None:
            rows = rows[_spans(self._index, 1)[1][rows] > cut.start]
        else:
            rows = rows[rows >= self._next]
        if not len(rows):
            self._fault("ends without the end marker of a tar", None, cut.start, None)
            return
        self._explained[rows] = True
        where = "inside this member" if member else "before this sample"
        many = f"; {len(rows)} samples are missing, this one and those after it" if len(rows) > 1 else ""
        self._fault(f"the tar is cut short {where}{many}", int(rows[0]), cut.start, member.key if member else None)
        self._end()

    def _end(self) -> None:
        """What the index says and the walk did not find."""
        missing = int((~self._explained).sum())
        found = self._expected.count - missing + self._strangers
        others = [fault for fault in self.faults if fault.what not in (DAMAGED, RESIZED)]
        changed = len(self.faults) - len(others)
        if not (missing or self._strangers or 1 < changed == self._expected.count):
            return
        if self._index is None or not found:
            if not self._unsure:
                self.faults = [replace(fault, sample=None) for fault in self.faults]  # which were counted
                self._fault(f"holds {found or 'no'} samples instead of {self._expected.count}", None, None, None)
                self.keys[:] = -1
            return
        self.faults = others
        first = int(np.flatnonzero(~self._explained)[0]) if missing else 0
        what = f"{max(missing, self._strangers, changed)} of {self._expected.count} images are not where "
        if self._intact:
            what = f"is not the index of the tar beside it: {what}it says"
            fault = Fault(self._expected.index_file, what, None, None, self._expected.start + first)
        else:
            what = f"is another tar than its index describes: {what}that says"
            fault = Fault(
                self._expected.file, what, int(self._index["offset"][first]), None, self._expected.start + first
            )
        self.faults.append(fault)
        self.keys[:] = -1  # of another tar

    def _name(self, header: int) -> str | None:
        """The key in a damaged header if it looks like one."""
        found = re.match(rb"([0-9]{8,18})\.", os.pread(self._descriptor, 20, header))
        return found[1].decode() if found and header + BLOCK <= size_of(self._descriptor) else None


def _spans(index: NDArray[np.void], members: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The start and end of each sample of an index in its tar, as floats, since an index may hold anything."""
    offsets, sizes = index["offset"].astype(np.float64), index["size"].astype(np.float64)
    return offsets - BLOCK * (2 * members - 1), offsets + sizes
