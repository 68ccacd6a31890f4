"""What a new run starts from: another run's networks, exported weights, or the seed."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sivae_dist.checkpoint.initial import initial_tensors
from sivae_dist.checkpoint.settings import InitSettings
from sivae_dist.config.opening import prepare_run, settings_of
from sivae_dist.run.directory import RunDirectory
from sivae_dist.use.loading import load_run
from tests.helpers import assert_same, begin, on_processes, random_set, snapshot, tiny_settings, train

NETWORKS = ("encoder.", "decoder.", "encoder_ema.", "decoder_ema.")


@pytest.fixture(scope="module")
def other(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints after 16, 32 and 48 images."""
    path = tmp_path_factory.mktemp("other") / "run"
    train(begin(path, tiny_settings(data, "checkpoint.every=16", "checkpoint.keep=9")))
    return path


def checkpoint(run: Path, images: int) -> Path:
    return RunDirectory(run).checkpoints / f"images-{images:012d}"


def saved(path: Path) -> dict[str, Tensor]:
    """A checkpoint's networks and averages, by safetensors alone."""
    files = [load_file(file) for file in path.glob("*.safetensors")]
    return {name: t for file in files for name, t in file.items() if name.startswith(NETWORKS)}


def started(path: Path, data: Path, *assignments: str) -> tuple[int, dict[str, Tensor]]:
    """Where a run begins, and with what."""
    trainer = begin(path, tiny_settings(data, *assignments))
    trainer.close()
    return trainer.images, snapshot(trainer.players.tensors())


def content(folder: Path) -> dict[str, tuple[int, str]]:
    """Of everything in it: when it was changed, and its hash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, digest)
    return found


def spoil(path: Path) -> None:
    file = next(path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def assert_bits(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """The values, however they lie in memory."""
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name


# Another run.


@pytest.mark.parametrize("images", [None, 16])
def test_a_run_starts_from_another_or_from_one_of_its_checkpoints(
    data: Path, tmp_path: Path, other: Path, images: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its networks and averages and nothing else; the other run stays as it is."""
    before = content(other)
    source, meant = (other, checkpoint(other, 48)) if images is None else (checkpoint(other, images),) * 2
    start, tensors = started(tmp_path / "run", data, f"init.run={source}", "seed=7")
    assert start == 0
    assert_bits(tensors, saved(meant))  # so there is no optimizer state either
    assert not torch.equal(tensors["encoder.mapping.layers.0.weight"], tensors["encoder_ema.mapping.layers.0.weight"])
    assert f"weights from {meant}" in capsys.readouterr().out
    assert content(other) == before


def test_a_run_that_starts_from_another_trains_from_the_beginning(data: Path, tmp_path: Path, other: Path) -> None:
    """Through all phases, with its own seed, and another length and rate."""
    settings = tiny_settings(data, f"init.run={other}", "seed=7", "schedule.lr_encoder=0.001", "schedule.images=16")
    trainer = train(begin(tmp_path / "run", settings))
    assert trainer.images == 32
    tensors = trainer.players.tensors()
    assert int(tensors["encoder_optim.step.mapping.layers.0.weight"]) == 4
    moved = saved(checkpoint(other, 48))
    assert not torch.equal(tensors["encoder.mapping.layers.0.weight"], moved["encoder.mapping.layers.0.weight"])


def test_several_processes_start_from_the_same(data: Path, tmp_path: Path, other: Path) -> None:
    prepare_run(RunDirectory(tmp_path / "run"), tiny_settings(data, f"init.run={other}"))
    for images, tensors in on_processes(2, _started_again, tmp_path / "run"):
        assert images == 0
        assert_bits(tensors, saved(checkpoint(other, 48)))


def _started_again(path: Path) -> tuple[int, dict[str, Tensor]]:
    trainer = begin(path)
    trainer.close()
    return trainer.images, snapshot(trainer.players.tensors())


def test_a_damaged_checkpoint_of_the_other_run_is_passed_over_and_left_where_it_is(
    data: Path, tmp_path: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(other, source)
    spoil(checkpoint(source, 48))
    before = content(source)
    start, tensors = started(tmp_path / "run", data, f"init.run={source}")
    assert start == 0
    assert_bits(tensors, saved(checkpoint(other, 32)))
    told = capsys.readouterr().out
    assert f"weights from {checkpoint(source, 32)}" in told
    assert f"checkpoint {checkpoint(source, 48)}: " in told and "is damaged" in told
    assert content(source) == before


def _gone(source: Path) -> Path:
    return source.with_name("nowhere")


def _file(source: Path) -> Path:
    return source / "config.yaml"


def _no_checkpoint(source: Path) -> Path:
    shutil.rmtree(source / "checkpoints")
    return source


def _empty(source: Path) -> Path:
    (source / "empty").mkdir()
    return source / "empty"


def _parent(source: Path) -> Path:
    return source / "checkpoints"


def _damaged(source: Path) -> Path:
    spoil(checkpoint(source, 32))
    return checkpoint(source, 32)


def _incomplete(source: Path) -> Path:
    next(checkpoint(source, 32).glob("*.safetensors")).unlink()
    return checkpoint(source, 32)


def _no_manifest(source: Path) -> Path:
    (checkpoint(source, 32) / "manifest.json").write_text("{")
    return checkpoint(source, 32)


def _all_damaged(source: Path) -> Path:
    for path in (source / "checkpoints").iterdir():
        spoil(path)
    return source


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_gone, "does not exist"),
        (_file, "neither a run nor one of its checkpoints"),
        (_no_checkpoint, "has no checkpoint"),
        (_empty, "neither a run nor one of its checkpoints"),
        (_parent, "neither a run nor one of its checkpoints"),
        (_damaged, "is damaged"),
        (_incomplete, "is missing"),
        (_no_manifest, "manifest.json cannot be read"),
        (_all_damaged, "is damaged"),
    ],
)
def test_what_is_no_sound_run_or_checkpoint_is_refused_by_name(
    data: Path, tmp_path: Path, other: Path, make: Callable[[Path], Path], what: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(other, source)
    path = make(source)
    before = content(source)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{re.escape(what)}"):
        initial_tensors(InitSettings(run=path))
    with pytest.raises(ValueError, match=re.escape(what)):
        begin(tmp_path / "run", tiny_settings(data, f"init.run={path}"))
    assert content(source) == before


# Weights.


def exported(other: Path, path: Path) -> dict[str, Tensor]:
    """The averaged networks in a file of their own, as from load_run."""
    pretrained = load_run(other)
    tensors = {
        f"{name}.{key}": tensor.contiguous()
        for name, network in (("encoder", pretrained.encoder), ("decoder", pretrained.decoder))
        for key, tensor in network.state_dict().items()
    }
    save_file(tensors, path)
    return tensors


def test_a_run_starts_from_exported_weights(
    data: Path, tmp_path: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of which the averages begin as copies."""
    weights = exported(other, tmp_path / "weights.safetensors")
    start, tensors = started(tmp_path / "run", data, f"init.weights={tmp_path / 'weights.safetensors'}")
    assert start == 0
    copies = {name.replace("coder.", "coder_ema.", 1): tensor for name, tensor in weights.items()}
    assert_bits(tensors, weights | copies)
    averages = {name: t for name, t in saved(checkpoint(other, 48)).items() if "_ema." in name}
    assert_bits({name: tensors[name] for name in averages}, averages)
    assert f"weights from {tmp_path / 'weights.safetensors'}" in capsys.readouterr().out


def test_averages_in_the_file_are_taken_over(data: Path, tmp_path: Path, other: Path) -> None:
    both = saved(checkpoint(other, 32))
    save_file(both, tmp_path / "weights.safetensors")
    _, tensors = started(tmp_path / "run", data, f"init.weights={tmp_path / 'weights.safetensors'}")
    assert_bits(tensors, both)


NAME = "decoder.blocks.8.conv2.weight"


@pytest.mark.parametrize("kind", ["missing", "shape", "type"])
@pytest.mark.parametrize("setting", ["weights", "run"])
def test_weights_that_do_not_fit_are_refused_by_name(
    data: Path, tmp_path: Path, other: Path, setting: str, kind: str
) -> None:
    """A tensor that is missing or of another shape or type; of a run, because its settings are others."""
    assignments: list[str] = []
    if setting == "run":
        source, name = other, "encoder.from_rgb.4.weight"
        if kind == "missing":
            large = random_set(tmp_path / "large", resolution=16)
            name, assignments = "encoder.from_rgb.16.weight", [f"data.path={large}", "model.resolution=16"]
        # Half the width at twice the size leaves the blocks that both have as they are.
        assignments += ["engine.precision=fp64" if kind == "type" else "model.base_width=2", "schedule.images=16"]
    else:
        source, name = tmp_path / "weights.safetensors", NAME
        tensors = exported(other, source)
        if kind == "missing":
            del tensors[name]
        else:
            tensors[name] = tensors[name][:, 1:].contiguous() if kind == "shape" else tensors[name].double()
        save_file(tensors, source)
    what = {"missing": "has no tensor {}", "shape": r"{} is \[", "type": "{} is torch.float"}[kind]
    with pytest.raises(ValueError, match=what.format(re.escape(name))):
        begin(tmp_path / "run", tiny_settings(data, f"init.{setting}={source}", *assignments))


@pytest.mark.parametrize("bytes_", [None, b"", b"not safetensors"])
def test_a_file_without_weights_is_refused_by_name(data: Path, tmp_path: Path, bytes_: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if bytes_ is not None:
        path.write_bytes(bytes_)
    with pytest.raises(ValueError, match=f"^init.weights: {re.escape(str(path))} cannot be read"):
        begin(tmp_path / "run", tiny_settings(data, f"init.weights={path}"))


# Which of them.


def test_a_run_and_weights_cannot_both_be_given(data: Path) -> None:
    with pytest.raises(ValueError, match=r"init.run and init.weights cannot both be given"):
        tiny_settings(data, "init.run=a", "init.weights=b")


def test_without_either_the_seed_decides(data: Path, tmp_path: Path, other: Path) -> None:
    assert initial_tensors(InitSettings()) is None
    _, first = started(tmp_path / "first", data)
    _, again = started(tmp_path / "again", data)
    _, another = started(tmp_path / "another", data, "seed=1")
    assert_same(first, again)
    assert not torch.equal(first[NAME], another[NAME])
    assert not torch.equal(first[NAME], saved(checkpoint(other, 48))[NAME])


@pytest.mark.parametrize("setting", ["run", "weights"])
def test_a_run_of_its_own_checkpoint_goes_on_from_there(data: Path, tmp_path: Path, other: Path, setting: str) -> None:
    """Whether or not what it once began with is still there; and without a kill it would have ended the same."""
    source = tmp_path / "source"
    if setting == "run":
        shutil.copytree(other, source)
    else:
        exported(other, source)
    settings = tiny_settings(data, f"init.{setting}={source}", "checkpoint.every=16", "checkpoint.keep=9")
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    want = train(begin(straight, settings)).players.tensors()
    train(begin(broken, settings), steps=3)
    shutil.rmtree(source) if setting == "run" else source.unlink()
    trainer = begin(broken, settings)
    assert trainer.images == 16
    assert any("_optim." in name for name in trainer.players.tensors())
    assert_bits(
        {n: t for n, t in trainer.players.tensors().items() if n.startswith(NETWORKS)}, saved(checkpoint(straight, 16))
    )
    assert_same(train(trainer).players.tensors(), want)


@pytest.mark.parametrize("change", ["init.run=null", "init.run=elsewhere", "init.weights=elsewhere"])
def test_another_beginning_is_refused_once_the_run_has_a_checkpoint(
    data: Path, tmp_path: Path, other: Path, change: str
) -> None:
    path = tmp_path / "run"
    train(begin(path, tiny_settings(data, f"init.run={other}")))
    changed = [change] if "run" in change else [change, "init.run=null"]
    with pytest.raises(ValueError, match=re.escape(change.partition("=")[0])):
        prepare_run(RunDirectory(path), tiny_settings(data, *changed))
    assert settings_of(RunDirectory(path)).init.run == other
