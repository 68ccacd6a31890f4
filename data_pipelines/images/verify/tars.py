"""The structure of a tar: read block by block and never trusted, so that nothing ends it silently."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipelines.images.verify.files import chunks, size_of

BLOCK = 512
MAGIC = b"ustar"

_END = bytes(BLOCK)
_STEP = 1 << 16  # small, so that a tar with damage in every block takes no quadratic time


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    header: int
    """Where its header begins."""
    size: int

    @property
    def offset(self) -> int:
        """First byte of its content."""
        return self.header + BLOCK

    @property
    def end(self) -> int:
        """First byte of what follows it."""
        return self.offset + padded(self.size)

    @property
    def key(self) -> str:
        return self.name.partition(".")[0]

    @property
    def ending(self) -> str:
        return self.name.partition(".")[2]


@dataclass(frozen=True)
class Gap:
    """Bytes [start, stop) of a tar in which no member is found, though one should be."""

    start: int
    stop: int
    what: str


@dataclass(frozen=True)
class Cut:
    """The tar ends at `start` without an end marker, inside `member` if it is given."""

    start: int
    member: Member | None


def padded(size: int) -> int:
    """Bytes that a member's content takes: whole blocks."""
    return -(-size // BLOCK) * BLOCK


def parse_header(block: bytes) -> tuple[str, int]:
    """Name and size of the member whose header this is; ValueError with what is wrong with it."""
    if block[257:262] != MAGIC:
        raise ValueError("is not a tar header")
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != _octal(block[148:156]):
        raise ValueError("is a damaged tar header (its checksum differs)")
    if block[156:157] not in (b"0", b"\0"):
        raise ValueError(f"is the header of something else than a file (type {block[156:157]!r})")
    name = b"/".join(part.partition(b"\0")[0] for part in (block[345:500], block[:100])).removeprefix(b"/")
    return name.decode("utf-8", "backslashreplace"), _octal(block[124:136])


def _octal(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not digits or digits.strip(b"01234567"):
        raise ValueError(f"is a damaged tar header (it has {field!r} for a number)")
    return int(digits, 8)


def walk(descriptor: int) -> Iterator[Member | Gap | Cut]:
    """The parts of a tar, from its first byte to its last. After bytes that are not a header it continues at the next
    one, which Python's tarfile and its users do not: they end there without a word."""
    size, at = size_of(descriptor), 0
    while at < size:
        block = os.pread(descriptor, BLOCK, at)
        if len(block) < BLOCK:
            break
        if block == _END and is_zero(descriptor, at, size):
            if size - at < 2 * BLOCK:
                break
            return
        try:
            name, length = parse_header(block)
        except ValueError as error:
            stop = _next_header(descriptor, at + BLOCK, size)
            if block != _END:
                what = str(error)
            elif stop < size:
                what = "is zeros instead of a tar header, where other readers take the tar to end"
            else:
                what = "is an end marker with other bytes after it"
            yield Gap(at, stop, what)
            if stop == size:
                return
            at = stop
            continue
        member = Member(name, at, length)
        if member.offset + length > size:
            yield Cut(size, member)
            return
        yield member
        at = member.end
    yield Cut(size, None)


def is_zero(descriptor: int, start: int, stop: int) -> bool:
    return not any(np.frombuffer(content, np.uint8).any() for _, content in chunks(descriptor, start, stop, _STEP))


def _next_header(descriptor: int, start: int, size: int) -> int:
    """The offset of the next whole header, at `start` or later; `size` when there is none."""
    for begin, content in chunks(descriptor, start, size, _STEP):
        blocks = np.frombuffer(content, np.uint8, len(content) // BLOCK * BLOCK).reshape(-1, BLOCK)
        for number in np.flatnonzero((blocks[:, 257:262] == np.frombuffer(MAGIC, np.uint8)).all(axis=1)).tolist():
            try:
                parse_header(blocks[number].tobytes())
            except ValueError:
                continue
            return begin + number * BLOCK
    return size
