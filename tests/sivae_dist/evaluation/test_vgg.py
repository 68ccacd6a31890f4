"""The perceptual distance of reconstructions: where weights are at hand it is measured, elsewhere left out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from launch.plan.preflight import preflight
from sivae_dist.evaluation.evaluator import Evaluator
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.perceptual.vgg import VggDistance
from sivae_dist.perceptual.weights import VggWeights, find_weights, random_weights
from sivae_dist.use.pretrained import Pretrained
from tests.helpers import CPU, on_processes, random_set, tiny_settings
from tests.sivae_dist.perceptual.files import keep_in, publish, sha256, write

RANDOM = {"metrics": ("mse", "vgg_random_distance")}


def model_of(data: Path) -> Pretrained:
    from sivae_dist.models import Stage

    settings = tiny_settings(data).model
    return Pretrained(settings, *settings.build(0), Stage(8), 1000)


def rows(data: Path, **settings: Any) -> tuple[str | None, list[dict[str, Any]]]:
    with tiny_settings(data).data.open(0, CPU) as images:
        evaluator = Evaluator(EvaluationSettings.model_validate({"batch": 3, **settings}), images, CPU)
        return evaluator.prepare(), evaluator.evaluate(model_of(data))


def expected(data: Path, weights: VggWeights) -> float:
    with tiny_settings(data).data.open(0, CPU) as images:
        real = images.samples(8, range(images.train, images.train + images.test)).x
    made = model_of(data).reconstruct(real).clamp(-1, 1)
    with torch.no_grad():
        return float(VggDistance(weights)(real, made).mean())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", test=4)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keep_in(monkeypatch, tmp_path / "kept")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_with_random_weights_under_its_own_name(data: Path, hub: Path) -> None:
    problem, (mse, distance) = rows(data, **RANDOM)
    assert problem is None and (mse["metric"], distance["metric"]) == ("mse", "vgg_random_distance")
    assert distance["value"] == pytest.approx(expected(data, random_weights()), rel=1e-5)
    assert distance["count"] == mse["count"] and distance["vgg_sha256"] == "random"


def test_with_weights_of_a_file(data: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "any.pth", scale=0.9)
    name = f"vgg16-{sha256(tmp_path / 'any.pth')[:8]}.pth"
    (tmp_path / "any.pth").rename(hub / name)
    publish(monkeypatch, f"http://127.0.0.1:1/{name}")
    problem, (distance,) = rows(data, metrics=("vgg_distance",))
    from sivae_dist.perceptual.weights import VggFiles

    found = find_weights(VggFiles())
    assert problem is None and distance["metric"] == "vgg_distance" and distance["vgg_sha256"] == found.digest
    assert distance["value"] == pytest.approx(expected(data, found), rel=1e-5)


def test_without_weights_it_is_left_out(data: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, "http://127.0.0.1:1/vgg16-88682ab5.pth")
    problem, (only,) = rows(data, metrics=("mse", "vgg_distance"))
    assert only["metric"] == "mse"
    assert problem is not None and "\n" not in problem
    assert problem.startswith("the perceptual distance needs vgg16-88682ab5.pth, which could not be downloaded")
    assert problem.endswith(f"put it into {hub}") and "objective" not in problem  # which is not its own
    asked = ("evaluation.every=16", "evaluation.metrics=[mse,vgg_distance]")
    (warning,) = preflight(tiny_settings(data, *asked), 1, here=True).warnings
    assert warning == f"{problem}; until then only the other metrics are measured"
    best = ("checkpoint.keep_best=1", "checkpoint.best_metric=evaluation/vgg_distance")
    with pytest.raises(ValueError, match=r"evaluation/vgg_distance is never measured: the perceptual distance needs"):
        preflight(tiny_settings(data, *asked, *best), 1, here=True)
    assert preflight(tiny_settings(data, *asked), 1, here=False).warnings == []


def test_it_is_no_usual_metric(data: Path) -> None:
    with tiny_settings(data).data.open(0, CPU) as images:
        assert not any("vgg" in name for name in EvaluationSettings().chosen(images))


@pytest.mark.slow
def test_two_processes_measure_the_same(data: Path, hub: Path) -> None:
    alone = rows(data, **RANDOM)[1][1]["value"]
    values = on_processes(2, _measured, str(data))
    assert values[0] == values[1] == pytest.approx(alone, rel=1e-6)


def _measured(data: str) -> float:
    value: float = rows(Path(data), **RANDOM)[1][1]["value"]
    return value
