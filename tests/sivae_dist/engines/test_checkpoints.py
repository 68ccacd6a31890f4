"""Checkpoints know no engine: a run goes on exactly with its own, and with any other, on any number of processes."""

import shutil
from pathlib import Path

import pytest
import torch

from sivae_dist.checkpoint import Checkpoint, CheckpointFolder
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from tests.command import sivae
from tests.engines import ZERO, Tensors, begun, go_on, with_engine
from tests.events import assert_no_step_twice
from tests.helpers import begin, gathered, on_processes, random_set, tiny_settings, train

pytestmark = pytest.mark.slow

STEADY = ("optimizer.eps=1e-5", "checkpoint.every=8", "checkpoint.keep=5")
"""Rounding errors stay small, and every step is saved and stays."""


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At 24 of 48 images, saved by DDP."""
    return begun(tmp_path_factory.mktemp("runs") / "run", data, *STEADY)


def continued(run: Path, parent: Path, data: Path, engine: str, images: int | None = None) -> Path:
    """A copy that goes on with this engine, from where it stood after `images` images."""
    copy = with_engine(run, data, engine, *STEADY, path=parent / f"{engine}-{images}")
    for path in CheckpointFolder(RunDirectory(copy).checkpoints).paths():
        if images is not None and Checkpoint.read(path).images > images:
            shutil.rmtree(path)
    return copy


def saved(path: Path, images: int) -> Tensors:
    """What the checkpoint after so many images holds."""
    found = Checkpoint.read(CheckpointFolder(RunDirectory(path).checkpoints).final(images))
    found.verify()
    return found.load()


def assert_equal(got: Tensors, want: Tensors) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name


def assert_close(got: Tensors, want: Tensors) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        limit = 0.0 if "_optim.step." in name else 1e-3 if "_optim." in name else 1e-5
        assert torch.linalg.vector_norm(got[name] - tensor) <= limit * torch.linalg.vector_norm(tensor), name


def _as_restored(paths: list[Path]) -> list[Tensors]:
    """All that a run holds, which is the same before and after its engines have been prepared for a step."""
    results = []
    for path in paths:
        trainer = begin(path)
        before = gathered(trainer)
        trainer._enter(trainer.schedule.step_at(trainer.images))
        assert_equal(gathered(trainer), before)
        trainer.close()
        results.append(before)
    return results


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_restored_is_what_was_saved(run: Path, data: Path, tmp_path: Path, count: int) -> None:
    """Bit for bit, also where sizes cannot be divided evenly."""
    want = saved(run, 24)
    assert any(t.numel() % 4 for t in want.values())
    paths = [continued(run, tmp_path, data, engine) for engine in ZERO]
    for results in on_processes(count, _as_restored, paths):
        for got in results:
            assert_equal(got, want)


def test_a_resumed_run_is_exactly_the_one_that_was_not_interrupted(run: Path, data: Path, tmp_path: Path) -> None:
    """Before a change of segment, and within one. What has been saved can be restored on another number too."""
    whole = [continued(run, tmp_path, data, engine) for engine in ZERO]
    wanted = on_processes(2, go_on, whole)[0]
    for path, want in zip(whole, wanted, strict=True):
        assert_equal(saved(path, 48), want)

    def stopped(images: int, place: str) -> list[Path]:
        engines = zip(ZERO, whole, strict=True)
        return [continued(path, tmp_path / place, data, engine, images) for engine, path in engines]

    resumed = stopped(32, "here") + stopped(40, "here")
    for got, want in zip(on_processes(2, go_on, resumed)[0], wanted * 2, strict=True):
        assert_equal(got, want)
    elsewhere = stopped(40, "elsewhere")
    restored, results = on_processes(4, _restored_and_gone_on, elsewhere)[0]
    for path, before, got, want in zip(whole, restored, results, wanted, strict=True):
        assert_equal(before, saved(path, 40))
        assert_close(got, want)


def _restored_and_gone_on(paths: list[Path]) -> tuple[list[Tensors], list[Tensors] | None]:
    return _as_restored(paths), go_on(paths)


def _one_step(path: Path) -> None:
    train(begin(path), steps=1)


def test_one_run_under_several_engines(run: Path, data: Path, tmp_path: Path) -> None:
    """DDP, ZeRO 1 on two processes, ZeRO 3 on four, DDP on one: no step and no bit is lost in between."""
    want = on_processes(1, go_on, [continued(run, tmp_path, data, "ddp")])[0][0]
    path = continued(run, tmp_path, data, "zero1")
    on_processes(2, _one_step, path)
    at_32 = saved(path, 32)
    path = continued(path, tmp_path, data, "zero3", 32)
    assert_equal(on_processes(4, _as_restored, [path])[0][0], at_32)
    on_processes(4, _one_step, path)
    at_40 = saved(path, 40)
    path = continued(path, tmp_path, data, "ddp", 40)
    assert_equal(on_processes(1, _as_restored, [path])[0][0], at_40)
    assert_close(on_processes(1, go_on, [path])[0][0], want)


@pytest.mark.parametrize("stage", [1, 3])
def test_what_does_not_fit_is_named(data: Path, tmp_path: Path, stage: int) -> None:
    (messages,) = on_processes(1, _refused, tmp_path / "run", data, stage)
    for (fault, name), message in messages.items():
        assert name in message and fault in message


def _refused(path: Path, data: Path, stage: int) -> dict[tuple[str, str], str]:
    """What is said of a tensor in which something is wrong, by the words that tell what, and by its name."""
    trainer = train(begin(path, tiny_settings(data, f"engine={{name: zero, stage: {stage}}}")), steps=1)
    tensors, messages = gathered(trainer), {}
    for name in ("encoder_ema.mapping.layers.0.bias", "decoder_optim.exp_avg.mapping.layers.0.bias"):
        tensor = tensors[name]
        for fault, wrong in {"has no": None, "[7] there": tensor[:-1], "float16 there": tensor.half()}.items():
            others = {key: value for key, value in tensors.items() if key != name}
            with pytest.raises(ValueError) as caught:
                trainer.players.restore(others if wrong is None else others | {name: wrong})
            messages[fault, name] = str(caught.value)
    trainer.players.restore(tensors)
    assert_equal(gathered(trainer), tensors)
    return messages


def test_command_line(tmp_path: Path) -> None:
    """`sivae train` with ZeRO 3 shows pictures and measures; with DDP, the same command goes on from there."""
    data, run = random_set(tmp_path / "set", test=6), RunDirectory(tmp_path / "run")
    settings = ("monitoring.images_every=24", "evaluation.every=24", "evaluation.metrics=[psnr]")
    config = tmp_path / "config.yaml"
    config.write_text(tiny_settings(data, *STEADY, *settings).to_yaml())
    command = ("train", config, "--run-dir", run.path, "--nproc", 2)
    sivae(*command, "engine={name: zero, stage: 3}")
    want, values = saved(run.path, 48), read_rows(run.evaluation)
    assert [row["images"] for row in values] == [24, 48]
    for images in (40, 48):
        shutil.rmtree(CheckpointFolder(run.checkpoints).final(images))
    said = sivae(*command).stdout
    assert "note: engine.name differs" in said and "continuing from" in said
    got = saved(run.path, 48)
    weights = [name for name in want if "_optim." not in name]
    one, other = (torch.cat([tensors[name].flatten() for name in weights]) for tensors in (got, want))
    assert torch.linalg.vector_norm(one - other) <= 1e-3 * torch.linalg.vector_norm(other)
    assert read_rows(run.evaluation)[1]["value"] == pytest.approx(values[1]["value"], rel=1e-4)
    tags = assert_no_step_twice(run.path)
    assert set(tags["images"]) == {"images/real_reconstruction", "images/sample", "images/sample_ema"}
