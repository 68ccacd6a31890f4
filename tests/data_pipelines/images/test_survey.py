"""A source is looked through before the work: folder, zip and tar alike, with all that is wrong at once."""

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.images.manifest import Manifest
from data_pipelines.images.opening import open_store
from data_pipelines.images.prepare import PrepareError, prepare
from data_pipelines.images.sources.folder import OUTSIDE
from data_pipelines.images.sources.opening import open_source
from tests.data_pipelines.images.sources.making import (
    encoded,
    noise,
    pngs,
    small,
    tar_bytes,
    tree,
    write_folder,
    write_tar,
    write_zip,
)

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
SPLIT = {
    f"{split}/{kind}/{i}.png": encoded(noise(7 * i + len(kind + split)))
    for split, count in (("Train", 3), ("Test", 2))
    for kind in ("cat", "rabbit")
    for i in range(count)
}
BESIDE = {
    "README.md": b"# my set",
    "LICENSE": b"MIT",
    "labels.csv": b"a,b",
    "Train/cat/0.txt": b"a caption",
    "Train/cat/0.json": b"{}",
    "Train/Thumbs.db": b"x",
    ".DS_Store": b"x",
    "__MACOSX/Train/cat/._0.png": b"\0\5\x16\7",
    "Train/cat/._0.png": b"\0\5\x16\7",
}


def write_gz(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(gzip.compress(tar_bytes(files)))
    return path


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": write_folder,
    "zip": write_zip,
    "tar": write_tar,
    "tar.gz": write_gz,
}


def seen(where: Path, dest: Path, **changes: object) -> tuple[Manifest, list[str]]:
    said: list[str] = []
    return prepare(where, dest, small(resolution=4, **changes), say=said.append), said


@pytest.mark.parametrize("top", ["", "faces/", "a/b c/"])
def test_folder_zip_and_tar_give_the_same_set(tmp_path: Path, top: str) -> None:
    """Whatever lies beside the images or around them all."""
    want, _ = seen(write_folder(tmp_path / "plain", SPLIT), tmp_path / "want")
    assert (want.train, want.test, want.classes) == (6, 4, ("cat", "rabbit"))
    for kind, write in WRITERS.items():
        where = write(tmp_path / f"x.{kind}", {top + name: data for name, data in {**SPLIT, **BESIDE}.items()})
        found, said = seen(where, tmp_path / f"{kind}-out")
        assert found.digest == want.digest, kind
        assert found.found is not None and found.found.passed_over["text files"].files == 5
        assert any(line.startswith("skipped: text files: 5 (") for line in said)
        assert "its own split: 6 training, 4 test" in said and "Test/ is for testing" in said


@pytest.mark.parametrize("kind", WRITERS)
def test_endings_that_all_kinds_know(tmp_path: Path, kind: str) -> None:
    """None, any case, and those of formats whose content says another."""
    names = ["a", "b.PNG", "c.JpEg", "d.jfif", "e.pgm", "f.0", "g.h.png", "i.dat"]
    files = {name: encoded(noise(i)) for i, name in enumerate(names)}
    assert list(open_source(str(WRITERS[kind](tmp_path / "x", files)), spool=tmp_path / "s").listing.names) == names


NAMES = [
    "at 3.04.05\u202fPM.png",
    "v\u00a013.05.png",
    "写真\u30001.png",
    "\U0001f468\u200d\U0001f469.png",
    "co\u00adop.png",
    " leading.png",
    "'quoted' \"twice\".png",
    "100%#1?*[x].png",
    "tab\tand\x1besc.png",
    "back\\slash.png",
    "e\u0301.png",
    "\u202eRTL.png",
]


@pytest.mark.parametrize("kind", WRITERS)
def test_names(tmp_path: Path, kind: str) -> None:
    files = {name: encoded(noise(i)) for i, name in enumerate(sorted(NAMES))}
    manifest, _ = seen(WRITERS[kind](tmp_path / "x", files), tmp_path / "out", test=(NAMES[0], " leading.png"))
    assert (manifest.train, manifest.test) == (10, 2)
    stored = (tmp_path / "out" / "names.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert sorted(stored) == sorted(name.replace("\t", "\\t").replace("\x1b", "\\x1b") for name in NAMES)


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", pngs(2))
    os.rename(folder / "00.png", os.fsencode(folder) + b"/caf\xe9.png")
    manifest, _ = seen(folder, tmp_path / "out", test=("caf\\xe9.png",))
    assert manifest.test == 1 and (tmp_path / "out" / "names.txt").read_text() == "01.png\ncaf\\xe9.png\n"


@pytest.mark.parametrize("kind", WRITERS)
def test_line_breaks_in_names_are_refused(tmp_path: Path, kind: str) -> None:
    where = WRITERS[kind](tmp_path / "x", pngs(2) | {"a\nb.png": encoded(noise(3))})
    with pytest.raises(PrepareError, match=r"^a\\nb\.png in .* has a line break in its name \(rename it\): ") as error:
        seen(where, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert seen(where, tmp_path / "out", skip_unreadable=True)[0].skipped == ("a\\nb.png",)


def test_everything_that_is_wrong_is_in_one_report(tmp_path: Path) -> None:
    files = pngs(5) | {
        "a.HEIC": HEIC,
        "b.jpg": b"<html>",
        "c.png": b"",
        "d.png": b"version https://git-lfs.github.com/spec/",
    }
    folder = write_folder(tmp_path / "s", files)
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "circle.png").symlink_to("circle.png")
    said: list[str] = []
    with pytest.raises(PrepareError, match=r"^a\.HEIC in .*s is HEIC, .*, and 5 more.*; --test 9 takes all 5") as error:
        prepare(folder, tmp_path / "out", small(test=9), say=said.append)
    assert "\n" not in str(error.value) and not (tmp_path / "out.partial").exists()
    start = said.index("cannot be used: 6 files")
    reasons = dict(line.strip().split(" ", 1) for line in said[start + 1 :])
    assert list(reasons) == ["a.HEIC", "b.jpg", "broken.png", "c.png", "circle.png", "d.png"]
    assert "HTML" in reasons["b.jpg"] and "empty" in reasons["c.png"] and "git lfs pull" in reasons["d.png"]
    assert "nowhere.png, which does not exist" in reasons["broken.png"] and "circle" in reasons["circle.png"]
    manifest, _ = seen(folder, tmp_path / "out", test=2, skip_unreadable=True)
    assert (manifest.train, manifest.test) == (3, 2)
    loaded = Manifest.load(tmp_path / "out")
    assert loaded.found is not None and set(loaded.found.skipped) == set(loaded.skipped) == set(reasons)
    assert loaded.found.skipped["b.jpg"] == reasons["b.jpg"]


def test_links_that_lead_elsewhere_are_counted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", pngs(2))
    write_folder(tmp_path / "other", pngs(1))
    (folder / "more").symlink_to(tmp_path / "other")
    (folder / "up").symlink_to(folder)
    (folder / "again.png").symlink_to("00.png")
    manifest, _ = seen(folder, tmp_path / "out")
    assert manifest.samples == 3 and manifest.found is not None
    outside = manifest.found.passed_over[OUTSIDE]
    assert outside.examples == (f"more -> {tmp_path / 'other'}",)
    assert manifest.found.passed_over["links to a folder above"].files == 1
    with pytest.raises(PrepareError, match=r"holds no images .*: give --follow-links as well$"):
        links = write_folder(tmp_path / "links", {})
        links.mkdir()
        (links / "more").symlink_to(tmp_path / "other")
        seen(links, tmp_path / "none")
    followed = prepare(folder, tmp_path / "all", small(resolution=4), follow_links=True)
    assert followed.samples == 4 and "more/00.png" in (tmp_path / "all" / "names.txt").read_text()
    assert followed.found is not None and OUTSIDE not in followed.found.passed_over


def test_images_beside_a_split(tmp_path: Path) -> None:
    """They could be in either split, so that they are in none."""
    folder = write_folder(tmp_path / "s", SPLIT | {"preview.png": encoded(noise(9))})
    with pytest.raises(PrepareError, match=r"^preview\.png in .* is in none of the split's folders Test, Train"):
        seen(folder, tmp_path / "out")
    manifest, _ = seen(folder, tmp_path / "out", skip_unreadable=True)
    assert (manifest.train, manifest.test, manifest.classes) == (6, 4, ("cat", "rabbit"))


def test_folders_that_could_be_a_split_or_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", {f"{name}/0.png": encoded(noise(0)) for name in ("cat", "dog", "test")})
    with pytest.raises(
        PrepareError, match=r"folders cat, dog, test, which could be a split or classes: .*--labels fold"
    ):
        seen(folder, tmp_path / "out")
    assert seen(folder, tmp_path / "out", labels="folders")[0].classes == ("cat", "dog", "test")


def test_images_beside_the_folders_of_classes_are_named(tmp_path: Path) -> None:
    files = {f"faces/{name}/0.png": encoded(noise(0)) for name in ("cat", "dog")} | {"cover.png": encoded(noise(1))}
    manifest, said = seen(write_folder(tmp_path / "s", files), tmp_path / "out")
    assert manifest.classes == () and "no classes: 1 images are in none of the folders (cover.png)" in said


def test_the_own_split_may_be_replaced(tmp_path: Path) -> None:
    manifest, said = seen(write_folder(tmp_path / "s", SPLIT), tmp_path / "out", test=2)
    assert (manifest.train, manifest.test) == (8, 2)
    assert "its own split is not used, because of --test 2" in said


def test_sets_of_other_formats_inside_a_zip(tmp_path: Path) -> None:
    for name, data in (
        ("cifar-10-batches-py/data_batch_1", pickle.dumps({}, 2)),
        ("train-images-idx3-ubyte", b"\0\0\x08\3"),
    ):
        path = write_zip(tmp_path / "x.zip", {name: data, "readme.html": b"<html>"})
        with pytest.raises(PrepareError, match=r"holds no images .*unpack the archive"):
            seen(path, tmp_path / "out")


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", {"a.HEIC": HEIC, "b.png": b""})
    with pytest.raises(PrepareError, match=r"^none of the 2 files in .*s can be used: the reasons are listed above$"):
        seen(folder, tmp_path / "out", skip_unreadable=True)


def test_a_pattern_of_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "s", pngs(2))
    with pytest.raises(PrepareError, match=r"s/\*\.png names images: give the folder that holds them"):
        prepare(f"{tmp_path}/s/*.png", tmp_path / "out", small())


def test_webdataset_of_heic(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"^0\.heic in .* is HEIC, which is not read"):
        seen(write_tar(tmp_path / "a.tar", {"0.heic": HEIC, "0.cls": b"1"}), tmp_path / "out")


def test_unlabelled_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", SPLIT | {f"unlabeled/{i}.png": encoded(noise(i)) for i in range(3)})
    manifest, said = seen(folder, tmp_path / "out")
    assert (manifest.train, manifest.test, manifest.classes) == (6, 4, ("cat", "rabbit"))
    assert any(line.startswith("skipped: unlabelled images, which --labels none would take") for line in said)
    manifest, _ = seen(folder, tmp_path / "all", labels="none")
    assert (manifest.train, manifest.test) == (9, 4)


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_file_inside_the_folder_around_everything(tmp_path: Path, kind: str) -> None:
    labels = json.dumps({"labels": [["00.png", 1], ["01.png", 0]]}).encode()
    files = {f"set/{name}": data for name, data in (pngs(2) | {"dataset.json": labels}).items()}
    listing = open_source(str(WRITERS[kind](tmp_path / "x", files)), spool=tmp_path / "spool").listing
    assert listing.labels is not None and listing.labels.tolist() == [1, 0]


def test_windows_zips(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {name.replace("/", "\\"): data for name, data in SPLIT.items()})
    data = path.read_bytes().replace(b"PK\1\2\x14\3", b"PK\1\2\x14\0")  # made under DOS
    path.write_bytes(data)
    manifest, _ = seen(path, tmp_path / "out")
    assert (manifest.train, manifest.test, manifest.classes) == (6, 4, ("cat", "rabbit"))


def test_a_folder_that_may_not_be_read_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --skip-unreadable as well: it says nothing about the files."""
    folder = write_folder(tmp_path / "s", pngs(2) | {"more/0.png": encoded(noise(0))})
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PrepareError, match=r"^more/ \(Permission denied\) in .*s cannot be read: grant the permission"):
        seen(folder, tmp_path / "out", skip_unreadable=True)


# A test split of a given size.


def test_damaged_test_images_are_replaced(tmp_path: Path) -> None:
    """The same bytes with two workers, and when it was interrupted between the rounds."""
    folder = write_folder(tmp_path / "s", {f"{'ab'[i % 2]}/{i:02d}.png": encoded(noise(i)) for i in range(24)})
    for name in ("a/08.png", "b/05.png", "b/21.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
    settings = small(resolution=4, shard_size=4, test=8, skip_unreadable=True)
    said: list[str] = []
    manifest = prepare(folder, tmp_path / "out", settings, say=said.append)
    assert said[-1].endswith("of the test images are damaged: others take their place")
    assert (manifest.train, manifest.test) == (13, 8)
    assert sorted(manifest.skipped) == ["a/08.png", "b/05.png", "b/21.png"]
    labels = np.load(tmp_path / "out" / "labels.npy")
    assert np.bincount(labels[manifest.train :]).tolist() == [4, 4]
    prepare(folder, tmp_path / "two", settings, 2)
    assert tree(tmp_path / "out") == tree(tmp_path / "two")

    def interrupt(done: int, total: int) -> None:
        if (tmp_path / "late.partial" / "work" / "damaged.json").exists() and done > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "late", settings, 1, interrupt)
    prepare(folder, tmp_path / "late", settings)
    assert tree(tmp_path / "out") == tree(tmp_path / "late")


def test_shares(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", pngs(20))
    assert seen(folder, tmp_path / "out", test="10%")[0].test == 2
    with pytest.raises(PrepareError, match=r"^--test 1000 takes all 20 images .*, for example --test 2 or --test 10%"):
        seen(folder, tmp_path / "other", test=1000)


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "s", pngs(3))
    assert prepare("~/s", "~/out", small(resolution=4)).samples == 3
    assert (tmp_path / "out/manifest.json").exists()
    assert open_store("~/out").manifest().samples == 3
    shutil.rmtree(tmp_path / "s")
