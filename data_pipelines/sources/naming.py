"""Labels and splits that the names of files tell, in a folder, a zip or a tar alike."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from reprlib import repr  # of a few dozen characters

from data_pipelines.sources import Labels, Listing, SourceError, listing_of

LABELS_NAME = "dataset.json"

MOST_CLASSES = 100_000
"""Labels are below it: a wild number would make a table of as many classes."""

_HIDDEN = r"(^|/)(\.[^/]|__MACOSX(/|$))"
_OUTSIDE = r"^/|(^|/)\.\.(/|$)"

_TRAIN = frozenset({"train", "training"})
_TEST = frozenset({"test", "testing", "val", "valid", "validation"})


def list_files(
    where: str,
    names: Sequence[str],
    sizes: Sequence[int],
    labels: Labels,
    labels_file: bytes | None,
    is_image: Callable[[int], bool],
    beside: Sequence[int | None] | None = None,
) -> Listing:
    """A listing of files, with what their names tell.

    Top-level folders `train` and `test` (or `val`) are a split. Labels come from StyleGAN's dataset.json,
    `{"labels": [["name", k], ...]}`, where there is one (`labels_file`, its content). Otherwise the first-level
    sub-folders (below the split's) are the classes when there are at least two and every image is in one, except
    where they only cut one running number into pieces, as 00000/00000.png ... 69000/69999.png do.

    `is_image`: whether file i, which is in no folder though others are, is an image. `beside`: labels that the
    archive itself holds beside its files, below MOST_CLASSES, which come before all others. Raises SourceError.
    """
    test = _split(names)
    inner = names if test is None else [name.split("/", 1)[1] for name in names]
    classes: tuple[str, ...] = ()
    numbers: list[int | None] | None = None
    if labels == "auto" and beside is not None:
        classes, numbers = _numbered(beside), list(beside)
    elif labels == "auto" and labels_file is not None:
        classes, numbers = _from_json(f"{LABELS_NAME} of {where}", labels_file, names)
    elif labels != "none":
        classes, numbers = _from_folders(where, inner, labels == "folders", is_image)
    return listing_of(names, sizes, classes, numbers, test)


def member_name(where: str, name: str) -> str | None:
    """What a listing calls a member of an archive, None for one that it leaves out because it is hidden.

    Raises SourceError as refuse_outside, and for none at all.
    """
    while name.startswith("./"):  # as `tar -C folder .` writes them
        name = name[2:]
    refuse_outside(where, name)
    if not name:
        raise SourceError(f"source {where} has a member without a name: make the archive again")
    return None if re.search(_HIDDEN, name) else name


def refuse_outside(where: str, name: str) -> None:
    """SourceError for a name inside an archive that would lead out of it."""
    if re.search(_OUTSIDE, name):
        raise SourceError(f"source {where} has a member whose name leads out of it, {name!r}: do not use this archive")


def _split(names: Sequence[str]) -> list[bool] | None:
    tops = {name.split("/", 1)[0] if "/" in name else "" for name in names}
    if not tops <= _TRAIN | _TEST or not tops & _TRAIN or not tops & _TEST:
        return None
    return [name.split("/", 1)[0] in _TEST for name in names]


def _from_folders(
    where: str, names: Sequence[str], required: bool, is_image: Callable[[int], bool]
) -> tuple[tuple[str, ...], list[int | None] | None]:
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = tuple(sorted({top for top in tops if top is not None}))
    if len(classes) >= 2 and (required or not _is_running_number(classes, names)):
        # A stray text file beside the class folders must not cost the labels: only an image there does.
        if not any(top is None and is_image(i) for i, top in enumerate(tops)):
            numbers = {name: k for k, name in enumerate(classes)}
            return classes, [None if top is None else numbers[top] for top in tops]
    if required:
        raise SourceError(
            f"source {where} has no classes: it needs at least two sub-folders and every image inside one of them"
        )
    return (), None


def _is_running_number(classes: Sequence[str], names: Sequence[str]) -> bool:
    """Whether sub-folders with long numbers for names hold files whose numbers rise through all of them."""
    if not all(re.fullmatch(r"\d{5,}", name, re.ASCII) for name in classes):
        return False
    last = -1
    for name in sorted(names):  # an archive may hold them in any order
        match = re.search(r"(\d+)(\.[^./]*)?$", name, re.ASCII)
        if match is None or int(match[1]) <= last:
            return False
        last = int(match[1])
    return True


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
