"""Opens the source at a path or URL, whose kind is recognized by its content.

A kind of one's own is a function from a `Place` to a `Source`, or to None where it recognizes nothing of its own:

    @SOURCES.add("sprites")
    def sprites(place: Place) -> Source | None:
        return SpriteSource(place.path) if place.path.suffix == ".sprites" else None

The kinds are asked in turn, the last that was added first.
"""

import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.choices import Registry
from data_pipelines.images.circumstances import explained, is_circumstance
from data_pipelines.images.sources import Labels, Source, SourceError, cars3d, cifar, idx, kth, lsun, tars
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

_KINDS = "neither a folder, zip, tar, LMDB, nor files of CIFAR, MNIST, Cars3D or KTH"


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
        return _source(Place(where, labels, member, Spool(spool, say), _Count(where, say), follow_links))
    except SourceError as error:
        message, name = str(error), shown(where)
        raise SourceError(message if name in message else f"source {name}: {message}") from None
    except (OSError, MemoryError) as error:
        if is_circumstance(error):
            raise SourceError(str(explained(f"source {shown(where)}", error))) from None
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"source {shown(where)} cannot be read ({reason}): fix that first") from None


class _Count:
    """Reports progress now and then. A file may be counted more than once: for its name and for its content."""

    SECONDS = 5.0

    def __init__(self, where: str, say: Callable[[str], None]) -> None:
        self._where, self._say = where, say
        self._files, self._last = 0, time.monotonic()

    def __call__(self) -> None:
        self._files += 1
        if self._files % 256 == 0 and time.monotonic() - self._last > self.SECONDS:
            self._last = time.monotonic()
            self._say(f"looking through {shown(self._where)}: {self._files:,} entries read")


@dataclass(frozen=True)
class Place:
    """A path or URL at which a source is looked for, and how its images are to be taken: as open_source describes."""

    where: str
    labels: Labels
    member: str | None
    spool: Spool
    """Takes copies of what cannot be read in any order where it stands."""
    tick: Callable[[], object]
    """Called for each file that is looked at."""
    follow_links: bool

    @property
    def path(self) -> Path:
        return Path(self.where)

    @property
    def is_folder(self) -> bool:
        return not is_elsewhere(self.where) and self.path.is_dir()

    @property
    def is_file(self) -> bool:
        return not is_elsewhere(self.where) and self.path.is_file()

    @property
    def is_pattern(self) -> bool:
        """Whether the path names several files."""
        return not self.path.exists() and any(sign in self.where for sign in _PATTERNS)

    def refuse_member(self, kind: str) -> None:
        """SourceError when a member of samples was asked for, and `kind` has no samples."""
        if self.member is not None:
            raise SourceError(f"source {self.where} is {kind}, but --member is for WebDataset's samples: leave it out")

    def refuse_folders(self, kind: str) -> None:
        """SourceError when sub-folders shall be classes, and `kind` has none."""
        if self.labels == "folders":
            raise SourceError(f"source {self.where} is {kind} and has no sub-folders: leave out --labels folders")


Opener = Callable[[Place], Source | None]


def _folder(place: Place) -> Source | None:
    if not place.is_folder:
        return None
    place.refuse_member("a folder of images")
    return FolderSource(place.path, place.labels, place.tick, place.follow_links)


def _tar(place: Place) -> Source | None:
    if is_elsewhere(place.where):
        shards = tars.expand(place.where)
    elif place.is_folder:
        shards = tars.find(place.path) or []
    elif place.is_file:
        shards = [place.where] if _is_tar_file(place) else []
    else:
        shards = tars.expand(place.where) if place.is_pattern else []
        if any(has_image_ending(name) for name in shards):
            raise SourceError(f"source {place.where} names images: give the folder that holds them")
    if not shards:
        return None
    return tars.TarSource(place.where, shards, place.labels, place.member, place.spool, place.tick)


def _is_tar_file(place: Place) -> bool:
    return is_tar(read_head(place.path, tarfile.BLOCKSIZE)) or tars.is_tar_name(place.path.name)


def _idx(place: Place) -> Source | None:
    if not place.is_folder or not (splits := idx.find(place.path)):
        return None
    place.refuse_member("IDX files")
    place.refuse_folders("IDX files")
    return idx.IdxSource(splits, place.labels, place.spool)


def _cifar(place: Place) -> Source | None:
    files = cifar.find(place.path) if place.is_folder else None
    if place.is_file and _is_tar_file(place):
        tar = tars.local_tar(place.where, place.spool)
        names = (member.name for member in members(tar, place.where))
        first = next((name for name in names if not is_hidden(name.removeprefix("./"))), None)
        if first is not None and cifar.is_member(first):
            files = cifar.find_in_tar(tar, place.where)
    if not files:
        return None
    place.refuse_member("CIFAR")
    place.refuse_folders("CIFAR")
    return cifar.CifarSource(place.where, files, place.labels, place.spool)


def _cars3d(place: Place) -> Source | None:
    models = cars3d.find(place.path) if place.is_folder else None
    if place.is_file and _is_tar_file(place):
        models = cars3d.find_in_tar(tars.local_tar(place.where, place.spool), place.where)
    if not models:
        return None
    place.refuse_member("Cars3D")
    place.refuse_folders("Cars3D")
    return cars3d.Cars3dSource(models, place.labels)


def _zip(place: Place) -> Source | None:
    if not place.is_file:
        return None
    if not zipfile.is_zipfile(place.path) and not read_head(place.path, tarfile.BLOCKSIZE).startswith(b"PK\x03\x04"):
        return None
    place.refuse_member("a zip")
    return ZipSource(place.path, place.labels, place.tick)


def _kth(place: Place) -> Source | None:
    clips = kth.find(place.path) if place.is_folder or place.is_file else None
    if not clips:
        return None
    place.refuse_member("KTH's videos")
    place.refuse_folders("KTH's videos")
    return kth.KthSource(clips, place.labels, place.spool, place.tick)


def _lmdb(place: Place) -> Source | None:
    databases = lsun.find(place.path) if place.is_folder or place.is_file else None
    if not databases:
        return None
    place.refuse_member("LMDB")
    place.refuse_folders("LMDB")
    return lsun.LmdbSource(databases, place.tick)


SOURCES: Registry[Opener] = Registry(
    "source",
    {
        "folder": _folder,
        "tar": _tar,
        "idx": _idx,
        "cifar": _cifar,
        "cars3d": _cars3d,
        "zip": _zip,
        "kth": _kth,
        "lmdb": _lmdb,
    },
)
"""From the kind that takes nearly anything to those that are sure of what they see, which are asked first."""


def _source(place: Place) -> Source:
    """The source from the first kind that recognizes something there. SourceError when none does."""
    for opener in reversed(list(SOURCES.values())):
        if (source := opener(place)) is not None:
            return source
    if not place.is_file:
        raise SourceError(f"source {place.where} {'is ' + _KINDS if place.path.exists() else 'does not exist'}")
    with place.path.open("rb") as file:
        found = identify(file.read(HEAD_BYTES), place.path.name)
    if found.role in ("image", "text", "page", "unknown"):
        raise SourceError(f"source {place.where} is {_KINDS}: give the folder that holds the images")
    advice = {"picture": "give the folder that holds the images", "archive": "unpack it and give the folder"}
    raise SourceError(
        f"source {place.where} is {found.described}, which is not read: {advice.get(found.role) or found.advice}"
    )
