"""What a run saves beside its tensors: the same JSON as ever, read from checkpoints of all releases."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sivae_dist.checkpoint import Checkpoint, Meta
from sivae_dist.models.stage import Stage
from tests.checkpoints import some_meta
from tests.helpers import CPU

SAVED: dict[str, Any] = {
    "phase": 2,
    "resolution": 16,
    "blending": True,
    "blend": 0.25,
    "seed": 7,
    "hardware": {"type": "cpu", "models": ["cpu"]},
    "precision": "fp32",
    "kernels": "native",
    "data": "abc",
    "metrics": {"kl/real": 3.5, "schedule/resolution": 16, "evaluation/fid": 40.25},
    "evaluation_due": True,
    "skipped_steps": 4,
    "quarantine": {"total": 3, "epoch": 1, "in_epoch": 2},
}
"""As it lies in a manifest of the first release that saved all of it."""

LATER = ("hardware", "precision", "kernels", "metrics", "evaluation_due", "skipped_steps", "quarantine")
"""What the first releases did not save."""


def test_the_manifest_stays_byte_for_byte() -> None:
    assert json.dumps(Meta.from_manifest(SAVED).to_manifest(), indent=1) == json.dumps(SAVED, indent=1)


def test_checksums_of_an_objectives_files_are_saved_where_there_are_any() -> None:
    meta = Meta.from_manifest(SAVED | {"objective": "1a2b"})
    assert meta.objective == "1a2b" and meta.to_manifest()["objective"] == "1a2b"


def test_the_first_releases_are_read() -> None:
    meta = Meta.from_manifest({name: value for name, value in SAVED.items() if name not in LATER})
    assert (meta.phase, meta.resolution, meta.seed, meta.data) == (2, 16, 7, "abc")
    assert (meta.hardware, meta.precision, meta.evaluation_due, meta.skipped_steps) == (None, None, False, 0)
    assert meta.metrics == {} and meta.quarantine == {}


def test_what_a_later_release_saves_besides_is_left_out() -> None:
    assert Meta.from_manifest(SAVED | {"weather": "fine"}) == Meta.from_manifest(SAVED)


@pytest.mark.parametrize("missing", sorted(SAVED.keys() - {*LATER}))
def test_what_no_run_saved_names_the_checkpoint_and_what_is_missing(missing: str) -> None:
    manifest = {"meta": {name: value for name, value in SAVED.items() if name != missing}}
    with pytest.raises(ValueError, match=f"checkpoint images-8: its meta is not that of a run: .*'{missing}'"):
        Checkpoint(Path("images-8"), manifest).meta  # noqa: B018 (it raises)


def test_where_the_networks_stood() -> None:
    stage = Meta.from_manifest(SAVED).stage(CPU)
    assert stage.resolution == 16 and stage.blend is not None
    assert stage.blend.shape == () and stage.blend.dtype == torch.float32 and stage.blend.item() == 0.25
    assert some_meta(resolution=4, blend=0.5).stage(CPU) == Stage(4)


def test_metrics_of_training_are_told_from_those_of_an_evaluation() -> None:
    assert Meta.from_manifest(SAVED).training_metrics == {"kl/real": 3.5, "schedule/resolution": 16}
