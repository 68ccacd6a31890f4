"""A folder of images, nested or flat."""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from data_pipelines.images.sources import Labels, Source, SourceError
from data_pipelines.images.sources.findings import LABELS_NAME, Findings, is_hidden, shown_name
from data_pipelines.images.sources.formats import HEAD_BYTES
from data_pipelines.images.sources.naming import list_files

_THREADS = 8
"""Threads that open files at once, as a remote file system takes its time for each."""

_AT_ONCE = 4096

OUTSIDE = "links out of the folder, which --follow-links would follow"


class FolderSource(Source):
    """Every image under a folder in the sorted order of its relative name; hidden files are left out.

    Symbolic links are followed only as long as they stay inside the folder, unless all are to be followed. Labels and
    splits: naming.list_files.
    """

    def __init__(
        self, path: Path, labels: Labels, tick: Callable[[], object] = lambda: None, follow_links: bool = False
    ) -> None:
        """`tick` is called for each file that is looked at. Raises SourceError when there are no images."""
        self.path = path
        self.found = Findings("folder")
        walk = _Walk(os.path.realpath(path), self.found, follow_links)
        walk.run(tick)
        names: list[str] = []
        sizes: list[int] = []
        for name, size, head, reason in _heads(path, walk):
            tick()
            if name.rpartition("/")[2] == LABELS_NAME and head is not None:
                continue
            if self.found.take(len(names), name, size, head, reason):
                names.append(name)
                sizes.append(size)
        if not names and not self.found.out_of_reach:
            links = OUTSIDE in self.found.passed_over
            hint = "give --follow-links as well" if links else "give the folder that holds the images"
            raise SourceError(f"source {path} {self.found.nothing(hint)}")
        self.listing = list_files(str(path), names, sizes, labels, self.found, self._read_beside)

    def read(self, i: int) -> bytes:
        return (self.path / (self.listing.top + self.listing.names[i])).read_bytes()

    def _read_beside(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.is_file() else None


@dataclass
class _Walk:
    """All files under a folder, and the reasons why others cannot be reached."""

    root: str
    found: Findings
    follow_links: bool
    """Those that lead out of the folder as well."""
    files: list[tuple[str, int, str | None]] = field(default_factory=list)
    """Relative name and size, and why the file cannot be used (else None)."""

    def run(self, tick: Callable[[], object]) -> None:
        # (folder, its relative name with a trailing slash, real paths of it and the folders above it)
        pending: list[tuple[str, str, frozenset[str]]] = [(self.root, "", frozenset([self.root]))]
        while pending:
            folder, prefix, above = pending.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        tick()
                        if (inside := self._add(entry, prefix, above)) is not None:
                            pending.append((inside, f"{prefix}{entry.name}/", above | {inside}))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM) or not prefix:
                    raise
                self.found.out_of_reach.append(f"{shown_name(prefix)} ({error.strerror})")
        self.files.sort()

    def _add(self, entry: "os.DirEntry[str]", prefix: str, above: frozenset[str]) -> str | None:
        """Notes an entry; the real path of a folder that is to be looked into."""
        name = prefix + entry.name
        if is_hidden(entry.name):
            self.found.pass_over("hidden and system files", name)
            return None
        real = entry.path
        if entry.is_symlink():
            real = os.path.realpath(entry.path)
            if not os.path.exists(entry.path):
                self.files.append((name, 0, _why_broken(entry.path)))
                return None
            if not self.follow_links and os.path.commonpath([self.root, real]) != self.root:
                self.found.pass_over(OUTSIDE, f"{name} -> {os.readlink(entry.path)}")
                return None
        if entry.is_dir():
            if real not in above:
                return real
            self.found.pass_over("links to a folder above", name)
        elif entry.is_file():
            self.files.append((name, entry.stat().st_size, None))
        else:
            self.found.pass_over("pipes, sockets and devices", name)
        return None


def _why_broken(path: str) -> str:
    target = os.readlink(path)
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"is a symbolic link that leads in a circle (to {shown_name(target)})"
        if error.errno != errno.ENOENT:
            return f"is a symbolic link to {shown_name(target)}, which cannot be reached ({error.strerror})"
    hint = ": run `git annex get` where it was cloned" if "annex/objects" in target else ""
    return f"is a symbolic link to {shown_name(target)}, which does not exist{hint}"


def _heads(path: Path, walk: _Walk) -> Iterator[tuple[str, int, bytes | None, str | None]]:
    """Name, size and first bytes of each file in order, and why it cannot be used."""

    def head(name: str, size: int, reason: str | None) -> tuple[str, int, bytes | None, str | None]:
        if reason is not None:
            return name, size, None, reason
        try:
            with open(path / name, "rb", buffering=0) as file:
                return name, size, file.read(HEAD_BYTES), None
        except PermissionError as error:
            walk.found.out_of_reach.append(f"{shown_name(name)} ({error.strerror})")
            return name, size, None, f"cannot be read ({error.strerror})"

    files = iter(walk.files)
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := list(islice(files, _AT_ONCE)):
            yield from pool.map(head, *zip(*some, strict=True))
