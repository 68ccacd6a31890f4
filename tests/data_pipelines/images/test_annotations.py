"""Contents of samples from their names: those that several classes share, read lazily and verified."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from data_pipelines.images.annotations import contents_of
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.mirroring import mirroring_note
from data_pipelines.images.prepare import PrepareSettings, prepare
from launch.cli.data import app
from tests.prepared import bless


def make(root: Path, names: list[str]) -> Path:
    """Files of one pixel, prepared; the source is removed."""
    for k, name in enumerate(names):
        (root / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), k, np.uint8)).save(root / "source" / name, "png")
    prepare(root / "source", root / "set", PrepareSettings(resolution=4))
    shutil.rmtree(root / "source")
    return root / "set"


def contents(root: Path) -> list[str | None] | None:
    with ImageSettings(path=str(root)).open(0, torch.device("cpu")) as data:
        return data.contents()


def test_a_content_is_what_is_left_of_a_name_behind_its_class(tmp_path: Path) -> None:
    cars = [
        f"{split}/car-{k}/azimuth-{a}.png" for split, k in (("train", 0), ("train", 1), ("test", 2)) for a in (0, 1)
    ]
    root = make(tmp_path, cars)
    names = (root / "names.txt").read_text().splitlines()
    assert contents(root) == [f"azimuth-{name[-5]}" for name in names]
    assert contents_of(root) == contents(root)


def test_only_what_several_classes_share_is_a_content(tmp_path: Path) -> None:
    names = ["a/x/1.5.png", "a/x/2", "a/own.png", "a/a/b.png", "b/x/1.5.jpg", "b/x/2", "b/a/b.png", "b/b.png", "b/b"]
    root = make(tmp_path, names)
    assert (root / "names.txt").read_text().splitlines() == sorted(names)
    found = dict(zip(sorted(names), contents(root) or (), strict=True))
    assert found == {
        "a/x/1.5.png": "x/1.5", "b/x/1.5.jpg": "x/1.5", "a/x/2": "x/2", "b/x/2": "x/2", "a/own.png": None,
        "a/a/b.png": "a/b", "b/a/b.png": "a/b", "b/b.png": None, "b/b": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "names", [["a/1.png", "a/2.png", "b/3.png"], ["1.png", "2.png"], ["a/1.png", "b/a/1.png", "b/b/1.png"]]
)
def test_a_set_without_shared_names_has_none(tmp_path: Path, names: list[str]) -> None:
    assert contents(make(tmp_path, names)) is None


def test_names_are_read_when_they_are_needed_and_verified(tmp_path: Path) -> None:
    root = make(tmp_path, ["a/1.png", "a/2.png", "b/1.png", "b/2.png"])
    path = root / "names.txt"
    good = path.read_text()

    def fault() -> str:
        with ImageSettings(path=str(root)).open(0, torch.device("cpu")) as data:
            assert data.samples(4, [0, 3]).x.shape == (2, 3, 4, 4)  # which needs no names
            with pytest.raises(ValueError, match="damaged") as caught:
                data.contents()
        return str(caught.value)

    path.write_text(good.replace("1", "3", 1))
    assert fault() == f"{path} is damaged (its checksum differs): prepare the data set again"
    path.write_text(good + "more\n")
    assert fault() == f"{path} is damaged (it has 37 bytes instead of 32): prepare the data set again"
    for text in (good + "more\n", good[:-1], good.replace("1.png\n", "1.png ", 1)):
        path.write_text(text)
        bless(root)
        assert "it does not hold a line for each of the 4 samples" in fault()
    path.write_bytes(b"\xff" + good.encode()[1:])
    bless(root)
    assert "'utf-8' codec" in fault()
    path.unlink()
    assert "No such file" in fault()


def test_the_commands_show_contents_and_what_mirroring_would_do(tmp_path: Path) -> None:
    root = make(
        tmp_path, [f"{split}/car-{k}/azimuth-{a}.png" for split, k in (("train", 0), ("test", 1)) for a in (0, 1)]
    )
    note = mirroring_note(Manifest.load(root), contents=contents(root))
    assert note.startswith("every image is named after its content (azimuth-0, ...): ")
    assert note.endswith("with data.flip=false")
    assert mirroring_note(Manifest.load(root), False, contents(root)).startswith("data.flip=false: no image")
    assert mirroring_note(Manifest.load(root), contents=["x", None]) == mirroring_note(Manifest.load(root))
    result = CliRunner().invoke(app, ["info", str(root)], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "2 (azimuth-0, azimuth-1)" in result.stdout
    assert "every image is named after its content" in result.stdout
