"""One checkpoint: what is saved comes back bit for bit, and what is damaged, half written or foreign is not taken."""

import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sivae_dist.checkpoint import Checkpoint, CheckpointFolder, DamagedError
from sivae_dist.checkpoint.state import (
    fill_network,
    network_tensors,
    optimizer_tensors,
    restore_network,
    restore_optimizer,
)
from sivae_dist.checkpoint.writing import share
from sivae_dist.config.opening import prepare_run
from sivae_dist.models.style import StyleSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.optimizer import OptimizerSettings, guarded_step
from tests.checkpoints import contents, flip, names, safetensors, saved, saver_of, shard, some_tensors
from tests.helpers import assert_same, begin, on_processes, snapshot, start_process, tiny_settings, trained

# Saving and loading on any number of processes.


def _resumed(path: Path) -> tuple[int, dict[str, Tensor]]:
    trainer = begin(path)
    trainer.close()
    return trainer.images, snapshot(trainer.players.tensors())


@pytest.mark.slow
@pytest.mark.parametrize("saving", [1, 2, 3])
def test_any_number_of_processes_reads_what_any_number_has_saved(data: Path, tmp_path: Path, saving: int) -> None:
    path = tmp_path / "run"
    prepare_run(RunDirectory(path), tiny_settings(data, "schedule.batch=6", "schedule.images={4: 12, 8: 24}"))
    want, *others = on_processes(saving, trained, path)
    for other in others:
        assert_same(other, want)
    moments = [t for name, t in want.items() if name.startswith("encoder_optim.exp_avg.") and t.ndim == 4]
    assert any(not t.is_contiguous() for t in moments)  # as the weights lie: channels last
    for loading in (1, 2):
        for images, loaded in on_processes(loading, _resumed, path):
            assert images == 36
            assert_same(loaded, want)
    (checkpoint,) = CheckpointFolder(RunDirectory(path).checkpoints).readable()
    checkpoint.verify()
    assert set(checkpoint.names()) == want.keys()
    assert {name.split(".")[0] for name in want} == {
        f"{network}{kind}" for network in ("encoder", "decoder") for kind in ("", "_ema", "_optim")
    }
    # Safetensors and JSON, no pickle; every process has written its share, and each tensor is written once.
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    assert contents(checkpoint.path).keys() == {"manifest.json", *manifest["files"]}
    assert names(RunDirectory(path).checkpoints) == [checkpoint.path.name]
    shares, sizes = [], []
    for process in range(saving):
        mine = [name for name in manifest["files"] if name.startswith(f"shard-{process + 1:05d}-")]
        assert mine and all(name.endswith(".safetensors") for name in mine)
        shares += [list(safetensors((checkpoint.path / name).read_bytes())[0]) for name in mine]
        sizes.append(sum(want[name].nbytes for name in shares[-1]))
    assert len(shares) == len(manifest["files"]) and all(shares)
    assert sorted(name for share in shares for name in share) == sorted(want)
    assert max(sizes) <= 1.01 * min(sizes)
    for name, record in manifest["files"].items():
        content = (checkpoint.path / name).read_bytes()
        assert record == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    for name, tensor in want.items():
        assert manifest["tensors"][name] == {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
    assert manifest["images"] == 36
    assert manifest["world_size"] == saving


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_shares_are_all_tensors_once_and_as_equal_as_these_allow(parts: int) -> None:
    sizes = [9_000, *random.Random(parts).choices((0, 1, 7, 100), k=200)]
    tensors = {f"t{k}": torch.zeros(size, dtype=torch.uint8) for k, size in enumerate(sizes)}
    shares = share(tensors, parts)
    assert sorted(name for part in shares for name in part) == sorted(tensors)
    loads = [sum(tensors[name].nbytes for name in part) for part in shares]
    assert max(loads) == max(9_000, -(-sum(sizes) // parts)), loads
    assert shares == share(dict(reversed(tensors.items())), parts)  # every process finds the same


def test_more_processes_than_tensors(tmp_path: Path) -> None:
    on_processes(3, _saves_one, tmp_path)
    checkpoint = Checkpoint.read(tmp_path / "images-000000000008")
    checkpoint.verify()
    assert list(checkpoint.manifest["files"]) == ["shard-00001-model-00001-of-00001.safetensors"]
    assert torch.equal(checkpoint.load()["one"], torch.arange(5.0))


def _saves_one(folder: Path) -> None:
    saver = saver_of(folder)
    saver.save(8, {"one": torch.arange(5.0)}, None)
    saver.wait()
    saver.check()


def test_every_type_comes_back(tmp_path: Path) -> None:
    tensors = some_tensors() | {
        "d": torch.tensor(True),
        "e": torch.arange(-3, 3),
        "f": torch.tensor([float("nan"), float("inf"), -0.0]),
        "g": torch.empty(0, dtype=torch.float64),
    }
    saver = saver_of(tmp_path)
    saver.save(8, tensors, None)
    saver.close()
    loaded = Checkpoint.read(saver.folder.final(8)).load()
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert loaded[name].flatten().view(torch.uint8).equal(tensor.flatten().view(torch.uint8))


def test_prefixes_choose_what_is_read(tmp_path: Path) -> None:
    loaded = Checkpoint.read(saved(tmp_path, 5)).load(("b.", "nothing."))
    assert loaded.keys() == {"b.weight", "b.part"}
    assert all(torch.equal(loaded[name], some_tensors(5)[name]) for name in loaded)


def _without(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "b.part"}, file)


def _with_another(tensor: Tensor) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (file,) = folder.glob("*.safetensors")
        save_file(load_file(file) | {"b.part": tensor}, file)

    return change


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda f: shard(f).unlink(), "No such file"),
    "cut": (lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-1]), "rror"),
    "empty": (lambda f: shard(f).write_bytes(b""), "rror"),
    "of less": (_without, "b.part is not as manifest.json has it"),
    "of another shape": (_with_another(torch.zeros(6, 3)), "b.part is not as manifest.json has it"),
    "of another type": (_with_another(torch.zeros(6, 2).double()), "b.part is not as manifest.json has it"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_not_as_the_manifest_says_is_not_loaded(tmp_path: Path, kind: str) -> None:
    """After it was verified, or where nobody has."""
    damage, message = UNREADABLE[kind]
    folder = saved(tmp_path, 8)
    damage(folder)
    with pytest.raises(ValueError, match=f"^checkpoint {re.escape(str(folder))} cannot be read: ") as caught:
        Checkpoint.read(folder).load()
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("blank", [False, True])
def test_networks_are_filled_with_copies(tmp_path: Path, blank: bool) -> None:
    settings = StyleSettings(resolution=8, latent=4, base_width=4, max_width=4)
    encoder, _ = settings.build(1)
    saver = saver_of(tmp_path)
    saver.save(8, network_tensors("encoder", encoder), None)
    saver.close()
    checkpoint = Checkpoint.read(saver.folder.final(8))
    filled, _ = settings.shapes() if blank else settings.build(2)
    fill_network("encoder", filled, checkpoint.load())
    shard(checkpoint.path).write_bytes(bytes(shard(checkpoint.path).stat().st_size))  # in place, under what is mapped
    assert_same(snapshot(dict(filled.state_dict())), snapshot(dict(encoder.state_dict())))
    with pytest.raises(ValueError, match="the checkpoint has no tensor decoder"):
        fill_network("decoder", settings.shapes()[1], {})


def test_nothing_is_written_over(tmp_path: Path) -> None:
    saved(tmp_path, 8)
    before = contents(tmp_path)
    saver = saver_of(tmp_path)
    saver.save(8, some_tensors(1), None)
    with pytest.raises(ValueError, match="exists already"):
        saver.wait()
    assert contents(tmp_path) == before
    assert names(tmp_path) == ["images-000000000008"]
    saver.save(16, some_tensors(1), None)
    saver.close()
    Checkpoint.read(saver.folder.final(16)).verify()


def test_only_tensors_are_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a\.step is not a tensor"):
        saver_of(tmp_path).save(8, some_tensors() | {"a.step": 7}, None)  # type: ignore[arg-type]
    assert names(tmp_path) == []


# Damage.


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte of a tensor": (lambda f: flip(shard(f), -1), "safetensors is damaged"),
    "flipped byte of a header": (lambda f: flip(shard(f), 30), "safetensors is damaged"),
    "short file": (lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-1]), "safetensors is damaged"),
    "long file": (lambda f: shard(f).write_bytes(shard(f).read_bytes() + b"\0"), "safetensors is damaged"),
    "empty file": (lambda f: shard(f).write_bytes(b""), "safetensors is damaged"),
    "missing file": (lambda f: shard(f).unlink(), "safetensors is missing"),
    "folder for file": (lambda f: _folder_at(shard(f)), "safetensors cannot be read"),
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
    "manifest of nothing": (lambda f: (f / "manifest.json").write_text('{"format": 1}'), "manifest.json"),
}


def _folder_at(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    damage, message = DAMAGES[kind]
    folder = saved(tmp_path, 8)
    Checkpoint.read(folder).verify()
    damage(folder)
    with pytest.raises(DamagedError) as caught:
        Checkpoint.read(folder).verify()
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("parts", [2, 3])
def test_each_part_of_a_verification_looks_at_its_own_files(tmp_path: Path, parts: int) -> None:
    on_processes(parts, saved, tmp_path, 8)
    checkpoint = Checkpoint.read(tmp_path / "images-000000000008")
    for damaged in checkpoint.path.glob("*.safetensors"):
        flip(damaged, -1)
        found = []
        for part in range(parts):
            try:
                checkpoint.verify(part, parts)
            except DamagedError as error:
                found.append(str(error))
        assert len(found) == 1 and damaged.name in found[0]
        flip(damaged, -1)
    checkpoint.verify()


def test_another_version_is_no_damage(tmp_path: Path) -> None:
    (saved(tmp_path, 8) / "manifest.json").write_text('{"format": 99}')
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="has format 99") as caught:
        CheckpointFolder(tmp_path).newest_valid()
    assert not isinstance(caught.value, DamagedError)
    assert contents(tmp_path) == before


def test_a_flipped_bit_anywhere_in_the_manifest_is_damage(tmp_path: Path) -> None:
    path = saved(tmp_path, 8) / "manifest.json"
    missed = []
    for at in range(path.stat().st_size):
        flip(path, at, bit := 1 << at % 7)
        try:
            Checkpoint.read(path.parent).verify()
        except DamagedError:
            pass
        except Exception as error:
            missed.append((at, repr(error)))
        else:
            missed.append((at, "unnoticed"))
        flip(path, at, bit)
    assert not missed, f"{len(missed)} of {path.stat().st_size}, such as {missed[:: max(1, len(missed) // 9)]}"


# What does not fit.


def _networks(seed: int = 0) -> nn.Module:
    settings = StyleSettings(resolution=8, latent=4, base_width=2, encoder_mapping=1)
    return settings.build(seed)[0].to(memory_format=torch.channels_last)


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
    optimizer = OptimizerSettings().build(network.parameters())
    part = cast(nn.ModuleDict, network.blocks)["8"]
    for _ in range(3):
        for p in part.parameters():
            p.grad = torch.randn_like(p)
        guarded_step(optimizer, list(part.parameters()), 0.1, None)
    return network, optimizer, snapshot(optimizer_tensors("o", network, optimizer))


def test_optimizers_come_back_and_go_on_the_same() -> None:
    network, optimizer, tensors = _optimized()
    other = _networks(5)
    restore_network("e", other, network_tensors("e", network))
    its = OptimizerSettings().build(other.parameters())
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
    saver = saver_of(folder)
    tensors = {str(i): torch.full((100, 1000), float(i)) for i in range(10)}
    found = saver.folder.readable()
    for images in count(found[-1].images + 1 if found else 1):
        saver.save(images, tensors, None)


@pytest.mark.slow
def test_a_killed_save_leaves_nothing_half_written(tmp_path: Path) -> None:
    moments = random.Random(0)
    interrupted, newest, rounds = 0, 0, 0
    while rounds < 10 or interrupted < 3:  # however fast the disk is
        assert rounds < 50, "the moments are badly chosen"
        process = start_process(_saves_for_ever, tmp_path)
        end = time.monotonic() + 60
        while not any(path.name > f"images-{newest:012d}" for path in tmp_path.glob("images-*")):
            assert process.is_alive() and time.monotonic() < end
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        while rounds % 2 and not any(tmp_path.glob(".tmp-images-*")):
            assert process.is_alive() and time.monotonic() < end
        process.kill()
        process.join()
        found = CheckpointFolder(tmp_path).readable()
        assert [checkpoint.path for checkpoint in found] == CheckpointFolder(tmp_path).paths()
        for checkpoint in found:
            checkpoint.verify()
            assert torch.equal(checkpoint.load()["7"], torch.full((100, 1000), 7.0))
        assert found[-1].images > newest
        newest = found[-1].images
        interrupted += any(path.name.startswith(".") for path in tmp_path.iterdir())
        rounds += 1


def test_leftovers_are_never_listed_and_removed_by_the_next_save(tmp_path: Path) -> None:
    complete = saved(tmp_path, 8)
    for name in (".tmp-images-000000000016", ".trash-images-000000000004", ".tmp-images-000000000024"):
        (tmp_path / name).mkdir()
        for file in complete.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    folder = CheckpointFolder(tmp_path)
    assert folder.paths() == [complete]
    assert folder.newest_valid() == (Checkpoint.read(complete), [])
    saved(tmp_path, 16)
    assert names(tmp_path) == ["images-000000000008", "images-000000000016"]
    for checkpoint in folder.readable():
        checkpoint.verify()


def test_death_amid_removal_leaves_nothing_half_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Death(BaseException):
        pass

    def die(path: Path) -> None:
        next(path.iterdir()).unlink()
        raise Death

    saved(tmp_path, 1, 2, keep=2)
    with monkeypatch.context() as patched, pytest.raises(Death):
        patched.setattr(shutil, "rmtree", die)
        saved(tmp_path, 3, keep=2)
    found = CheckpointFolder(tmp_path).readable()
    assert [checkpoint.images for checkpoint in found] == [2, 3]
    for checkpoint in found:
        checkpoint.verify()
    saved(tmp_path, 4, keep=2)
    assert names(tmp_path) == ["images-000000000003", "images-000000000004"]
