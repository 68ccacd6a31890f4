"""Faults of a prepared data set, and where they are."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

AT_MOST = 20
"""Faults named in one file; one line counts the rest."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in one place; `str` of it is one line."""

    file: str
    """Name of the file or folder relative to the data set's directory, with `/`."""
    what: str
    offset: int | None = None
    """First byte of the place in the file."""
    key: str | None = None
    """Name, without its ending, of the tar member."""
    sample: int | None = None
    """Number of the sample in the data set; the first one where several are concerned."""

    def __str__(self) -> str:
        parts = [printable(self.file)]
        if self.offset is not None:
            parts.append(f"at byte {self.offset}")
        if self.key is not None:
            parts.append(f"key {printable(self.key)}")
        if self.sample is not None:
            parts.append(f"(sample {self.sample})")
        return f"{' '.join(parts)}: {self.what}"


def printable(text: str) -> str:
    """Names of files and members may hold anything: line ends, bytes that are no text."""
    return text if text.isprintable() else ascii(text)


def condense(faults: Iterable[Fault]) -> list[Fault]:
    """The faults of a tar or array and its index in the order of its samples: one a sample, one for a run of neighbours
    with the same fault, and not more than AT_MOST."""
    condensed: list[Fault] = []
    length = 0  # of the run that the last one stands for
    for fault in sorted(faults, key=lambda fault: -1 if fault.sample is None else fault.sample):
        last = condensed[-1] if condensed else None
        if last and last.file == fault.file and last.sample is not None and fault.sample is not None:
            if fault.sample < last.sample + length:
                continue
            if fault.sample == last.sample + length and fault.what == last.what:
                length += 1
                continue
        if last:
            condensed[-1] = _tell_length(last, length)
        condensed.append(fault)
        length = 1
    if condensed:
        condensed[-1] = _tell_length(condensed[-1], length)
    if len(condensed) > AT_MOST:
        more = len(condensed) - AT_MOST
        condensed[AT_MOST:] = [Fault(condensed[0].file, f"{more} more faults in this file, not listed")]
    return condensed


def _tell_length(fault: Fault, length: int) -> Fault:
    if length == 1:
        return fault
    return replace(fault, what=f"{fault.what}, and the same in the {length - 1} samples after it")
