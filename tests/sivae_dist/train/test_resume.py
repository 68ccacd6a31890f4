"""Runs that go on from a checkpoint, exactly; and trained networks out of a run."""

import contextlib
import errno
import io
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sivae_dist.checkpoint import CheckpointFolder, DamagedError, saver
from sivae_dist.checkpoint.writing import write
from sivae_dist.config.opening import prepare_run
from sivae_dist.models import Cond, Stage
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.randomness import normals
from sivae_dist.use.loading import load_run
from tests.checkpoints import flip, names, shard
from tests.helpers import CPU, assert_same, begin, on_processes, random_set, snapshot, tiny_settings, train, trained


def checkpoints_of(path: Path) -> CheckpointFolder:
    return CheckpointFolder(RunDirectory(path).checkpoints)


# Resuming.


def _resumes_exactly(tmp_path: Path, steps: int, *, settings: Any, processes: int = 1) -> None:
    """One run straight, and one ended after `steps` steps and continued by a new Trainer."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for path in (straight, broken):
        prepare_run(RunDirectory(path), settings)
    if processes == 1:
        want = trained(straight)
        train(begin(broken), steps=steps)
        images = checkpoints_of(broken).readable()[-1].images
        got = trained(broken)
    else:
        want = on_processes(processes, trained, straight)[0]
        on_processes(processes, _stopped, broken, steps)
        images = checkpoints_of(broken).readable()[-1].images
        got = on_processes(processes, trained, broken)[0]
    assert images == steps * settings.schedule.batch
    assert_same(got, want)
    assert RunDirectory(broken).metrics.read_text() == RunDirectory(straight).metrics.read_text()


def _stopped(path: Path, steps: int) -> None:
    train(begin(path), steps=steps)


@pytest.mark.slow
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_resume_is_exact(data: Path, tmp_path: Path, steps: int, reset: bool) -> None:
    """Inside a phase, at its end (where the optimizer may be reset next), inside a transition and at its end."""
    settings = tiny_settings(
        data, f"checkpoint.every={steps * 8}", "checkpoint.keep=9", f"schedule.reset_optimizer={str(reset).lower()}"
    )
    _resumes_exactly(tmp_path, steps, settings=settings)


@pytest.mark.slow
def test_resume_is_exact_in_a_warm_up(data: Path, tmp_path: Path) -> None:
    _resumes_exactly(tmp_path, 1, settings=tiny_settings(data, "checkpoint.every=8", "objective.warmup=12"))


@pytest.mark.slow
def test_resume_is_exact_on_three_processes(data: Path, tmp_path: Path) -> None:
    """Where the order of summation over processes could be another one after a new start."""
    settings = tiny_settings(
        data, "schedule.batch=6", "schedule.images={4: 6, 8: 36}", "schedule.blend=0.2", "checkpoint.every=24"
    )
    _resumes_exactly(tmp_path, 4, settings=settings, processes=3)


def test_resume_refuses_another_data_set(data: Path, tmp_path: Path) -> None:
    train(begin(tmp_path / "run", tiny_settings(data)))
    other = random_set(tmp_path / "other", samples=23)
    with pytest.raises(ValueError, match="not the data set"):
        begin(tmp_path / "run", tiny_settings(other))


# Saving while training goes on.


def test_saving_in_the_background_changes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*arguments: Any) -> int:
        time.sleep(0.03)  # some steps
        return write(*arguments)

    monkeypatch.setattr(saver, "write", late)
    results = []
    for background in ("true", "false"):
        path = tmp_path / background
        settings = tiny_settings(
            data, "checkpoint.every=8", "checkpoint.keep=9", f"checkpoint.background={background}",
            "monitoring.scalars_every=16",
        )  # fmt: skip
        tensors = snapshot(train(begin(path, settings)).players.tensors())
        found = checkpoints_of(path).readable()
        assert [checkpoint.images for checkpoint in found] == [8, 16, 24, 32, 40, 48]
        results.append((tensors, RunDirectory(path).metrics.read_text(), found))
    (tensors, metrics, found), (wanted, wanted_metrics, wanted_found) = results
    assert_same(tensors, wanted)
    assert metrics == wanted_metrics
    for checkpoint, other in zip(found, wanted_found, strict=True):
        checkpoint.verify()
        assert_same(checkpoint.load(), other.load())
        assert checkpoint.meta == other.meta
        assert checkpoint.manifest["tensors"] == other.manifest["tensors"]
    last = found[-1].load()
    assert all(torch.equal(last[name], tensor) for name, tensor in tensors.items())


def _failing(monkeypatch: pytest.MonkeyPatch, *images: int) -> None:
    """Lets the saves after so many images fail."""

    def fail(final: Path, *arguments: Any) -> int:
        if int(final.name.removeprefix("images-")) in images:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(final))
        return write(final, *arguments)

    monkeypatch.setattr(saver, "write", fail)


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_run_outlives_saves_that_fail(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], background: str
) -> None:
    _failing(monkeypatch, 16, 24, 40)
    settings = tiny_settings(
        data, "checkpoint.every=8", f"checkpoint.background={background}", "checkpoint.max_failures=3"
    )
    trainer = train(begin(tmp_path / "run", settings))
    assert trainer.images == 48
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 3
    for images, line in zip((16, 24, 40), lines, strict=True):
        assert f"images-{images:012d}" in line and os.strerror(errno.ENOSPC) in line
    assert [checkpoint.images for checkpoint in checkpoints_of(tmp_path / "run").readable()] == [32, 48]


def test_a_run_ends_when_too_many_saves_in_a_row_fail(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, 16, 24, 32)
    trainer = begin(tmp_path / "run", tiny_settings(data, "checkpoint.every=8", "checkpoint.max_failures=2"))
    with pytest.raises(OSError, match="images-000000000024"):
        train(trainer)
    assert trainer.images == 32
    assert names(trainer.checkpoints.folder.path) == ["images-000000000008"]


def test_a_last_save_that_fails_ends_the_run_with_its_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(data, "checkpoint.every=16")
    want = snapshot(train(begin(tmp_path / "straight", settings)).players.tensors())
    with monkeypatch.context() as patched:
        _failing(patched, 48)
        with pytest.raises(OSError, match="images-000000000048"):
            train(begin(tmp_path / "run", settings))
    found = checkpoints_of(tmp_path / "run")
    assert [checkpoint.images for checkpoint in found.readable()] == [16, 32]
    assert_same(trained(tmp_path / "run"), want)  # the next start does what was lost once more
    assert found.readable()[-1].images == 48


def test_a_run_that_cannot_be_saved_does_not_begin(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer = begin(tmp_path / "run", tiny_settings(data))
    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"no checkpoint of .* can be written"):
        patched.setattr(saver, "write_files", fail)
        train(trainer)
    assert trainer.images == 0


# Damage.


def _begins(path: Path) -> tuple[int, str]:
    """Images at which a run begins, and what it says."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        trainer = begin(path)
        trainer.close()
    return trainer.images, output.getvalue()


def _does_not_begin(path: Path) -> str:
    with pytest.raises(DamagedError) as caught:
        begin(path)
    return str(caught.value)


def test_a_run_goes_on_from_the_newest_whole_checkpoint(data: Path, tmp_path: Path) -> None:
    """All processes from the same one, with a line to the user; what comes of it is what would have come."""
    path = tmp_path / "run"
    want = snapshot(
        train(begin(path, tiny_settings(data, "checkpoint.every=16", "checkpoint.keep=9"))).players.tensors()
    )
    metrics = RunDirectory(path).metrics.read_text()
    checkpoints = RunDirectory(path).checkpoints
    flip(shard(checkpoints / "images-000000000048"), -1)

    with pytest.warns(UserWarning, match=r"images-000000000048: .* is damaged"):
        assert load_run(path).images == 32
    assert names(checkpoints) == [f"images-{images:012d}" for images in (16, 32, 48)]

    (images, said), (other_images, nothing) = on_processes(2, _begins, path)
    assert images == other_images == 32
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert "is damaged" in warning and str(checkpoints / "damaged" / "images-000000000048") in warning
    assert f"continuing from {checkpoints / 'images-000000000032'}" in said
    assert nothing == ""
    assert names(checkpoints) == ["damaged", "images-000000000016", "images-000000000032"]

    assert_same(trained(path), want)
    assert RunDirectory(path).metrics.read_text() == metrics
    assert names(checkpoints / "damaged") == ["images-000000000048"]
    assert "warning" not in _begins(path)[1]


def test_a_run_without_a_whole_checkpoint_does_not_begin_until_told_to(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    want = snapshot(train(begin(path, tiny_settings(data))).players.tensors())
    checkpoints = RunDirectory(path).checkpoints
    (only,) = checkpoints.iterdir()
    flip(shard(only), -1)
    with pytest.raises(DamagedError, match="No checkpoint is left"):
        load_run(path)
    one, other = on_processes(2, _does_not_begin, path)
    assert one == other
    assert str(only) in one and f"delete {checkpoints / 'damaged'} to start anew" in one and "\n" not in one
    assert _does_not_begin(path)
    shutil.rmtree(checkpoints / "damaged")
    assert_same(trained(path), want)


# Trained networks out of a run.


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ended inside a transition, at the fourth of six steps; the averages lag far behind."""
    path = tmp_path_factory.mktemp("run") / "run"
    train(begin(path, tiny_settings(data, "checkpoint.every=32", "ema.half_life=50", "schedule.blend=0.9")), steps=4)
    return path


def test_load_run_gives_averages_or_live_weights(run: Path) -> None:
    (checkpoint,) = checkpoints_of(run).readable()
    tensors = checkpoint.load()
    for live, kind in ((False, "_ema"), (True, "")):
        trained = load_run(run, live=live)
        assert trained.images == 32
        for name, network in (("encoder", trained.encoder), ("decoder", trained.decoder)):
            assert not network.training and not any(p.requires_grad for p in network.parameters())
            state = network.state_dict()
            assert all(torch.equal(t, tensors[f"{name}{kind}.{key}"]) for key, t in state.items())
            assert any(not torch.equal(t, tensors[f"{name}{'' if kind else '_ema'}.{key}"]) for key, t in state.items())
    # It stands where the run stood: the last step was the transition's second.
    assert trained.stage.resolution == 8
    assert trained.stage.blend is not None
    assert trained.stage.blend.item() == pytest.approx(checkpoint.meta.blend) and checkpoint.meta.blend > 0


def test_load_run_after_the_transition(data: Path, tmp_path: Path) -> None:
    train(begin(tmp_path, tiny_settings(data)))
    assert load_run(tmp_path).stage == Stage(8, None)


def test_load_run_of_nothing_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run"):
        load_run(tmp_path / "nothing")
    prepare_run(RunDirectory(tmp_path / "new"), tiny_settings(data))
    with pytest.raises(ValueError, match="no checkpoint yet"):
        load_run(tmp_path / "new")


def test_a_sample_depends_on_its_number_alone(run: Path) -> None:
    trained = load_run(run)
    samples = trained.sample(9, seed=3)
    assert samples.shape == (9, 3, 8, 8) and samples.isfinite().all()
    assert (samples[1:] - samples[:-1]).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    for number, batch in ((9, 2), (9, 9), (4, 64), (5, 3), (1, 1)):
        torch.testing.assert_close(trained.sample(number, seed=3, batch=batch), samples[:number], rtol=0, atol=1e-5)
    z = normals(3, "sample", 0, 9, 8, CPU)
    torch.testing.assert_close(samples[6], trained.decoder(z[6:7], Cond(trained.stage))[0], rtol=0, atol=1e-5)
    assert not torch.equal(trained.sample(9, seed=4), samples)
    assert not torch.equal(load_run(run, live=True).sample(9, seed=3), samples)


def test_a_reconstruction_does_not_depend_on_the_batch(run: Path) -> None:
    trained = load_run(run)
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = trained.reconstruct(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(trained.reconstruct(x, batch=2), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(trained.reconstruct(x[3:]), whole[3:], rtol=0, atol=1e-5)
