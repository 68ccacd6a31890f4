"""The place of a prepared data set: a directory, or a remote one whose files come through a local cache."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from data_pipelines.images.circumstances import CircumstanceError, explained, is_circumstance
from data_pipelines.images.manifest import MANIFEST_NAME, FileRecord, Manifest


class Store(ABC):
    """The files of a prepared data set. Any number of threads may use one at once. It closes itself after a `with`."""

    remote = False
    """Whether files are remote, so that it pays to announce which will be needed."""

    def __init__(self, location: str) -> None:
        self.location = location

    @abstractmethod
    def manifest(self) -> Manifest:
        """Reads the data set's manifest. Raises FileNotFoundError, OSError or ValueError with one line."""

    @abstractmethod
    def file(self, record: FileRecord) -> Path:
        """The path where a file can be opened now. It may be replaced or removed later, but stays readable once open.

        What is there is not checked by a directory; whatever comes from elsewhere has the record's bytes and checksum.
        Raises OSError with one line that names the file when it cannot be had.
        """

    def name(self, record: FileRecord) -> str:
        """Name of a file in messages."""
        return f"{self.location.rstrip('/')}/{record.name}"

    def gone(self) -> bool:
        """Whether the whole data set is no longer there, so that a missing file says nothing about the file."""
        return False

    def expect(self, records: Sequence[FileRecord]) -> None:  # noqa: B027 (nothing to do where files are at hand)
        """These files will be asked for soon, in this order; those of other images of pairs at any time."""

    def close(self) -> None:  # noqa: B027
        """Ends the work in the background."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Directory(Store):
    """A prepared data set on a file system."""

    def __init__(self, root: Path | str) -> None:
        super().__init__(str(root))
        self._root = Path(root)

    def manifest(self) -> Manifest:
        return Manifest.load(self._root)

    def file(self, record: FileRecord) -> Path:
        return self._root / record.name

    def gone(self) -> bool:
        return not (self._root / MANIFEST_NAME).exists()


def unreadable(store: Store, record: FileRecord, error: OSError) -> CircumstanceError | None:
    """The error to raise when the machine cannot open or read a file; None when the file itself is at fault."""
    name = store.name(record)
    if is_circumstance(error):
        return explained(name, error)
    if store.gone():
        what = "so is the whole data set: check whether its file system is still mounted"
        return CircumstanceError(f"{name} is gone, and {what}, then run the same command again", error.errno)
    return None
