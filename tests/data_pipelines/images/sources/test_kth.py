"""KTH from videos written here under its names: exact frame numbers, persons as classes, zips, damage."""

import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.images.annotations import contents_of
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.prepare import PrepareError, PrepareSettings, prepare
from data_pipelines.images.reader import Reader
from data_pipelines.images.sources import ImageError, SourceError
from data_pipelines.images.sources.opening import open_source
from data_pipelines.images.store import Directory
from tests.data_pipelines.images.sources.making import write_folder, write_zip

WIDTH, HEIGHT = 80, 64
CLIPS = {"person01_boxing_d1": 30, "person01_running_d4": 7, "person03_boxing_d1": 41, "person02_walking_d2": 12}
"""Frames of each."""
CODECS = ("MJPG", "XVID")
"""Of frames that stand alone, and of frames that follow from others."""


def frame(number: int) -> NDArray[np.uint8]:
    """Six squares in the middle, white for the ones of the number."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(6):
        top, left = 16 + 16 * (bit // 3), 16 + 16 * (bit % 3)
        image[top : top + 16, left : left + 16] = 240 if number >> bit & 1 else 16
    return image


def number_in(image: NDArray[np.uint8]) -> int:
    """[64, 64 or 80, 1]"""
    left = (image.shape[1] - 48) // 2
    spots = [image[24 + 16 * (bit // 3), left + 8 + 16 * (bit % 3), 0] for bit in range(6)]
    return sum(int(spot > 128) << bit for bit, spot in enumerate(spots))


def write_video(path: Path, count: int, codec: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, (WIDTH, HEIGHT))
    assert video.isOpened()
    for number in range(count):
        video.write(frame(number))
    video.release()


@pytest.fixture(scope="module", params=CODECS)
def kth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kth") / "kth"
    for name, count in CLIPS.items():
        write_video(root / f"{name}_uncomp.avi", count, request.param)
    (root / "00sequences.txt").write_text("person01_boxing_d1 frames 1-30")
    return root


def expected_names() -> list[str]:
    return [f"{clip[:8]}/{clip}-{number:05d}" for clip in sorted(CLIPS) for number in range(CLIPS[clip])]


def test_frames_are_exact_in_any_order(kth: Path) -> None:
    source = open_source(str(kth))
    assert [str(name) for name in source.listing.names] == expected_names()
    assert source.listing.classes == ("person01", "person02", "person03")
    order = np.random.default_rng(0).permutation(len(source))[:40]
    for position in (*order.tolist(), 0, 1, 3, 89, 88):
        image = source.read(position)
        assert isinstance(image, np.ndarray)
        assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 1), np.uint8)
        assert number_in(image) == int(source.listing.names[position][-5:])
    again = pickle.loads(pickle.dumps(source))  # while a video is open
    np.testing.assert_array_equal(again.read(35), source.read(35))


def test_a_set_has_persons_as_classes_and_a_tenth_for_testing(kth: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    settings = PrepareSettings(resolution=64, channels=1, test="10%")
    manifest = prepare(kth, tmp_path / "set", settings, say=lines.append)
    assert lines[0].endswith("KTH's videos, 90 images (90 frames)")
    assert manifest.classes == ("person01", "person02", "person03")
    assert (manifest.train, manifest.test) == (81, 9)
    labels = np.load(tmp_path / "set" / "labels.npy")
    assert np.bincount(labels[81:]).tolist() == [4, 1, 4]
    names = (tmp_path / "set" / "names.txt").read_text().splitlines()
    assert sorted(names) == sorted(expected_names())
    assert [manifest.classes[label] for label in labels] == [name[:8] for name in names]
    pixels = Reader(Directory(tmp_path / "set"), manifest, 64).pixels(range(90)).transpose(0, 2, 3, 1)
    assert pixels.shape == (90, 64, 64, 1)
    assert [number_in(image) for image in pixels] == [int(name[-5:]) for name in names]
    assert contents_of(tmp_path / "set") is None  # frame 3 of two persons shows different poses


@pytest.mark.slow
def test_workers_and_zips_change_no_byte(kth: Path, tmp_path: Path) -> None:
    (tmp_path / "zips").mkdir()
    (tmp_path / "folders").mkdir()
    for action in ("boxing", "running", "walking"):
        files = {path.name: path.read_bytes() for path in kth.glob(f"*_{action}_*.avi")}
        write_zip(tmp_path / "zips" / f"{action}.zip", files)
        write_folder(tmp_path / "folders" / action, files)
    digests = set()
    for name, source, workers in (
        ("plain", kth, 1),
        ("folders", tmp_path / "folders", 1),
        ("zips", tmp_path / "zips", 3),
    ):
        settings = PrepareSettings(resolution=32, channels=1, shard_size=20, test="10%")
        dest = tmp_path / f"{name}.set"
        prepare(source, dest, settings, workers)
        digests.add(Manifest.load(dest).digest)
        assert not (dest / "work").exists()  # where zips are unpacked
    assert len(digests) == 1


def test_one_zip_is_a_source(kth: Path, tmp_path: Path) -> None:
    content = (kth / "person01_running_d4_uncomp.avi").read_bytes()
    path = write_zip(tmp_path / "running.zip", {"person01_running_d4_uncomp.avi": content, "readme.txt": b"x"})
    source = open_source(str(path), spool=tmp_path / "spool")
    assert len(source) == 7
    assert number_in(source.read(6)) == 6
    path.write_bytes(path.read_bytes().replace(content[200:260], bytes(60), 1))
    with pytest.raises(SourceError, match=r"person01_running_d4_uncomp.avi in .*running.zip is damaged .*CRC-32"):
        open_source(str(path), spool=tmp_path / "other")


def test_a_video_twice_is_refused(kth: Path, tmp_path: Path) -> None:
    content = (kth / "person01_running_d4_uncomp.avi").read_bytes()
    write_folder(
        tmp_path / "set", dict.fromkeys(("person01_running_d4.avi", "running/person01_running_d4.avi"), content)
    )
    with pytest.raises(
        SourceError, match=r"set/person01_running_d4.avi is there again as .*running/person01_running_d4"
    ):
        open_source(str(tmp_path / "set"))


def damaged(content: bytes, how: str) -> bytes:
    if how == "cut":
        start, end = content.index(b"movi"), content.index(b"idx1")
        return content[: (start + end) // 2]
    return {"text": b"<html>", "empty": b"", "zeros": bytes(5000), "head": content[:100]}[how]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("cut", r"is damaged \(\d+ of 41 frames can be decoded"),
        ("text", "is not an AVI file"),
        ("empty", "is not an AVI file"),
        ("zeros", "is not an AVI file"),
        ("head", "is damaged, or of a kind that OpenCV cannot decode"),
    ],
)
def test_a_damaged_video_is_named_or_skipped(
    kth: Path, tmp_path: Path, how: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    files = {path.name: path.read_bytes() for path in kth.glob("*.avi")}
    name = "person03_boxing_d1_uncomp.avi"
    source = write_folder(tmp_path / "kth", files | {name: damaged(files[name], how)})
    settings = PrepareSettings(resolution=8, channels=1)
    with pytest.raises(PrepareError, match=reason) as error:
        prepare(source, tmp_path / "set", settings)
    message = str(error.value)
    assert re.match(r"person03/person03_boxing_d1-00000 in .* belongs to a video that ", message)
    assert "\n" not in message
    manifest = prepare(source, tmp_path / "set", settings.model_copy(update={"skip_unreadable": True}))
    assert manifest.train == 49
    assert all(left.startswith("person03/") for left in manifest.skipped)
    assert capfd.readouterr().err == ""  # nor does a decoder say anything


def test_a_video_that_changes_is_noticed(kth: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in kth.glob("*.avi")}
    source = open_source(str(write_folder(tmp_path / "kth", files)))
    write_video(tmp_path / "kth" / "person01_boxing_d1_uncomp.avi", 5, "MJPG")
    with pytest.raises(ImageError, match=r"is not in .*person01_boxing_d1_uncomp.avi, which has changed or is damaged"):
        source.read(20)


def test_frames_of_too_many_pixels_are_refused(kth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    source = open_source(str(kth))
    assert source.found.problems[0] == "belongs to a video that has frames of 80x64 pixels, more than 5000"
    assert len(source.found.problems) == len(source) == len(CLIPS)


def test_labels_are_ignored_if_asked(kth: Path) -> None:
    assert open_source(str(kth), "none").listing.labels is None
    with pytest.raises(SourceError, match="is KTH's videos and has no sub-folders"):
        open_source(str(kth), "folders")
