"""The choice of test images: by the folders of a source, or as many as asked for."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources import Listing, SourceError
from data_pipelines.images.sources.findings import shown_name

TestChoice = int | str | tuple[str, ...]
"""How many images are kept for testing, or a share of them as `10%`, or their names, or `source`: its own split."""

SHARE = r"^(100|\d{1,2}(\.\d+)?)%$"
"""A share of the images, such as `10%` or `0.5%`."""

_WORDS: dict[str, Literal["train", "test"]] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst", "val", "valid", "validation", "eval", "dev", "holdout"), "test"),
}
_UNLABELLED = frozenset(("unlabeled", "unlabelled", "unsup", "unsupervised"))
_TOKENS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_MEANINGS = {"train": "for training", "test": "for testing", "unlabelled": "without labels"}
_DEPTHS = 6
"""Folders deep that a split is looked for."""


@dataclass(frozen=True)
class FolderSplit:
    """The split that folders such as `train` and `test` make."""

    test: list[bool]
    """Of each image; False as well where no folder says it."""
    inner: list[str]
    """Names without the folder of the split and without what lies around it."""
    unlabelled: list[int]
    """Images in a folder `unlabeled`, which count as training images."""
    outside: list[int]
    """Images in neither."""
    folders: dict[str, str]
    """From a folder to what it is: `for training`, `for testing` or `without labels`."""


def split_by_folders(names: Sequence[str]) -> FolderSplit | None:
    """The split that folders make, at whatever depth; None without both a folder for training and one for testing.

    A folder's name says it with one word, in any case, with any numbers and with other additions that both have:
    `Train` and `Test`, `train2017` and `val2017`, `trainA` and `testA`, `DIV2K_train_HR` and `DIV2K_valid_HR`. `val`,
    `valid` and `validation` mean testing.
    """
    paths = [name.split("/")[:-1] for name in names]
    for depth in range(min(_DEPTHS, max(map(len, paths), default=0))):
        roles = _roles({tuple(path[: depth + 1]) for path in paths if len(path) > depth})
        if roles:
            return _split(names, paths, depth, roles)
    return None


def split_by_archives(paths: Sequence[str]) -> list[bool] | None:
    """A mask of the archives for testing, by names (`set-train-000000.tar` and `set-val-000000.tar`) or folders; None
    if they are no split. Raises SourceError when only some of them are."""
    stems = [path.rpartition("/")[2].partition(".")[0] for path in paths]
    roles = _roles({(stem,) for stem in stems})
    if roles:
        said = [roles.get(stem, "") for stem in stems]
    else:
        around = len(common_folder(paths))  # however deep that is
        folders = split_by_folders([path[around:] for path in paths])
        if folders is None:
            return None
        said = ["" if i in folders.outside else "test" if test else "train" for i, test in enumerate(folders.test)]
    if "" in said:
        name = paths[said.index("")]
        raise SourceError(f"it holds archives for training and for testing, but {name} is neither: rename or move it")
    return [role == "test" for role in said]


def doubtful_folders(names: Sequence[str]) -> tuple[str, ...]:
    """First-level folders that could be a split as well as classes: of which one has a name for testing (`test` beside
    `cat`, `train_big` beside `test_small`) though split_by_folders finds no split; empty when there are none."""
    folders = sorted({name.partition("/")[0] for name in names if "/" in name})
    read = [_read(folder) for folder in folders]
    roles = {role for role, _ in read}
    doubtful = ("test", "") in read or {"train", "test"} <= roles
    return tuple(folders) if doubtful and len(folders) > 1 else ()


def _roles(folders: set[tuple[str, ...]]) -> dict[str, str]:
    """The roles of the last parts of these folders' paths; empty when they are no split."""
    read = {folder: _read(folder[-1]) for folder in folders}
    rests: dict[tuple[tuple[str, ...], str], set[str]] = defaultdict(set)  # by parent and role
    for folder, (role, rest) in read.items():
        rests[folder[:-1], role].add(rest)
    shared: set[str] = set()
    for parent in {parent for parent, _ in rests}:
        others = rests.get((parent, "test"), set()) | rests.get((parent, "unlabelled"), set())
        shared |= rests.get((parent, "train"), set()) & others
    if not shared:
        return {}
    return {
        folder[-1]: role for folder, (role, rest) in read.items() if role == "unlabelled" or (role and rest in shared)
    }


def _read(folder: str) -> tuple[str, str]:
    """`train`, `test`, `unlabelled` or nothing, and the rest of the name."""
    tokens = [token.lower() for token in _TOKENS.findall(folder)]
    known = [token for token in tokens if token in _WORDS or token in _UNLABELLED]
    if len(known) != 1:
        return "", ""
    rest = " ".join(token for token in tokens if token != known[0] and not token.isdigit())
    return _WORDS.get(known[0], "unlabelled"), rest


def _split(names: Sequence[str], paths: list[list[str]], depth: int, roles: dict[str, str]) -> FolderSplit:
    said = [roles.get(path[depth], "") if len(path) > depth else "" for path in paths]
    inner = [
        "/".join((*path[:depth], *path[depth + 1 :], name.rpartition("/")[2])) if role else name
        for name, path, role in zip(names, paths, said, strict=True)
    ]
    inside = [i for i, role in enumerate(said) if role]
    top = common_folder([inner[i] for i in inside])
    for i in inside:
        inner[i] = inner[i][len(top) :]
    return FolderSplit(
        [role == "test" for role in said],
        inner,
        [i for i, role in enumerate(said) if role == "unlabelled"],
        [i for i, role in enumerate(said) if not role],
        {folder: _MEANINGS[role] for folder, role in sorted(roles.items())},
    )


def common_folder(names: Sequence[str]) -> str:
    """The folders that are around all of these, with a slash behind; empty when there are none."""
    first, last = min(names, default=""), max(names, default="")
    common = 0
    for a, b in zip(first.split("/")[:-1], last.split("/")[:-1], strict=False):
        if a != b:
            break
        common += len(a) + 1
    return first[:common]


def is_running_number(classes: Collection[str], names: Sequence[str]) -> bool:
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


def how_many(test: TestChoice, count: int) -> TestChoice:
    """The same choice with a share of `count` images as a number. Raises SourceError when none is left for training."""
    wanted = max(1, round(float(test.rstrip("%")) / 100 * count)) if isinstance(test, str) and "%" in test else test
    if isinstance(wanted, int) and wanted and wanted >= count:
        hint = f": ask for fewer, for example --test {count // 10 or 1} or --test 10%" if count > 1 else ""
        raise SourceError(f"--test {test} takes all {count} images and leaves none for training{hint}")
    return wanted


def choose_test(listing: Listing, test: TestChoice, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of the images kept for testing: those named, as many as asked for, or those that the source itself keeps.

    A number is taken of the usable images alone: from each class or folder in proportion, at least one where that is
    possible, evenly spread in the listing's order; or the last ones where there is one folder and no classes, as FFHQ's
    split has it. Raises SourceError for an unknown name and for a number that leaves none for training.
    """
    chosen = np.zeros(len(listing), bool)
    if test == "source":
        return chosen if listing.test is None else listing.test & usable
    if isinstance(test, tuple):
        chosen[_named(listing, test)] = True
        return chosen & usable
    number = how_many(test, int(usable.sum()))
    assert isinstance(number, int)
    positions = np.flatnonzero(usable)
    groups = _groups(listing, positions)
    if len(groups) == 1:
        chosen[positions[len(positions) - number :]] = True
        return chosen
    for group, share in zip(groups, _shares([len(group) for group in groups], number), strict=True):
        chosen[[group[(2 * k + 1) * len(group) // (2 * share)] for k in range(share)]] = True
    return chosen


def _named(listing: Listing, wanted: tuple[str, ...]) -> list[int]:
    positions = {name: position for position, name in enumerate(listing.names)}
    positions |= {shown_name(name): position for name, position in positions.items()}
    top = listing.top
    found = []
    for name in wanted:
        position = positions.get(name, positions.get(name.removeprefix("./").removeprefix(top)))
        if position is None:
            like = shown_name(listing.names[0])
            raise SourceError(f"test sample {shown_name(name)!r} is not in the source: names look like {like}")
        found.append(position)
    return found


def _groups(listing: Listing, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Positions by class, or by folder where there are no classes."""
    if listing.labels is not None:
        labels = listing.labels[positions]
        return [positions[labels == label] for label in np.unique(labels)]
    folders: dict[str, list[int]] = defaultdict(list)
    for position in positions.tolist():
        folders[listing.names[position].rpartition("/")[0]].append(position)
    if len(folders) < 2 or is_running_number(folders, [listing.names[position] for position in positions.tolist()]):
        return [positions]
    return [np.array(folders[folder]) for folder in sorted(folders)]


def _shares(sizes: list[int], number: int) -> list[int]:
    """`number` divided among groups in proportion to their sizes, by largest remainders; at least one of each group
    that has two, when `number` is enough for that."""
    total = sum(sizes)
    exact = [number * size / total for size in sizes]
    least = [int(size > 1) if number >= len(sizes) else 0 for size in sizes]
    shares = [max(int(share), low) for share, low in zip(exact, least, strict=True)]
    by_lack = sorted(range(len(sizes)), key=lambda k: (shares[k] - exact[k], k))
    left = number - sum(shares)
    while left:
        step = 1 if left > 0 else -1
        for k in by_lack[::step]:
            if left and least[k] <= shares[k] + step <= sizes[k]:
                shares[k] += step
                left -= step
    return shares
