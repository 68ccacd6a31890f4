import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.images.manifest import Manifest
from data_pipelines.images.prepare import PrepareError, PrepareSettings, prepare
from data_pipelines.images.sources.opening import open_source
from tests.disks import mount, mounted_or_skipped

REPOSITORY = Path(__file__).resolve().parents[3]


def noise(i: int, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for i in range(12):
        save(tmp_path / "source" / f"{i:02d}.png", noise(i))
    return tmp_path / "source"


def small(**changes: Any) -> PrepareSettings:
    return PrepareSettings.model_validate({"resolution": 16, "shard_size": 5} | changes)


def level(root: Path, resolution: int) -> NDArray[np.uint8]:
    files = Manifest.load(root).levels[resolution].files
    return np.concatenate([np.load(root / file.name) for file in files])


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def one(tmp_path: Path, write: Callable[[Path], None], name: str = "image.bin", **changes: Any) -> NDArray[np.uint8]:
    """The largest level of a source with one image."""
    folder = tmp_path / "one"
    folder.mkdir()
    write(folder / name)
    prepare(folder, tmp_path / "out", small(**changes))
    return level(tmp_path / "out", changes.get("resolution", 16))[0]


def chw(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels.transpose(2, 0, 1)


# Pixels.


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_formats_are_told_by_content(tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = one(tmp_path, lambda p: Image.fromarray(noise(0, 16, 16)).save(p, kind, **options), "wrong.jpg")
    np.testing.assert_array_equal(stored, chw(noise(0, 16, 16)))


def test_jpeg_and_gif(tmp_path: Path) -> None:
    for kind in ("JPEG", "GIF"):
        (tmp_path / kind).mkdir()
        path = tmp_path / f"{kind}.img"
        Image.fromarray(noise(0, 16, 16)).save(path, kind)
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        stored = one(tmp_path / kind, lambda p, path=path: shutil.copy(path, p))
        np.testing.assert_array_equal(stored, chw(expected))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_lies_over_white(tmp_path: Path, kind: str) -> None:
    rgba = np.dstack([noise(1, 16, 16), np.full((16, 16), 128, np.uint8)])
    rgba[:8, :, 3] = 0
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    stored = one(tmp_path, lambda p: Image.fromarray(rgba).save(p, kind, **options))
    alpha = rgba[..., 3:].astype(np.float64) / 255
    expected = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha))
    np.testing.assert_array_equal(stored, chw(expected))
    assert (stored[:, :8] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled(tmp_path: Path, kind: str, channels: int) -> None:
    grey = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    stored = one(tmp_path, lambda p: Image.fromarray(grey).save(p, kind), channels=channels)
    assert stored.shape == (channels, 16, 16)
    np.testing.assert_array_equal(stored, np.repeat(np.rint(grey / 257.0)[None], channels, axis=0))


def test_grey_and_exif_and_palette(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    (tmp_path / "a").mkdir()
    stored = one(tmp_path / "a", lambda p: Image.fromarray(noise(2, 16, 16)).save(p, "PNG", exif=exif))
    np.testing.assert_array_equal(stored, chw(np.rot90(noise(2, 16, 16), -1)))
    (tmp_path / "b").mkdir()
    stored = one(tmp_path / "b", lambda p: Image.fromarray(noise(2, 16, 16)).save(p, "PNG"), channels=1)
    np.testing.assert_array_equal(stored[0], np.asarray(Image.fromarray(noise(2, 16, 16)).convert("L")))
    (tmp_path / "c").mkdir()
    palette = Image.fromarray(noise(2, 16, 16)).quantize(16)
    stored = one(tmp_path / "c", lambda p: palette.save(p, "PNG"))
    np.testing.assert_array_equal(stored, chw(np.asarray(palette.convert("RGB"))))


@pytest.mark.parametrize(("height", "width"), [(16, 21), (22, 16)])
def test_centre_crop(tmp_path: Path, height: int, width: int) -> None:
    pixels = noise(3, height, width)
    top, left = (height - 16) // 2, (width - 16) // 2
    stored = one(tmp_path, lambda p: Image.fromarray(pixels).save(p, "PNG"))
    np.testing.assert_array_equal(stored, chw(pixels[top : top + 16, left : left + 16]))


def test_every_level_is_a_mean_rounded_once(tmp_path: Path) -> None:
    pixels = noise(4, 128, 128)
    one(tmp_path, lambda p: Image.fromarray(pixels).save(p, "PNG"))
    for resolution in (16, 8, 4):
        size = 128 // resolution
        blocks = pixels.astype(np.float64).reshape(resolution, size, resolution, size, 3)
        expected = np.rint(blocks.mean(axis=(1, 3)))
        np.testing.assert_array_equal(level(tmp_path / "out", resolution)[0], chw(expected))


def test_other_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    stored = one(tmp_path / "a", lambda p: Image.fromarray(noise(5, 48, 48)).save(p, "PNG"))
    means = noise(5, 48, 48).astype(np.float64).reshape(16, 3, 16, 3, 3).mean(axis=(1, 3))
    assert np.abs(chw(means) - stored).max() <= 0.51
    (tmp_path / "b").mkdir()
    tame = 100 + noise(5, 10, 10) // 4  # Pillow clips and rounds 8-bit pixels between its two passes
    stored = one(tmp_path / "b", lambda p: Image.fromarray(tame).save(p, "PNG"))
    grown = np.asarray(Image.fromarray(tame).resize((16, 16), Image.Resampling.LANCZOS))
    assert np.abs(chw(grown).astype(int) - stored).max() <= 1


# Shards.


def test_layout_and_samples(source: Path, tmp_path: Path) -> None:
    manifest = prepare(source, tmp_path / "out", small(test=4))
    assert Manifest.load(tmp_path / "out") == manifest
    assert (manifest.samples, manifest.train, manifest.test) == (12, 8, 4)
    assert [(shard.samples, shard.split) for shard in manifest.shards] == [
        (5, "train"),
        (3, "train"),
        (4, "test"),
    ]
    assert (tmp_path / "out" / "names.txt").read_text().split() == [f"{i:02d}.png" for i in range(12)]
    assert not (tmp_path / "out.partial").exists() and not (tmp_path / "out" / "work").exists()
    expected = [noise(i).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)) for i in range(12)]
    np.testing.assert_array_equal(level(tmp_path / "out", 16), [chw(np.rint(image)) for image in expected])
    for file in [file for each in manifest.levels.values() for file in each.files] + [manifest.names]:
        data = (tmp_path / "out" / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["png", "jpeg"])
def test_same_bytes_with_any_number_of_workers(source: Path, tmp_path: Path, file_format: str) -> None:
    settings = small(resolution=32, array_max_resolution=8, format=file_format, test=2)
    prepare(source, tmp_path / "a", settings, workers=1)
    seen: list[tuple[int, int]] = []
    prepare(source, tmp_path / "b", settings, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert len(tree(tmp_path / "a")) == 2 + 3 * 2 + 3 * 2 * 2
    assert seen[0] == (0, 12) and seen[-1] == (12, 12)


def test_shards_open_with_plain_webdataset(source: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for i in range(12):
        (source / f"{i:02d}.png").rename(source / f"{i:02d}")
    labels = [[f"{i:02d}", i % 3] for i in range(12)]
    (source / "dataset.json").write_text(json.dumps({"labels": labels}))
    manifest = prepare(source, tmp_path / "out", small(resolution=32, array_max_resolution=4, test=3))
    root = tmp_path / "out"
    urls = [str(root / file.name) for file in manifest.levels[32].files]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    names = (root / "names.txt").read_text().split()
    stored_labels = np.load(root / "labels.npy")
    assert len(samples) == 12
    for sample, name, label in zip(samples, names, stored_labels, strict=True):
        assert int(sample["__key__"]) == int(name)
        assert sample["cls"] == label == int(name) % 3
        np.testing.assert_array_equal(sample["png"], noise(int(name)))


# Interruption.

RUN = """
import sys, time
from data_pipelines.images import prepare as module
from data_pipelines.images.prepare import PrepareSettings, prepare
if __name__ == "__main__":
    settings = PrepareSettings(resolution=16, shard_size=1)
    slowly = lambda done, total: time.sleep(600 if done > 3 else 0.05)  # until it is killed
    prepare(sys.argv[1], sys.argv[2], settings, workers=int(sys.argv[3]), progress=slowly)
"""


def start(tmp_path: Path, source: Path, dest: Path, workers: int) -> "subprocess.Popen[bytes]":
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, script, source, dest, str(workers)], env=environment)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_continues_after_a_kill(source: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(resolution=16, shard_size=1)
    partial = tmp_path / "out.partial"
    process = start(tmp_path, source, tmp_path / "out", 1)
    wait_for(lambda: len(list(partial.glob("work/shard-*.json"))) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = [path.stem for path in partial.glob("work/shard-*.json")]
    assert 3 <= len(finished) < 12
    (partial / "0016" / ".shard-00009.npy.1.tmp").write_bytes(b"left over")
    files = [partial / "0016" / f"{stem}.npy" for stem in finished]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]

    with pytest.raises(PrepareError, match=r"out\.partial holds an unfinished preparation with other settings"):
        prepare(source, tmp_path / "out", settings.model_copy(update={"resolution": 8}))
    seen: list[int] = []
    prepare(source, tmp_path / "out", settings, progress=lambda done, total: seen.append(done))
    assert seen[0] == len(finished)
    after = [tmp_path / "out" / "0016" / path.name for path in files]
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in after] == before
    prepare(source, tmp_path / "whole", settings)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_changed_source_is_not_continued(source: Path, tmp_path: Path) -> None:
    cut(source / "11.png")
    with pytest.raises(PrepareError, match=r"11\.png"):
        prepare(source, tmp_path / "out", small())
    (source / "11.png").unlink()
    with pytest.raises(PrepareError, match="another source"):
        prepare(source, tmp_path / "out", small())
    shutil.rmtree(tmp_path / "out.partial")
    assert prepare(source, tmp_path / "out", small()).samples == 11


def test_nothing_finished_starts_over(source: Path, tmp_path: Path) -> None:
    (source / "00.png").write_bytes(b"no image")
    with pytest.raises(PrepareError, match=r"00\.png"):
        prepare(source, tmp_path / "out", small(resolution=32))
    (source / "00.png").unlink()
    assert prepare(source, tmp_path / "out", small(resolution=16)).samples == 11
    assert not (tmp_path / "out" / "0032").exists()


def test_workers_end_with_a_killed_parent(source: Path, tmp_path: Path) -> None:
    def state_and_parent(pid: int) -> tuple[str, int]:
        try:
            state, parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            return "gone", 0
        return state, int(parent)

    def children(pid: int) -> list[int]:
        every = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [child for child in every if state_and_parent(child)[1] == pid]

    def alive(pid: int) -> bool:
        return state_and_parent(pid)[0] not in ("Z", "gone")

    process = start(tmp_path, source, tmp_path / "out", 2)
    wait_for(lambda: any((tmp_path / "out.partial").glob("work/shard-*.json")))
    workers = children(process.pid)
    process.kill()
    process.wait()
    assert len(workers) >= 2
    wait_for(lambda: not any(alive(pid) for pid in workers))


def test_two_at_once_are_refused(source: Path, tmp_path: Path) -> None:
    def again(done: int, total: int) -> None:
        with pytest.raises(PrepareError, match="another process is at work"):
            prepare(source, tmp_path / "out", small())

    prepare(source, tmp_path / "out", small(), progress=again)


# Splits and labels.


def names(root: Path) -> list[str]:
    return (root / "names.txt").read_text().splitlines()


def test_named_test_samples(source: Path, tmp_path: Path) -> None:
    manifest = prepare(source, tmp_path / "out", small(test=("07.png", "02.png")))
    assert names(tmp_path / "out")[manifest.train :] == ["02.png", "07.png"]
    with pytest.raises(PrepareError, match=r"'nowhere\.png' is not in the source"):
        prepare(source, tmp_path / "other", small(test=("07.png", "nowhere.png")))


@pytest.mark.parametrize("test", [12, 20])
def test_some_samples_must_be_left_for_training(source: Path, tmp_path: Path, test: int) -> None:
    with pytest.raises(PrepareError, match="takes all 12"):
        prepare(source, tmp_path / "out", small(test=test))


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "s" / ("cat", "dog")[i // 6] / f"{i}.png", noise(i))
    (tmp_path / "s" / "about.txt").write_text("not an image")
    manifest = prepare(tmp_path / "s", tmp_path / "out", small(test=4))
    assert manifest.classes == ("cat", "dog") and manifest.skipped == ()
    labels = np.load(tmp_path / "out" / "labels.npy")
    assert labels.dtype == np.int64
    assert [name.split("/")[0] for name in names(tmp_path / "out")] == [("cat", "dog")[k] for k in labels]
    assert sorted(labels[manifest.train :]) == [0, 0, 1, 1]  # spread over the classes, not the last ones


def test_folders_that_are_no_labels(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "pieces" / f"{i // 2 * 1000:05d}" / f"{i // 2 * 1000 + i % 2:05d}.png", noise(i))
        save(tmp_path / "mixed" / ("a", "b", ".", ".")[i] / f"{i}.png", noise(i))
    assert open_source(str(tmp_path / "pieces")).listing.classes == ()
    assert open_source(str(tmp_path / "pieces"), "folders").listing.classes == ("00000", "01000")
    assert open_source(str(tmp_path / "mixed")).listing.classes == ()
    with pytest.raises(ValueError, match="has no classes"):
        open_source(str(tmp_path / "mixed"), "folders")


def test_dataset_json(source: Path, tmp_path: Path) -> None:
    listed = [[f"{i:02d}.PNG", i % 2] for i in range(12)]
    (source / "dataset.json").write_text(json.dumps({"labels": listed}))
    manifest = prepare(source, tmp_path / "out", small())
    assert manifest.classes == ("0", "1")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "labels.npy"), np.arange(12) % 2)
    assert open_source(str(source), "none").listing.classes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", 'no "labels"'),
        ('{"labels": [["00.png", 0.5]]}', "whole numbers"),
        ('{"labels": [["00.png"]]}', "not of the form"),
        ('{"labels": 3}', "not of the form"),
        ('{"labels": [["elsewhere.png", 1]]}', "labels none of the images"),
        ('{"labels": [["00.png", 1]]}', r"01\.png .*has no label"),
    ],
)
def test_bad_dataset_json(source: Path, tmp_path: Path, text: str, message: str) -> None:
    (source / "dataset.json").write_text(text)
    with pytest.raises(PrepareError, match=message) as error:
        prepare(source, tmp_path / "out", small())
    assert "\n" not in str(error.value)


def test_no_labels_in_dataset_json(source: Path) -> None:
    (source / "dataset.json").write_text('{"labels": null}')
    assert open_source(str(source)).listing.classes == ()


def test_hidden_files_and_links(source: Path, tmp_path: Path) -> None:
    (source / ".hidden").write_text("x")
    (source / ".folder").mkdir()
    save(source / ".folder" / "a.png", noise(0))
    save(tmp_path / "outside.png", noise(0))
    (source / "out.png").symlink_to(tmp_path / "outside.png")
    (source / "up").symlink_to(tmp_path)
    (source / "loop").symlink_to(source)
    (source / "inside.png").symlink_to(source / "00.png")
    assert list(open_source(str(source)).listing.names) == [f"{i:02d}.png" for i in range(12)] + ["inside.png"]


# Errors.


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def spoil_jpeg(path: Path) -> None:
    Image.fromarray(noise(0)).save(path, "JPEG")
    cut(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut png": (cut, "is a damaged image"),
    "cut jpeg": (spoil_jpeg, "is a damaged image"),
    "text": (lambda path: path.write_text("hello"), "is not an image"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "float": (
        lambda path: Image.fromarray(np.zeros((8, 8), np.float32)).save(path, "TIFF"),
        "has floating-point",
    ),
    "32 bit": (
        lambda path: Image.fromarray(np.full((8, 8), 70000, np.int32)).save(path, "TIFF"),
        "has 32-bit",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_bad_files_are_named_or_skipped(source: Path, tmp_path: Path, damage: str) -> None:
    spoil, message = DAMAGE[damage]
    spoil(source / "08.png")
    with pytest.raises(PrepareError, match=rf"^08\.png in .*source {message}.*--skip-unreadable") as error:
        prepare(source, tmp_path / "out", small())
    assert "\n" not in str(error.value)
    manifest = prepare(source, tmp_path / "out", small(skip_unreadable=True))  # goes on where the other ended
    assert manifest.samples == 11 and manifest.skipped == ("08.png",)
    assert [shard.samples for shard in manifest.shards] == [5, 4, 2]
    kept = [i for i in range(12) if i != 8]
    assert names(tmp_path / "out") == [f"{i:02d}.png" for i in kept]
    expected = [chw(np.rint(noise(i).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)))) for i in kept]
    np.testing.assert_array_equal(level(tmp_path / "out", 16), expected)


def test_too_many_pixels(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in (900, 400):  # Pillow itself only warns up to twice its bound
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
        with pytest.raises(PrepareError, match=rf"00\.png .*more than {bound}"):
            prepare(source, tmp_path / "out", small())


def test_error_of_a_worker_arrives(source: Path, tmp_path: Path) -> None:
    cut(source / "03.png")
    with pytest.raises(PrepareError, match=r"^03\.png .*damaged") as error:
        prepare(source, tmp_path / "out", small(shard_size=1), workers=2)
    assert "\n" not in str(error.value)
    shutil.rmtree(tmp_path / "out.partial")  # no worker is at work in it any more
    time.sleep(0.2)
    assert not (tmp_path / "out.partial").exists()


def test_whole_shards_may_be_skipped(source: Path, tmp_path: Path) -> None:
    for i in range(5):
        cut(source / f"{i:02d}.png")
    manifest = prepare(source, tmp_path / "out", small(skip_unreadable=True))
    assert [shard.samples for shard in manifest.shards] == [5, 2]
    for i in range(5, 12):
        cut(source / f"{i:02d}.png")
    with pytest.raises(PrepareError, match="no training image"):
        prepare(source, tmp_path / "none", small(skip_unreadable=True))


def test_bad_places(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for where, dest, message in (
        (tmp_path / "missing", tmp_path / "out", "does not exist"),
        (tmp_path / "file", tmp_path / "out", "is neither"),
        (tmp_path / "empty", tmp_path / "out", "holds no images"),
        (source, tmp_path / "empty", "exists already"),
        (source, source / "out", "lies inside the source"),
        (source, tmp_path / "file" / "out", "cannot be made"),
    ):
        with pytest.raises(PrepareError, match=message) as error:
            prepare(where, dest, small())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"resolution": 48}, {"resolution": 2048}, {"channels": 2}, {"quality": 0}])
def test_bad_settings(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        PrepareSettings.model_validate(change)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_or_skipped(tmp_path / "disk", 128) as path:
        yield path


@pytest.mark.parametrize("arrays", [64, 8])
def test_full_disk(tmp_path: Path, full_disk: Path, arrays: int) -> None:
    for i in range(20):
        save(tmp_path / "source" / f"{i:02d}.png", noise(i, 64, 64))
    settings = small(resolution=64, array_max_resolution=arrays, shard_size=10)
    with pytest.raises(PrepareError, match=r"no space left in .*: about [\d,]+ bytes .* [\d,]+ are free") as error:
        prepare(tmp_path / "source", full_disk / "out", settings)
    assert "\n" not in str(error.value)
    assert not list((full_disk / "out.partial").rglob("*.tmp"))
    # With room the same preparation goes through.
    mount("-o", "remount,size=8m", str(full_disk))
    assert prepare(tmp_path / "source", full_disk / "out", settings).samples == 20
