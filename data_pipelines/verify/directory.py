"""What surrounds the shards of a prepared data set: its folders, names and labels, and files that do not belong."""

import codecs
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.arrays import parse_array
from data_pipelines.manifest import MANIFEST_NAME, FileRecord, Manifest
from data_pipelines.verify.faults import Fault, condense
from data_pipelines.verify.files import (
    DamageError,
    chunks,
    content_differs,
    leads_outside,
    opened,
    size_differs,
    size_of,
)


def records(manifest: Manifest) -> list[FileRecord]:
    """All files of a data set but its manifest."""
    shards = [record for level in manifest.levels.values() for record in level.files + level.indexes]
    return [manifest.names, *([manifest.labels] if manifest.labels else []), *shards]


def check_folders(root: Path, manifest: Manifest) -> tuple[frozenset[str], list[Fault]]:
    """The manifest's folders that can be looked into, and one fault for each of the others."""
    files = Counter(record.name.rpartition("/")[0] for record in records(manifest))
    faults = []
    for folder, count in files.items():
        path = root / folder
        try:
            if leads_outside(path, root):
                raise DamageError("is a symbolic link that leads outside the data set, which is not followed")
            if not path.is_dir():
                raise DamageError("is missing" if not path.exists() else "is not a folder")
        except (DamageError, OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            faults.append(Fault(folder, f"{error}; its {count} files were not read"))
    return frozenset(files) - {fault.file for fault in faults}, faults


def check_strays(root: Path, manifest: Manifest, folders: frozenset[str]) -> list[Fault]:
    """Data that the manifest does not know, which a program that looks for shards by their names would take as well,
    and unfinished files. A text or licence beside the data is nobody's concern."""
    known = {record.name for record in records(manifest)} | {MANIFEST_NAME}
    inner = {"/".join(folder.split("/")[:depth]) for folder in folders for depth in range(1, folder.count("/") + 2)}
    faults = []
    for folder in sorted({"", *inner}):
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{folder}/{entry.name}".removeprefix("/")
                if name in known or name in inner:
                    continue
                if re.fullmatch(r"\..*\.tmp", entry.name):
                    faults.append(Fault(name, "is an unfinished file of an interrupted preparation: remove it"))
                elif entry.name.endswith((".tar", ".npy")):
                    faults.append(Fault(name, "is not in the manifest"))
                elif re.fullmatch(r"\d{4,}", entry.name) and not any(
                    f.startswith(f"{name}/") or f == name for f in folders
                ):
                    if not any(record.name.startswith(f"{name}/") for record in records(manifest)):
                        faults.append(Fault(name, "is a level that the manifest does not have"))
    return faults


def check_names(root: Path, manifest: Manifest) -> list[Fault]:
    """Whether names.txt is UTF-8 text with a line for every sample."""
    record = manifest.names
    try:
        with opened(root, record.name) as descriptor:
            what = _wrong_lines(descriptor, manifest.samples)
            what = what or size_differs(descriptor, record) or content_differs(descriptor, record)
    except DamageError as error:
        what = str(error)
    return [Fault(record.name, what)] if what else []


def _wrong_lines(descriptor: int, count: int) -> str | None:
    decoder, lines, last = codecs.getincrementaldecoder("utf-8")(), 0, ord("\n")
    for start, content in chunks(descriptor, 0, size_of(descriptor)):
        try:
            decoder.decode(content.tobytes())
        except UnicodeDecodeError:
            return f"is not UTF-8 text (in the bytes from {start} on)"
        lines += content.tobytes().count(b"\n")
        last = content[-1]
    if lines != count:
        return f"has {lines} lines instead of {count}"
    return "has text after its last line" if last != ord("\n") else None


def check_labels(root: Path, manifest: Manifest) -> tuple[NDArray[np.int64] | None, list[Fault]]:
    """The labels [samples] if there are any and they are right, else None; and what is wrong with them."""
    record = manifest.labels
    if record is None:
        return None, []
    try:
        with opened(root, record.name) as descriptor:
            what = size_differs(descriptor, record)
            if what is None:
                most = 8 * manifest.samples + (1 << 16)  # not more than it takes to refuse a larger file
                content = b"".join(piece.tobytes() for _, piece in chunks(descriptor, 0, min(record.bytes, most)))
                labels = parse_array(content, np.int64, (manifest.samples,))
                wrong = np.flatnonzero((labels < 0) | (labels >= len(manifest.classes)))
                if len(wrong):
                    what = f"is not the number of one of the {len(manifest.classes)} classes"
                    begin = record.bytes - labels.nbytes
                    places = wrong[:1000].tolist()
                    return None, condense(Fault(record.name, what, begin + 8 * row, None, row) for row in places)
                what = content_differs(descriptor, record)
                if what is None:
                    return labels, []
    except DamageError as error:
        what = str(error)
    except ValueError as error:
        what = f"is damaged: {error}"
    return None, [Fault(record.name, what)]
