"""One shard at all levels: its files against the manifest, its samples against one another."""

import os
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.arrays import map_array, parse_array
from data_pipelines.images.manifest import INDEX_DTYPE, FileRecord, Level, Manifest
from data_pipelines.images.verify.examination import DAMAGED, Examination, Expected
from data_pipelines.images.verify.faults import Fault, condense
from data_pipelines.images.verify.files import DamageError, content_differs, opened, size_differs, size_of
from data_pipelines.images.verify.images import image_fault
from data_pipelines.images.verify.layout import Layout
from data_pipelines.pool import Tick

INDEX_ROW = np.dtype(INDEX_DTYPE).itemsize


@dataclass(frozen=True)
class DataSet:
    """The data set to be verified."""

    root: Path
    manifest: Manifest
    labels: NDArray[np.int64] | None
    """[samples] the labels, None when there are none or they are damaged."""
    folders: frozenset[str]
    """Those of the manifest's folders that are there."""
    decode: bool


@dataclass
class ShardReport:
    """The findings about one shard."""

    file: str = ""
    """The tar that gives the samples their keys; empty when there is none."""
    keys: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """[n] keys of its samples as numbers, -1 where they are not known."""
    faults: list[Fault] = field(default_factory=list)


def check_shard(data: DataSet, number: int, tick: Tick) -> ShardReport:
    """Everything about shard `number`; counts with `tick` the samples of every level."""
    manifest = data.manifest
    start = manifest.shard_starts[number]
    checks: list[_LevelCheck] = []
    for resolution in sorted(manifest.levels, reverse=True):
        level = manifest.levels[resolution]
        record = level.files[number]
        check = _LevelCheck(data, number, resolution, level, tick)
        if record.name.rpartition("/")[0] in data.folders:
            try:
                check.run()
            except DamageError as error:
                check.faults.append(Fault(record.name, str(error)))
        checks.append(check)
        tick(manifest.shards[number].samples - check.ticked)
    tars = [check for check in checks if check.is_tar]
    report = ShardReport()
    if tars:
        trusted = next((check for check in tars if _in_order(check.keys)), tars[0])
        for check in tars:
            check.faults += _wrong_keys(check, trusted)
        report.file, report.keys = trusted.record.name, trusted.keys
    for check in checks:
        named = (_name(fault, tars, check.guesses, start) for fault in check.faults)
        report.faults += condense(named)
    return report


def _in_order(keys: NDArray[np.int64]) -> bool:
    """Whether all are known, and grow, as positions in the source do."""
    return bool((keys >= 0).all() and (np.diff(keys) > 0).all())


def _wrong_keys(check: "_LevelCheck", trusted: "_LevelCheck") -> list[Fault]:
    """Keys that do not grow at the trusted level, which are taken for unknown from then on; those that differ from its
    keys at another level."""
    if check is trusted:
        known = np.flatnonzero(check.keys >= 0)
        wrong = known[1:][np.diff(check.keys[known]) <= 0]
        what = "has a key that does not come after the one before it"
    else:
        wrong = np.flatnonzero((check.keys != trusted.keys) & (check.keys >= 0) & (trusted.keys >= 0))
        what = f"has another key than the sample has in {trusted.record.name}"
    keys = check.keys[wrong].tolist()
    if check is trusted:
        check.keys[wrong] = -1
    samples = (wrong + check.start).tolist()
    return [
        Fault(check.record.name, what, None, f"{key:08d}", sample) for key, sample in zip(keys, samples, strict=True)
    ]


def _name(fault: Fault, tars: list["_LevelCheck"], guesses: dict[int, str], start: int) -> Fault:
    """A fault that could not read its key, with the one that the sample has at another level, or seems to have."""
    if fault.sample is None or fault.key is not None:
        return fault
    known = [f"{key:08d}" for check in tars if (key := int(check.keys[fault.sample - start])) >= 0]
    return replace(fault, key=known[0] if known else guesses.get(fault.sample))


class _LevelCheck:
    """One level of one shard."""

    def __init__(self, data: DataSet, number: int, resolution: int, level: Level, tick: Tick) -> None:
        self.faults: list[Fault] = []
        self.count, self.start = data.manifest.shards[number].samples, data.manifest.shard_starts[number]
        self.record = level.files[number]
        self.keys: NDArray[np.int64] = np.full(self.count, -1)
        """[n] of a tar's samples, -1 where they are not known."""
        self.guesses: dict[int, str] = {}
        """Keys, by sample, that may be wrong."""
        self.ticked = 0
        self._data, self._resolution, self._level, self._tick = data, resolution, level, tick
        self._index_record = level.indexes[number] if level.kind == "tar" else None

    @property
    def is_tar(self) -> bool:
        return self._index_record is not None

    def run(self) -> None:
        """Fills `faults` and `keys`; DamageError for a shard that cannot be read."""
        if self._index_record is None:
            self._array()
        else:
            self._tar(self._index_record)

    def _array(self) -> None:
        shape = (self.count, self._data.manifest.channels, self._resolution, self._resolution)
        with opened(self._data.root, self.record.name) as descriptor:
            what = size_differs(descriptor, self.record)
            if what is None:
                try:
                    map_array(self._data.root / self.record.name, np.uint8, shape)
                except ValueError as error:
                    what = f"is damaged: {error}"
            what = what or content_differs(descriptor, self.record)
        if what is not None:
            self.faults.append(Fault(self.record.name, what))

    def _tar(self, index_record: FileRecord) -> None:
        index = self._read_index(index_record)
        manifest = self._data.manifest
        labelled = manifest.labels is not None
        labels = None if self._data.labels is None else self._data.labels[self.start : self.start + self.count]
        ending = "png" if self._level.format == "png" else "jpg"
        with opened(self._data.root, self.record.name) as descriptor:
            size = size_of(descriptor)
            if not size:
                raise DamageError("has no bytes")
            what = size_differs(descriptor, self.record)
            layout = None if index is None else Layout(index, size, ending, labelled, labels)
            what = what or content_differs(descriptor, self.record, layout.look if layout else None)
            if what is None and layout and layout.sound and index is not None:
                self.keys = layout.keys
                images = np.stack([index["offset"], index["size"]], axis=1).astype(np.int64)
            else:
                names = (self.record.name, index_record.name)
                expected = Expected(*names, self.start, self.count, ending, labelled, labels)
                examination = Examination(descriptor, expected, index, what is None)
                self.faults += examination.faults
                if what and not examination.faults:
                    self.faults.append(Fault(self.record.name, f"{what}, though every member seems whole"))
                self.keys, images, self.guesses = examination.keys, examination.images, examination.guesses
            if self._data.decode:
                self._decode(descriptor, images, index)

    def _read_index(self, record: FileRecord) -> NDArray[np.void] | None:
        """The index if it is what the manifest says; None, and a fault, otherwise."""
        try:
            with opened(self._data.root, record.name) as descriptor:
                what = size_differs(descriptor, record) or content_differs(descriptor, record)
                if what is None:
                    # Of an index that claims to be larger not more is read than it takes to refuse it.
                    content = os.pread(descriptor, (self.count + 1) * INDEX_ROW + (1 << 16), 0)
                    return parse_array(content, INDEX_DTYPE, (self.count,))
        except DamageError as error:
            what = str(error)
        except ValueError as error:
            what = f"is damaged: {error}"
        self.faults.append(Fault(record.name, what))
        return None

    def _decode(self, descriptor: int, images: NDArray[np.int64], index: NDArray[np.void] | None) -> None:
        """Look at the pixels of all `images`, of [offset, size], that are where they should be."""
        most = 16 * self._data.manifest.channels * self._resolution**2 + (1 << 20)
        for row, (offset, size) in enumerate(images.tolist()):
            self._tick()
            self.ticked += 1
            if offset < 0:
                continue
            if size > most:
                what: str | None = f"has {size} bytes, far too many for an image of this size"
            else:
                content = os.pread(descriptor, size, offset)
                if index is not None and zlib.crc32(content) != index["crc"][row]:
                    what = DAMAGED
                else:
                    what = image_fault(content, self._level.format, self._data.manifest.channels, self._resolution)
            if what is not None:
                key = f"{self.keys[row]:08d}" if self.keys[row] >= 0 else None
                self.faults.append(Fault(self.record.name, what, offset, key, self.start + row))
