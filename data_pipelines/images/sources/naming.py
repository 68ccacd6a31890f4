"""Labels and splits from the names of files, in a folder, a zip or a tar alike."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from reprlib import repr  # of a few dozen characters

from data_pipelines.images.sources import Labels, Listing, SourceError, listing_of
from data_pipelines.images.sources.findings import LABELS_NAME, Findings, is_hidden, shown_name
from data_pipelines.images.sources.splits import common_folder, doubtful_folders, is_running_number, split_by_folders

MOST_CLASSES = 100_000
"""Labels are below it: a wild number would make a table of as many classes."""

_EXAMPLES = 6
"""Folders that a message names."""

_OUTSIDE = r"^/|(^|/)\.\.(/|$)"


def list_files(
    where: str,
    names: Sequence[str],
    sizes: Sequence[int],
    labels: Labels,
    found: Findings,
    read_file: Callable[[str], bytes | None],
    beside: Sequence[int | None] | None = None,
) -> Listing:
    """A listing of files, with what their names say. Folders around all of them are left out of the names.

    Folders `train` and `test` (or `val`) are a split: splits.split_by_folders. Labels come from StyleGAN's
    dataset.json, `{"labels": [["name", k], ...]}`, where there is one at the top. Otherwise the first-level sub-folders
    (below the split's) are the classes when there are at least two and every image is in one, except where they only
    cut one running number into pieces, as 00000/00000.png ... 69000/69999.png do.

    `found` gets the remarks, and the images that have no place in a split. `read_file` gives the content of another
    file of the source, None when there is none of that name. `beside`: labels that the archive itself holds beside its
    files, below MOST_CLASSES, which come before all others. Raises SourceError.
    """
    top = common_folder(names)
    short = [name[len(top) :] for name in names] if top else names
    split = split_by_folders(names)
    if split is None and (folders := doubtful_folders(short)):
        some = ", ".join(map(shown_name, folders[:_EXAMPLES])) + ", ..." * (len(folders) > _EXAMPLES)
        if labels != "folders":
            raise SourceError(
                f"source {where} has folders {some}, which could be a split or classes: name those of a split train "
                "and test, or take all as classes with --labels folders"
            )
    classes: tuple[str, ...] = ()
    numbers: list[int | None] | None = None
    labels_file = _find_labels(read_file, top) if labels == "auto" and beside is None else None
    if labels == "auto" and beside is not None:
        classes, numbers = _numbered(beside), list(beside)
    elif labels_file is not None:
        place, text = labels_file
        relative = short if place else names
        found.notes.append(f"labels are those of {shown_name(place)}{LABELS_NAME}")
        classes, numbers = _from_json(f"{place}{LABELS_NAME} of {where}", text, relative)
    elif labels != "none":
        inner = short if split is None else split.inner
        elsewhere = set() if split is None else {*split.outside, *split.unlabelled}
        placed = [i for i in range(len(names)) if i not in elsewhere]
        classes, numbers = _from_folders(where, inner, placed, labels == "folders", found)
    if split is not None:
        for i in split.outside:
            found.problems.setdefault(i, f"is in none of the split's folders {', '.join(split.folders)} (move it)")
        for i in split.unlabelled if classes else ():
            found.left_out.add(i)
            found.pass_over("unlabelled images, which --labels none would take for training", names[i])
        found.notes += [f"{shown_name(folder)}/ is {role}" for folder, role in split.folders.items()]
    if top:
        found.notes.append(f"everything is in {shown_name(top)}, which names leave out")
    return listing_of(short, sizes, classes, numbers, None if split is None else split.test, top)


def _find_labels(read_file: Callable[[str], bytes | None], top: str) -> tuple[str, bytes] | None:
    """The folder that holds the file with labels, and its content."""
    for place in dict.fromkeys(("", top)):
        if (text := read_file(place + LABELS_NAME)) is not None:
            return place, text
    return None


def member_name(where: str, name: str) -> str | None:
    """The name of an archive's member in a listing; None for one that is left out because it is hidden.

    Raises SourceError as refuse_outside, and for none at all.
    """
    while name.startswith("./"):  # as `tar -C folder .` writes them
        name = name[2:]
    refuse_outside(where, name)
    if not name:
        raise SourceError(f"source {where} has a member without a name: make the archive again")
    return None if any(map(is_hidden, name.split("/"))) else name


def refuse_outside(where: str, name: str) -> None:
    """SourceError for a name inside an archive that would lead out of it."""
    if re.search(_OUTSIDE, name):
        raise SourceError(f"source {where} has a member whose name leads out of it, {name!r}: do not use this archive")


def _from_folders(
    where: str, names: Sequence[str], placed: Sequence[int], required: bool, found: Findings
) -> tuple[tuple[str, ...], list[int | None] | None]:
    """Classes, and the label of each image: of those that are `placed`, where the split says nothing against it."""
    tops = [name.partition("/")[0] if "/" in name else None for name in names]
    classes = tuple(sorted({top for i in placed if (top := tops[i]) is not None}))
    loose = [i for i in placed if tops[i] is None and i not in found.problems]
    if len(classes) >= 2 and (required or not is_running_number(classes, [names[i] for i in placed])) and not loose:
        numbers = {name: k for k, name in enumerate(classes)}
        return tuple(map(shown_name, classes)), [None if top is None else numbers.get(top) for top in tops]
    if classes and loose:
        found.notes.append(
            f"no classes: {len(loose):,} images are in none of the folders ({shown_name(names[loose[0]])})"
        )
    if required:
        raise SourceError(
            f"source {where} has no classes: it needs at least two sub-folders and every image inside one of them"
        )
    return (), None


def _from_json(path: str, text: bytes, names: Sequence[str]) -> tuple[tuple[str, ...], list[int | None] | None]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not valid JSON ({error}): repair or remove it") from None
    if not isinstance(content, dict) or "labels" not in content:
        raise SourceError(f'{path} has no "labels": write {{"labels": [["name", number], ...]}} or remove it')
    if content["labels"] is None:  # how StyleGAN's tool says that there are none
        return (), None
    exact: dict[str, int] = {}
    try:
        for name, k in content["labels"]:
            if type(name) is not str or type(k) is not int or not 0 <= k < MOST_CLASSES:
                raise SourceError(f"{path} gives {repr(name)} the label {repr(k)}: labels are whole numbers from 0")
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
    return _numbered(exact.values()), labels


def _numbered(labels: Iterable[int | None]) -> tuple[str, ...]:
    """Names for classes of which only the numbers are known."""
    return tuple(str(k) for k in range(1 + max(label for label in labels if label is not None)))
