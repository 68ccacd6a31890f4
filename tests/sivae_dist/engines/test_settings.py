"""Which engine a run has, and what of DeepSpeed's own configuration it takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from sivae_dist.config.run_settings import RunSettings, changes_the_past, override, validate
from sivae_dist.engines.settings import DdpSettings, ZeroSettings


def settings(*assignments: str, **engine: Any) -> RunSettings:
    values: dict[str, Any] = {
        "data": {"path": "unused"},
        "objective": {"name": "vae"},
        "schedule": {"images": 100},
    }
    if engine:
        values["engine"] = engine
    override(values, assignments)
    return validate(values, "here")


def test_ddp_unless_another_is_named() -> None:
    assert settings().engine == settings(precision="fp32").engine == settings(name="ddp").engine == DdpSettings()
    assert settings("engine.name=zero", "engine.stage=3", precision="bf16").engine == ZeroSettings(
        stage=3, precision="bf16"
    )
    assert settings("engine.name=zero", compile=False, channels_last=False).engine == ZeroSettings(channels_last=False)


@pytest.mark.parametrize(
    ("assignments", "complaint"),
    [
        (["engine.name=fsdp"], "engine.name: 'fsdp' is not one of: ddp, zero"),
        (["engine.stage=2"], "engine: ddp has no stage; set the whole engine, 'engine={name: ddp}'"),
        (["engine.name=zero", "engine.stage=4"], "engine.stage: 4 is not one of: 0, 1, 2, 3"),
        (["engine.name=zero", "engine.stages=3"], "unknown key engine.stages; did you mean engine.stage?"),
        (["engine.name=zero", "engine.precision=fp64"], "use engine.name=ddp"),
        (["engine.name=zero", "engine.compile=true"], "compile=true needs engine.name=ddp"),
        (["engine.name=zero", "engine.stage=0", "engine.offload=true"], "offload=true needs a stage from 1 to 3"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(assignments: list[str], complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        settings(*assignments)
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_ones_own_configuration_is_merged(tmp_path: Path) -> None:
    own = {
        "zero_optimization": {"reduce_bucket_size": 1000, "stage3_param_persistence_threshold": 0},
    }
    path = tmp_path / "own.json"
    # What says the same as our settings, or leaves it to them, does no harm.
    path.write_text(
        json.dumps(
            own
            | {"gradient_accumulation_steps": 1, "train_batch_size": "auto"}
            | {"zero_optimization": own["zero_optimization"] | {"stage": 2}}  # type: ignore[operator]
        )
    )
    engine = settings("engine.name=zero", "engine.stage=2", f"engine.deepspeed={path}").engine
    assert isinstance(engine, ZeroSettings)
    without = ZeroSettings(stage=2).configuration(0.5)
    got = engine.configuration(0.5)
    assert got["gradient_clipping"] == 0.5
    want = without["zero_optimization"] | own["zero_optimization"]
    assert got == without | {"zero_optimization": want}
    # It goes on as it was read, whatever becomes of the file.
    again = settings(**json.loads(engine.model_dump_json())).engine
    assert again == engine


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is decided by engine.stage"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "is decided by engine.offload"),
        ({"gradient_clipping": 1.0}, "gradient_clipping is decided by optimizer.clip"),
        ({"gradient_clipping": 0.0}, "gradient_clipping is decided by optimizer.clip"),
        ({"zero_optimization": {"overlap_comm": 1}}, "overlap_comm must be true or false, not 1"),
        ({"zero_optimization": {"reduce_bucket_size": "5e8"}}, "reduce_bucket_size must be a whole number, not '5e8'"),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, "reduce_bucket_size must be a whole number, not -1"),
        (
            {"zero_optimization": {"round_robin_gradients": True}},
            "round_robin_gradients is not one of the keys that can be passed",
        ),
        ({"comms_logger": {"enabled": True}}, "comms_logger.enabled is not one of the keys that can be passed on"),
        ({"train_batch_size": 64}, "train_batch_size is decided by schedule.batch"),
        ({"gradient_accumulation_steps": 4}, "is decided by engine.max_batch_per_rank"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is decided by engine.precision"),
        ({"optimizer": {"type": "Adam"}}, "optimizer.type is decided by optimizer"),
        (
            {"zero_optimization": {"reduce_bucket": 5}},
            "zero_optimization.reduce_bucket is not one of the keys that can be passed on",
        ),
        (
            {"zero_optimisation": {"reduce_bucket_size": 5}},
            "zero_optimisation.reduce_bucket_size is not one of the keys that can be passed on",
        ),
        (
            {"zero_allow_untested_optimizer": False},
            "zero_allow_untested_optimizer is not one of the keys that can be passed on",
        ),
    ],
)
def test_what_contradicts_our_settings_or_is_not_known_is_refused(own: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        settings(name="zero", deepspeed=own)


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[1]", None):
        path = tmp_path / "own.json"
        path.unlink(missing_ok=True)
        if text:
            path.write_text(text)
        with pytest.raises(ValueError, match=r"engine\.deepspeed: "):
            settings("engine.name=zero", f"engine.deepspeed={path}")


def test_another_engine_does_not_change_the_past_but_another_precision_does() -> None:
    for key in ("name", "stage", "offload", "max_batch_per_rank", "rehearsal", "checkpoint_activations", "deepspeed",
                "deepspeed.zero_optimization.reduce_bucket_size"):  # fmt: skip
        assert not changes_the_past(f"engine.{key}")
    for key in ("precision", "channels_last"):
        assert changes_the_past(f"engine.{key}")
