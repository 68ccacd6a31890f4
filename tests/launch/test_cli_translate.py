"""`sivae translate`, and what `sivae evaluate` measures of a run of image translation."""

from pathlib import Path

import pytest

from sivae_dist import load_pretrained
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.use.figures.real import from_files
from tests.command import refused, says, sivae
from tests.helpers import begin, labelled_set, tiny_settings, train
from tests.launch.test_cli_pictures import GAP, SIDE, alike, enlarged, picture
from tests.painted import CONTENTS, TEST, painted, tiny_translation


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    train(begin(folder / "run", tiny_translation(painted(folder / "set"), "schedule.images=8")))
    return folder / "run"


def test_test_images_of_other_classes_and_contents(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert says("translate", run, "--out", out) == f"{out}: {TEST} classes x {CONTENTS} contents at 8 images\n"
    assert says("translate", run, "--count", 2, "--out", out) == f"{out}: 2 classes x 2 contents at 8 images\n"


def test_image_files(run: Path, tmp_path: Path) -> None:
    source = run.parent / "set-source" / "test"
    a, b = source / "kind-4" / "pose-0.png", source / "kind-6" / "pose-3.png"
    drawn = picture(tmp_path / "a.png", "translate", run, "--class", a, "--content", b)
    swapped = picture(tmp_path / "b.png", "translate", run, "--class", b, "--content", a)
    model = load_pretrained(run)
    first, second = from_files(model, [a]), from_files(model, [b])
    for sheet, image in ((drawn, model.transfer(first, second)), (swapped, model.transfer(second, first))):
        assert alike(sheet[-GAP - SIDE : -GAP, -GAP - SIDE : -GAP], enlarged(image[0]))
    out = tmp_path / "c.png"
    line = says(
        "translate", run, "--class", a, "--class", b, "--content", source / "kind-5", "--count", 3, "--out", out
    )
    assert line == f"{out}: 2 classes x 3 contents at 8 images\n"


def test_what_cannot_be_translated(run: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "x.png", run.parent / "set-source" / "test" / "kind-4" / "pose-0.png"
    for arguments, problem in {
        ("--class", image): "give both --class and --content, or neither",
        ("--class", image, "--content", image, "--data", "there"): "give images or --data, not both",
        ("--class", tmp_path / "no.png", "--content", image): "there is no image",
    }.items():
        assert problem in refused("translate", run, *arguments, "--out", out)
    plain = tmp_path / "plain"
    train(begin(plain, tiny_settings(labelled_set(tmp_path / "set"), "schedule.images={4: 8, 8: 8}")))
    assert "has no codes of class and content" in refused("translate", plain, "--out", out)
    assert "content_transfer is about codes of class and content" in refused(
        "evaluate", plain, "--metrics", "content_transfer"
    )
    assert not out.exists()


@pytest.mark.slow
def test_measured_by_two_processes_as_by_one(run: Path) -> None:
    """And beside them what is measured of any images."""
    names = "mse,content_transfer,class_from_content,content_from_class"
    for processes in (1, 2):
        sivae("evaluate", run, "--metrics", names, "--nproc", processes)
    rows = read_rows(RunDirectory(run).evaluation)
    values = [{row["metric"]: row["value"] for row in part} for part in (rows[:4], rows[4:])]
    assert values[0].keys() == set(names.split(","))
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    by_name = {row["metric"]: row for row in rows[:4]}
    assert by_name["content_transfer"]["truth"] == "contents" and by_name["content_transfer"]["pairs"] == 1000
    assert by_name["content_from_class"]["chance"] == 1 / CONTENTS and "from_own_code" in by_name["class_from_content"]
