"""The scan of a whole source before the work: what is used, what is skipped, and all that is wrong at once."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.circumstances import advice
from data_pipelines.images.manifest import PassedOverFiles, SourceReport
from data_pipelines.images.sources import Source, SourceError
from data_pipelines.images.sources.findings import shown_name
from data_pipelines.images.sources.splits import TestChoice, choose_test, how_many

FIX = "fix or remove it, or leave such files out with --skip-unreadable"

_MOST_LISTED = 50
"""Files that are listed of those that cannot be used."""

_MOST_CLASSES = 8

NO_LABEL = "has no label though others have"


def unusable_files(source: Source) -> dict[int, str]:
    """Positions of the files that cannot be used, as far as their first bytes show, and why."""
    listing = source.listing
    reasons = dict(source.found.problems)
    if listing.labels is not None:
        for position in np.flatnonzero(listing.labels < 0).tolist():
            if position not in source.found.left_out:
                reasons.setdefault(position, NO_LABEL)
    return dict(sorted(reasons.items()))


def usable(source: Source) -> NDArray[np.bool_]:
    """A mask of the files in the listing that can be used, as far as their first bytes show."""
    mask = np.ones(len(source), bool)
    mask[[*unusable_files(source), *source.found.left_out]] = False
    return mask


def survey(source: Source, where: str, test: TestChoice, skip: bool, say: Callable[[str], None]) -> None:
    """Reports what was found in a source, line by line, with everything that is wrong.

    Raises SourceError when something cannot be used, unless that is to be left out (`skip`), and when the test split
    cannot be as `test` says.
    """
    for line in _lines(source, where):
        say(line)
    if blocked := source.found.out_of_reach:
        more = f" and {len(blocked) - 3} more" if len(blocked) > 3 else ""
        raise SourceError(f"{', '.join(blocked[:3])}{more} in {where} cannot be read: {advice(errno.EACCES)}")
    reasons = unusable_files(source)
    if len(reasons) > 1 or (reasons and skip):
        say(f"{'left out' if skip else 'cannot be used'}: {_files(len(reasons))}")
        for line in _listed(source, reasons):
            say(f"  {line}")
    good = usable(source)
    wrong = [] if skip or not reasons else [_first_of(source, where, reasons)]
    if not wrong and not good.any():
        wrong.append(f"none of the {_files(len(source))} in {where} can be used: the reasons are listed above")
    try:
        choose_test(source.listing, how_many(test, int(good.sum())), good)
    except SourceError as error:
        wrong.append(str(error))
    if source.listing.test is not None and test != "source":
        say(f"its own split is not used, because of --test {test if isinstance(test, int | str) else 'with names'}")
    if wrong:
        raise SourceError("; ".join(wrong))


def _first_of(source: Source, where: str, reasons: dict[int, str]) -> str:
    position, reason = next(iter(reasons.items()))
    first = f"{shown_name(source.listing.names[position])} in {where} {reason}"
    if len(reasons) == 1:
        return f"{first}: {FIX}"
    return f"{first}, and {len(reasons) - 1} more cannot be used: {FIX.replace(' it', ' them')}"


def report(source: Source, skipped: dict[int, str]) -> SourceReport:
    """The report on a source that the manifest keeps. `skipped`: files that were left out, and why."""
    found, names = source.found, source.listing.names
    return SourceReport(
        kind=found.kind,
        formats=dict(sorted(found.formats.items())),
        passed_over={
            what: PassedOverFiles(files=seen.files, examples=seen.examples)
            for what, seen in sorted(found.passed_over.items())
        },
        notes=tuple(found.notes),
        skipped={shown_name(names[position]): reason for position, reason in sorted(skipped.items())},
    )


def _lines(source: Source, where: str) -> Iterator[str]:
    listing, found = source.listing, source.found
    formats = ", ".join(f"{count:,} {name}" for name, count in found.formats.most_common())
    images = int(usable(source).sum())
    yield f"{where}: {found.kind}, {images:,} image{'s' * (images != 1)}{f' ({formats})' * bool(formats)}"
    if listing.labels is not None:
        counts = Counter(listing.labels[usable(source)].tolist())
        some = [f"{listing.classes[k]} {counts[k]:,}" for k in range(min(len(listing.classes), _MOST_CLASSES))]
        yield f"{len(listing.classes)} classes: {', '.join(some)}{', ...' * (len(listing.classes) > _MOST_CLASSES)}"
    if listing.test is not None:
        test = int((listing.test & usable(source)).sum())
        yield f"its own split: {images - test:,} training, {test:,} test"
    yield from found.notes
    for what, seen in found.passed_over.items():
        yield f"skipped: {what}: {seen.files:,} ({seen.names()})"


def _listed(source: Source, reasons: dict[int, str]) -> Iterator[str]:
    for position, reason in list(reasons.items())[:_MOST_LISTED]:
        yield f"{shown_name(source.listing.names[position])} {reason}"
    if len(reasons) > _MOST_LISTED:
        rest = Counter(list(reasons.values())[_MOST_LISTED:])
        yield from (f"and {_files(count)} more: {reason}" for reason, count in rest.most_common(_MOST_LISTED))


def _files(count: int) -> str:
    return f"{count:,} file{'s' * (count != 1)}"
