"""Evaluation beside training: recorded once, at the same images, whatever interrupts it; and what is best stays."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.config.opening import prepare_run, settings_of
from sivae_dist.evaluation import progress
from sivae_dist.evaluation.evaluator import Evaluator
from sivae_dist.evaluation.extractors import weights
from sivae_dist.process.stopping import Stop
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.use.loading import choose, load_run
from tests.events import scalars
from tests.helpers import CPU, assert_same, begin, on_processes, random_set, tiny_settings, train

EVALUATION = (
    "evaluation.extractor=inception-v3-random",
    "evaluation.layer='64'",
    "evaluation.samples=10",
    "evaluation.every=16",
    "evaluation.metrics=[fid,mse]",
)
FID = "frechet_distance[inception-v3-random:64]"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", test=4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return read_rows(RunDirectory(path).evaluation)


def trained(path: Path, data: Path, *assignments: str, steps: int | None = None) -> Path:
    train(begin(path, tiny_settings(data, *EVALUATION, *assignments)), steps)
    return path


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return trained(tmp_path_factory.mktemp("whole") / "run", data)


def test_values_are_recorded_with_what_they_follow_from(whole: Path) -> None:
    rows = rows_of(whole)
    shown = scalars(whole / "tensorboard")[f"evaluation/{FID}"]
    assert shown == pytest.approx({row["images"]: row["value"] for row in rows if row["metric"] == FID})
    assert [(row["images"], row["metric"], row["level"]) for row in rows] == [
        (images, metric, 4 if images == 16 else 8) for images in (16, 32, 48) for metric in (FID, "mse")
    ]
    fid, mse = rows[-2:]
    assert len(fid.pop("extractor_sha256")) == len(fid["data"]) == 64
    assert fid.pop("data") == mse.pop("data")
    assert fid.pop("value") > 0 and mse.pop("value") > 0
    common = {
        "images": 48, "weights": "ema", "level": 8, "blend": None, "filter": "2x2 means", "precision": "fp32",
        "device": "cpu",
    }  # fmt: skip
    assert mse == {"metric": "mse", "split": "test", "count": 4, **common}
    assert fid == {
        "metric": FID, "extractor": "inception-v3-random:64", "layer": "64", "samples": 10, "seed": 0,
        "reference": "train", "reference_samples": 20, "torch_fidelity": "0.4.0", **common,
    }  # fmt: skip
    assert rows[2]["blend"] == 1 or 0 < rows[2]["blend"] < 1  # in transition


def test_it_measures_what_the_checkpoint_holds(whole: Path) -> None:
    for live in (False, True):
        settings = settings_of(RunDirectory(whole), ["evaluation.metrics=[mse]", f"evaluation.live={live}"])
        with settings.data.open(settings.seed, CPU) as opened:
            evaluator = Evaluator(settings.evaluation, opened, CPU)
            (row,) = evaluator.evaluate(load_run(whole, live=live))
        assert (row["value"] == pytest.approx(rows_of(whole)[-1]["value"], rel=1e-6)) == (not live)


def test_it_does_not_change_the_training(whole: Path, data: Path, tmp_path: Path) -> None:
    trained(tmp_path / "run", data, "evaluation.every=0")
    with_it, without = (
        CheckpointFolder(RunDirectory(path).checkpoints).readable()[-1].load() for path in (whole, tmp_path / "run")
    )
    assert_same(without, with_it)
    assert RunDirectory(whole).metrics.read_bytes() == RunDirectory(tmp_path / "run").metrics.read_bytes()
    assert not RunDirectory(tmp_path / "run").evaluation.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "every"), [(2, 8), (3, 8), (4, 8), (5, 8), (3, 0), (5, 24)])
def test_a_killed_run_ends_with_the_same_rows(whole: Path, data: Path, tmp_path: Path, steps: int, every: int) -> None:
    path = trained(tmp_path / "run", data, f"checkpoint.every={every}", steps=steps)
    train(begin(path))
    assert RunDirectory(path).evaluation.read_bytes() == RunDirectory(whole).evaluation.read_bytes()


@pytest.mark.slow
def test_two_processes_measure_what_one_does(whole: Path, data: Path, tmp_path: Path) -> None:
    prepare_run(RunDirectory(tmp_path / "run"), tiny_settings(data, *EVALUATION))
    on_processes(2, _train, tmp_path / "run")
    found, expected = rows_of(tmp_path / "run"), rows_of(whole)
    # The networks themselves differ in the last digits between one process and two.
    assert [row.pop("value") for row in found] == pytest.approx([row.pop("value") for row in expected], rel=1e-2)
    assert found == expected


def _train(path: Path) -> None:
    train(begin(path))


@pytest.mark.slow
def test_asked_to_stop_it_is_put_off(whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request comes in the middle of the second evaluation, and again when it is caught up on."""
    stop = Stop()
    told: list[str] = []

    def tick(self: progress.Progress, what: str, done: int, total: int) -> None:
        told.append(what)
        if told.count("samples") == 2:
            stop.requested = True
        original(self, what, done, total)

    original = progress.Progress.tick
    monkeypatch.setattr(progress.Progress, "tick", tick)
    path = tmp_path / "run"
    trainer = begin(path, tiny_settings(data, *EVALUATION), stop)
    assert trainer.train() is False
    trainer.close()
    assert trainer.images == 32 and [row["images"] for row in rows_of(path)] == [16, 16]
    trainer = begin(path, None, again := Stop())
    again.requested = True
    assert trainer.train() is False  # at once, and without another checkpoint
    trainer.close()
    assert len(CheckpointFolder(RunDirectory(path).checkpoints).paths()) == 1
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train(begin(path), steps=1)  # made up for, and then killed before another checkpoint
    assert [row["images"] for row in rows_of(path)] == [16, 16, 32, 32]
    assert train(begin(path)).images == 48
    assert RunDirectory(path).evaluation.read_bytes() == RunDirectory(whole).evaluation.read_bytes()


def test_the_best_checkpoint_stays(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    monkeypatch.setattr(
        Evaluator, "evaluate", lambda self, model: [{"metric": "fid", "value": next(values), "images": model.images}]
    )
    monkeypatch.setattr("sivae_dist.monitoring.monitor.describe", str)
    best = ("checkpoint.keep_best=1", "checkpoint.best_metric=evaluation/fid", "evaluation.every=8")
    path = trained(tmp_path / "run", data, *best)
    kept = CheckpointFolder(RunDirectory(path).checkpoints).readable()
    # 2 at 24 images is of a transition, and 1 at 16 images of 4 px, and no match for what has 8 px.
    assert [(c.images, c.score("evaluation/fid")) for c in kept] == [(40, 4.0), (48, 6.0)]
    assert choose(RunDirectory(path), tiny_settings(data, *EVALUATION, *best), "best").images == 40


def test_a_value_belongs_to_the_checkpoint_that_it_was_taken_at(data: Path, tmp_path: Path) -> None:
    path = trained(tmp_path / "run", data, "checkpoint.every=8", "monitoring.scalars_every=48", steps=2)
    train(begin(path), steps=1)
    first, second = (c for c in CheckpointFolder(RunDirectory(path).checkpoints).readable() if c.images in (16, 24))
    assert first.score(f"evaluation/{FID}") is not None and second.score(f"evaluation/{FID}") is None


def test_what_is_never_measured_cannot_be_best(data: Path) -> None:
    with pytest.raises(ValueError, match=r"best_metric=evaluation/fid is never measured: set evaluation\.every"):
        tiny_settings(data, "checkpoint.keep_best=1", "checkpoint.best_metric=evaluation/fid")


def test_without_weights_training_goes_on_and_says_so_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    nowhere = replace(weights.INCEPTION, url=f"http://127.0.0.1:1/{weights.INCEPTION.name}")
    monkeypatch.setattr("sivae_dist.evaluation.extractors.weights.INCEPTION", nowhere)
    path = trained(tmp_path / "run", data, "evaluation.extractor=inception-v3-compat")
    assert capsys.readouterr().out.count("FID needs weights-inception-2015-12-05-6726825d.pth") == 1
    assert [row["metric"] for row in rows_of(path)] == ["mse"] * 3


def test_evaluation_settings_may_change_in_between(data: Path, tmp_path: Path) -> None:
    path = trained(tmp_path / "run", data, "checkpoint.every=8", steps=3)
    shutil.copytree(path, tmp_path / "copy")
    train(begin(tmp_path / "copy", tiny_settings(data, *EVALUATION, "checkpoint.every=8", "evaluation.metrics=[mse]")))
    assert [row["metric"] for row in rows_of(tmp_path / "copy")] == [FID, "mse", "mse", "mse"]
    assert json.loads(RunDirectory(path).evaluation.read_text().splitlines()[0])["metric"] == FID
