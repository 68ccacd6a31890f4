"""How a step is taken: on one process or many, in parts or at once, in which precision, compiled or not."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data_pipelines.dataset import Batch
from sivae_dist.engines import ddp
from sivae_dist.engines.settings import DdpSettings
from sivae_dist.models.layers import Conv2d
from sivae_dist.objectives import (
    DecoderObjective,
    DecoderTurn,
    Distance,
    EncoderObjective,
    EncoderTurn,
    elbo,
)
from sivae_dist.objectives.soft_intro import SoftIntroDecoderObjective, SoftIntroEncoderObjective
from sivae_dist.process.processes import rank, world_size
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.optimizer import Ema, EmaSettings, OptimizerSettings, guarded_step
from sivae_dist.train.trainer import NonFiniteError, Trainer
from tests.helpers import (
    assert_same,
    begin,
    disturb,
    largest_difference,
    on_processes,
    open_run,
    snapshot,
    tiny_settings,
    train,
)

STEPS = 6
"""Of tiny_settings: 2 at 4 px, 2 in transition to 8 px, 2 at 8 px."""


def test_turns(data: Path, tmp_path: Path) -> None:
    """An update gives the objective's turns, one per micro-batch, without the graphs of their losses."""
    trainer = begin(tmp_path / "run", tiny_settings(data, "engine.max_batch_per_rank=4"))
    found: dict[str, list[Any]] = {}
    players = trainer.players
    for name, engine in (("encoder", players.encoder_engine), ("decoder", players.decoder_engine)):

        def update(*args: Any, name: str = name, update: Any = engine.update) -> Any:
            result = update(*args)
            found[name] = result.turns
            return result

        engine.update = update  # type: ignore[method-assign]
    train(trainer, steps=1)
    assert len(found["encoder"]) == len(found["decoder"]) == 2
    for kind, (name, turns) in zip((EncoderTurn, DecoderTurn), found.items(), strict=True):
        for turn in turns:
            assert type(turn) is kind
            assert torch.equal(turn.loss, turn.terms[f"loss/{name}"]) and not turn.loss.requires_grad
    assert all(turn.crossing.shape == (4, 8) for turn in found["encoder"])


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """Parameters of both networks, of those that are averaged too."""
    return {name: t.double() for name, t in trainer.players.tensors().items() if "_optim." not in name}


# Parts of a batch, and processes.


def test_parts_are_equal_and_as_few_as_the_limit_allows() -> None:
    for limit, share, parts in [(None, 8, 1), (8, 8, 1), (4, 8, 2), (3, 8, 4), (1, 8, 8), (5, 7, 7), (99, 7, 1)]:
        assert DdpSettings(max_batch_per_rank=limit).parts(share, 8) == parts


@pytest.mark.parametrize(("limit", "parts"), [(4, 2), (3, 4)])
def test_accumulation_equals_one_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, parts: int
) -> None:
    calls: Counter[type] = Counter()
    for kind in (SoftIntroEncoderObjective, SoftIntroDecoderObjective):
        forward = kind.forward

        def counted(self: nn.Module, *args: Any, _forward: Any = forward, _kind: type = kind) -> Any:
            calls[_kind] += 1
            return _forward(self, *args)

        monkeypatch.setattr(kind, "forward", counted)
    settings = ("engine.precision=fp64", "objective.style_mixing=0.9", "optimizer.eps=1e-6")
    whole = train(disturb(begin(tmp_path / "whole", tiny_settings(data, *settings))), steps=3)
    assert set(calls.values()) == {3}
    divided = begin(tmp_path / "divided", tiny_settings(data, *settings, f"engine.max_batch_per_rank={limit}"))
    train(disturb(divided), steps=3)
    assert set(calls.values()) == {3 + 3 * parts}
    assert largest_difference(weights(divided), weights(whole)) <= 1e-12


def _train_here(path: Path) -> dict[str, Tensor]:
    return weights(train(disturb(begin(path))))


@pytest.mark.slow
def test_number_of_processes_changes_nothing(data: Path, tmp_path: Path) -> None:
    results = {}
    for count in (1, 2, 4):
        path = open_run(tmp_path / str(count), data, "engine.precision=fp64")
        results[count], *others = on_processes(count, _train_here, path)
        for other in others:
            assert_same(other, results[count])
    for count in (2, 4):
        assert largest_difference(results[count], results[1]) <= 1e-9


def _communicated(path: Path) -> list[tuple[str, int, bool, Counter[str], set[str]]]:
    """For each update: player, resolution, blending, how often each parameter was sent, and which are in use."""
    sent: Counter[str] = Counter()
    trainer = begin(path)
    names = {
        id(p): f"{player}.{name}"
        for player, network in (("encoder", trainer.players.encoder), ("decoder", trainer.players.decoder))
        for name, p in network.named_parameters()
    }

    def hook(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        sent.update(names[id(p)] for p in bucket.parameters())
        assert bucket.buffer().numel() == sum(p.numel() for p in bucket.parameters())
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    class Watched(DistributedDataParallel):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.register_comm_hook(None, hook)

    ddp.DistributedDataParallel = Watched  # type: ignore[misc]
    updates = []
    engines = {"encoder": trainer.players.encoder_engine, "decoder": trainer.players.decoder_engine}
    for player, engine in engines.items():
        update = engine.update

        def watched(*args: Any, _player: str = player, _update: Any = update) -> Any:
            sent.clear()
            result = _update(*args)
            segment = trainer._segment
            assert segment is not None
            network: Any = getattr(trainer.players, _player)
            parts = network.parts_in_use(segment.resolution, segment.blending)
            in_use = {names[id(p)] for part in parts for p in part.parameters()}
            updates.append((_player, segment.resolution, segment.blending, Counter(sent), in_use))
            return result

        engine.update = watched  # type: ignore[method-assign]
    train(trainer)
    return updates


@pytest.mark.parametrize("limit", [4, 2])
def test_only_the_players_parameters_in_use_are_communicated(data: Path, tmp_path: Path, limit: int) -> None:
    """Once an update, however many parts it has; twice in a segment's first, whose first backward is discarded."""
    path = open_run(tmp_path / "run", data, f"engine.max_batch_per_rank={limit}")
    for updates in on_processes(2, _communicated, path):
        assert len(updates) == 2 * STEPS
        seen = set()
        for player, resolution, blending, sent, in_use in updates:
            first = (player, resolution, blending) not in seen
            seen.add((player, resolution, blending))
            assert sent == dict.fromkeys(in_use, 2 if first else 1)
            assert all(name.startswith(f"{player}.") for name in sent)
        assert len(seen) == 6


# Precision.


class _Types(TorchDispatchMode):
    """The types of every tensor that any operation gives, and of those of convolutions and their backward."""

    def __init__(self) -> None:
        super().__init__()
        self.all: set[torch.dtype] = set()
        self.convolutions: dict[str, set[torch.dtype]] = defaultdict(set)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        found = {t.dtype for t in tree_leaves(result) if isinstance(t, Tensor)}
        self.all |= found
        if "convolution" in function.__name__:
            self.convolutions[function.__name__.split(".")[0]] |= found
        return result


@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, inside: torch.dtype
) -> None:
    """bf16 is that of convolutions in both networks, forward and backward; losses and everything kept is fp32."""
    trainer = begin(tmp_path / "run", tiny_settings(data, f"engine.precision={precision}"))
    by_network: dict[str, set[torch.dtype]] = defaultdict(set)
    outputs: dict[type, set[torch.dtype]] = defaultdict(set)
    error_types: set[torch.dtype] = set()

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, EncoderObjective | DecoderObjective):
            outputs[type(module)] |= {t.dtype for t in tree_leaves(output)}
        elif isinstance(module, Distance):
            error_types.update({output.dtype, *(a.dtype for a in args)})
        elif isinstance(module, Conv2d):
            who = "encoder" if any(module is m for m in trainer.players.encoder.modules()) else "decoder"
            by_network[who].add(output.dtype)

    original = elbo.kl_divergence

    def watched(*args: Tensor) -> Tensor:
        result = original(*args)
        error_types.update({result.dtype, *(a.dtype for a in args)})
        return result

    monkeypatch.setattr(elbo, "kl_divergence", watched)
    handle = nn.modules.module.register_module_forward_hook(watch)
    try:
        with _Types() as types:
            train(trainer)
    finally:
        handle.remove()
    assert by_network["encoder"] == by_network["decoder"] == {inside}
    assert types.convolutions["convolution"] == types.convolutions["convolution_backward"] == {inside}
    assert outputs[SoftIntroEncoderObjective] == outputs[SoftIntroDecoderObjective] == {torch.float32}
    assert error_types == {torch.float32}
    assert {t.dtype for t in trainer.players.tensors().values()} == {torch.float32}
    assert (torch.bfloat16 in types.all) == (precision == "bf16")


def test_fp64_is_everywhere(data: Path, tmp_path: Path) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data, "engine.precision=fp64"))
    with _Types() as types:
        train(trainer, steps=3)
    assert types.convolutions["convolution"] == types.convolutions["convolution_backward"] == {torch.float64}
    assert {t.dtype for name, t in trainer.players.tensors().items() if "_optim.step." not in name} == {torch.float64}


# Steps that are not taken.


class _Fault:
    """Makes one value of what one process sees in its fourth step not finite."""

    def __init__(self, trainer: Trainer, where: str, value: float) -> None:
        self.trainer, self.where, self.value = trainer, where, value
        self.before: dict[str, Tensor] = {}
        self.now = False
        self.batches = trainer.data.batches
        trainer.data.batches = self._batches  # type: ignore[method-assign]
        if where != "images":
            network = getattr(trainer.players, where)
            network.blocks["4"].conv2.weight.register_hook(self._gradient)

    @property
    def _hits(self) -> bool:
        return self.now and rank() == world_size() - 1

    def _batches(self, requests: Any) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches(requests)):
            if number == 3:
                self.before = snapshot(self.trainer.players.tensors())
                self.now = True
                if self._hits and self.where == "images":
                    batch.x[1, 2, 3, 1] = self.value
            yield batch

    def _gradient(self, gradient: Tensor) -> Tensor:
        if not self._hits:
            return gradient
        gradient = gradient.clone()
        gradient[0, 1, 2, 0] = self.value
        return gradient


def _faulty(path: Path, where: str, value: float) -> tuple[str, int, dict[str, Tensor], dict[str, Tensor]]:
    """What is said, how many images the run has seen, and all tensors before the step and after it."""
    trainer = begin(path)
    fault = _Fault(trainer, where, value)
    with pytest.raises(NonFiniteError) as caught:
        train(trainer)
    return str(caught.value), trainer.images, fault.before, snapshot(trainer.players.tensors())


@pytest.mark.parametrize(
    ("where", "value"), [("images", math.nan), ("images", math.inf), ("encoder", math.inf), ("decoder", math.nan)]
)
def test_what_is_not_finite_on_one_process_stops_all_and_reaches_no_weight(
    data: Path, tmp_path: Path, where: str, value: float
) -> None:
    path = open_run(tmp_path / "run", data)
    for message, images, before, after in on_processes(2, _faulty, path, where, value):
        assert "8 px" in message
        assert "objective.beta_neg" in message and "optimizer.clip" in message
        assert images == 3 * 8  # the step that failed does not count
        if where == "decoder":  # by then the encoder has taken its own step
            assert all(t.isfinite().all() for t in after.values())
            before, after = (
                {name: t for name, t in tensors.items() if name.startswith("decoder")} for tensors in (before, after)
            )
        assert_same(after, before)
    assert not list(RunDirectory(path).checkpoints.glob("images-*"))


def test_what_is_not_finite_is_named(data: Path, tmp_path: Path) -> None:
    message = _faulty(open_run(tmp_path / "run", data), "images", math.nan)[0]
    assert message.startswith("reconstruction/real was not finite at 8 px")


def _stepped(value: float, *, times: int = 1, clip: float | None = None) -> tuple[nn.Linear, Adam, Tensor]:
    """A layer after two good steps, and after `times` more in which one gradient is `value`."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    optimizer = OptimizerSettings().build(layer.parameters())
    norm = torch.zeros(())
    for step in range(2 + times):
        for p in layer.parameters():
            p.grad = torch.linspace(-1, 1, p.numel()).view_as(p)
        if step >= 2:
            assert layer.bias.grad is not None
            layer.bias.grad[1] = value
        norm, stepped = guarded_step(optimizer, list(layer.parameters()), 0.1, clip)
        assert bool(stepped) == (step < 2 or math.isfinite(value))
    return layer, optimizer, norm


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_guarded_step_leaves_everything_when_a_gradient_is_not_finite(value: float, clip: float | None) -> None:
    layer, optimizer, _ = _stepped(0.0, times=0, clip=clip)
    other, other_optimizer, norm = _stepped(value, times=2, clip=clip)
    assert not math.isfinite(norm)
    for p, q in zip(layer.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == other_optimizer.state[q].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert other_optimizer.state[q]["step"] == 2
        assert all(torch.equal(optimizer.state[p][key], other_optimizer.state[q][key]) for key in optimizer.state[p])
    # The next good step is taken as if nothing had been.
    for one, its in ((layer, optimizer), (other, other_optimizer)):
        for p in one.parameters():
            p.grad = torch.ones_like(p)
        guarded_step(its, list(one.parameters()), 0.1, clip)
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), other.parameters(), strict=True))
    assert all(other_optimizer.state[q]["step"] == 3 for q in other.parameters())


@pytest.mark.parametrize("clip", [None, 0.5, 100.0])
def test_guarded_step_is_adam(clip: float | None) -> None:
    """Against Kingma & Ba's formulas, with the rate of each step and the gradient cut to the largest norm."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    ours = OptimizerSettings(beta1=0.8, beta2=0.95, eps=1e-6, clip=clip)
    optimizer = ours.build(layer.parameters())
    p = torch.cat([q.detach().flatten() for q in layer.parameters()])
    m = v = torch.zeros_like(p)
    for t, lr in enumerate((0.1, 0.03, 0.2), start=1):
        gradients = [torch.randn_like(q) for q in layer.parameters()]
        for q, gradient in zip(layer.parameters(), gradients, strict=True):
            q.grad = gradient.clone()
        norm, _ = guarded_step(optimizer, list(layer.parameters()), lr, ours.clip)
        g = torch.cat([gradient.flatten() for gradient in gradients])
        assert norm.item() == pytest.approx(g.norm().item(), rel=1e-12)  # before it is cut
        if clip is not None:
            g = g * min(1.0, clip / g.norm().item())
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        p = p - lr * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-6)
        got = torch.cat([q.detach().flatten() for q in layer.parameters()])
        # torch divides by norm + 1e-6 when it clips
        torch.testing.assert_close(got, p, rtol=1e-9 if clip is None else 1e-5, atol=1e-9 if clip is None else 1e-6)


def test_guarded_step_leaves_parameters_without_gradient_alone() -> None:
    layer = nn.Linear(2, 2)
    before = snapshot(layer.state_dict())
    optimizer = OptimizerSettings().build(layer.parameters())
    layer.weight.grad = torch.ones_like(layer.weight)
    guarded_step(optimizer, list(layer.parameters()), 0.1, None)
    assert torch.equal(layer.bias, before["bias"]) and layer.bias not in optimizer.state
    assert not torch.equal(layer.weight, before["weight"])


# Averages.


def test_ema_has_the_half_life_it_says() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    ema = Ema(EmaSettings(half_life=300), model)
    average = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    for images in (32, 64, 1, 300, 1000, 8):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        ema.update(model, images)
        keep = 2.0 ** (-images / 300)
        for name, p in model.named_parameters():
            average[name] = keep * average[name] + (1 - keep) * p.detach().numpy()
            torch.testing.assert_close(
                dict(ema.module.named_parameters())[name], torch.from_numpy(average[name]), rtol=1e-13, atol=1e-13
            )
    assert not any(p.requires_grad for p in ema.parameters())


def test_ema_is_bit_for_bit_torchs_own() -> None:
    """Which it was, before it left the count of steps on the device alone."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Conv2d(7, 9, 3).double())
    ema = Ema(EmaSettings(half_life=300), model)
    torchs = AveragedModel(model, multi_avg_fn=lambda a, b, _: torch._foreach_lerp_(a, b, ema.share(32)))
    torchs.n_averaged += 1
    for _ in range(5):
        with torch.no_grad():
            for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
                tensor.add_(torch.randn_like(tensor))
        ema.update(model, 32)
        torchs.update_parameters(model)
    assert_same(ema.module.state_dict(), torchs.module.state_dict())


def test_ema_does_not_depend_on_the_batch() -> None:
    """Many small steps towards the same weights move it as far as a large one."""
    results = []
    for batches in ([64], [32, 32], [1] * 64):
        model = nn.Linear(1, 1).double()
        nn.init.zeros_(model.weight)
        ema = Ema(EmaSettings(half_life=64), model)
        nn.init.ones_(model.weight)
        for images in batches:
            ema.update(model, images)
        results.append(ema.module.weight.item())
    assert results == pytest.approx([0.5] * 3, abs=1e-12)


def test_ema_follows_training(data: Path, tmp_path: Path) -> None:
    """By the batch of each phase, of both networks."""
    trainer = begin(tmp_path / "run", tiny_settings(data, "schedule.batch={4: 8, 8: 16}", "engine.precision=fp64"))
    want = {name: snapshot(getattr(trainer.players, name).state_dict()) for name in ("encoder", "decoder")}
    batches = iter([8, 8, 16, 16])

    def follow() -> None:
        keep = 2.0 ** (-next(batches) / 20)
        for name, average in want.items():
            for key, tensor in getattr(trainer.players, name).state_dict().items():
                average[key] = keep * average[key] + (1 - keep) * tensor

    train(trainer, after=follow)
    for name, average in want.items():
        got = getattr(trainer.players, f"{name}_ema").module.state_dict()
        live = getattr(trainer.players, name).state_dict()
        for key in average:
            torch.testing.assert_close(got[key], average[key], rtol=1e-12, atol=1e-12)
        assert any(not torch.equal(got[key], live[key]) for key in live)
    assert next(batches, None) is None


# The optimizer's state, and who is trained.


@pytest.mark.parametrize(("reset", "counts"), [(True, [1, 2, 1, 2, 3, 4]), (False, [1, 2, 3, 4, 5, 6])])
def test_optimizer_is_reset_when_the_resolution_changes_and_then_only(
    data: Path, tmp_path: Path, reset: bool, counts: list[int]
) -> None:
    """Not when the transition ends. Counted by Adam's own steps of a parameter that is always in use."""
    trainer = begin(tmp_path / "run", tiny_settings(data, f"schedule.reset_optimizer={str(reset).lower()}"))
    seen: dict[str, list[int]] = {"encoder": [], "decoder": []}
    of_4_px: list[bool] = []

    def after() -> None:
        for name, steps in seen.items():
            network, engine = getattr(trainer.players, name), getattr(trainer.players, f"{name}_engine")
            steps.append(int(engine.optimizer.state[network.mapping.layers[0].weight]["step"]))
        weight = trainer.players.decoder.to_rgb["4"].weight  # in use up to the transition's end
        of_4_px.append(weight in trainer.players.decoder_engine.optimizer.state)

    train(trainer, after=after)
    assert seen == {"encoder": counts, "decoder": counts}
    assert all(of_4_px)


def test_each_player_moves_its_own_parameters_in_use_and_leaves_no_gradient(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data))
    networks = {"encoder": trainer.players.encoder, "decoder": trainer.players.decoder}
    turns = itertools.cycle(["encoder", "decoder"])
    before = {name: snapshot(network.state_dict()) for name, network in networks.items()}
    taken = 0

    def step(optimizer: Adam, parameters: list[nn.Parameter], *args: Any) -> tuple[Tensor, Tensor]:
        nonlocal taken, before
        name = next(turns)
        segment = trainer._segment
        assert segment is not None and optimizer is getattr(trainer.players, f"{name}_engine").optimizer
        in_use = {
            id(p)
            for part in networks[name].parts_in_use(segment.resolution, segment.blending)
            for p in part.parameters()
        }
        assert {id(p) for p in parameters} == in_use
        for other, network in networks.items():
            for p in network.parameters():
                mine = other == name and id(p) in in_use
                assert p.requires_grad == mine
                assert (p.grad is not None) == mine
        norm, stepped = guarded_step(optimizer, parameters, *args)
        assert stepped
        for other, network in networks.items():
            for key, p in network.named_parameters():
                # A new block has no influence at the start of its transition.
                if (other == name and id(p) in in_use) is torch.equal(p, before[other][key]):
                    assert other == name and segment.blending and ".8." in key, (key, taken)
        before = {name: snapshot(network.state_dict()) for name, network in networks.items()}
        taken += 1
        return norm, stepped

    monkeypatch.setattr(ddp, "guarded_step", step)
    train(trainer)
    assert taken == 2 * STEPS
    for module in (
        trainer.players.encoder,
        trainer.players.decoder,
        trainer.players.encoder_ema,
        trainer.players.decoder_ema,
    ):
        assert all(p.grad is None for p in module.parameters())
