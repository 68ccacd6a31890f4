"""Runs of models whose encoder sees another image of the class: from the data set to the weights."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipelines.dataset import SAME_CLASS, Batch, Replaced, Request, SampleError
from data_pipelines.images.pairs import Pairs
from launch.plan.preflight import preflight
from launch.steps import Stepper
from sivae_dist.config.imports import import_all
from sivae_dist.config.opening import settings_of
from sivae_dist.models import MODELS
from sivae_dist.models.stage import Cond, Stage, blend_real
from sivae_dist.objectives import Draws
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.step.quarantine import Quarantine
from sivae_dist.train.memory import estimate
from sivae_dist.train.tracing import micro_batch
from tests.engines import go_on, with_engine
from tests.helpers import (
    CPU,
    assert_same,
    begin,
    labelled_set,
    largest_difference,
    on_processes,
    open_run,
    tiny_settings,
    train,
    trained,
)
from tests.prepared import replace_image

OWN = Path(__file__).with_name("my_pairs.py")
PAIRED = (f"imports=[{OWN}]", "model.name=paired", "monitoring.trace=true")
EXACT = ("engine.precision=fp64", "optimizer.eps=1e-5")
TOGETHER = ("true", "false")


@pytest.fixture(scope="module", autouse=True)
def added() -> Iterator[None]:
    """Other tests see our own list alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODELS, "_kinds", dict(MODELS))
        import_all([str(OWN)])
        yield


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of three classes; 4 px are arrays, 8 px tars."""
    return labelled_set(tmp_path_factory.mktemp("pairs") / "set", array_max_resolution=4)


def trace(path: Path) -> bytes:
    return (path / "trace.jsonl").read_bytes()


# What the networks see.


@pytest.mark.parametrize("together", TOGETHER)
def test_another_image_beside_real_ones_and_itself_elsewhere(labelled: Path, tmp_path: Path, together: str) -> None:
    """In the warm-up and after it, in transitions and outside of them; the decoder of my_pairs.py refuses any."""
    more = ("monitoring.images_every=16", "engine.max_batch_per_rank=4", "objective.warmup=8")
    trainer = begin(open_run(tmp_path / "run", labelled, *PAIRED, f"model.together={together}", *more))
    encoder = trainer.players.encoder
    assert encoder.concatenates == (together == "true")
    seen: dict[str, list[Tensor]] = {"content": [], "class_": []}
    for name, passes in seen.items():
        getattr(encoder, name).register_forward_pre_hook(lambda _m, args, passes=passes: passes.append(args[0].clone()))
    train(trainer)
    with settings_of(RunDirectory(tmp_path / "run")).data.open(0, CPU) as data:
        places = [(0, 4), (8, 4), (16, 8), (24, 8), (32, 8), (40, 8)]
        batches = list(data.batches(Request(place, 8, side, (SAME_CLASS,)) for place, side in places))
    blends = {place: trainer.schedule.step_at(place).blend for place, side in places if side == 8}
    assert 0 < blends[24] < 1 == blends[40]
    real, others = _all(batches, "x", blends), _all(batches, SAME_CLASS, blends)
    pairs = list(zip(seen["content"], seen["class_"], strict=True))
    of_steps = [(own, other) for own, other in pairs if len(own) <= 8]  # those of a preview have 16
    found = [(own, other) for own, other in of_steps if not torch.equal(own, other)]
    assert [len(own) for own, _ in found] == [4] * 12
    for (own, other), want, want_other in zip(found, real, others, strict=True):
        assert torch.equal(own, want) and torch.equal(other, want_other)
    # Each of the ten micro-batches after the warm-up: X_r and X_f, by the encoder's objective and by the decoder's.
    alone = [own for own, other in of_steps if torch.equal(own, other)]
    assert [len(own) for own in alone] == ([8] * 20 if together == "true" else [4] * 40)
    assert any(len(own) == 16 for own, _ in pairs)


def _all(batches: list[Batch], name: str, blends: dict[int, float]) -> list[Tensor]:
    """Micro-batches of x or a further input, as networks see them."""
    found = []
    for batch in batches:
        x = batch.x if name == "x" else batch.extra[name]
        blend = blends.get(batch.position, 1.0)
        found += list((x if blend == 1 else blend_real(x, torch.tensor(blend))).split(4))
    return found


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("objective", ["soft_intro", "intro", "vae"])
def test_gradients_through_the_other_image_are_those_of_real_ones(objective: str, together: str) -> None:
    chosen = {"soft_intro": (), "intro": ("objective={name: intro, margin: 9}",), "vae": ("objective={name: vae}",)}
    settings = tiny_settings(
        Path("none"), *PAIRED, f"model.together={together}", "model.noise=false", *chosen[objective]
    )
    encoder, decoder = settings.model.build(0)
    first, second = settings.objective.build(encoder, decoder, 8, settings.model.dimensions)
    x, other, changed = torch.rand(3, 4, 3, 8, 8) * 2 - 1
    draws = Draws(z=torch.randn(4, 8), eps=torch.randn(4, 3, 8))
    other.requires_grad_(True)
    turn = first(x, Cond(Stage(8), extra={SAME_CLASS: other}), draws)
    turn.loss.backward()
    assert other.grad is not None and other.grad.abs().sum() > 0
    used = dict(encoder.class_.named_parameters())["from_rgb.8.weight"]
    assert used.grad is not None and used.grad.abs().sum() > 0
    again = first(x, Cond(Stage(8), extra={SAME_CLASS: changed}), draws)
    assert again.terms["kl/real"] != turn.terms["kl/real"]
    if objective != "vae":
        assert torch.equal(again.terms["kl/fake"], turn.terms["kl/fake"])  # X_f is of no class and of no pair
    mine, others = (
        second(x, turn.crossing, Cond(Stage(8), extra={SAME_CLASS: one}), draws) for one in (other, changed)
    )
    assert torch.equal(mine.loss, others.loss)
    assert torch.autograd.grad(mine.loss, other, allow_unused=True) == (None,)


def test_conditions_are_divided_with_their_images() -> None:
    other = torch.arange(12.0).reshape(6, 2)
    cond = Cond(Stage(8), torch.arange(6), extra={SAME_CLASS: other})
    parts = cond.split(2, 3)
    assert torch.equal(torch.cat([part.extra[SAME_CLASS] for part in parts]), other)
    assert torch.equal(parts[1].extra[SAME_CLASS], other[2:4]) and parts[1].label.tolist() == [2, 3]  # type: ignore[union-attr]
    assert [part.extra for part in Cond(Stage(8)).split(2, 3)] == [{}] * 3
    assert cond.twice().extra == {} == cond.of_generated().extra and cond.twice().label.tolist() == [*range(6)] * 2  # type: ignore[union-attr]
    assert cond.extra.keys() == {SAME_CLASS}


# The same run, however it is taken.


def test_a_killed_run_ends_with_the_same_bits(labelled: Path, tmp_path: Path) -> None:
    straight, killed = (
        open_run(tmp_path / name, labelled, *PAIRED, f"checkpoint.every={every}")
        for name, every in (("straight", 0), ("killed", 16))
    )
    trained(killed, steps=3)
    assert begin(killed).images == 16
    assert_same(trained(killed), trained(straight))
    assert trace(killed) == trace(straight)
    assert len({row[SAME_CLASS] for row in read_rows(straight / "trace.jsonl")}) > 24


@pytest.mark.parametrize("change", [("data.loader=dali",), ("data.threads=3", "data.prefetch=1")])
def test_loaders_and_threads_are_of_no_account(labelled: Path, tmp_path: Path, change: tuple[str, ...]) -> None:
    if "data.loader=dali" in change:
        pytest.importorskip("nvidia.dali")
    one, other = (open_run(tmp_path / str(k), labelled, *PAIRED, *more) for k, more in enumerate(((), change)))
    assert_same(trained(other), trained(one))
    assert trace(other) == trace(one)


def test_micro_batches_keep_pairs_together(labelled: Path, tmp_path: Path) -> None:
    whole, parts = (
        open_run(tmp_path / size, labelled, *PAIRED, *EXACT, f"engine.max_batch_per_rank={size}") for size in ("8", "2")
    )
    assert 0 < largest_difference(trained(parts, disturbed=True), trained(whole, disturbed=True)) < 1e-9
    assert trace(parts) == trace(whole)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(labelled: Path, tmp_path: Path) -> None:
    one, two = (open_run(tmp_path / name, labelled, *PAIRED, *EXACT) for name in ("one", "two"))
    want, (got, other) = trained(one, disturbed=True), on_processes(2, trained, two, None, True)
    assert_same(got, other)
    assert 0 < largest_difference(got, want) < 1e-9
    assert trace(two) == trace(one)


@pytest.mark.slow
def test_zero_learns_what_ddp_does(labelled: Path, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", labelled, *PAIRED, "checkpoint.every=8", "optimizer.eps=1e-5")
    trained(run, steps=3, disturbed=True)
    engines = ("ddp", "zero2", "zero3")
    paths = [with_engine(run, labelled, engine, *PAIRED, "optimizer.eps=1e-5") for engine in engines]
    ddp, *zeros = on_processes(2, go_on, paths, 1)[0]
    for zero in zeros:
        assert any("class_" in name for name in zero) and ddp.keys() == zero.keys()
        for name, tensor in ddp.items():
            limit = 2e-5 if "_optim." in name else 1e-6
            assert largest_difference({name: zero[name]}, {name: tensor}) <= limit, name


def test_the_trace_notices_a_wrong_pair(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = (open_run(tmp_path / name, labelled, *PAIRED) for name in ("right", "wrong"))
    before, at = trained(right), Pairs.at

    def one_wrong(self: Pairs, position: int, samples: Any) -> Any:
        others, flips = at(self, position, samples)
        if position == 24:
            members = np.flatnonzero(self.labels == self.labels[samples[2]])
            others[2] = next(one for one in members if one not in (others[2], samples[2]))
        return others, flips

    monkeypatch.setattr(Pairs, "at", one_wrong)
    assert largest_difference(trained(wrong), before) > 1e-3
    rows = [read_rows(run / "trace.jsonl") for run in (right, wrong)]
    differing = [(a["position"], {key for key in a if a[key] != b[key]}) for a, b in zip(*rows, strict=True) if a != b]
    assert differing == [(26, {SAME_CLASS})]


# Before a run, and beside it.


def test_what_asks_for_pairs_needs_labels(data: Path, labelled: Path, tmp_path: Path) -> None:
    message = (
        rf"^{re.escape(str(data))} has no labels, but the model's class encoder .* or set model\.class_from=itself$"
    )
    with pytest.raises(ValueError, match=message):
        preflight(tiny_settings(data, *PAIRED), 1)
    with pytest.raises(ValueError, match=message):
        begin(open_run(tmp_path / "run", data, *PAIRED))
    trained(open_run(tmp_path / "itself", data, *PAIRED, "model.class_from=itself"), steps=1)
    assert SAME_CLASS not in read_rows(tmp_path / "itself" / "trace.jsonl")[0]
    assert preflight(tiny_settings(labelled, *PAIRED), 1).warnings == []


def test_a_class_of_one_image_is_warned_of(tmp_path: Path) -> None:
    root = labelled_set(tmp_path / "set", samples=8)
    manifest = (root / "manifest.json").read_text()
    labels = np.load(root / "labels.npy")
    assert labels.tolist().count(2) == 2 and "cat" in manifest
    few = labelled_set(tmp_path / "few", samples=5)
    (warning,) = preflight(tiny_settings(few, *PAIRED), 1).warnings
    assert warning.startswith(f"1 of the 3 classes of {few} have") and warning.endswith(": cat")
    assert preflight(tiny_settings(few, *PAIRED, "model.class_from=itself"), 1).warnings == []
    assert preflight(tiny_settings(root, *PAIRED), 1).warnings == []


@pytest.mark.slow
def test_rehearsals_and_counts_have_the_other_image(labelled: Path, tmp_path: Path) -> None:
    runs = {
        name: open_run(tmp_path / name, labelled, *PAIRED, f"engine.rehearsal={name}", "engine.max_batch_per_rank=2")
        for name in ("none", "step")
    }
    trainer = begin(runs["step"])
    shapes: list[tuple[int, ...]] = []
    hook = trainer.players.encoder.register_forward_pre_hook(
        lambda _m, args: shapes.extend(x.shape for x in args[1].extra.values())
    )
    trainer.iteration.take = lambda *_: hook.remove() or 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    trainer.close()
    assert shapes == [(2, 3, 8, 8)] * 2
    assert_same(trained(runs["step"]), trained(runs["none"]))
    another, itself = (tiny_settings(labelled, *PAIRED, f"model.class_from={which}") for which in ("another", "itself"))
    a, b = (estimate(one, 8, True, 4, 1, share=8) for one in (another, itself))
    assert a.inputs - b.inputs == 8 * 2 * 3 * 8 * 8 * 4 and a.flops == b.flops
    for one, names in ((another, {SAME_CLASS}), (itself, set())):
        x, cond, _ = micro_batch(one, trainer.players.decoder, 8, True, 4)
        assert cond.extra.keys() == names and all(some.shape == x.shape for some in cond.extra.values())


def test_steps_of_benchmarks_have_it() -> None:
    stepper = Stepper(tiny_settings(Path("none"), *PAIRED, "objective.style_mixing=0"), CPU, 8, blending=True)
    extra = stepper.cond(4).extra
    assert extra.keys() == {SAME_CLASS} and extra[SAME_CLASS].shape == (4, 3, 8, 8)
    assert not torch.equal(extra[SAME_CLASS], blend_real(stepper.images(4), stepper.stage.blend))
    assert stepper.step(stepper.images(4), stepper.draws(4))["taken"]


# Damage.


@pytest.mark.slow
def test_a_damaged_other_is_counted_and_reported(labelled: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(labelled, tmp_path / "set"))
    replace_image(root, b"no image", row=3, name="0008/shard-00001.tar")
    # A single sample is always allowed, however often it would have been the other of a pair.
    quarantine = ("data.faults=quarantine", "data.max_faults=0", "checkpoint.every=16")
    totals = []
    for steps in ((None,), (3, 2, None)):
        path = open_run(tmp_path / str(len(steps)), root, *PAIRED, *quarantine)
        for count in steps:
            trainer = begin(path)
            told: list[str] = []
            trainer.monitor.say = told.append  # type: ignore[method-assign]
            train(trainer, count)
        totals.append(trainer.quarantine.state())
    assert totals[0] == totals[1] and trace(tmp_path / "1") == trace(tmp_path / "3")
    assert totals[0]["total"] > totals[0]["in_epoch"] == 1
    fatal = open_run(tmp_path / "fatal", root, *PAIRED)
    with pytest.raises(SampleError, match=r"0008/shard-00001\.tar key \d+ \(sample 10\)"):
        train(begin(fatal))


def test_the_limit_is_of_samples_that_stand_there_themselves(labelled: Path) -> None:
    with tiny_settings(labelled, "data.faults=quarantine", "data.max_faults=0.1").data.open(0, CPU) as data:
        quarantine = Quarantine(data)
    nothing = torch.zeros(0)
    both = [Replaced(place, 10, "sample 10", extra) for place in (0, 1) for extra in (None, SAME_CLASS)]
    for replaced in (both, both[1:2] * 30):
        quarantine.vote(Batch(nothing, None, 0, tuple(replaced)))
        quarantine.check()
    assert quarantine.state() == {"total": 34, "epoch": 0, "in_epoch": 2}
    quarantine.vote(Batch(nothing, None, 0, (Replaced(2, 11, "sample 11"),)))
    with pytest.raises(SampleError, match="3 of 24 training samples"):
        quarantine.check()
