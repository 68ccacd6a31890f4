"""KTH's videos of human actions (Schuldt, Laptev, Caputo, 2004): 25 persons, 6 actions, 4 conditions.

The files are called `person01_boxing_d1_uncomp.avi` and come in a zip for each action.
"""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipInfo

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources import ImageError, Labels, Source, SourceError, listing_of
from data_pipelines.images.sources.findings import Findings
from data_pipelines.images.sources.spool import Spool
from data_pipelines.images.sources.videos import FrameReader, count_frames
from data_pipelines.images.sources.zipped import list_zip, read_zipped, why_unusable

_ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
_ZIPS = frozenset(f"{action}.zip" for action in _ACTIONS)
_NAME = re.compile(rf"(?P<clip>(?P<person>person\d\d)_(?:{'|'.join(_ACTIONS)})_d[1-4])(?:_uncomp)?\.avi")
_LEEWAY = 2
"""Frames that a sound file may have less than it claims, as some encoders count."""


@dataclass(frozen=True)
class Clip:
    """A video."""

    name: str
    """Without its ending, such as `person01_boxing_d1`."""
    person: str
    path: Path
    """The file, or the zip that holds it."""
    entry: ZipInfo | None = None
    """Its entry in the zip."""

    @property
    def shown(self) -> str:
        return f"{self.entry.filename} in {self.path}" if self.entry else str(self.path)


def find(path: Path) -> list[Clip] | None:
    """The videos in a folder, in sub-folders of it that are called after actions, and in zips with such names; or in
    one such zip. None when there are none. Raises SourceError for a damaged zip, and for a video that is there twice.
    """
    folders = [path / name for name in ("", *_ACTIONS) if (path / name).is_dir()]
    files = [(folder, name) for folder in folders for name in sorted(os.listdir(folder))]
    clips: list[Clip] = []
    for folder, name in files or [(path.parent, path.name)]:
        if match := _NAME.fullmatch(name):
            clips.append(Clip(match["clip"], match["person"], folder / name))
        elif name in _ZIPS and (folder / name).is_file():
            clips += _in_zip(folder / name)
    found: dict[str, Clip] = {}
    for clip in clips:
        if clip.name in found:
            raise SourceError(f"{found[clip.name].shown} is there again as {clip.shown}: remove one of them")
        found[clip.name] = clip
    return [found[name] for name in sorted(found)] or None


def _in_zip(path: Path) -> Iterator[Clip]:
    for name, entry in list_zip(path, Findings()).items():
        if match := _NAME.fullmatch(name.rpartition("/")[2]):
            yield Clip(match["clip"], match["person"], path, entry)


class KthSource(Source):
    """All frames of the videos, grey, video by video in the order of person, action, condition and number.

    The classes are the persons. A frame is called after its person, its video and its number there,
    `person01/person01_boxing_d1-00017`, so that persons share no names, as equal numbers do not mean equal poses. The
    spool gets the videos of zips.
    """

    def __init__(
        self, clips: list[Clip], labels: Labels, spool: Spool, tick: Callable[[], object] = lambda: None
    ) -> None:
        """`tick` is called for each video. Raises SourceError for a damaged zip."""
        self.found = Findings("KTH's videos")
        self._paths = [_plain(clip, spool) for clip in clips]
        self._frames = FrameReader()
        persons = sorted({clip.person for clip in clips})
        names: list[str] = []
        sizes: list[int] = []
        numbers: list[int] = []
        starts: list[int] = []
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            counted = zip(clips, self._paths, pool.map(_count, self._paths), strict=True)
            for clip, path, (count, problem) in counted:
                tick()
                starts.append(len(names))
                listed = range(len(names), len(names) + max(count, 1))  # a video without any has its problem at one
                names += [f"{clip.person}/{clip.name}-{number:05d}" for number in range(len(listed))]
                sizes += [path.stat().st_size] * len(listed)
                numbers += [persons.index(clip.person)] * len(listed)
                if problem:
                    self.found.problems |= dict.fromkeys(listed, f"belongs to a video that {problem}")
        self._starts = np.array(starts)
        self.found.formats["frames"] = len(names) - len(self.found.problems)
        classes = () if labels == "none" else tuple(persons)
        self.listing = listing_of(names, sizes, classes, numbers if classes else None)

    def read(self, i: int) -> NDArray[np.uint8]:
        """uint8 [height, width, 1]."""
        clip = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._frames.read(self._paths[clip], i - int(self._starts[clip]))


def _plain(clip: Clip, spool: Spool) -> Path:
    """A file with the video: its own, or a copy of what is in a zip."""
    entry = clip.entry
    if entry is None:
        return clip.path

    def fill(copy: Path) -> None:
        try:
            if reason := why_unusable(entry):
                raise ImageError(reason)
            copy.write_bytes(read_zipped(clip.path, entry))
        except ImageError as error:
            raise SourceError(f"{clip.shown} {error}: get it again") from None

    return spool.copy(f"{clip.path.resolve()} {entry.filename}", fill, f"{entry.file_size} {entry.CRC}", quiet=True)


def _count(path: Path) -> tuple[int, str]:
    """The number of frames, and what is wrong with the video."""
    try:
        count, claimed = count_frames(path)
    except ImageError as error:
        return 0, str(error)
    if count == 0 or claimed - count > _LEEWAY:
        return count, f"is damaged ({count} of {claimed} frames can be decoded: copy or download it again)"
    return count, ""
