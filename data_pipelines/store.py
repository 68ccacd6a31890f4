"""Where a prepared data set lies: a directory, or a place elsewhere whose files come through a local cache."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.manifest import FileRecord, Manifest


class Store(ABC):
    """The files of a prepared data set. Any number of threads may use one at once."""

    def __init__(self, location: str) -> None:
        self.location = location

    @abstractmethod
    def manifest(self) -> Manifest:
        """Reads the data set's manifest. Raises FileNotFoundError, OSError or ValueError with one line."""

    @abstractmethod
    def file(self, record: FileRecord) -> Path:
        """Where a file can be opened now. It may be replaced or removed later; who has it open keeps it.

        What is there is not checked by a directory; whatever comes from elsewhere has the record's bytes and checksum.
        Raises OSError with one line that names the file when it cannot be had.
        """

    def name(self, record: FileRecord) -> str:
        """What to call a file in a message."""
        return f"{self.location.rstrip('/')}/{record.name}"

    def expect(self, records: Sequence[FileRecord]) -> None:  # noqa: B027 (nothing to do where files are at hand)
        """These files will be asked for soon, in this order."""

    def close(self) -> None:  # noqa: B027
        """Ends what goes on in the background."""


class Directory(Store):
    """A prepared data set on a file system."""

    def __init__(self, root: Path | str) -> None:
        super().__init__(str(root))
        self._root = Path(root)

    def manifest(self) -> Manifest:
        return Manifest.load(self._root)

    def file(self, record: FileRecord) -> Path:
        return self._root / record.name


def open_store(path: str) -> Store:
    """The store at a path or URL."""
    return Directory(path)
