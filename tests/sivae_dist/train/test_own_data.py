"""A kind of data set from outside the package: read by the contract, and trained on like prepared images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipelines.dataset import SAME_CLASS, Needs, Request
from data_pipelines.kinds import DATASETS
from launch.plan.preflight import preflight
from sivae_dist.config.imports import import_all
from sivae_dist.config.opening import prepare_run, settings_of
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.run.directory import RunDirectory
from tests.helpers import CPU, assert_same, begin, gathered, on_processes, tiny_settings, train

OWN = Path(__file__).with_name("my_discs.py")


@pytest.fixture(scope="module", autouse=True)
def added() -> Iterator[None]:
    """Other tests see our own list alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DATASETS, "_kinds", dict(DATASETS))
        import_all([str(OWN)])
        yield


def discs(*assignments: str) -> RunSettings:
    more = ("monitoring.trace=true", "monitoring.images_every=24", "checkpoint.every=8")
    return tiny_settings(Path("unused"), f"imports=[{OWN}]", "data={name: discs}", *more, *assignments)


def test_the_contract() -> None:
    """Any cut of the positions into batches, from any position, gives the same samples and labels."""
    with discs().data.open(3, CPU) as whole, discs().data.open(3, CPU) as other:
        (batch,) = whole.batches([Request(10, 24, 8)])
        parts = list(other.batches([Request(10 + 6 * k, 6, 8) for k in range(4)]))
        assert [part.position for part in parts] == [10, 16, 22, 28]
        assert torch.equal(torch.cat([part.x for part in parts]), batch.x)
        assert batch.y is not None and set(batch.y.tolist()) == {0, 1}
        assert torch.equal(torch.cat([part.y for part in parts if part.y is not None]), batch.y)
        numbers, flips = whole.order.at(10, 24)
        stored = whole.samples(8, numbers)
        assert torch.equal(batch.x, torch.where(torch.tensor(flips)[:, None, None, None], stored.x.flip(3), stored.x))
        assert flips.any() and torch.equal(stored.sound, stored.x)
        groups = list(whole.read(8, [numbers[:5], numbers[5:]]))
        assert torch.equal(torch.cat([group.x for group in groups]), stored.x)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs({16: (3, 16, 16)}), "discs has no samples at 16, where the model trains: it has 4, 8"),
        (Needs({8: (1, 8, 8)}), r"discs has samples of shape \(3, 8, 8\) at 8, but the model needs \(1, 8, 8\)"),
        (Needs({8: (3, 8, 8)}, classes=3), "discs has 2 classes, but the model has 3 classes"),
        (Needs({8: (3, 8, 8)}, extra=("partner",)), "discs has no partner, which the model needs"),
        (Needs({8: (3, 8, 8)}, extra=(SAME_CLASS,)), "discs has no same_class, which the model needs"),
    ],
)
def test_a_model_that_it_cannot_feed(needs: Needs, message: str) -> None:
    with discs().data.open(0, CPU) as data:
        data.check(Needs({8: (3, 8, 8)}, classes=2))
        with pytest.raises(ValueError, match=f"^{message}$"):
            data.check(needs)


def test_settings_name_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    prepare_run(run, discs("data.count=12"))
    assert settings_of(run).plain()["data"] == {"name": "discs", "count": 12}
    assert preflight(discs("data.count=12"), 2).data.train == 12
    with pytest.raises(ValueError, match="'disks' is not one of: images, points, discs; did you mean discs"):
        discs("data.name=disks")
    images = tiny_settings(tmp_path / "set")
    assert "name" not in images.plain()["data"]
    assert tiny_settings(tmp_path / "set", "data.name=images") == images


def _trained(path: Path, steps: tuple[int | None, ...]) -> dict[str, torch.Tensor]:
    for count in steps:
        tensors = gathered(train(begin(path), count))
    return tensors


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "trace.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "steps"), [(1, (3, None)), (2, (None,))])
def test_a_run_is_the_same_run(tmp_path: Path, processes: int, steps: tuple[int | None, ...]) -> None:
    """Left and resumed on one process, and on two, which may sum in another order."""
    paths = [tmp_path / name for name in ("whole", "other")]
    for path in paths:
        prepare_run(RunDirectory(path), discs())
    whole = _trained(paths[0], (None,))
    other, *_ = on_processes(processes, _trained, paths[1], steps)
    assert rows(paths[0]) == rows(paths[1]) and len(rows(paths[0])) == 48
    assert (paths[1] / "figures" / "training" / "real_reconstruction-000000000048.png").is_file()
    if processes == 1:
        assert_same(other, whole)
