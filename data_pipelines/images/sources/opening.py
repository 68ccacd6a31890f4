"""Which kind of source stands at a path or URL: told by what is there, as far as that tells it."""

import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from data_pipelines.images.circumstances import explained, is_circumstance
from data_pipelines.images.sources import Labels, Source, SourceError, cifar, idx, lsun, tars
from data_pipelines.images.sources.findings import is_hidden
from data_pipelines.images.sources.folder import FolderSource
from data_pipelines.images.sources.formats import HEAD_BYTES, has_image_ending, identify
from data_pipelines.images.sources.gzipped import read_head
from data_pipelines.images.sources.spool import Spool
from data_pipelines.images.sources.tar_members import is_tar, members
from data_pipelines.images.sources.zipped import ZipSource
from data_pipelines.images.transport import is_elsewhere, shown

_PATTERNS = ("{", "*", "?", "[", "::")
"""What webdataset or a shell makes several paths of."""

_KINDS = "neither a folder, zip, tar, LMDB, nor CIFAR's or MNIST's files"


def open_source(
    where: str,
    labels: Labels = "auto",
    member: str | None = None,
    spool: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    follow_links: bool = False,
) -> Source:
    """The source at a path or URL. Raises SourceError with one line when there is none that can be used.

    labels: `auto` looks for labels as each source describes, `folders` takes the first-level sub-folders as
    classes, `none` ignores labels. member: which member of a WebDataset sample is the image. spool: a folder for
    copies of what cannot be read in any order where it stands; made when it is needed. say: gets a line before each
    of these copies, and now and then how many files have been looked at. follow_links: take what symbolic links of a
    folder lead to outside of it. A `~` in front of a path is the home folder.
    """
    where = "::".join(map(os.path.expanduser, where.split("::")))
    try:
        return _Opening(where, labels, member, Spool(spool, say), _Count(where, say), follow_links).source()
    except SourceError as error:
        message, name = str(error), shown(where)
        raise SourceError(message if name in message else f"source {name}: {message}") from None
    except (OSError, MemoryError) as error:
        if is_circumstance(error):
            raise SourceError(str(explained(f"source {shown(where)}", error))) from None
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"source {shown(where)} cannot be read ({reason}): fix that first") from None


class _Count:
    """Says now and then how far the look has come. A file may be passed more than once: by its name, by its content."""

    SECONDS = 5.0

    def __init__(self, where: str, say: Callable[[str], None]) -> None:
        self._where, self._say = where, say
        self._files, self._last = 0, time.monotonic()

    def __call__(self) -> None:
        self._files += 1
        if self._files % 256 == 0 and time.monotonic() - self._last > self.SECONDS:
            self._last = time.monotonic()
            self._say(f"looking through {shown(self._where)}: {self._files:,} entries read")


class _Opening:
    def __init__(
        self, where: str, labels: Labels, member: str | None, spool: Spool, tick: Callable[[], object], follow: bool
    ) -> None:
        self._where, self._labels, self._member, self._spool, self._tick = where, labels, member, spool, tick
        self._path, self._follow_links = Path(where), follow

    def source(self) -> Source:
        if is_elsewhere(self._where):
            return self._tars(tars.expand(self._where))
        if self._path.is_dir():
            return self._of_folder()
        if self._path.is_file():
            return self._of_file()
        if not self._path.exists() and any(sign in self._where for sign in _PATTERNS):
            found = tars.expand(self._where)
            if any(has_image_ending(name) for name in found):
                raise SourceError(f"source {self._where} names images: give the folder that holds them")
            return self._tars(found)
        raise SourceError(f"source {self._where} {'is ' + _KINDS if self._path.exists() else 'does not exist'}")

    def _of_folder(self) -> Source:
        if databases := lsun.find(self._path):
            return self._lmdb(databases)
        if batches := cifar.find(self._path):
            return self._cifar(batches)
        if splits := idx.find(self._path):
            self._refuse_member("IDX files")
            self._refuse_folders("IDX files")
            return idx.IdxSource(splits, self._labels, self._spool)
        if shards := tars.find(self._path):
            return self._tars(shards)
        self._refuse_member("a folder of images")
        return FolderSource(self._path, self._labels, self._tick, self._follow_links)

    def _of_file(self) -> Source:
        if databases := lsun.find(self._path):
            return self._lmdb(databases)
        if zipfile.is_zipfile(self._path) or read_head(self._path, tarfile.BLOCKSIZE).startswith(b"PK\x03\x04"):
            self._refuse_member("a zip")
            return ZipSource(self._path, self._labels, self._tick)
        if is_tar(read_head(self._path, tarfile.BLOCKSIZE)) or tars.is_tar_name(self._path.name):
            tar = tars.local_tar(self._where, self._spool)
            names = (member.name for member in members(tar, self._where))
            first = next((name for name in names if not is_hidden(name.removeprefix("./"))), None)
            if first is not None and cifar.is_member(first):
                return self._cifar(cifar.find_in_tar(tar, self._where))
            return self._tars([self._where])
        with self._path.open("rb") as file:
            found = identify(file.read(HEAD_BYTES), self._path.name)
        if found.role in ("image", "text", "page", "unknown"):
            raise SourceError(f"source {self._where} is {_KINDS}: give the folder that holds the images")
        advice = {"picture": "give the folder that holds the images", "archive": "unpack it and give the folder"}
        raise SourceError(
            f"source {self._where} is {found.described}, which is not read: {advice.get(found.role) or found.advice}"
        )

    def _tars(self, shards: list[str]) -> Source:
        return tars.TarSource(self._where, shards, self._labels, self._member, self._spool, self._tick)

    def _lmdb(self, databases: dict[str, Path]) -> Source:
        self._refuse_member("LMDB")
        self._refuse_folders("LMDB")
        return lsun.LmdbSource(databases, self._tick)

    def _cifar(self, files: cifar.Files) -> Source:
        self._refuse_member("CIFAR")
        self._refuse_folders("CIFAR")
        return cifar.CifarSource(self._where, files, self._labels, self._spool)

    def _refuse_member(self, kind: str) -> None:
        if self._member is not None:
            raise SourceError(f"source {self._where} is {kind}, but --member is for WebDataset's samples: leave it out")

    def _refuse_folders(self, kind: str) -> None:
        if self._labels == "folders":
            raise SourceError(f"source {self._where} is {kind} and has no sub-folders: leave out --labels folders")
