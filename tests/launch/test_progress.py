"""Progress of a preparation: it moves within a shard, and its rate is this run's own; what is said of mirroring."""

from pathlib import Path

import pytest

from data_pipelines.images.manifest import Manifest
from data_pipelines.images.mirroring import mirroring_note
from data_pipelines.images.prepare import PrepareError, prepare
from launch.cli.progress import Rate, progress_bar
from tests.data_pipelines.images.sources.making import pngs, small, write_folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_the_rate_is_of_this_run_and_without_its_start(clock: list[float]) -> None:
    rate = Rate()
    assert rate.text(500, 1000) == "images, starting"
    clock[0] += 30  # workers begin to work
    assert rate.text(500, 1000) == "images, starting"
    clock[0] += 1
    assert rate.text(510, 1000) == "images"
    clock[0] += 10
    assert rate.text(530, 1000) == "images, 2.0 images/s, 3m55s left"
    clock[0] += 10
    assert rate.text(910, 1000) == "images, 20 images/s, 4s left"
    assert rate.text(1000, 1000) == "images, 24 images/s"


def test_lines_where_there_is_no_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("preparing") as show:
        for done in range(0, 1201, 100):
            show(done, 1200)
            clock[0] += 1
    assert capsys.readouterr().out.splitlines() == [
        "0/1,200 images, starting",
        "500/1,200 images, 100 images/s, 7s left",
        "1,000/1,200 images, 100 images/s, 2s left",
        "1,200/1,200 images, 100 images/s",
    ]


def test_one_worker_moves_with_every_image(tmp_path: Path) -> None:
    good = pngs(1)["00.png"]
    write_folder(tmp_path / "s", pngs(7) | {"9.png": good[:100] + bytes(len(good) - 100)})
    seen: list[tuple[int, int]] = []
    with pytest.raises(PrepareError):
        prepare(tmp_path / "s", tmp_path / "out", small(shard_size=5), 1, lambda *done: seen.append(done))
    assert seen == [(k, 8) for k in range(8)]
    (tmp_path / "s/9.png").write_bytes(good)
    seen.clear()
    prepare(tmp_path / "s", tmp_path / "out", small(shard_size=5), 1, lambda *done: seen.append(done))
    assert seen == [(k, 8) for k in range(5, 9)]


def described(**changes: object) -> Manifest:
    plain: dict[str, object] = {"classes": (), "source": "photos", "channels": 3, "resolution": 256}
    return Manifest.model_construct(**(plain | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": tuple("0123456789")}, "the classes are named like digits or letters"),
        ({"classes": ("A", "B", "C")}, "the classes are named like digits or letters"),
        ({"classes": ("zero", "one", "two")}, "the classes are named like digits or letters"),
        ({"classes": ("digit_0", "digit_1")}, "the classes are named like digits or letters"),
        ({"source": "/data/SVHN/train"}, "the source SVHN/train is named like digits or text"),
        ({"source": "/data/svhn-cropped.zip"}, "the source data/svhn-cropped.zip is named like digits or text"),
        ({"source": "/data/EMNIST"}, "the source data/EMNIST is named like digits or text"),
        ({"channels": 1, "resolution": 32}, "the images are grey and small"),
    ],
)
def test_digits_and_text_are_not_to_be_mirrored(changes: dict[str, object], why: str) -> None:
    note = mirroring_note(described(**changes))
    assert note == f"{why}{note[len(why) :]}" and note.endswith("train those with data.flip=false")
    assert mirroring_note(described(**changes), flip=False) == "data.flip=false: no image is mirrored in training"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"classes": ("cat", "dog")},
        {"source": "texture"},
        {"source": "context"},
        {"source": "fronts"},
        {"channels": 1},
    ],
)
def test_other_sets_are_told_how(changes: dict[str, object]) -> None:
    assert mirroring_note(described(**changes)).startswith(
        "data.flip=true mirrors half of the images in training: set it"
    )
