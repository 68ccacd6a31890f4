"""A folder of images, nested or flat."""

import json
import os
import re
from pathlib import Path

from PIL import Image

from data_pipelines.sources import ImageError, Labels, Source, SourceError, open_image

LABELS_NAME = "dataset.json"

_MOST_CLASSES = 100_000


class FolderSource(Source):
    """Every regular file under a folder in the sorted order of its relative name; hidden ones are left out.

    Symbolic links are followed only as long as they stay inside the folder.

    Labels come from dataset.json at the top, `{"labels": [["name", k], ...]}`, where there is one. Otherwise
    the first-level sub-folders are the classes when there are at least two and every image is in one, except
    where they only cut one running number into pieces, as 00000/00000.png ... 69000/69999.png do.
    """

    def __init__(self, path: Path, labels: Labels = "auto") -> None:
        self.path = path
        self.classes = ()
        self._names, self._sizes, links = _list(path)
        self._labels: list[int | None] | None = None
        if not self._names:
            hint = f" ({links} symbolic links lead out of it and were not followed)" if links else ""
            raise SourceError(f"source {path} holds no files{hint}: give the folder that holds the images")
        if labels == "none":
            return
        if labels == "auto" and (path / LABELS_NAME).is_file():
            self.classes, self._labels = _labels_from_json(path / LABELS_NAME, self._names)
        else:
            self.classes, self._labels = self._labels_from_folders(required=labels == "folders")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        return self._names[i]

    def label(self, i: int) -> int | None:
        return None if self._labels is None else self._labels[i]

    def size(self, i: int) -> int:
        return self._sizes[i]

    def image(self, i: int) -> Image.Image:
        return open_image((self.path / self._names[i]).read_bytes())

    def _labels_from_folders(self, required: bool) -> tuple[tuple[str, ...], list[int | None] | None]:
        tops = [name.split("/", 1)[0] if "/" in name else None for name in self._names]
        classes = tuple(sorted({top for top in tops if top is not None}))
        if len(classes) >= 2 and (required or not self._is_running_number(classes)):
            # A stray text file beside the class folders must not cost the labels: only an image there does.
            if not any(top is None and self._is_image(i) for i, top in enumerate(tops)):
                numbers = {name: k for k, name in enumerate(classes)}
                return classes, [None if top is None else numbers[top] for top in tops]
        if required:
            raise SourceError(
                f"source {self.path} has no classes: it needs at least two sub-folders "
                "and every image inside one of them"
            )
        return (), None

    def _is_image(self, i: int) -> bool:
        try:
            self.image(i)
        except ImageError:
            return False
        return True

    def _is_running_number(self, classes: tuple[str, ...]) -> bool:
        """Whether sub-folders with long numbers for names hold files whose numbers rise through all of
        them."""
        if not all(re.fullmatch(r"\d{5,}", name, re.ASCII) for name in classes):
            return False
        last = -1
        for name in self._names:
            match = re.search(r"(\d+)(\.[^./]*)?$", name, re.ASCII)
            if match is None or int(match[1]) <= last:
                return False
            last = int(match[1])
        return True


def _list(root: Path) -> tuple[list[str], list[int], int]:
    """Relative names and sizes of all files in sorted order, and the number of links that lead outside."""
    real_root = os.path.realpath(root)
    found: list[tuple[str, int]] = []
    outside = 0
    # (folder, its relative name with a trailing slash, real paths of it and the folders above it)
    pending: list[tuple[str, str, frozenset[str]]] = [(real_root, "", frozenset([real_root]))]
    while pending:
        folder, prefix, above = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith(".") or name == LABELS_NAME:
                    continue
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if os.path.commonpath([real_root, real]) != real_root:
                    outside += 1
                elif entry.is_dir():
                    if real not in above:  # a link to a folder above would never end
                        pending.append((real, name + "/", above | {real}))
                elif entry.is_file():
                    _refuse_odd_name(root, name)
                    found.append((name, entry.stat().st_size))
    found.sort()
    return [name for name, _ in found], [size for _, size in found], outside


def _refuse_odd_name(root: Path, name: str) -> None:
    try:
        name.encode()
        odd = not name.isprintable()
    except UnicodeEncodeError:
        odd = True
    if odd:
        raise SourceError(f"source {root} has a file whose name is not printable text, {name!a}: rename it")


def _labels_from_json(path: Path, names: list[str]) -> tuple[tuple[str, ...], list[int | None] | None]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON ({error}): repair or remove it") from None
    if not isinstance(content, dict) or "labels" not in content:
        raise SourceError(f'{path} has no "labels": write {{"labels": [["name", number], ...]}} or remove it')
    if content["labels"] is None:  # how StyleGAN's tool says that there are none
        return (), None
    exact: dict[str, int] = {}
    try:
        for name, k in content["labels"]:
            if type(name) is not str or type(k) is not int or not 0 <= k < _MOST_CLASSES:
                raise SourceError(f"{path} gives {name!r} the label {k!r}: labels are whole numbers from 0")
            exact[name.removeprefix("./")] = k
    except (TypeError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        form = '{"labels": [["name", number], ...]}'
        raise SourceError(f"{path} is not of the form {form}: repair or remove it") from None
    folded: dict[str, int | None] = {}
    for name, k in exact.items():
        key = name.casefold()
        # None: names that differ only in case have different labels, so only the exact name will do.
        folded[key] = k if folded.get(key, k) == k else None
    labels = [exact.get(name, folded.get(name.casefold())) for name in names]
    if not exact or all(label is None for label in labels):
        raise SourceError(f"{path} labels none of the images: its names must be relative to its own folder")
    count = max(exact.values()) + 1
    return tuple(str(k) for k in range(count)), labels
