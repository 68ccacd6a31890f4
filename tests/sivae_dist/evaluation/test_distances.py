"""Distances of samples from real images, on any number of processes, against torch-fidelity on one."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset

from data_pipelines.dataset import DatasetSettings, SampleError
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.opening import open_store
from data_pipelines.images.ranges import to_uint8
from data_pipelines.images.reader import Reader
from sivae_dist.config.opening import settings_of
from sivae_dist.evaluation import evaluator as evaluator_module
from sivae_dist.evaluation import statistics, streams
from sivae_dist.evaluation.evaluator import Evaluator
from sivae_dist.evaluation.extractors import Extractor, make_extractor, networks
from sivae_dist.evaluation.metrics.fid import frechet_distance
from sivae_dist.evaluation.rows import Row
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.evaluation.statistics import Collected
from sivae_dist.evaluation.streams import share
from sivae_dist.run.directory import RunDirectory
from sivae_dist.use.loading import load_run
from tests.helpers import CPU, begin, on_processes, random_set, tiny_settings, train

SAMPLES = 41
"""Neither 2 nor 4 divides it, nor the test split."""

DISTANCE = "frechet_distance[inception-v3-random:64]"

CHOSEN = {"extractor": "inception-v3-random", "layer": "64", "samples": SAMPLES, "batch": 3}


class Images(Dataset[Tensor]):
    """As torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a moment; its averages and its networks differ."""
    folder = tmp_path_factory.mktemp("run")
    data = random_set(folder / "set", samples=52, resolution=16, test=15, array_max_resolution=8)
    train(begin(folder / "run", tiny_settings(data, "model.resolution=16", "schedule.images={4: 8, 8: 8, 16: 16}")))
    return folder / "run"


def measure(
    run: Path, cache: Path, data: DatasetSettings | None = None, **settings: Any
) -> tuple[list[Row], list[str]]:
    """The values, and what was done to how many images."""
    data = data or data_of(run)
    chosen = EvaluationSettings.model_validate({**CHOSEN, "cache": str(cache), **settings})
    done: dict[str, str] = {}
    with data.open(0, CPU) as opened:
        evaluator = Evaluator(chosen, opened, CPU, tick=lambda what, n, total: done.update({what: f"{n}/{total}"}))
        assert evaluator.prepare() is None
        rows = evaluator.evaluate(load_run(run, live=chosen.live))
    return rows, [f"{count} {what}" for what, count in done.items()]


def data_of(run: Path) -> DatasetSettings:
    return settings_of(RunDirectory(run)).data


def by_metric(rows: list[Row]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


def real_images(run: Path, first: int, stop: int) -> Tensor:
    with open_store(data_of(run).path) as store:
        reader = Reader(store, store.manifest(), 16)
        return torch.from_numpy(np.ascontiguousarray(reader.pixels(range(first, stop))))


@pytest.fixture(scope="module")
def expected(run: Path) -> dict[str, float]:
    """By torch-fidelity, from all images at once."""
    assert networks.RandomInception  # torch-fidelity knows it by name once this module is imported
    found = torch_fidelity.calculate_metrics(
        input1=Images(to_uint8(load_run(run).sample(SAMPLES))),
        input2=Images(real_images(run, 0, 37)),
        feature_extractor="inception-v3-random",
        feature_layer_fid="64",
        feature_layer_kid="64",
        fid=True,
        kid=True,
        kid_subset_size=37,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    return {
        DISTANCE: found["frechet_inception_distance"],
        "kernel_distance[inception-v3-random:64]": found["kernel_inception_distance_mean"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_equal_to_torch_fidelity(run: Path, expected: dict[str, float], processes: int, tmp_path: Path) -> None:
    results = on_processes(processes, _measure_twice, run, tmp_path)
    (rows, done), (again, done_again) = results[0]
    assert all(result[0][0] == rows for result in results)
    assert by_metric(rows) == pytest.approx(expected, rel=1e-6)
    assert [(row["samples"], row["reference_samples"]) for row in rows] == [(SAMPLES, 37)] * 2
    assert done == ["37/37 real images", "41/41 samples"]
    # What was kept is as good, and is used.
    assert again == rows
    assert done_again == ["41/41 samples"]


def _measure_twice(run: Path, cache: Path) -> Any:
    return [measure(run, cache, metrics=("fid", "kid")) for _ in range(2)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_image_is_somebodys(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "world_size", lambda: world)
    taken = []
    for number in range(world):
        monkeypatch.setattr(streams, "rank", lambda number=number: number)
        taken.append(list(share(10, 47, 4)))
    assert len({len(batches) for batches in taken}) == 1
    assert all(len(batch) <= 4 for batches in taken for batch in batches)
    assert sorted(int(i) for batches in taken for batch in batches for i in batch) == list(range(10, 47))
    assert all((np.concatenate(batches) % world == (10 + number) % world).all() for number, batches in enumerate(taken))


def test_far_images_are_far(run: Path, tmp_path: Path) -> None:
    """The distance of the real images from themselves is nothing against that of the samples."""
    a = statistics_of(real_images(run, 0, 37))
    b = statistics_of(real_images(run, 37, 52))
    far = statistics_of(to_uint8(load_run(run).sample(SAMPLES)))
    assert abs(frechet_distance(a, a)) < 1e-4
    assert frechet_distance(a, b) < 0.5 * frechet_distance(a, far)


def statistics_of(images: Tensor) -> statistics.Statistics:
    collected = Collected(64, CPU, keep=False)
    collected.add(make_extractor(EvaluationSettings.model_validate(CHOSEN), CPU).features(images))
    return collected.statistics()


@pytest.mark.slow
def test_samples_are_those_of_the_seed_and_of_the_wanted_weights(run: Path, tmp_path: Path) -> None:
    of_ema = by_metric(measure(run, tmp_path, metrics=("fid",))[0])
    for change in ({"live": True}, {"seed": 1}, {"samples": SAMPLES - 1}):
        rows, _ = measure(run, tmp_path, metrics=("fid",), **change)
        assert abs(by_metric(rows)[DISTANCE] / of_ema[DISTANCE] - 1) > 1e-4
    assert measure(run, tmp_path, metrics=("fid",), live=True)[0][0]["weights"] == "live"


CHANGES: dict[str, dict[str, Any]] = {
    "another split": {"reference": "test"},
    "fewer images": {"reference_samples": 30},
    "another layer": {"layer": "192"},
    "features as well": {"metrics": ("fid", "kid")},
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_statistics_are_not_taken_for_these(run: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    measure(run, tmp_path, metrics=("fid",))
    assert "real images" not in str(measure(run, tmp_path, metrics=("fid",))[1])
    assert "real images" in str(measure(run, tmp_path, **{"metrics": ("fid",)} | change)[1])


@pytest.mark.slow
def test_statistics_of_a_changed_data_set_or_extractor_are_made_anew(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_run = by_metric(measure(run, tmp_path, metrics=("fid",))[0])
    other = random_set(tmp_path / "other", samples=37, resolution=16, array_max_resolution=16, shard_size=10)
    rows, done = measure(run, tmp_path, ImageSettings(path=str(other)), metrics=("fid",))
    assert done[0] == "37/37 real images"
    assert rows[0]["data"] != measure(run, tmp_path, metrics=("fid",))[0][0]["data"]
    made = evaluator_module.make_extractor

    def changed(settings: EvaluationSettings, device: torch.device) -> Extractor:
        """As if somebody had put another file under the same name."""
        return replace(made(settings, device), sha256="0" * 64)

    monkeypatch.setattr(evaluator_module, "make_extractor", changed)
    rows, done = measure(run, tmp_path, metrics=("fid",))
    assert done[0] == "37/37 real images"
    assert by_metric(rows) == of_run


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_damaged_statistics_are_made_anew(run: Path, tmp_path: Path, damage: bytes | None) -> None:
    rows, _ = measure(run, tmp_path, metrics=("fid",))
    (kept,) = tmp_path.glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-100] if damage is None else damage)
    again, done = measure(run, tmp_path, metrics=("fid",))
    assert again == rows and done[0] == "37/37 real images"
    assert "real images" not in str(measure(run, tmp_path, metrics=("fid",))[1])


@pytest.mark.slow
def test_a_renamed_file_is_not_another_ones_statistics(run: Path, tmp_path: Path) -> None:
    measure(run, tmp_path, metrics=("fid",))
    (kept,) = tmp_path.glob("*.safetensors")
    content = kept.read_bytes()
    measure(run, tmp_path, metrics=("fid",), reference="test")
    (other,) = set(tmp_path.glob("*.safetensors")) - {kept}
    other.write_bytes(content)
    assert "15/15 real images" in measure(run, tmp_path, metrics=("fid",), reference="test")[1]


def test_where_nothing_can_be_kept(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = data_of(run)
    said: list[str] = []
    chosen = EvaluationSettings.model_validate({**CHOSEN, "cache": str(tmp_path / "file" / "x"), "metrics": ("fid",)})
    with data.open(0, CPU) as opened:
        evaluator = Evaluator(chosen, opened, CPU, said.append)
        assert evaluator.prepare() is None
        assert evaluator.evaluate(load_run(run))
    assert len(said) == 1 and said[0].startswith("warning: statistics of the real images cannot be kept in")


def test_damaged_images(run: Path, tmp_path: Path) -> None:
    """They end it, or are left out where training would replace them."""
    good = data_of(run).path
    shutil.copytree(good, tmp_path / "set")
    path = next((tmp_path / "set" / "0016").glob("*-00000.tar"))
    path.write_bytes(path.read_bytes()[:2000] + bytes(100) + path.read_bytes()[2100:])
    with pytest.raises(SampleError, match=r"shard-00000\.tar key"):
        measure(run, tmp_path, ImageSettings(path=str(tmp_path / "set")), metrics=("fid",))
    quarantined = ImageSettings(path=str(tmp_path / "set"), faults="quarantine")
    rows, _ = measure(run, tmp_path / "other", quarantined, metrics=("fid",))
    assert rows[0]["reference_samples"] == 36


def test_grey_images(tmp_path: Path) -> None:
    data = random_set(tmp_path / "set", channels=1, test=4)
    train(begin(tmp_path / "run", tiny_settings(data, "model.channels=1")))
    rows, _ = measure(tmp_path / "run", tmp_path)
    assert [row["metric"] for row in rows] == [DISTANCE, "psnr", "mse"]  # 8 px are too few for ssim
    assert all(np.isfinite(row["value"]) for row in rows)


def test_pixels_are_rounded_as_a_file_would_hold_them() -> None:
    images = torch.tensor([-2, -1, -1 + 1.49 / 127.5, -1 + 1.51 / 127.5, 0.9, 1, 3])
    assert to_uint8(images).tolist() == [0, 0, 1, 2, 242, 255, 255]
