"""The commands that draw pictures, of a model that is told the class."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.images.manifest import Manifest
from launch.cli.options import parse_classes
from sivae_dist import load_pretrained
from sivae_dist.run.jsonl import read_rows
from tests.command import refused, says, sivae
from tests.helpers import begin, labelled_set, random_set, tiny_settings, train
from tests.launch.test_cli_pictures import GAP, SIDE, alike, cell, enlarged, picture

TOLD = "model.conditional=true"


@pytest.fixture(scope="module")
def told_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_set(tmp_path_factory.mktemp("data") / "set", test=6)


@pytest.fixture(scope="module")
def told(told_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With checkpoints of 16 images at 4 px, and of 48 at 8 px."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(begin(path, tiny_settings(told_data, TOLD, "checkpoint.every=16", "checkpoint.keep_every=16")))
    return path


def test_samples_by_class(told: Path, tmp_path: Path) -> None:
    model = load_pretrained(told)
    drawn = picture(tmp_path / "a.png", "sample", told, "--seeds", "5,7")
    assert drawn.shape == (3 * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + GAP, 3)
    for row in range(3):
        for column, number in enumerate((5, 7)):
            assert alike(cell(drawn, row, column), enlarged(model.sample(1, first=number, classes=row)[0]))
    chosen = picture(tmp_path / "b.png", "sample", told, "--seeds", "5,7", "--classes", "cat, 0")
    assert (chosen == np.concatenate((drawn[2 * (SIDE + GAP) :][: SIDE + GAP], drawn[: SIDE + 2 * GAP]))).all()
    out = tmp_path / "c.png"
    assert says("sample", told, "--out", out) == f"{out}: 8 samples of 3 classes at 48 images\n"
    psis = picture(tmp_path / "d.png", "sample", told, "--seeds", "5", "--truncation", "0,1", "--classes", "bee")
    assert alike(cell(psis, 0, 0), enlarged(model.sample(1, first=5, classes="bee", truncation=0)[0]))
    for more in (("--truncation", "0,1"), ("--style-mixing", "1")):
        message = refused("sample", told, "--classes", "ant,bee", *more, "--out", out)
        assert "--classes takes a single one" in message
    assert "there is no class 'dog'; the model has: ant, bee, cat" in refused(
        "sample", told, "--classes", "dog", "--out", out
    )
    assert "there is no class ''" in refused("sample", told, "--classes", "ant,", "--out", out)


def test_style_mixing_growth_and_walks_of_a_class(told: Path, tmp_path: Path) -> None:
    model = load_pretrained(told)
    mixed = picture(tmp_path / "a.png", "sample", told, "--seeds", "1", "--style-mixing", "5", "--classes", "cat")
    assert alike(cell(mixed, 0, 1, wide=1), enlarged(model.sample(1, first=5, classes="cat")[0]))
    one, other = (
        picture(tmp_path / "b.png", "growth", told, "--seeds", "2", "--classes", name) for name in ("ant", "cat")
    )
    assert (one != other).any()
    for name in ("ant", "cat"):
        says(
            "animate",
            told,
            "--count",
            1,
            "--stops",
            2,
            "--frames",
            2,
            "--classes",
            name,
            "--out",
            tmp_path / f"{name}.gif",
        )
    assert (tmp_path / "ant.gif").read_bytes() != (tmp_path / "cat.gif").read_bytes()


def test_reconstructions_of_the_test_split(told: Path, told_data: Path, tmp_path: Path) -> None:
    manifest, model = Manifest.load(told_data), load_pretrained(told)
    names = (told_data / "names.txt").read_text().splitlines()[manifest.train :]
    labels = np.load(told_data / "labels.npy")[manifest.train :]
    files = [told_data.with_name("set-source") / name for name in names]
    pixels = torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy()) for file in files])
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    own = model.reconstruct(x, labels=labels.tolist())
    drawn = picture(tmp_path / "a.png", "reconstruct", told, "--columns", 2)
    for number in range(6):
        row, pair = divmod(number, 2)
        assert alike(cell(drawn, row, 2 * pair + 1, wide=pair), enlarged(own[number]))
    # Image files: of the class that their folder is called, unless it is said.
    assert (picture(tmp_path / "b.png", "reconstruct", told, *files, "--columns", 2) == drawn).all()
    changed = picture(tmp_path / "c.png", "reconstruct", told, "--as", "cat", "--count", 2)
    for row in range(2):
        assert alike(cell(changed, row, 1, wide=1), enlarged(own[row]))
        as_cat = model.reconstruct(x[row][None], labels=[int(labels[row])], classes="cat")[0]
        assert alike(cell(changed, row, 2, wide=2), enlarged(as_cat))
    shutil.copy(files[0], tmp_path / "a-file.png")
    out = ("--out", tmp_path / "x.png")
    assert "a-file.png: the model is told the class of an image, and its folder is not called like one of ant, " in (
        refused("reconstruct", told, tmp_path / "a-file.png", *out)
    )
    said = picture(tmp_path / "d.png", "reconstruct", told, tmp_path / "a-file.png", "--class", "bee")
    assert alike(cell(said, 0, 1), enlarged(model.reconstruct(x[:1], labels="bee")[0]))
    assert "--class is for image files" in refused("reconstruct", told, "--class", "bee", *out)


def test_interpolation_within_a_class(told: Path, told_data: Path, tmp_path: Path) -> None:
    model = load_pretrained(told)
    drawn = picture(tmp_path / "a.png", "interpolate", told, 1, 2, 3, 4, "--steps", 1, "--class", "cat")
    assert alike(cell(drawn, 0, 1), enlarged(model.sample(1, first=2, classes="cat")[0]))
    file = min((told_data.with_name("set-source") / "bee").iterdir())
    drawn = picture(tmp_path / "b.png", "interpolate", told, file, 2, 3, 4, "--steps", 1, "--class", "bee")
    x = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    assert alike(cell(drawn, 0, 1, wide=1), enlarged(model.reconstruct(x, labels="bee")[0]))
    out = ("--out", tmp_path / "x.png")
    assert "the model has classes (ant, bee, cat): name one with --class" in refused(
        "interpolate", told, 1, 2, 3, 4, *out
    )
    assert "--class takes a single class" in refused("interpolate", told, 1, 2, 3, 4, "--class", "ant,bee", *out)


def test_an_export_is_as_good_as_its_run(told: Path, tmp_path: Path) -> None:
    says("export", told, tmp_path / "model")
    arguments = ("--count", 2, "--classes", "bee,cat")
    of_run, of_export = (picture(tmp_path / "x.png", "sample", p, *arguments) for p in (told, tmp_path / "model"))
    assert (of_run == of_export).all()


def test_a_model_without_classes_refuses_them(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(begin(path, tiny_settings(random_set(tmp_path / "set", samples=8), "schedule.images={4: 8, 8: 8}")))
    out, moving = ("--out", tmp_path / "x.png"), ("--out", tmp_path / "x.gif")
    file = tmp_path / "set-source" / "0000.png"
    for command in (
        ("sample", path, "--classes", "ant", *out), ("growth", path, "--classes", "0", *out),
        ("animate", path, "--classes", "ant", *moving), ("interpolate", path, 1, 2, 3, 4, "--class", "0", *out),
        ("reconstruct", path, file, "--as", "ant", *out), ("reconstruct", path, file, "--class", "ant", *out),
    ):  # fmt: skip
        assert refused(*command) == "error: the model has no classes", command
    with pytest.raises(ValueError, match=r"^the model has no classes$"):
        parse_classes("ant", load_pretrained(path))


@pytest.mark.slow
def test_the_whole_course_as_a_user_types_it(told_data: Path, tmp_path: Path) -> None:
    """Training on two processes with evaluations and previews, another evaluation, and what is refused."""
    small = (
        "tiny", "model.resolution=8", "model.base_width=4", "model.max_width=8", "model.latent=8", "objective.warmup=0",
        "schedule.images=24", "schedule.batch=8", "checkpoint.every=24", "monitoring.images_every=24", "device=cpu",
        "evaluation.every=24", "evaluation.metrics=psnr", TOLD,
    )  # fmt: skip
    run = tmp_path / "run"
    done = sivae("train", *small, "--data", told_data, "--run-dir", run, "--nproc", 2)
    assert "Warning" not in done.stdout + done.stderr  # of a library, at a user who cannot help it
    assert "  - ant\n  - bee\n  - cat\n" in (run / "config.yaml").read_text()
    assert (run / "figures" / "training" / "sample_ema-000000000048.png").exists()
    before = len(read_rows(run / "evaluation.jsonl"))
    sivae("evaluate", run, "--nproc", 2)
    assert before >= 2 and len(read_rows(run / "evaluation.jsonl")) == before + 1
    bare = random_set(tmp_path / "bare", test=4)
    for command in (("train", *small, "--data", bare, "--run-dir", tmp_path / "b", "--dry-run"),
                    ("evaluate", run, f"data.path={bare}")):  # fmt: skip
        done = sivae(*command, code=1)
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        assert len(lines) == 1 and f"{bare} has no labels, which model.conditional=true needs" in lines[0], done.stderr
