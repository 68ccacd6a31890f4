"""What a prepared set knows of its samples besides their pixels: labels, and contents by their names."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.arrays import parse_array
from data_pipelines.images.manifest import FileRecord, Manifest
from data_pipelines.images.store import Directory, Store, unreadable


def read_labels(store: Store, manifest: Manifest) -> NDArray[np.int64] | None:
    """The label of every sample, int64 [samples] in [0, classes); None when there are none.

    ValueError when the file is not what the manifest says, CircumstanceError when the machine cannot read it.
    """
    if manifest.labels is None:
        return None
    content = _read(store, manifest.labels)
    try:
        labels: NDArray[np.int64] = parse_array(content, np.int64, (manifest.samples,))
        if labels.min() < 0 or labels.max() >= len(manifest.classes):
            raise ValueError(f"it holds labels outside of 0..{len(manifest.classes) - 1}")
    except ValueError as error:
        raise _damaged(store, manifest.labels, error) from None
    return labels


def read_contents(store: Store, manifest: Manifest, labels: NDArray[np.int64] | None) -> list[str | None] | None:
    """The content of every sample: what is left of its name behind its class, without an ending, if that is left of
    names of several classes; `azimuth-03-elevation-1` of `train/car-017/azimuth-03-elevation-1.png`.

    None for the set if no sample has one, as without labels. Raises as read_labels.
    """
    if labels is None or len(manifest.classes) < 2:
        return None
    content = _read(store, manifest.names)
    try:
        names = content.decode("utf-8").split("\n")
        if len(names) != manifest.samples + 1 or names[-1]:
            raise ValueError(f"it does not hold a line for each of the {manifest.samples} samples")
    except ValueError as error:
        raise _damaged(store, manifest.names, error) from None
    folders = [f"/{name}/" for name in manifest.classes]
    first: dict[str, int] = {}
    shared: set[str] = set()
    rests: list[str] = []
    for name, label in zip(names, labels.tolist(), strict=False):
        rest = f"/{name}".partition(folders[label])[2]
        stem, dot, ending = rest.rpartition(".")
        if dot and stem and "/" not in ending:
            rest = stem
        rests.append(rest)
        if rest and first.setdefault(rest, label) != label:
            shared.add(rest)
    return [rest if rest in shared else None for rest in rests] if shared else None


def contents_of(root: Path) -> list[str | None] | None:
    """read_contents of the set in a directory. Raises as read_labels and Manifest.load."""
    store = Directory(root)
    manifest = store.manifest()
    return read_contents(store, manifest, read_labels(store, manifest))


def _read(store: Store, record: FileRecord) -> bytes:
    """All of a file, checked."""
    path = store.file(record)
    try:
        size = path.stat().st_size
        if size != record.bytes:  # before as many bytes are read
            raise ValueError(f"it has {size} bytes instead of {record.bytes}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise ValueError("its checksum differs")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and (circumstance := unreadable(store, record, error)):
            raise circumstance from None
        raise _damaged(store, record, error) from None
    return content


def _damaged(store: Store, record: FileRecord, error: Exception) -> ValueError:
    return ValueError(f"{store.name(record)} is damaged ({error}): prepare the data set again")
