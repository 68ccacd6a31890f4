"""What is particular to DeepSpeed's engines: what a process holds, steps that are not taken, and how it is started."""

import gc
import math
import os
import shutil
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.config.opening import prepare_run
from sivae_dist.engines.base import Update
from sivae_dist.models import Cond, Stage
from sivae_dist.models.style import StyleDecoder, StyleEncoder, StyleSettings
from sivae_dist.process.processes import leave, rank, world_size
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.guard import NonFiniteError
from sivae_dist.train.trainer import Trainer
from tests.engines import ENGINES, Tensors, begun, go_on, with_engine
from tests.helpers import (
    assert_same,
    begin,
    differences,
    gathered,
    on_processes,
    open_run,
    snapshot,
    tiny_settings,
    train,
)

pytestmark = pytest.mark.slow

PLAYERS = ("encoder", "decoder")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("runs") / "run", data)


def copies(run: Path, parent: Path, data: Path, *engines: str) -> list[Path]:
    return [with_engine(run, data, engine, path=parent / engine) for engine in engines]


# What a process holds.


def _with_a_buffer(path: Path) -> None:
    networks = StyleSettings.networks

    def more(settings: StyleSettings) -> tuple[StyleEncoder, StyleDecoder]:
        encoder, decoder = networks(settings)
        decoder.register_buffer("window", torch.full((3,), 2.5))
        decoder.constant_buffers = True
        return encoder, decoder

    StyleSettings.networks = more  # type: ignore[method-assign]
    trainer = train(begin(path), steps=2)
    assert torch.equal(trainer.players.tensors()["decoder.window"], torch.full((3,), 2.5))
    for live in (True, False):
        with trainer.players.whole(live=live) as (_, decoder):
            assert torch.equal(decoder.get_buffer("window"), torch.full((3,), 2.5))
    again = begin(path)
    assert again.images == 16 and torch.equal(gathered(again)["decoder_ema.window"], torch.full((3,), 2.5))
    again.close()


def test_buffers_are_whole_in_every_process(data: Path, tmp_path: Path) -> None:
    path = open_run(tmp_path / "run", data, ENGINES["zero3"], "checkpoint.every=8")
    on_processes(2, _with_a_buffer, path)


def _bytes(tensors: Any) -> int:
    """Of what the tensors keep in memory, each piece of it once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(size for address, size in storages.items() if address)


def _held(paths: list[Path]) -> list[dict[str, int]]:
    """Of each run, bytes that this process holds after two more steps, of both players together, by kind."""
    return [_held_by(train(begin(path), steps=2)) for path in paths]


def _held_by(trainer: Trainer) -> dict[str, int]:
    held = {"weights": 0, "averages": 0, "moments": 0, "gradients": 0, "copies": 0}
    for player in PLAYERS:
        engine: Any = getattr(trainer.players, f"{player}_engine")
        weights = list(engine.network.parameters())
        weights += [p.ds_tensor for p in weights if hasattr(p, "ds_tensor")]
        held["weights"] += _bytes(weights)
        held["copies"] += _bytes([*weights, *getattr(engine, "_flat", [])]) - _bytes(weights)
        held["gradients"] += _bytes([p.grad for p in weights if p.grad is not None])
        held["averages"] += _bytes(engine.ema.module.parameters())
        states = [*engine.optimizer.state.values(), *getattr(engine, "_idle", {}).values()]
        held["moments"] += _bytes([state[moment] for state in states for moment in ("exp_avg", "exp_avg_sq")])
    return held


@pytest.mark.parametrize("count", [2, 4])
def test_what_is_divided_is_held_once_by_all_together(run: Path, data: Path, tmp_path: Path, count: int) -> None:
    """But for the padding of tensors and groups, and for the copy of the weights in use that DeepSpeed's optimizer
    steps; what is not divided is held by every process.

    The second step is past the transition, so that one layer is out of use.
    """
    divided = {
        "ddp": set(), "zero1": {"moments"}, "zero2": {"moments"}, "zero3": {"moments", "weights", "averages"},
    }  # fmt: skip
    paths = copies(run, tmp_path, data, *divided)
    for process in on_processes(count, _held, paths):
        whole = process[0]
        padding = whole["weights"] // 20
        for (name, kinds), held in zip(divided.items(), process, strict=True):
            assert held["gradients"] == 0
            share = 0 if name == "ddp" else whole["weights"] / count
            assert 0.9 * share <= held["copies"] <= share + padding, name
            for kind in ("weights", "averages", "moments"):
                share = whole[kind] / (count if kind in kinds else 1)
                assert share <= held[kind] <= share + padding, (name, kind)


def _re_made(paths: list[Path]) -> list[int]:
    """How much of the engines of a run's past segments is still in memory at its end, for each run."""
    return [len(_survivors(begin(path))) for path in paths]


def _survivors(trainer: Trainer) -> list[Any]:
    past: dict[str, list[weakref.ref[Any]]] = {player: [] for player in PLAYERS}
    gone: list[weakref.ref[Any]] = []
    for player in PLAYERS:
        engine: Any = getattr(trainer.players, f"{player}_engine")

        def prepare(
            *arguments: Any, engine: Any = engine, original: Any = engine.prepare, player: str = player
        ) -> None:
            gone.extend(past[player])
            original(*arguments)
            made = [state["exp_avg"] for state in engine.optimizer.state.values()]
            made += [engine._engine, getattr(engine._engine.optimizer, "parameter_offload", engine._engine.optimizer)]
            past[player] = [weakref.ref(thing) for thing in made]

        engine.prepare = prepare
    train(trainer)
    assert len(gone) >= 4 and all(references for references in past.values())
    return [thing for reference in gone if (thing := reference()) is not None]


def test_nothing_stays_of_an_engine_when_the_next_one_is_made(run: Path, data: Path, tmp_path: Path) -> None:
    paths = copies(run, tmp_path, data, "zero1", "zero3")
    for path in paths:
        for checkpoint in CheckpointFolder(RunDirectory(path).checkpoints).paths():
            shutil.rmtree(checkpoint)
    assert on_processes(2, _re_made, paths) == [[0, 0]] * 2


def _collected_late(path: Path) -> Tensors:
    """What a run holds in which something else keeps each of DeepSpeed's engines for a step longer."""
    trainer = begin(path)
    engines: list[Any] = [trainer.players.encoder_engine, trainer.players.decoder_engine]
    kept: list[Any] = []

    def keep() -> None:
        kept.append([engine._engine for engine in engines])
        del kept[:-2]
        gc.collect()

    train(trainer, after=keep)
    return gathered(trainer)


def test_an_engine_that_is_collected_late_does_no_harm(run: Path, data: Path, tmp_path: Path) -> None:
    late, plain = (with_engine(run, data, "zero1", path=tmp_path / name) for name in ("late", "plain"))
    (want,) = on_processes(2, go_on, [plain])[0]
    assert_same(on_processes(2, _collected_late, late)[0], want)


def _whole(paths: list[Path]) -> list[tuple[dict[str, Any], Tensors]]:
    """Of each run: by kind, what a process is given of both networks, and all that the run holds."""
    results = []
    for path in paths:
        trainer = train(begin(path), steps=1)
        given: dict[str, Any] = {}
        for live in (True, False):
            with trainer.players.whole(live=live, here=rank() == 0) as networks:
                for name, network in zip(PLAYERS, networks, strict=True):
                    state = network.state_dict()
                    given[name if live else f"{name}_ema"] = snapshot(state) if rank() == 0 else None
        held = gathered(trainer)
        z, cond = torch.randn(3, 8), Cond(Stage(8))
        with torch.no_grad(), trainer.players.whole(live=False) as (encoder, decoder):
            given["mu"] = encoder(decoder(z, cond), cond)[0]
        assert_same(gathered(trainer), held)
        results.append((given, held))
    return results


def test_whole_networks(run: Path, data: Path, tmp_path: Path) -> None:
    """They are given where they are asked for, can be run by one process or all, and leave no trace."""
    paths = copies(run, tmp_path, data, "zero1", "zero3")
    for results in on_processes(2, _whole, paths):
        for given, held in results:
            assert given.pop("mu").isfinite().all()
            for kind, state in given.items():
                if state is not None:
                    assert state and all(torch.equal(held[f"{kind}.{name}"], t) for name, t in state.items())
                    assert len(state) == sum(name.startswith(f"{kind}.") for name in held)


# Steps that are not taken.


def _guarded(path: Path) -> tuple[list[str], Tensors]:
    """What is wrong, if anything, with updates of each player that must not move anything; and then a good step."""
    trainer = begin(path)
    calls: dict[str, Any] = {}
    for player in PLAYERS:
        engine: Any = getattr(trainer.players, f"{player}_engine")

        def update(
            inputs: Any, lr: float, allowed: Tensor, player: str = player, original: Any = engine.update
        ) -> Update:
            if player not in calls:
                calls[player] = inputs
                problems.extend(_try(trainer, player, original, inputs, lr, allowed))
            return original(inputs, lr, allowed)  # type: ignore[no-any-return]

        engine.update = update
    problems: list[str] = []
    train(trainer, steps=1)
    assert list(calls) == list(PLAYERS)
    return problems, gathered(trainer)


def _try(trainer: Trainer, player: str, update: Any, inputs: Any, lr: float, allowed: Tensor) -> list[str]:
    last = rank() == world_size() - 1
    engine: Any = getattr(trainer.players, f"{player}_engine")
    before = gathered(trainer)
    wrong = []

    def check(
        what: str, given: Any = inputs, *, permission: Tensor = allowed, norm: bool = False, sound: bool = True
    ) -> None:
        got = update(given, lr, permission)
        said = (bool(got.taken), bool(torch.isfinite(got.norm)), bool(got.sound))
        if said != (False, norm, sound):
            wrong.append(f"{player}, {what}: {said}")

    (x, *rest), *others = inputs
    for value in (math.nan, math.inf):
        spoilt = x.clone()
        spoilt[0, 1, 2, 0] = value
        check(f"images {value}", [(spoilt if last else x, *rest), *others])
        hook = engine.network.blocks["4"].conv2.weight.register_hook(
            lambda g, value=value: g.index_fill(0, torch.tensor([1]), value if last else 0.0)
        )
        check(f"gradient {value}")
        hook.remove()
    check("not allowed", permission=torch.zeros_like(allowed), norm=True)
    states = [state for state in engine.optimizer.state.values() if state]
    for moment in ("exp_avg", "exp_avg_sq"):
        place = states[-1][moment].view(-1)[:1]
        kept = place.clone()
        if last:
            place.fill_(math.nan)
        check(f"{moment} nan", sound=not last)
        place.copy_(kept)
    try:
        assert_same(gathered(trainer), before)
    except AssertionError as error:
        wrong.append(f"{player}: {error} has moved")
    return wrong


@pytest.mark.parametrize(
    ("engine", "more"), [*((engine, ()) for engine in ENGINES), ("zero2", ("engine.offload=true",))]
)
def test_what_is_not_finite_or_not_allowed_moves_nothing(
    run: Path, data: Path, tmp_path: Path, engine: str, more: tuple[str, ...]
) -> None:
    """On any of two processes; the step that follows is the one that would have been taken at once."""
    faulty, sound = (with_engine(run, data, engine, *more, path=tmp_path / name) for name in ("faulty", "sound"))
    results = on_processes(2, _guarded, faulty)
    (want,) = on_processes(2, go_on, [sound], 1)[0]
    for problems, got in results:
        assert not problems
        assert_same(got, want)


def _stopped(path: Path) -> tuple[str, Tensors]:
    trainer = begin(path)
    batches = trainer.data.batches

    def spoilt(requests: Any) -> Any:
        for number, batch in enumerate(batches(requests)):
            if number == 1 and rank() == 1:
                batch.x[0] = math.nan
            yield batch

    trainer.data.batches = spoilt  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError) as caught:
        train(trainer)
    return str(caught.value), gathered(trainer)


def test_guard_stops_the_run(run: Path, data: Path, tmp_path: Path) -> None:
    faulty, sound = (with_engine(run, data, "zero3", path=tmp_path / name) for name in ("faulty", "sound"))
    (want,) = on_processes(2, go_on, [sound], 1)[0]
    for message, got in on_processes(2, _stopped, faulty):
        assert message.startswith("reconstruction/real was not finite at 8 px")
        assert_same(got, want)


@pytest.mark.parametrize("stage", [1, 3])
def test_roll_back_and_go_on(data: Path, tmp_path: Path, stage: int) -> None:
    """A fault that does not come again leaves no trace; also where small weights are whole in every process."""
    engine = f"engine={{name: zero, stage: {stage}}}"
    paths = [tmp_path / name for name in ("faulty", "sound")]
    for path in paths:
        prepare_run(RunDirectory(path), tiny_settings(data, engine, "guard.policy=rollback", "checkpoint.every=16"))
    (got, want), _ = on_processes(2, _rolled_back, *paths)
    assert_same(got, want)


def _rolled_back(faulty: Path, sound: Path) -> tuple[Tensors, Tensors]:
    trainer = begin(faulty)
    batches, spoil = trainer.data.batches, iter([False] * 3 + [True])

    def spoilt(requests: Any) -> Any:
        for batch in batches(requests):
            if next(spoil, False) and rank() == 1:
                batch.x[0] = math.nan
            yield batch

    trainer.data.batches = spoilt  # type: ignore[method-assign]
    train(trainer)
    assert next(spoil, None) is None
    return gathered(trainer), gathered(train(begin(sound)))


@pytest.mark.parametrize("engine", ["zero0", "zero3"])
def test_optimizer_is_reset_when_the_resolution_changes(data: Path, tmp_path: Path, engine: str) -> None:
    prepare_run(RunDirectory(tmp_path / "run"), tiny_settings(data, ENGINES[engine], "schedule.reset_optimizer=true"))
    (got,) = on_processes(2, go_on, [tmp_path / "run"])[0]
    for name, tensor in got.items():
        if "_optim.step." in name:
            assert tensor == (2 if "rgb.4" in name else 4), name


# Precision, and how it is started.


def test_bf16_is_that_of_ddp(data: Path, tmp_path: Path) -> None:
    """From equal state, one step of each is as near to DDP's as its own rounding, and one in fp32 is not."""
    settings = ("optimizer.eps=1e-5", "engine.precision=bf16")
    run = begun(tmp_path / "run", data, *settings)
    paths = [with_engine(run, data, engine, *settings) for engine in ENGINES]
    for engine in ("ddp", "zero3"):  # a run itself would not let its precision be changed
        paths.append(with_engine(run, data, engine, *settings, path=tmp_path / f"fp32-{engine}"))
        config = RunDirectory(paths[-1]).config
        config.write_text(config.read_text().replace("precision: bf16", "precision: fp32"))
    want, *results = on_processes(2, go_on, paths, 1)[0]
    names = [name for name in want if "_optim.exp_avg." in name]

    def moments(tensors: Tensors) -> Tensor:
        return torch.cat([tensors[name].flatten() / tensors[name].norm() for name in names])

    others = [torch.linalg.vector_norm(moments(got) - moments(want)).item() for got in results]
    *bf16, fp32, zero_in_fp32 = others
    assert max(bf16) < 0.1 * min(fp32, zero_in_fp32), others
    assert {tensor.dtype for tensor in want.values()} == {torch.float32}


def _started(path: Path, data: Path, extensions: Path) -> list[str]:
    os.environ |= {"TORCH_EXTENSIONS_DIR": str(extensions), "PATH": ""}
    with warnings.catch_warnings(record=True) as caught:
        for stage in (2, 3):
            train(begin(path / str(stage), tiny_settings(data, ENGINES[f"zero{stage}"])))
            leave()
    return [str(warning.message) for warning in caught if "deepspeed" in str(warning.message).lower()]


def test_it_compiles_nothing_and_waits_for_no_build(data: Path, tmp_path: Path) -> None:
    """A build that was killed left its lock, on which another would wait for ever; and there is no compiler."""
    lock = tmp_path / "extensions" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    (found,) = on_processes(1, _started, tmp_path / "runs", data, tmp_path / "extensions", limit=200, fresh=True)
    assert found == []
    assert [path.name for path in (tmp_path / "extensions").rglob("*")] == ["deepspeed_shm_comm", "lock"]


def test_offload_takes_the_same_step(data: Path, tmp_path: Path) -> None:
    """In parts, and with the gradient cut, which DeepSpeed does in other code then. Where everything is on the CPU
    anyway, this shows no more. The form of the layers stays one, since gradients that are rounding alone differ."""
    settings = ("optimizer.eps=1e-5", "engine.max_batch_per_rank=1", "optimizer.clip=1e-3", "engine.kernels=plain")
    run = begun(tmp_path / "run", data, *settings)
    paths = []
    for stage in (1, 2, 3):
        plain = with_engine(run, data, f"zero{stage}", *settings)
        paths += [plain, with_engine(run, data, f"zero{stage}", *settings, "engine.offload=true", path=plain / "other")]
    results = on_processes(2, go_on, paths, 1)[0]
    for want, got in zip(results[::2], results[1::2], strict=True):
        for name, difference in differences(got, want).items():
            assert difference <= (1e-4 if "_optim." in name else 1e-6), name
