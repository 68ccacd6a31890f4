"""Checkpoints: what is saved comes back bit for bit, and what is damaged, half written or foreign is not taken."""

import hashlib
import json
import random
import resource
import signal
import struct
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sivae_dist.checkpoint import CheckpointManager, CheckpointSettings, manager
from sivae_dist.checkpoint.state import network_tensors, optimizer_tensors, restore_network, restore_optimizer
from sivae_dist.models import Stage
from sivae_dist.models.style import StyleSettings, build
from sivae_dist.optimizer import OptimizerSettings, guarded_step
from sivae_dist.pretrained import load_run
from sivae_dist.processes import rank
from sivae_dist.randomness import normals
from sivae_dist.run import RunDirectory
from tests.helpers import (
    CPU,
    assert_same,
    begin,
    on_processes,
    random_set,
    snapshot,
    start_process,
    tiny_settings,
    train,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set")


def some_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(4, 3, 3, 3, generator=generator).contiguous(memory_format=torch.channels_last),
        "a.step": torch.tensor(7.0),
        "b.weight": torch.randn(5, 2, generator=generator, dtype=torch.float64),
        "b.part": torch.randn(6, 6, generator=generator)[:, 2:4],
    }


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def header(path: Path) -> dict[str, Any]:
    """That of a safetensors file, by its specification: 8 bytes of length, then JSON, then the tensors."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entries: dict[str, Any] = json.loads(content[8 : 8 + length])
    entries.pop("__metadata__", None)
    assert 8 + length + max(entry["data_offsets"][1] for entry in entries.values()) == len(content)
    return entries


# Saving and loading on any number of processes.


def _trained(path: Path) -> dict[str, Tensor]:
    return snapshot(train(begin(path)).players.tensors())


def _resumed(path: Path) -> tuple[int, dict[str, Tensor]]:
    trainer = begin(path)
    trainer.close()
    return trainer.images, snapshot(trainer.players.tensors())


@pytest.mark.parametrize("saving", [1, 2, 3])
def test_any_number_of_processes_reads_what_any_number_has_saved(data: Path, tmp_path: Path, saving: int) -> None:
    path = tmp_path / "run"
    RunDirectory(path).open(tiny_settings(data, "schedule.batch=6", "schedule.images={4: 12, 8: 24}"))
    saved, *others = on_processes(saving, _trained, path)
    for other in others:
        assert_same(other, saved)
    moments = [t for name, t in saved.items() if name.startswith("encoder_optim.exp_avg.") and t.ndim == 4]
    assert any(not t.is_contiguous() for t in moments)  # as the weights lie: channels last
    for loading in (1, 2):
        for images, loaded in on_processes(loading, _resumed, path):
            assert images == 36
            assert_same(loaded, saved)
    (checkpoint,) = CheckpointManager(RunDirectory(path).checkpoints, CheckpointSettings()).list()
    checkpoint.verify()
    assert set(checkpoint.names()) == saved.keys()
    assert {name.split(".")[0] for name in saved} == {
        f"{network}{kind}" for network in ("encoder", "decoder") for kind in ("", "_ema", "_optim")
    }
    # Safetensors and JSON, no pickle; every process has written its share, and each tensor is written once.
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    assert files(checkpoint.path) == {"manifest.json", *manifest["files"]}
    assert files(RunDirectory(path).checkpoints) == {f"{checkpoint.path.name}/{f}" for f in files(checkpoint.path)}
    shares = []
    for process in range(saving):
        mine = [name for name in manifest["files"] if name.startswith(f"shard-{process + 1:05d}-")]
        assert mine and all(name.endswith(".safetensors") for name in mine)
        shares += [list(header(checkpoint.path / name)) for name in mine]
    assert len(shares) == len(manifest["files"]) and all(shares)
    assert sorted(name for share in shares for name in share) == sorted(saved)
    for name, record in manifest["files"].items():
        content = (checkpoint.path / name).read_bytes()
        assert record == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    for name, tensor in saved.items():
        assert manifest["tensors"][name] == {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
    assert manifest["images"] == 36
    assert manifest["world_size"] == saving


def test_prefixes_choose_what_is_read(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path, CheckpointSettings())
    checkpoints.save(5, some_tensors(), {})
    checkpoint = checkpoints.latest()
    assert checkpoint is not None
    loaded = checkpoint.load(("b.", "nothing."))
    assert loaded.keys() == {"b.weight", "b.part"}
    assert all(torch.equal(loaded[name], some_tensors()[name]) for name in loaded)


# Resuming.


def _resumes_exactly(tmp_path: Path, steps: int, *, settings: Any, processes: int = 1) -> None:
    """One run straight, and one ended after `steps` steps and continued by a new Trainer."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for path in (straight, broken):
        RunDirectory(path).open(settings)
    if processes == 1:
        want = _trained(straight)
        train(begin(broken), steps=steps)
        images, _ = _resumed(broken)
        got = _trained(broken)
    else:
        want = on_processes(processes, _trained, straight)[0]
        on_processes(processes, _stopped, broken, steps)
        images = int(next(RunDirectory(broken).checkpoints.iterdir()).name.removeprefix("images-"))
        got = on_processes(processes, _trained, broken)[0]
    assert images == steps * settings.schedule.batch
    assert_same(got, want)
    assert RunDirectory(broken).metrics.read_text() == RunDirectory(straight).metrics.read_text()


def _stopped(path: Path, steps: int) -> None:
    train(begin(path), steps=steps)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_resume_is_exact(data: Path, tmp_path: Path, steps: int, reset: bool) -> None:
    """Inside a phase, at its end (where the optimizer may be reset next), inside a transition and at its end."""
    settings = tiny_settings(
        data, f"checkpoint.every={steps * 8}", "checkpoint.keep=9", f"schedule.reset_optimizer={str(reset).lower()}"
    )
    _resumes_exactly(tmp_path, steps, settings=settings)


def test_resume_is_exact_in_a_warm_up(data: Path, tmp_path: Path) -> None:
    _resumes_exactly(tmp_path, 1, settings=tiny_settings(data, "checkpoint.every=8", "objective.warmup=12"))


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


# What is kept.


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path, CheckpointSettings(keep=3))
    assert checkpoints.latest() is None
    for images in (1, 20, 300, 4_000, 50_000, 1_000_000_000_000):
        checkpoints.save(images, some_tensors(images), {"at": images})
    assert [c.images for c in checkpoints.list()] == [4_000, 50_000, 1_000_000_000_000]
    newest = checkpoints.latest()
    assert newest is not None and newest.meta == {"at": 1_000_000_000_000}
    assert torch.equal(newest.load()["b.weight"], some_tensors(1_000_000_000_000)["b.weight"])
    assert len(list(tmp_path.iterdir())) == 3


def test_leftovers_are_never_listed_and_removed_by_the_next_save(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path, CheckpointSettings())
    checkpoints.save(8, some_tensors(), {})
    complete = next(tmp_path.iterdir())
    for name in (".tmp-images-000000000016", ".trash-images-000000000004", ".tmp-images-000000000024"):
        (tmp_path / name).mkdir()
        for file in complete.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    assert [c.path for c in checkpoints.list()] == [complete]
    checkpoints.save(16, some_tensors(), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images-000000000008", "images-000000000016"]
    for checkpoint in checkpoints.list():
        checkpoint.verify()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path, CheckpointSettings())
    final = checkpoints.save(8, some_tensors(0), {})
    before = {name: (final / name).read_bytes() for name in files(final)}
    with pytest.raises(ValueError, match="exists already"):
        checkpoints.save(8, some_tensors(1), {})
    assert {name: (final / name).read_bytes() for name in files(final)} == before


def test_only_tensors_are_saved(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path, CheckpointSettings())
    with pytest.raises(TypeError, match=r"a\.step is no tensor"):
        checkpoints.save(8, some_tensors() | {"a.step": 7}, {})  # type: ignore[dict-item]
    assert checkpoints.list() == []


# Damage.


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _shard(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte of a tensor": (lambda f: _flip(_shard(f), -1), "safetensors is damaged"),
    "flipped byte of a header": (lambda f: _flip(_shard(f), 30), "safetensors is damaged"),
    "short file": (lambda f: _shard(f).write_bytes(_shard(f).read_bytes()[:-1]), "safetensors is damaged"),
    "long file": (lambda f: _shard(f).write_bytes(_shard(f).read_bytes() + b"\0"), "safetensors is damaged"),
    "empty file": (lambda f: _shard(f).write_bytes(b""), "safetensors is damaged"),
    "missing file": (lambda f: _shard(f).unlink(), "safetensors is missing"),
    "foreign file": (lambda f: (f / "model.pt").write_bytes(b"x"), "model.pt is unknown"),
    "foreign folder": (lambda f: (f / "more").mkdir(), "more is unknown"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json cannot be read"),
    "empty manifest": (lambda f: (f / "manifest.json").write_bytes(b""), "manifest.json cannot be read"),
    "cut manifest": (
        lambda f: (f / "manifest.json").write_bytes((f / "manifest.json").read_bytes()[:200]),
        "manifest.json cannot be read",
    ),
    "zeros for manifest": (lambda f: (f / "manifest.json").write_bytes(bytes(300)), "manifest.json cannot be read"),
    "binary manifest": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json cannot be read"),
    "other JSON": (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
    "later format": (lambda f: (f / "manifest.json").write_text('{"format": 99}'), "has format 99"),
    "manifest of nothing": (lambda f: (f / "manifest.json").write_text('{"format": 1}'), "manifest.json"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    damage, message = DAMAGES[kind]
    checkpoints = CheckpointManager(tmp_path, CheckpointSettings())
    folder = checkpoints.save(8, some_tensors(), {})
    for checkpoint in checkpoints.list():
        checkpoint.verify()
    damage(folder)
    with pytest.raises(ValueError) as caught:
        for checkpoint in checkpoints.list():
            checkpoint.verify()
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_starts_no_run(data: Path, tmp_path: Path) -> None:
    """Of two processes, the first of which looks at the files: both say why, and neither waits for the other."""
    path = tmp_path / "run"
    train(begin(path, tiny_settings(data)))
    _flip(_shard(next(RunDirectory(path).checkpoints.glob("images-*"))), -1)
    with pytest.raises(ValueError, match="is damaged"):
        load_run(path)
    for message in on_processes(2, _refused, path, limit=40):
        assert "is damaged" in message


def _refused(path: Path) -> str:
    with pytest.raises((ValueError, RuntimeError)) as caught:
        begin(path)
    return str(caught.value)


# Errors of one process.


def _fails_to_save(folder: Path, where: str) -> tuple[str, list[str], list[int]]:
    """What a save says that fails on one process, what it leaves, and the checkpoints after the next one."""
    checkpoints = CheckpointManager(folder, CheckpointSettings())
    tensors = {f"{i}.{name}": t for i in range(9) for name, t in some_tensors(i).items()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    restore: list[Callable[[], object]] = []
    victim = 0 if where == "rename" else 1
    if rank() == victim:
        if where == "disk":  # a file of more than some bytes cannot be written, as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
            restore.append(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
        else:
            owner, name = {
                "writer": (manager.HuggingFaceStorageWriter, "write_data"),
                "plan": (manager.HuggingFaceStorageWriter, "prepare_local_plan"),
                "checksum": (manager, "_sha256"),
                "rename": (manager, "sync_folder"),
            }[where]
            original = getattr(owner, name)

            def fail(*_args: object) -> object:
                raise OSError("the disk has gone")

            setattr(owner, name, fail)
            restore.append(lambda: setattr(owner, name, original))
    # Where it failed it is what it was; the others are told by the storage or by our own exchange.
    with pytest.raises(OSError if rank() == victim else (OSError, RuntimeError)) as caught:
        checkpoints.save(8, tensors, {})
    found = sorted(path.name for path in folder.glob("images-*"))
    for action in restore:
        action()
    checkpoints.save(16, tensors, {})
    for checkpoint in checkpoints.list():
        checkpoint.verify()
    return str(caught.value), found, [checkpoint.images for checkpoint in checkpoints.list()]


@pytest.mark.parametrize("where", ["disk", "writer", "plan", "checksum", "rename"])
def test_an_error_on_one_process_reaches_all(tmp_path: Path, where: str) -> None:
    """Nobody waits, nothing gets the final name, and the next save is as good as any."""
    for message, left, then in on_processes(2, _fails_to_save, tmp_path, where, limit=40):
        assert "the disk has gone" in message or (where == "disk" and "File too large" in message), message
        assert "\n" not in message
        assert left == []
        assert then == [16]
    assert [path.name for path in tmp_path.iterdir()] == ["images-000000000016"]


# What does not fit.


def _networks(seed: int = 0) -> nn.Module:
    settings = StyleSettings(resolution=8, latent=4, base_width=2, encoder_mapping=1)
    return build(settings, seed)[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def test_networks_come_back_in_place() -> None:
    one, other = _networks(0), _networks(1)
    addresses = [p.data_ptr() for p in other.parameters()]
    restore_network("e", other, network_tensors("e", one))
    assert_same(dict(other.state_dict()), dict(one.state_dict()))
    assert [p.data_ptr() for p in other.parameters()] == addresses


MISFITS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "fewer values, which would be spread": lambda t: t[..., :1] if t.ndim else t.expand(2),
    "more values": lambda t: torch.stack((t, t)),
    "wider type": lambda t: t.double(),
    "narrower type": lambda t: t.bfloat16(),
    "missing": lambda t: None,
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_tensor_of_a_network_that_does_not_fit_is_named(misfit: str) -> None:
    tensors = network_tensors("encoder", _networks())
    name = "encoder.blocks.8.conv1.weight"
    changed = MISFITS[misfit](tensors.pop(name))
    if changed is not None:
        tensors[name] = changed
    with pytest.raises(ValueError) as caught:
        restore_network("encoder", _networks(1), tensors)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def _optimized() -> tuple[nn.Module, torch.optim.Adam, dict[str, Tensor]]:
    network = _networks()
    optimizer = OptimizerSettings().build(network)
    part = network.blocks["8"]  # type: ignore[index,operator]
    for _ in range(3):
        for p in part.parameters():
            p.grad = torch.randn_like(p)
        guarded_step(optimizer, list(part.parameters()), 0.1, None)
    return network, optimizer, snapshot(optimizer_tensors("o", network, optimizer))


def test_optimizers_come_back_and_go_on_the_same() -> None:
    network, optimizer, tensors = _optimized()
    other = _networks(5)
    restore_network("e", other, network_tensors("e", network))
    its = OptimizerSettings().build(other)
    for p in other.parameters():  # what it had before is forgotten
        p.grad = torch.ones_like(p)
    guarded_step(its, list(other.parameters()), 0.0, None)
    restore_optimizer("o", other, its, tensors)
    assert_same(optimizer_tensors("o", other, its), tensors)
    assert {name.split(".", 2)[2].split(".")[1] for name in tensors} == {"8"}
    for one, adam in ((network, optimizer), (other, its)):
        generator = torch.Generator().manual_seed(3)
        for p in one.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        guarded_step(adam, list(one.parameters()), 0.1, None)
    assert_same(dict(other.state_dict()), dict(network.state_dict()))


@pytest.mark.parametrize("entry", ["exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize("misfit", MISFITS)
def test_a_tensor_of_an_optimizer_that_does_not_fit_is_named(entry: str, misfit: str) -> None:
    network, optimizer, tensors = _optimized()
    name = f"o.{entry}.blocks.8.conv1.weight"
    changed = MISFITS[misfit](tensors.pop(name))
    if changed is not None:
        tensors[name] = changed
    with pytest.raises(ValueError) as caught:
        restore_optimizer("o", network, optimizer, tensors)
    assert name in str(caught.value) and "\n" not in str(caught.value)


# Death.


def _saves_for_ever(folder: Path) -> None:
    checkpoints = CheckpointManager(folder, CheckpointSettings())
    tensors = {str(i): torch.full((100, 1000), float(i)) for i in range(10)}
    newest = checkpoints.latest()
    for images in count(newest.images + 1 if newest else 1):
        checkpoints.save(images, tensors, {})


def test_a_killed_save_leaves_nothing_half_written(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path, CheckpointSettings())
    moments = random.Random(0)
    interrupted, newest = 0, 0
    for _ in range(10):
        process = start_process(_saves_for_ever, tmp_path)
        end = time.monotonic() + 60
        while not any(path.name > f"images-{newest:012d}" for path in tmp_path.glob("images-*")):
            assert process.is_alive() and time.monotonic() < end
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        found = checkpoints.list()
        for checkpoint in found:
            checkpoint.verify()
            assert torch.equal(checkpoint.load()["7"], torch.full((100, 1000), 7.0))
        assert found[-1].images > newest
        newest = found[-1].images
        interrupted += any(path.name.startswith(".") for path in tmp_path.iterdir())
    assert interrupted >= 3  # or the moments were badly chosen


def test_death_amid_removal_leaves_nothing_half_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Death(BaseException):
        pass

    def die(path: Path) -> None:
        next(path.iterdir()).unlink()
        raise Death

    checkpoints = CheckpointManager(tmp_path, CheckpointSettings(keep=2))
    checkpoints.save(1, some_tensors(), {})
    checkpoints.save(2, some_tensors(), {})
    with monkeypatch.context() as patched, pytest.raises(Death):
        patched.setattr(manager.shutil, "rmtree", die)
        checkpoints.save(3, some_tensors(), {})
    found = checkpoints.list()
    assert [checkpoint.images for checkpoint in found] == [2, 3]
    for checkpoint in found:
        checkpoint.verify()
    checkpoints.save(4, some_tensors(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images-000000000003", "images-000000000004"]


# Trained networks out of a run.


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ended inside a transition, at the fourth of six steps; the averages lag far behind."""
    path = tmp_path_factory.mktemp("run") / "run"
    train(begin(path, tiny_settings(data, "checkpoint.every=32", "ema.half_life=50", "schedule.blend=0.9")), steps=4)
    return path


def test_load_run_gives_averages_or_live_weights(run: Path) -> None:
    (checkpoint,) = CheckpointManager(RunDirectory(run).checkpoints, CheckpointSettings()).list()
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
    assert trained.stage.blend.item() == pytest.approx(checkpoint.meta["blend"]) and checkpoint.meta["blend"] > 0


def test_load_run_after_the_transition(data: Path, tmp_path: Path) -> None:
    train(begin(tmp_path, tiny_settings(data)))
    assert load_run(tmp_path).stage == Stage(8, None)


def test_load_run_of_nothing_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run"):
        load_run(tmp_path / "nothing")
    RunDirectory(tmp_path / "new").open(tiny_settings(data))
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
    torch.testing.assert_close(samples[6], trained.decoder(z[6:7], trained.stage)[0], rtol=0, atol=1e-5)
    assert not torch.equal(trained.sample(9, seed=4), samples)
    assert not torch.equal(load_run(run, live=True).sample(9, seed=3), samples)


def test_a_reconstruction_does_not_depend_on_the_batch(run: Path) -> None:
    trained = load_run(run)
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = trained.reconstruct(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(trained.reconstruct(x, batch=2), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(trained.reconstruct(x[3:]), whole[3:], rtol=0, atol=1e-5)
