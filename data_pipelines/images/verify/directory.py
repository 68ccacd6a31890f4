"""Checks what surrounds the shards of a prepared data set: folders, names, labels, and files that do not belong."""

import codecs
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.arrays import parse_array
from data_pipelines.images.manifest import MANIFEST_NAME, Manifest
from data_pipelines.images.verify.faults import Fault, condense
from data_pipelines.images.verify.files import (
    DamageError,
    chunks,
    content_differs,
    leads_outside,
    opened,
    size_differs,
    size_of,
)


def check_folders(root: Path, manifest: Manifest) -> tuple[frozenset[str], list[Fault]]:
    """The folders of the manifest's files that can be looked into, and one fault for each of the others."""
    files = Counter(_folder(record.name) for record in manifest.records())
    faults = []
    for folder, count in files.items():
        path = root / folder
        try:
            if leads_outside(path, root):
                raise DamageError("is a symbolic link that leads outside the data set, which is not followed")
            if not path.is_dir():
                raise DamageError("is not a folder" if path.exists() else "is missing")
        except DamageError as error:
            faults.append(Fault(folder, f"{error}; its {count} files were not read"))
        except OSError:
            faults.append(Fault(folder, f"cannot be opened; its {count} files were not read"))
    return frozenset(files) - {fault.file for fault in faults}, faults


def check_strays(root: Path, manifest: Manifest, folders: frozenset[str]) -> list[Fault]:
    """Data that the manifest does not know, which a program that looks for shards by their names would take as well,
    and unfinished files. A text or licence beside the data is nobody's concern."""
    known = {record.name for record in manifest.records()} | {MANIFEST_NAME}
    parents = {_folder(name) for name in known}
    faults = []
    for folder in sorted(folders | {""}):
        for entry in sorted(os.listdir(root / folder)):
            name = f"{folder}/{entry}".removeprefix("/")
            if name in known:
                continue
            if re.fullmatch(r"\..*\.tmp", entry, re.DOTALL):
                faults.append(Fault(name, "is an unfinished file of an interrupted preparation: remove it"))
            elif entry.endswith((".tar", ".npy")):
                faults.append(Fault(name, "is not in the manifest"))
            elif re.fullmatch(r"\d{4}", entry) and not any(f"{parent}/".startswith(f"{name}/") for parent in parents):
                faults.append(Fault(name, "is a level that the manifest does not have"))
    return faults


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


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
