"""The commands that draw pictures of a model, and `sivae export`, as a user meets them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from data_pipelines.images.manifest import Manifest
from data_pipelines.images.ranges import to_unit
from launch.cli import app
from launch.cli.options import parse_numbers, parse_truncation
from sivae_dist import load_pretrained
from sivae_dist.config.opening import settings_of
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from tests.command import refused, says
from tests.helpers import begin, random_set, tiny_settings, train

SIDE, GAP = 64, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", array_max_resolution=4, test=6)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With checkpoints of 16 images at 4 px, and of 32 and 48 at 8 px."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(begin(path, tiny_settings(data, "checkpoint.every=16", "checkpoint.keep_every=16")))
    return path


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "model"
    assert says("export", run, out, "--license", "mit") == f"{out}: the model at 48 images\n"
    return out


def picture(out: Path, *arguments: object) -> NDArray[np.uint8]:
    """What the command draws without labels, on the CPU."""
    says(*arguments, "--no-labels", "--device", "cpu", "--out", out)
    return np.asarray(Image.open(out))


def cell(drawn: NDArray[np.uint8], row: int, column: int, wide: int = 0) -> NDArray[Any]:
    """An image 8 px or less in a picture, `wide` of the gaps on its left being wide."""
    top, left = GAP + row * (SIDE + GAP), GAP + column * (SIDE + GAP) + wide * 4 * GAP
    return drawn[top : top + SIDE, left : left + SIDE].astype(int)


def enlarged(image: torch.Tensor) -> NDArray[Any]:
    pixels = (to_unit(image) * 255).round().numpy().transpose(1, 2, 0).astype(int)
    return pixels.repeat(SIDE // len(pixels), 0).repeat(SIDE // len(pixels), 1)


def alike(got: NDArray[Any], want: NDArray[Any]) -> bool:
    return bool((np.abs(got - want) <= 1).all())


def test_samples(run: Path, tmp_path: Path) -> None:
    arguments = ("sample", run, "--count", 12, "--columns", 4)
    drawn = picture(tmp_path / "a.png", *arguments)
    assert drawn.shape == (3 * (SIDE + GAP) + GAP, 4 * (SIDE + GAP) + GAP, 3)
    samples = load_pretrained(run).sample(12)
    assert all(alike(cell(drawn, *divmod(number, 4)), enlarged(samples[number])) for number in range(12))
    assert (drawn == picture(tmp_path / "b.png", *arguments)).all()
    for other in (("--seed", 1), ("--live",), ("--truncation", 0.5), ("--checkpoint", 32), ("--checkpoint", 16)):
        assert (drawn != picture(tmp_path / "b.png", *arguments, *other)).any(), other
    best = picture(tmp_path / "c.png", *arguments, "--checkpoint", "best")
    assert any((best == picture(tmp_path / "d.png", *arguments, "--checkpoint", n)).all() for n in (16, 32, 48))


def test_labels_are_there_unless_they_are_not_wanted(run: Path, tmp_path: Path) -> None:
    bare = picture(tmp_path / "a.png", "sample", run, "--count", 2)
    said = says("sample", run, "--count", 2, "--out", tmp_path / "new" / "b.png")
    assert said == f"{tmp_path / 'new' / 'b.png'}: 2 samples at 48 images\n"
    labelled = np.asarray(Image.open(tmp_path / "new" / "b.png"))
    assert labelled.shape[0] > bare.shape[0] and labelled.shape[1] > bare.shape[1]


def test_samples_by_number_and_truncation(run: Path, tmp_path: Path) -> None:
    model = load_pretrained(run)
    drawn = picture(tmp_path / "a.png", "sample", run, "--seeds", "7,2-3", "--seed", 4)
    for column, number in enumerate((7, 2, 3)):
        assert alike(cell(drawn, 0, column), enlarged(model.sample(1, 4, first=number)[0]))
    drawn = picture(tmp_path / "b.png", "sample", run, "--seeds", "7,2", "--truncation", "0,0.5")
    for row, number in enumerate((7, 2)):
        for column, psi in enumerate((0, 0.5)):
            assert alike(cell(drawn, row, column), enlarged(model.sample(1, first=number, truncation=psi)[0]))


def test_style_mixing(run: Path, tmp_path: Path) -> None:
    model = load_pretrained(run)
    arguments = ("sample", run, "--seeds", "1", "--style-mixing", "5-6")
    drawn = picture(tmp_path / "a.png", *arguments, "--cutoff", 1)
    mixed = model.style_mix(model.latents(1, 1), model.latents(5, 2), 1)
    bottom = drawn[4 * GAP :]  # below the wide gap
    assert alike(cell(bottom, 1, 1, wide=1), enlarged(mixed[0, 0]))
    assert alike(cell(bottom, 1, 2, wide=1), enlarged(mixed[0, 1]))
    assert alike(cell(drawn, 0, 2, wide=1), enlarged(model.sample(1, first=6)[0]))
    assert (drawn != picture(tmp_path / "b.png", *arguments)).any()
    assert "between layers 1 and 3 at 8 px" in refused(*arguments, "--cutoff", 4, "--out", tmp_path / "c.png")
    assert "--cutoff needs --style-mixing" in refused("sample", run, "--cutoff", 1, "--out", tmp_path / "c.png")
    assert "a single --truncation" in refused(*arguments, "--truncation", "0,1", "--out", tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_reconstructions_of_files_and_folders(run: Path, data: Path, tmp_path: Path) -> None:
    source = data.with_name("set-source")
    files = sorted(source.iterdir())
    drawn = picture(tmp_path / "a.png", "reconstruct", run, *files[:3], "--columns", 2)
    real = torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy()) for file in files])
    x = real.permute(0, 3, 1, 2).float() / 127.5 - 1
    theirs = load_pretrained(run).reconstruct(x[:3])
    for number in range(3):
        row, pair = divmod(number, 2)
        assert alike(cell(drawn, row, 2 * pair, wide=pair), enlarged(x[number]))
        assert alike(cell(drawn, row, 2 * pair + 1, wide=pair), enlarged(theirs[number]))
    of_folder = picture(tmp_path / "b.png", "reconstruct", run, source, "--columns", 2, "--count", 3)
    assert (of_folder == drawn).all()


def test_reconstructions_of_the_test_split(run: Path, data: Path, tmp_path: Path) -> None:
    names = (data / "names.txt").read_text().splitlines()[Manifest.load(data).train :]
    assert len(names) == 6
    files = [data.with_name("set-source") / name for name in names]
    want = picture(tmp_path / "a.png", "reconstruct", run, *files)
    assert (picture(tmp_path / "b.png", "reconstruct", run) == want).all()
    first = picture(tmp_path / "c.png", "reconstruct", run, *files[:2])
    assert (picture(tmp_path / "d.png", "reconstruct", run, "--count", 2) == first).all()
    shutil.copytree(data, tmp_path / "moved")
    assert (picture(tmp_path / "e.png", "reconstruct", run, "--data", tmp_path / "moved") == want).all()


def test_what_cannot_be_reconstructed(run: Path, data: Path, exported: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x.png")
    note = tmp_path / "note.txt"
    note.write_text("no image")
    assert "note.txt is not an image" in refused("reconstruct", run, note, *out)
    assert "none.png" in refused("reconstruct", run, tmp_path / "none.png", *out)
    other = random_set(tmp_path / "other", samples=8)
    assert "not the data set that this model was trained on" in refused("reconstruct", run, "--data", other, *out)
    assert "give images, or the data set with --data" in refused("reconstruct", exported, *out)
    assert "not both" in refused("reconstruct", run, note, "--data", data, *out)
    train(begin(tmp_path / "run", tiny_settings(other, "schedule.images={4: 8, 8: 8}")))
    assert "has no test split" in refused("reconstruct", tmp_path / "run", *out)
    assert not (tmp_path / "x.png").exists()


def test_interpolation(run: Path, data: Path, tmp_path: Path) -> None:
    model = load_pretrained(run)
    drawn = picture(tmp_path / "a.png", "interpolate", run, 3, 5, 8, 1, "--steps", 2, "--space", "w", "--seed", 4)
    z = torch.cat([model.latents(number, 1, 4) for number in (3, 5, 8, 1)])
    square = model.interpolate(z, 2, "w")
    for row in range(3):
        for column in range(3):
            assert alike(cell(drawn, row, column), enlarged(square[row, column]))
    file = min(data.with_name("set-source").iterdir())
    drawn = picture(tmp_path / "b.png", "interpolate", run, 3, 5, file, 1, "--steps", 1)
    x = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    assert alike(cell(drawn, 1, 0), enlarged(x[0]))
    assert alike(cell(drawn, 1, 1, wide=1), enlarged(model.reconstruct(x)[0]))
    assert alike(cell(drawn, 0, 2, wide=1), enlarged(model.sample(1, first=5)[0]))
    assert "none.png" in refused("interpolate", run, 1, 2, 3, tmp_path / "none.png", "--out", tmp_path / "x.png")


def test_growth(run: Path, tmp_path: Path) -> None:
    says("growth", run, "--seeds", "2,6", "--no-labels", "--device", "cpu", "--out", tmp_path / "a.png")
    drawn = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert drawn.shape == (2 * (96 + 3) + 3, 2 * (96 + 3) + 3, 3)
    for column, checkpoint in enumerate((16, 48)):
        model = load_pretrained(run, checkpoint=checkpoint)
        for row, number in enumerate((2, 6)):
            want = (to_unit(model.sample(1, first=number)[0]) * 255).round().numpy().transpose(1, 2, 0).astype(int)
            factor = 96 // len(want)
            got = drawn[3 + row * 99 :, 3 + column * 99 :][:96:factor, :96:factor]
            assert alike(got, want)


def test_animation(run: Path, tmp_path: Path) -> None:
    arguments = ("animate", run, "--count", 1, "--stops", 2, "--frames", 3, "--out")
    assert "1 walks in 6 frames at 48 images" in says(*arguments, tmp_path / "a.gif")
    says(*arguments, tmp_path / "b.gif")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    assert "write one of .gif, .mp4" in refused(*arguments, tmp_path / "a.webm")


PICTURES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".JPEG": "JPEG",
    ".webp": "WEBP",
    ".tiff": "TIFF",
    ".tif": "TIFF",
    ".bmp": "BMP",
}
DRAWING = {
    "sample": ("--count", 1), "reconstruct": ("--count", 1), "interpolate": (1, 2, 3, 4, "--steps", 1),
    "growth": ("--count", 1), "curves": (),
}  # fmt: skip


@pytest.mark.parametrize("command", DRAWING)
def test_the_ending_decides_the_format(command: str, run: Path, tmp_path: Path) -> None:
    for ending in (".jpg",) if command != "sample" else (*PICTURES, ".PNG"):
        out = tmp_path / f"a{ending}"
        says(command, run, *DRAWING[command], "--out", out)
        assert Image.open(out).format == PICTURES.get(ending, "PNG")
    for name in ("a.gif", "a.mp4", "a", "a.b.txt", ".png"):
        message = refused(command, run, *DRAWING[command], "--out", tmp_path / name)
        assert "by which the format is chosen; write one of .png, .jpg," in message
    (tmp_path / "folder.png").mkdir()
    assert "is a directory" in refused(command, run, *DRAWING[command], "--out", tmp_path / "folder.png")


@pytest.mark.slow
def test_curves_for_print(run: Path, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "a.pdf"):
        says("curves", run, "--out", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_curves_of_several_runs(run: Path, tmp_path: Path) -> None:
    """Each line of the second run is drawn, and stands in the legend; the axes are called what the panels are."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    says("curves", run, "--out", tmp_path / "alone.svg")
    says("curves", run, "--beside", other, "--out", tmp_path / "both.svg")
    rows = read_rows(RunDirectory(run).metrics)
    panels = settings_of(RunDirectory(run)).objective.panels
    lines = sum(any(tag in row for row in rows) for tags in panels.values() for tag in tags)
    alone, both = ((tmp_path / f"{name}.svg").read_text().count('id="line2d_') for name in ("alone", "both"))
    assert lines > 3 and both - alone == 2 * lines
    for picture in ("alone", "both"):
        assert all(f"<!-- {panel} -->" in (tmp_path / f"{picture}.svg").read_text() for panel in panels)
    assert "two of the runs are called run" in refused("curves", run, "--beside", run, "--out", tmp_path / "x.png")


def test_the_home_directory_and_variables(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves `~` alone behind a `=`, and everything in quotes."""
    monkeypatch.setenv("HOME", str(run.parent))
    monkeypatch.setenv("OUT", str(tmp_path))
    says("sample", "~/run", "--count", 1, "--out=$OUT/a.png")
    assert (tmp_path / "a.png").exists()
    assert load_pretrained("~/run").images == 48


def test_values_that_cannot_be_meant(run: Path, tmp_path: Path) -> None:
    (tmp_path / "face1.png").touch()
    (tmp_path / "folder").mkdir()
    out = ("--out", tmp_path / "x.png")
    for arguments, message in {
        ("sample", run, "--truncation", "7", *out): "truncation 7 is not from -2 to 2",
        ("animate", run, "--truncation", "nan", "--out", tmp_path / "x.gif"): "truncation nan is not from -2 to 2",
        ("sample", run, "--device", "gpu", *out): "'gpu' is not a device",
        ("reconstruct", run, tmp_path / "face.png", *out): f"face.png; did you mean {tmp_path}/face1.png?",
        ("reconstruct", run, tmp_path / "folder", *out): "folder",
        ("interpolate", run, "1", "2", "3", "four", *out): "four is neither an image file nor the number of a sample",
        ("interpolate", run, "1", "2", "3", tmp_path / "folder", *out): "folder is a directory, not an image",
    }.items():
        assert message in refused(*arguments), arguments
    for option in ("--count=0", "--count=-1", "--seed=-1", "--columns=0", "--cutoff=0"):
        assert CliRunner().invoke(app, ["sample", str(run), option, *map(str, out)]).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["face1.png", "folder"]


def test_an_export_is_as_good_as_its_run(run: Path, exported: Path, tmp_path: Path) -> None:
    for arguments in (("sample", "--count", 4), ("interpolate", 1, 2, 3, 4, "--steps", 1)):
        command, *rest = arguments
        of_run, of_export = (picture(tmp_path / "x.png", command, path, *rest) for path in (run, exported))
        assert (of_run == of_export).all()
    assert "license: mit" in (exported / "README.md").read_text()
    assert "exists already" in refused("export", run, exported)
    assert "is not a run" in refused("growth", exported, "--out", tmp_path / "y.png")


def test_checkpoints_that_are_not_there(run: Path, tmp_path: Path) -> None:
    known = "choose one of: latest, best, 16, 32, 48"
    for command in (("sample", run, "--out", tmp_path / "x.png"), ("export", run, tmp_path / "x")):
        assert known in refused(*command, "--checkpoint", 17)
    assert "neither a run nor an exported model" in refused("sample", tmp_path, "--out", tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_numbers() -> None:
    assert parse_numbers("3") == [3]
    assert parse_numbers("0-2, 7,5-5") == [0, 1, 2, 7, 5]
    for wrong in ("", "a", "3-1", "1,,2", "-1", "1-", "1.5", "0-99999", "٣"):
        with pytest.raises(ValueError, match="is not a list of sample numbers"):
            parse_numbers(wrong)
    assert parse_truncation("0,.5, 1,-0.7") == [0, 0.5, 1, -0.7]
    for wrong in ("", "a", "0,", "nan", "1e3"):
        with pytest.raises(ValueError, match="is not a number or"):
            parse_truncation(wrong)
