"""Metrics that code outside the package adds are measured like ours, and nothing in the package knows a metric."""

import ast
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipelines.dataset import Dataset
from data_pipelines.images.opening import open_store
from data_pipelines.images.ranges import to_uint8
from data_pipelines.images.reader import Reader
from launch.plan.sense import check_best_metric
from sivae_dist.config.opening import prepare_run
from sivae_dist.evaluation.evaluator import Evaluator
from sivae_dist.evaluation.extractors import EXTRACTORS
from sivae_dist.evaluation.metrics import METRICS, Features, Metric, RealImages, Samples
from sivae_dist.evaluation.rows import describe
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.use.loading import load_run
from tests.events import scalars
from tests.helpers import CPU, begin, on_processes, random_set, tiny_settings, train

ROOT = Path(__file__).resolve().parents[3]
OWN = "tests.sivae_dist.evaluation.my_metrics"
SAMPLES = 11


@pytest.fixture(scope="module", autouse=True)
def added() -> Iterator[None]:
    """The user's module is imported; other tests see our own lists alone."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (METRICS, EXTRACTORS):
            patch.setattr(registry, "_kinds", dict(registry))
        importlib.import_module(OWN)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", test=4)


def _train(path: Path) -> bool:
    """Whether torch-fidelity was needed for it."""
    importlib.import_module(OWN)
    train(begin(path))
    return "torch_fidelity" in sys.modules


def sharpness_of(run: Path) -> float:
    """Of its last checkpoint."""
    pixels = to_uint8(load_run(run).sample(SAMPLES)).numpy().astype(float)
    return float(abs(pixels[..., 1:] - pixels[..., :-1]).mean())


def real_brightness(data: Path, level: int) -> float:
    with open_store(str(data)) as store:
        manifest = store.manifest()
        return float(Reader(store, manifest, level).pixels(range(manifest.train)).mean())


@pytest.mark.parametrize("processes", [1, 2])
def test_training_measures_them(data: Path, tmp_path: Path, processes: int) -> None:
    path = tmp_path / "run"
    asked = ("evaluation.metrics=[mse,sharpness,brightness]", f"evaluation.samples={SAMPLES}", "evaluation.batch=3")
    best = ("checkpoint.keep_best=1", "checkpoint.best_metric=evaluation/sharpness", "evaluation.every=16")
    settings = tiny_settings(data, *asked, *best)
    with opened(data) as images:
        check_best_metric(settings, images)
    prepare_run(RunDirectory(path), settings)
    assert on_processes(processes, _train, path) == [False] * processes
    rows = read_rows(RunDirectory(path).evaluation)
    assert [(row["images"], row["metric"]) for row in rows] == [
        (images, metric) for images in (16, 32, 48) for metric in ("sharpness", "brightness", "mse")
    ]
    sharpness, brightness, _ = rows[-3:]
    assert sharpness["value"] == pytest.approx(sharpness_of(path), rel=1e-6)
    samples = to_uint8(load_run(path).sample(SAMPLES))
    assert brightness["value"] == pytest.approx(samples.double().mean().item() - real_brightness(data, 8), rel=1e-6)
    common = {
        "images": 48, "weights": "ema", "level": 8, "blend": None, "filter": "2x2 means", "precision": "fp32",
        "device": "cpu", "data": sharpness["data"], "samples": SAMPLES, "seed": 0,
    }  # fmt: skip
    assert sharpness == {"metric": "sharpness", "value": sharpness["value"], **common}
    of_real = {"reference": "train", "reference_samples": 20, "values": samples.numel()}
    assert brightness == {"metric": "brightness", "value": brightness["value"], **of_real, **common}
    shown = scalars(path / "tensorboard")
    for name, row in (("sharpness", sharpness), ("brightness", brightness)):
        assert shown[f"evaluation/{name}"][48] == pytest.approx(row["value"])
    where = "8 px, ema weights, 48 images seen)"
    assert describe(sharpness).endswith(f" (11 samples, {where}")
    assert describe(brightness).endswith(f" (11 samples against 20 images of train, {where}")


def opened(data: Path) -> Dataset:
    return tiny_settings(data).data.open(0, CPU)


def evaluator(data: Dataset, done: list[str], **settings: Any) -> Evaluator:
    chosen = EvaluationSettings.model_validate({"samples": SAMPLES, **settings})
    made = Evaluator(chosen, data, CPU, tick=lambda what, *_: done.append(what))
    assert made.prepare() is None
    return made


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    train(begin(path, tiny_settings(data)))
    return path


def test_real_images_are_gone_through_once(data: Path, run: Path) -> None:
    done: list[str] = []
    with opened(data) as images:
        measuring, model = evaluator(images, done, metrics="brightness"), load_run(run)
        assert measuring.evaluate(model) == measuring.evaluate(model)
    assert done == ["real images", "samples", "samples"]


@pytest.mark.parametrize("announced", [1, 3])
def test_sums_of_another_shape_or_type_are_refused(
    data: Path, run: Path, announced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METRICS["careless"], "sums", announced)
    with opened(data) as images, pytest.raises(ValueError) as error:
        evaluator(images, [], metrics="careless").evaluate(load_run(run))
    assert str(error.value) == f"Careless.add returned float32 [3] instead of float64 [{announced}]"


def test_a_network_of_a_metric_leaves_no_graph(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(1, requires_grad=True)
    seen: list[torch.Tensor] = []

    def each(self: Any, batch: Samples) -> torch.Tensor:
        seen.append(batch.images.double().mean((1, 2, 3)) * weight)
        return seen[-1]

    monkeypatch.setattr(METRICS["sharpness"], "each", each)
    with opened(data) as images:
        evaluator(images, [], metrics="sharpness").evaluate(load_run(run))
    assert seen and not any(tensor.requires_grad for tensor in seen)


def test_features_of_ones_own(data: Path, run: Path, tmp_path: Path) -> None:
    own = {"extractor": "colours", "cache": str(tmp_path), "metrics": ("fid", "sharpness")}
    with opened(data) as images:
        assert EvaluationSettings.model_validate(own).reported(images) == ["frechet_distance[colours", "sharpness"]
        distance, sharpness = evaluator(images, [], **own).evaluate(load_run(run))
    assert (distance["metric"], distance["layer"]) == ("frechet_distance[colours]", "3")
    assert distance["value"] > 0 and sharpness["value"] == pytest.approx(sharpness_of(run), rel=1e-6)


def test_an_unknown_name_is_told_with_all_there_are() -> None:
    with pytest.raises(ValueError, match=r"'fid', 'kid', 'psnr', .* 'high_quality', .* 'sharpness', 'brightness'"):
        EvaluationSettings.model_validate({"metrics": "sharpnes"})


def test_no_metric_is_known_outside_its_file_and_the_list() -> None:
    names = {*METRICS, "frechet_distance", "kernel_distance"} - {"mse"}  # which is also a loss
    places = set()
    for path in [*ROOT.glob("sivae_dist/**/*.py"), *ROOT.glob("launch/**/*.py")]:
        if path.is_relative_to(ROOT / "sivae_dist/evaluation/metrics"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if isinstance(text, str) and text.removeprefix("evaluation/") in names:
                places.add(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
            if (module or "").startswith("sivae_dist.evaluation.metrics.") and not module.endswith(".base"):
                places.add(f"{path.relative_to(ROOT)}:{node.lineno}: {module}")
    assert not places


def test_the_page_shows_what_is_tested_here() -> None:
    example = inspect.getsource(importlib.import_module(OWN).Sharpness)
    assert textwrap.indent(example, "    ") in (ROOT / "docs/evaluation.md").read_text()


@pytest.mark.parametrize("needs", [(Samples,), (Features, RealImages)])
def test_a_metric_that_could_not_be_computed_cannot_be_defined(needs: tuple[type, ...]) -> None:
    with pytest.raises(TypeError, match="Unfinished needs batches of images and has no `add`"):
        type("Unfinished", (Metric,), {"needs": needs, "value": lambda self, found: 0.0})
    assert type("Finished", (Metric,), {"needs": (Features,), "value": lambda self, found: 0.0}).needs == (Features,)
