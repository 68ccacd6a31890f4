"""Finds everything that is wrong in a prepared data set and says where it is.

A file is first compared with the size and the checksum that the manifest gives it. A tar's structure is checked always,
for many members at once, against its index: a manifest may have been written over damaged files. Only a tar in which
something is wrong is walked through slowly, to name the member. Nothing that lies in the directory is trusted.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.images.manifest import MANIFEST_NAME, Manifest
from data_pipelines.images.verify.directory import check_folders, check_labels, check_names, check_strays
from data_pipelines.images.verify.faults import Fault, condense
from data_pipelines.images.verify.files import leads_outside
from data_pipelines.images.verify.shard import DataSet, ShardReport, check_shard
from data_pipelines.pool import run_tasks

__all__ = ["Fault", "verify"]


def verify(
    root: Path | str,
    decode: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Fault]:
    """The faults in the data set at `root`; an empty list when there are none.

    With `decode` also the checksum and the pixels of every stored image. One fault in one place is one entry, however
    much is lost with it. `progress` gets the number of images looked at and of all, each level's counted.
    Raises FileNotFoundError and ValueError when there is no valid manifest, OSError when it cannot be read.
    """
    given, root = root, Path(root).resolve()
    if leads_outside(root / MANIFEST_NAME, root):
        return [Fault(MANIFEST_NAME, "is a symbolic link that leads outside the data set, which is not followed")]
    manifest = Manifest.load(given)
    report = progress or (lambda done, total: None)
    total = manifest.samples * len(manifest.levels)
    report(0, total)
    labels, faults = check_labels(root, manifest)
    faults += check_names(root, manifest)
    folders, missing = check_folders(root, manifest)
    faults += missing + check_strays(root, manifest, folders)
    data = DataSet(root, manifest, labels, folders, decode)
    shards = range(len(manifest.shards))
    reports = run_tasks(check_shard, data, shards, workers, lambda done: report(done, total))
    for shard in reports:
        faults += shard.faults
    return faults + _repeated_keys(reports, manifest)


def _repeated_keys(reports: Sequence[ShardReport], manifest: Manifest) -> list[Fault]:
    """Keys that samples of different shards share."""
    counts = [len(report.keys) for report in reports]
    if not sum(counts):
        return []
    keys = np.concatenate([report.keys for report in reports])
    shards = np.repeat(np.arange(len(reports)), counts)
    rows = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero((np.diff(keys[order]) == 0) & (keys[order[1:]] >= 0) & (np.diff(shards[order]) != 0))
    faults: dict[int, list[Fault]] = {}
    for first, second in zip(order[same].tolist(), order[same + 1].tolist(), strict=True):
        number = int(shards[second])
        what = f"has a key that a sample of {reports[shards[first]].file} has too"
        sample = manifest.shard_starts[number] + int(rows[second])
        fault = Fault(reports[number].file, what, key=f"{keys[second]:08d}", sample=sample)
        faults.setdefault(number, []).append(fault)
    return [fault for number in sorted(faults) for fault in condense(faults[number])]
