"""Whole local copies, each made once, of what cannot be read in any order where it stands."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from data_pipelines.images.sources import SourceError
from data_pipelines.images.transport import shown


class Spool:
    """A folder of copies, named after a hash of what each is a copy of. It is made for its first copy."""

    def __init__(self, folder: Path | None, say: Callable[[str], None] = lambda line: None) -> None:
        """`folder`: None where no copies can be made. `say` gets a line before each new copy."""
        self._folder = folder
        self._say = say

    def copy(self, what: str, fill: Callable[[Path], None], version: str = "", quiet: bool = False) -> Path:
        """The copy of `what`, in this version: that of an earlier call, or of an earlier process, or a new one.

        `fill` writes a new one to the path that it gets; what it leaves there when it raises is removed. `quiet`: say
        nothing. Raises SourceError when the disk is full.
        """
        name = shown(what)
        if self._folder is None:
            raise SourceError(f"{name} has to be copied first, and no folder for that is given")
        key = f"{what} {version}".encode(errors="surrogateescape")
        path = self._folder / hashlib.sha256(key).hexdigest()[:32]
        if path.exists():
            return path
        self._folder.mkdir(parents=True, exist_ok=True)
        if not quiet:
            self._say(f"copying {name}")
        temporary = path.with_suffix(".tmp")
        try:
            fill(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SourceError(
                f"no space left in {self._folder} for a copy of {name}: free some space and run the same command again"
            ) from None
        finally:
            temporary.unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()
        return path

    def copy_of_file(self, path: Path, fill: Callable[[Path], None]) -> Path:
        """Like `copy`, for the present content of a local file."""
        status = path.stat()
        return self.copy(str(path.resolve()), fill, f"{status.st_size} {status.st_mtime_ns}")
