"""Metrics of points: the authors' and the textbooks' definitions, written out, and where each can be measured."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_pipelines.dataset import Dataset
from data_pipelines.points.dataset import PointSettings
from data_pipelines.points.distributions import DISTRIBUTIONS
from launch.plan.preflight import preflight
from sivae_dist.config.opening import prepare_run
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.evaluation.evaluator import Evaluator
from sivae_dist.evaluation.metrics import METRICS, Found, Trained
from sivae_dist.evaluation.metrics.points import gnelbo as of_gnelbo
from sivae_dist.evaluation.metrics.points import histograms as of_histograms
from sivae_dist.evaluation.metrics.points.base import generated
from sivae_dist.evaluation.metrics.points.histograms import Histograms, histograms
from sivae_dist.evaluation.metrics.points.modes import HighQuality, ModesCovered, nearest
from sivae_dist.evaluation.rows import describe
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.models import Stage
from sivae_dist.models.mlp import MlpSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.use.loading import load_run
from sivae_dist.use.pretrained import Pretrained
from tests.command import sivae, told
from tests.events import scalars
from tests.helpers import CPU, begin, on_processes, tiny_settings, train

OF_POINTS = ["gnelbo", "kl_official", "jsd_official", "kl_histogram", "jsd_histogram"]
OF_MODES = ["modes", "high_quality"]


def small_model() -> Pretrained:
    """As it begins, but for weights large enough that its points are spread over the plane."""
    settings = MlpSettings(hidden_layers=1, hidden_units=8)
    encoder, decoder = settings.build(3)
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            parameter.mul_(2)
    return Pretrained(settings, encoder, decoder, Stage(1), 1000, live=True)


def trained(distribution: str = "8gaussians", seed: int = 0) -> Trained:
    return Trained(small_model(), PointSettings(distribution=distribution).open(0, CPU), seed)


def measured(name: str, of: Trained) -> float:
    return METRICS[name]().value(Found({}, None, of))


def by_hand(network: torch.nn.Module, x: NDArray[np.float64]) -> NDArray[np.float64]:
    first, before, last, after = (value.double().numpy() for value in network.state_dict().values())
    return np.maximum(x @ first.T + before, 0) @ last.T + after


def negative_elbo(model: Pretrained, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """With the encoder's mean for z and both weights 1."""
    out = by_hand(model.encoder, x)
    mu, logvar = out[:, :2], out[:, 2:]
    kl = -0.5 * (1 + logvar - mu**2 - np.exp(logvar)).sum(1)
    return kl + ((by_hand(model.decoder, mu) - x) ** 2).sum(1)


def gnelbo(of: Trained, extent: float, side: int) -> float:
    axis = np.linspace(-extent, extent, side)
    grid = np.stack([np.repeat(axis, side), np.tile(axis, side)], 1)
    at_points = negative_elbo(of.model, of.data.to_measure(0, "points for the ELBO", 12_800).astype(float))
    return float((at_points / (negative_elbo(of.model, grid).sum() + at_points.sum())).mean())


@pytest.mark.parametrize(("distribution", "extent"), [("8gaussians", 2), ("rings", 4)])
def test_gnelbo(distribution: str, extent: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_gnelbo, "SIDE", 96)
    of = trained(distribution)
    assert measured("gnelbo", of) == pytest.approx(gnelbo(of, extent, 96), rel=1e-6)
    details = METRICS["gnelbo"]().details(Found({}, None, of))
    assert details == {"grid": 96, "extent": extent, "test_points": 12_800}


@pytest.mark.slow
def test_gnelbo_on_the_authors_grid() -> None:
    of = trained()
    assert measured("gnelbo", of) == pytest.approx(gnelbo(of, 2, 1024), rel=1e-6)


def densities(of: Trained, extent: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[10,000] each of real and of generated points, counted one by one."""
    found = []
    for points in (of.data.to_measure(0, "points for histograms", 5000), of.model.sample(5000, batch=5000).numpy()):
        places = np.floor((points.astype(float) + extent) / (2 * extent) * 100).astype(int)
        counts = np.zeros((100, 100))
        for x, y in places:
            if 0 <= x < 100 and 0 <= y < 100:
                counts[x, y] += 1
        found.append(counts.flatten() / counts.sum() / (2 * extent / 100) ** 2)
    return found[0], found[1]


def summed(target: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """target (log target - log(other + 1e-14)), over cells where the target is not zero, in 100 rows."""
    return sum(p * (math.log(p) - math.log(q + 1e-14)) for p, q in zip(target, other, strict=True) if p > 0) / 100


@pytest.mark.parametrize(("distribution", "extent"), [("8gaussians", 2), ("checkerboard", 4)])
def test_official_divergences(distribution: str, extent: float) -> None:
    of = trained(distribution)
    real, fake = densities(of, extent)
    assert (fake > 0).sum() / 5000 > 0.1  # not all at one place
    assert measured("kl_official", of) == pytest.approx(summed(real, fake), rel=1e-6)
    mean = (real + fake) / 2
    assert measured("jsd_official", of) == pytest.approx((summed(mean, real) + summed(mean, fake)) / 2, rel=1e-6)


def counted(real: dict[int, int], generated: dict[int, int], outside: tuple[int, int] = (0, 0)) -> Histograms:
    """Points by the number of their cell."""
    both = np.zeros((2, 10_000))
    for counts, given in zip(both, (real, generated), strict=True):
        counts[list(given)] = list(given.values())
    a, b = torch.from_numpy(both).unflatten(1, (100, 100))
    return Histograms(a, b, outside, 0.0016)


kl_of, jsd_of = of_histograms.HistogramDivergence.divergence, of_histograms.HistogramJensenShannon.divergence


def test_textbook_divergences() -> None:
    half = counted({0: 30, 1: 10}, {0: 20, 1: 20})
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    more = 1 / 10_001  # of one point, in each cell
    assert kl_of(half) == pytest.approx(kl + math.log(41 / 40) - math.log(1 + more / 20))
    of_p = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    of_q = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    assert jsd_of(half) == pytest.approx((of_p + of_q) / 2)
    assert jsd_of(counted({0: 3, 7: 5}, {0: 3, 7: 5})) == pytest.approx(0, abs=1e-12)
    apart = counted({0: 40}, {1: 40})
    assert jsd_of(apart) == pytest.approx(math.log(2))
    assert kl_of(apart) == pytest.approx(math.log(41 * 10_001))


def test_authors_values_of_the_same_histograms() -> None:
    """Their KL is 1 / (100 cells' areas) of the true one, and their JSD is that of the means from both."""
    half = counted({0: 30, 1: 10}, {0: 20, 1: 20})
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert of_histograms.OfficialDivergence.divergence(half) == pytest.approx(kl / 0.16)
    of_p = 0.625 * math.log(0.625 / 0.75) + 0.375 * math.log(0.375 / 0.25)
    of_q = 0.625 * math.log(0.625 / 0.5) + 0.375 * math.log(0.375 / 0.5)
    assert of_histograms.OfficialJensenShannon.divergence(half) == pytest.approx((of_p + of_q) / 2 / 0.16)
    far = of_histograms.OfficialJensenShannon.divergence(counted({0: 40}, {1: 40}))
    assert far > 100 * math.log(2)


def test_points_outside_of_all_cells() -> None:
    real = np.array([[0.0, 0.0], [1.9, -1.9], [2.1, 0.0], [-9.0, 0.0]])
    found = histograms(real, real + [0.0, 5.0], 2.0)
    assert found.outside == (2, 4) and found.real.sum() == 2 and found.cell == pytest.approx(0.0016)
    assert (found.real[50, 50], found.real[97, 2]) == (1, 1)
    assert jsd_of(found) == pytest.approx(0.25 * math.log(2) + 0.25 * math.log(0.5 / 0.75) + 0.5 * math.log(1 / 0.75))
    # No generated point is left for the authors' density, which is then zero everywhere.
    expected = 2 * 0.5 / 0.0016 * math.log(0.5 / 0.0016 / 1e-14) / 100
    assert of_histograms.OfficialDivergence.divergence(found) == pytest.approx(expected)


def modes_of(points: NDArray[np.float64]) -> tuple[float, float]:
    found = nearest(points, DISTRIBUTIONS["8gaussians"])
    return ModesCovered().of(*found), HighQuality().of(*found)


def test_modes() -> None:
    data = PointSettings(distribution="8gaussians").open(0, CPU)
    real = data.to_measure(0, "here", 5000).astype(float)
    assert modes_of(real) == (8, pytest.approx(1 - math.exp(-4.5), abs=0.005))
    assert modes_of(real[real[:, 0] > 0.5])[0] == 3
    centre, deviation = np.array([0, 2 / 1.414]), 0.02 / 1.414
    assert modes_of(centre + np.array([[2.9, 0], [0, 3.1], [9, 9], [-1, -1]]) * deviation) == (1, 0.5)
    assert modes_of(np.zeros((3, 2))) == (0, 0)


def test_points_follow_from_the_seed_alone() -> None:
    values = [[measured(name, trained(seed=seed)) for name in ("kl_official", "high_quality")] for seed in (0, 0, 1)]
    assert values[0] == values[1] and values[0][0] != values[2][0]
    assert np.array_equal(generated(trained(seed=1)), small_model().sample(5000, seed=1, batch=5000).double().numpy())


def test_points_of_a_file(tmp_path: Path) -> None:
    """Those for testing, as many as there are; all where none are kept."""
    points = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    np.save(tmp_path / "a.npy", points)
    data = PointSettings(path=str(tmp_path / "a.npy"), test=0.25).open(0, CPU)
    held_out = data.samples(1, range(300, 400)).x.numpy()
    found = data.to_measure(0, "here", 5000)
    assert np.array_equal(np.unique(found, axis=0), np.unique(held_out, axis=0)) and len(found) == 100
    few = [data.to_measure(seed, "here", 10) for seed in (0, 1)]
    assert few[0].shape == (10, 2) and not np.array_equal(*few)
    assert len(PointSettings(path=str(tmp_path / "a.npy"), test=0).open(0, CPU).to_measure(0, "here", 5000)) == 400


# What is measured where.


def opened(tmp_path: Path, kind: str, images: Path) -> Dataset:
    if kind == "images":
        return tiny_settings(images).data.open(0, CPU)
    if kind == "space":
        np.save(tmp_path / "a.npy", np.zeros((8, 3)))
        return PointSettings(path=str(tmp_path / "a.npy")).open(0, CPU)
    return PointSettings(distribution=kind).open(0, CPU)


@pytest.mark.parametrize(
    ("kind", "usual"),
    [
        ("images", ["fid", "psnr", "ssim", "mse"]),
        ("8gaussians", [*OF_POINTS, *OF_MODES]),
        ("spiral", OF_POINTS),
    ],
)
def test_what_is_usual_follows_from_the_data(tmp_path: Path, data: Path, kind: str, usual: list[str]) -> None:
    assert list(EvaluationSettings().chosen(opened(tmp_path, kind, data))) == usual


@pytest.mark.parametrize(
    ("kind", "metrics", "message"),
    [
        ("8gaussians", "gnelbo,psnr", "psnr is measured on images; those for 8gaussians are gnelbo, kl_official"),
        ("rings", "modes", "modes is measured on a mixture of Gaussians whose centres are known; those for rings are"),
        ("images", "gnelbo", "gnelbo is measured on points in the plane; those for .* are fid, kid, psnr, ssim, mse, "),
        ("space", "gnelbo", "gnelbo is measured on points in the plane; none is for .*a.npy"),
        ("space", None, "there is nothing to measure; none is for .*a.npy"),
    ],
)
def test_a_metric_of_other_data_is_refused(
    tmp_path: Path, data: Path, kind: str, metrics: str | None, message: str
) -> None:
    settings = EvaluationSettings.model_validate({"metrics": metrics})
    with pytest.raises(ValueError, match=f"^evaluation.metrics: {message}"):
        Evaluator(settings, opened(tmp_path, kind, data), CPU)


# Runs.

SHORT = ("device=cpu", "schedule.images=2048", "evaluation.every=1024", "objective.warmup=0", "model.hidden_units=16")


def short_run(*assignments: str) -> RunSettings:
    return load_config("toy/8gaussians_soft_intro", [*SHORT, "monitoring.images_every=0", *assignments])


def test_a_run_that_could_not_be_measured_does_not_begin() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.metrics: fid is measured on images"):
        preflight(short_run("evaluation.metrics=fid"), 1)
    best = ("checkpoint.keep_best=1", "checkpoint.best_metric=evaluation/fid")
    with pytest.raises(ValueError, match=r"evaluation/fid is never measured: the evaluation has evaluation/gnelbo, "):
        preflight(short_run(*best), 1)
    preflight(short_run(*best[:1], "checkpoint.best_metric=evaluation/gnelbo"), 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    train(begin(path, short_run()))
    return path


@pytest.mark.slow
def test_measured_in_training(run: Path) -> None:
    rows = read_rows(RunDirectory(run).evaluation)
    assert [(row["images"], row["metric"]) for row in rows] == [
        (images, name) for images in (1024, 2048) for name in (*OF_POINTS, *OF_MODES)
    ]
    last = {row["metric"]: row for row in rows[7:]}
    of = Trained(load_run(run, live=True), PointSettings(distribution="8gaussians").open(5, CPU), 0)
    assert {name: row["value"] for name, row in last.items()} == {name: measured(name, of) for name in last}
    common: dict[str, Any] = {
        "images": 2048, "weights": "live", "data": "8gaussians, version 1", "precision": "fp32", "device": "cpu",
        "seed": 0,
    }  # fmt: skip
    about = {"samples": 5000, "test_points": 5000, "bins": 100, "extent": 2.0}
    found = {name: last["jsd_official"][name] for name in ("value", "of_real")}
    assert last["jsd_official"] == {"metric": "jsd_official", **found, **common, **about}
    shown = scalars(run / "tensorboard")
    for name, row in last.items():
        assert shown[f"evaluation/{name}"][2048] == pytest.approx(row["value"])
    where = "live weights, 2,048 images seen)"
    assert describe(last["gnelbo"]).endswith(f" (12,800 test points, {where}")
    assert describe(last["kl_official"]).endswith(f" (5,000 samples against 5,000 test points, {where}")


@pytest.mark.parametrize("name", OF_POINTS[1:])
def test_other_real_points_are_measured_for_comparison(name: str, tmp_path: Path) -> None:
    """No model can be expected to be better than they are, and that is not 0. Of a file there are none."""
    of, metric = trained("checkerboard"), METRICS[name]()
    found = metric.details(Found({}, None, of))["of_real"]
    real, other = (of.data.to_measure(0, f"{kind} for histograms", 5000) for kind in ("points", "other points"))
    assert found == metric.divergence(histograms(real, other, 4)) and not np.array_equal(real, other)
    assert 0.1 * measured(name, of) < found < measured(name, of)
    np.save(tmp_path / "points.npy", real)
    of_file = Trained(small_model(), PointSettings(path=str(tmp_path / "points.npy")).open(0, CPU), 0)
    assert "of_real" not in metric.details(Found({}, None, of_file))


@pytest.mark.slow
def test_measured_by_the_command(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "copy"))
    before = read_rows(RunDirectory(run).evaluation)
    done = sivae("evaluate", run, "--metrics", "kl_histogram,modes", "--nproc", 2)
    rows = read_rows(RunDirectory(run).evaluation)
    assert rows[:-2] == before
    assert rows[-2:] == [row for row in before[7:] if row["metric"] in ("kl_histogram", "modes")]
    assert done.stdout.splitlines() == [describe(row) for row in rows[-2:]]
    (line,) = told(sivae("evaluate", run, "--metrics", "kid", code=1).stderr)
    assert line.startswith("error: evaluation.metrics: kid is measured on images; those for 8gaussians are gnelbo,")


@pytest.mark.slow
def test_two_processes_measure_what_one_does(run: Path, tmp_path: Path) -> None:
    prepare_run(RunDirectory(tmp_path / "run"), short_run())
    on_processes(2, _train, tmp_path / "run")
    found, expected = (read_rows(RunDirectory(path).evaluation) for path in (tmp_path / "run", run))
    assert [row["value"] for row in found] == pytest.approx([row["value"] for row in expected], rel=0.02)


def _train(path: Path) -> None:
    train(begin(path))
