"""Which kind of source stands at a path or URL: told by what is there, as far as that tells it."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from data_pipelines.sources import Labels, Source, SourceError, cifar, idx, lsun, tars
from data_pipelines.sources.folder import FolderSource
from data_pipelines.sources.gzipped import read_head
from data_pipelines.sources.spool import Spool
from data_pipelines.sources.tar_members import is_tar, members
from data_pipelines.sources.zipped import ZipSource
from data_pipelines.transport import is_elsewhere, shown

_PATTERNS = ("{", "*", "?", "[", "::")
"""What webdataset or a shell makes several paths of."""

_KINDS = "neither a folder, zip, tar, LMDB, nor CIFAR's or MNIST's files"


def open_source(
    where: str,
    labels: Labels = "auto",
    member: str | None = None,
    spool: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Source:
    """The source at a path or URL. Raises SourceError with one line when there is none that can be used.

    labels: `auto` looks for labels as each source describes, `folders` takes the first-level sub-folders as
    classes, `none` ignores labels. member: which member of a WebDataset sample is the image. spool: a folder for
    copies of what cannot be read in any order where it stands; made when it is needed. say: gets a line before each
    of these copies.
    """
    try:
        return _Opening(where, labels, member, Spool(spool, say)).source()
    except SourceError as error:
        message, name = str(error), shown(where)
        raise SourceError(message if name in message else f"source {name}: {message}") from None
    except OSError as error:
        raise SourceError(
            f"source {shown(where)} cannot be read ({error.strerror or error}): mend that first"
        ) from None


class _Opening:
    def __init__(self, where: str, labels: Labels, member: str | None, spool: Spool) -> None:
        self._where, self._labels, self._member, self._spool = where, labels, member, spool
        self._path = Path(where)

    def source(self) -> Source:
        if is_elsewhere(self._where):
            return self._tars(tars.expand(self._where))
        if self._path.is_dir():
            return self._of_folder()
        if self._path.is_file():
            return self._of_file()
        if not self._path.exists() and any(sign in self._where for sign in _PATTERNS):
            return self._tars(tars.expand(self._where))
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
        return FolderSource(self._path, self._labels)

    def _of_file(self) -> Source:
        if databases := lsun.find(self._path):
            return self._lmdb(databases)
        if zipfile.is_zipfile(self._path) or read_head(self._path, tarfile.BLOCKSIZE).startswith(b"PK\x03\x04"):
            self._refuse_member("a zip")
            return ZipSource(self._path, self._labels)
        if is_tar(read_head(self._path, tarfile.BLOCKSIZE)) or self._path.name.endswith(tars.TAR_ENDINGS):
            tar = tars.local_tar(self._where, self._spool)
            first = next(members(tar, self._where), None)
            if first is not None and cifar.is_member(first.name):
                return self._cifar(cifar.find_in_tar(tar, self._where))
            return self._tars([self._where])
        raise SourceError(f"source {self._where} is {_KINDS}: give the folder that holds the images")

    def _tars(self, shards: list[str]) -> Source:
        return tars.TarSource(self._where, shards, self._labels, self._member, self._spool)

    def _lmdb(self, databases: dict[str, Path]) -> Source:
        self._refuse_member("LMDB")
        self._refuse_folders("LMDB")
        return lsun.LmdbSource(databases)

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
