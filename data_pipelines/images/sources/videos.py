"""Frames of video files by their number, with OpenCV and FFmpeg.

A frame's number is the number of frames that are decoded before it. Seeking lands elsewhere in some files, so nothing
seeks: frames are asked for in rising order, mostly, and those between two of them are decoded too.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.images.sources import ImageError

_AVI = (b"RIFF", b"AVI ")

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: errors are told here; read once, with the first video


def is_avi(path: Path) -> bool:
    """Whether it starts as an AVI file does. FFmpeg is given nothing else, for some formats name other files."""
    with path.open("rb") as file:
        head = file.read(12)
    return (head[:4], head[8:12]) == _AVI


def count_frames(path: Path) -> tuple[int, int]:
    """The number of frames that can be decoded, and the number that the file claims. ImageError when there is none."""
    with _opened(path) as video:
        claimed = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        count = 0
        while video.grab():
            count += 1
        return count, claimed


class FrameReader:
    """Reads frames of one video after the other, of which the latest stays open."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._video: Any = None
        self._next = 0

    def read(self, path: Path, number: int) -> NDArray[np.uint8]:
        """Frame `number` from 0 on: uint8 [height, width, 1], grey. ImageError when there is no such frame."""
        if path != self._path or number < self._next:
            self.close()
            self._path, self._video, self._next = path, _open(path), 0
        while self._next <= number:
            if not self._video.grab():
                self.close()
                raise ImageError(f"is not in {path}, which has changed or is damaged")
            self._next += 1
        found, frame = self._video.retrieve()
        if not found:
            raise ImageError(f"cannot be decoded from {path}")
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)[..., None]

    def close(self) -> None:
        if self._video is not None:
            self._video.release()
        self._path, self._video = None, None

    def __reduce__(self) -> tuple[type["FrameReader"], tuple[()]]:
        return FrameReader, ()  # another process opens the video itself


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    video = _open(path)
    try:
        yield video
    finally:
        video.release()


def _open(path: Path) -> Any:
    if not is_avi(path):
        raise ImageError("is not an AVI file (copy or download it again)")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    finally:
        cv2.utils.logging.setLogLevel(level)
    width, height = (int(video.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if not video.isOpened() or width < 1 or height < 1:
        video.release()
        raise ImageError("is damaged, or of a kind that OpenCV cannot decode (copy or download it again)")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        video.release()
        raise ImageError(f"has frames of {width}x{height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
    return video
