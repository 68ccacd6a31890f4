"""What is not finite never reaches the weights, wherever it comes from; and what each policy makes of it."""

import math
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from data_pipelines.dataset import Batch
from sivae_dist.checkpoint.writing import write
from sivae_dist.process.processes import rank, world_size
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.step.guard import Guard, GuardSettings, NonFiniteError
from sivae_dist.step.schedule import Schedule, ScheduleSettings
from sivae_dist.train.trainer import Trainer
from tests.helpers import CPU, assert_same, begin, on_processes, open_run, snapshot, tiny_settings, train, trained

SKIP = ("guard.policy=skip",)
ROLLBACK = ("guard.policy=rollback", "checkpoint.every=16", "checkpoint.background=false")
"""With checkpoints after steps 2, 4 and 6 of 6."""
REMEDIES = ("guard.policy=rollback", "init.run", "objective.beta_neg", "lr_encoder", "lr_decoder", "optimizer.clip=1")
STATE = ("exp_avg", "exp_avg_sq")


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32)


def assert_unchanged(after: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    """Bit for bit, whether finite or not; the optimizer's state of parameters that are new is that of a beginning."""
    assert before.keys() <= after.keys()
    for name, tensor in after.items():
        assert torch.equal(bits(tensor), bits(before.get(name, torch.zeros_like(tensor)))), name


def of(network: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a network has: weights, averages and moments."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith((f"{network}.", f"{network}_"))}


def without_averages(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "_ema." not in name}


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not tensor.isfinite().all()]


STEP = Schedule(ScheduleSettings(images=16, batch=8), [4, 8], 24).step_at(0)


class Fault:
    """Makes one value not finite in some steps of a run.

    `place`: `data`; `encoder` or `decoder` (a feature map of that network); `loss`; `loss alone` (whose gradient stays
    finite); `gradient`; `exp_avg` or `exp_avg_sq` of Adam. `player`: in whose update, or of whose network. `steps`: in
    which steps, from 1, by their place in the run. `times`: how often at most. On the last process only.
    """

    def __init__(
        self, trainer: Trainer, place: str, player: str, value: float, steps: Container[int], times: int = 99
    ) -> None:
        self.trainer, self.place, self.player, self.value = trainer, place, player, value
        self.steps, self.times = steps, times
        self.fired = 0
        """Steps in which it has struck."""
        self.before: dict[str, Tensor] = {}
        """All tensors before the last of these, with what has been done to the optimizer's state."""
        self.bad: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        """All tensors before and after each of these that ended without an error."""
        self._now = False
        self._turn = ""
        self._batches, self._told = trainer.data.batches, trainer.monitor.step
        trainer.data.batches = self.batches  # type: ignore[method-assign]
        trainer.monitor.step = self.told  # type: ignore[method-assign]
        for name in ("encoder", "decoder"):
            self._follow(name, getattr(trainer.players, f"{name}_engine"))
        if place in ("encoder", "decoder"):
            getattr(trainer.players, place).blocks["4"].conv2.register_forward_hook(self.output)
        self._weight: nn.Parameter = getattr(trainer.players, player).blocks["4"].conv2.weight
        if place == "gradient":
            self._weight.register_hook(self.spoilt)

    def batches(self, requests: Any) -> Iterator[Batch]:
        """Before every step."""
        position = self.trainer.images
        for batch in self._batches(requests):
            step = self.trainer.schedule.step_at(position)
            number, position = position // 8 + 1, step.end
            self._now = number in self.steps and self.fired < self.times
            if self._now:
                self.fired += 1
                if self.place in STATE and self._hits:
                    engine = getattr(self.trainer.players, f"{self.player}_engine")
                    engine.optimizer.state[self._weight][self.place][-1, 1, -1, 0] = self.value
                self.before = snapshot(self.trainer.players.tensors())
            yield batch._replace(x=self.spoilt(batch.x)) if self.place == "data" else batch

    def told(self, step: Any) -> None:
        """After every step."""
        if self._now:
            self.bad.append((self.before, snapshot(self.trainer.players.tensors())))
            self._now = False
        self._told(step)

    def _follow(self, name: str, engine: Any) -> None:
        update, prepare = engine.update, engine.prepare

        def turn(*args: Any) -> Any:
            self._turn = name
            return update(*args)

        def watched(objective: nn.Module, *args: Any) -> None:
            if "loss" in self.place:
                objective.register_forward_hook(self.loss)
            prepare(objective, *args)

        engine.update, engine.prepare = turn, watched

    @property
    def _hits(self) -> bool:
        return self._now and rank() == world_size() - 1

    def spoilt(self, x: Tensor) -> Tensor:
        if not self._hits:
            return x
        x = x.clone()
        x[-1, 1, -1, 0] = self.value
        return x

    def output(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return self.spoilt(output) if self._turn == self.player else output

    def loss(self, _module: nn.Module, _inputs: object, output: Any) -> Any:
        if self._turn != self.player or not self._hits:
            return output
        loss = output.loss + self.value if self.place == "loss alone" else output.loss * self.value
        return output._replace(loss=loss, terms=output.terms | {f"loss/{self.player}": loss.detach()})


TRANSIENT = [
    ("data", "encoder"),
    ("encoder", "encoder"),
    ("decoder", "encoder"),
    ("encoder", "decoder"),
    ("decoder", "decoder"),
    ("loss", "encoder"),
    ("loss", "decoder"),
    ("gradient", "encoder"),
    ("gradient", "decoder"),
]
LASTING = [(place, player) for place in STATE for player in ("encoder", "decoder")]


def culprit(place: str, player: str) -> str:
    """What is to be named: the first that was not finite."""
    if place in STATE:
        return f"the optimizer's state of the {player}"
    if place in ("loss", "loss alone", "gradient"):
        return f"{place.removesuffix(' alone')}/{player}"
    return "reconstruction/real" if player == "encoder" else "loss/decoder"


def assert_step_not_taken(
    before: dict[str, Tensor], after: dict[str, Tensor], place: str, player: str, *, hit: bool = True
) -> None:
    """A bad step changes nothing; the encoder, which comes first, has taken its own when only the decoder's is bad.

    `hit`: whether it was this process that the fault struck.
    """
    odd = [f"{player}_optim.{place}.blocks.4.conv2.weight"] if place in STATE and hit else []
    assert not_finite(before) == not_finite(after) == odd
    assert_unchanged(of("decoder", after), of("decoder", before))
    if player == "encoder":
        assert_unchanged(of("encoder", after), of("encoder", before))
    else:
        assert any(not torch.equal(after[name], before[name]) for name in of("encoder", after))


# Policy stop.


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("place", "player"), TRANSIENT + LASTING)
def test_a_run_stops_before_it_takes_a_step_that_is_not_finite(
    data: Path, tmp_path: Path, place: str, player: str, value: float
) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data))
    fault = Fault(trainer, place, player, value, {3})
    with pytest.raises(NonFiniteError) as caught:
        train(trainer)
    assert str(caught.value).startswith(f"{culprit(place, player)} was not finite at 8 px, before 24 images")
    assert all(remedy in str(caught.value) for remedy in REMEDIES)
    assert trainer.images == 16 and not list(RunDirectory(tmp_path / "run").checkpoints.glob("images-*"))
    assert_step_not_taken(fault.before, trainer.players.tensors(), place, player)


@pytest.mark.parametrize("player", ["encoder", "decoder"])
def test_a_run_stops_at_a_loss_that_is_not_finite_though_its_gradient_is(
    data: Path, tmp_path: Path, player: str
) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data))
    fault = Fault(trainer, "loss alone", player, math.inf, {3})
    with pytest.raises(NonFiniteError, match=f"^loss/{player} was not finite"):
        train(trainer)
    assert_step_not_taken(fault.before, trainer.players.tensors(), "loss alone", player)


def test_the_message_names_the_resolution_at_which_it_was(data: Path, tmp_path: Path) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data))
    Fault(trainer, "data", "encoder", math.nan, {2})
    with pytest.raises(NonFiniteError, match=r"^reconstruction/real was not finite at 4 px, before 16 images"):
        train(trainer)


def test_nothing_moves_until_the_host_looks(data: Path, tmp_path: Path) -> None:
    """As on a device, where it looks now and then; what is named is the first, not what came later."""
    trainer = begin(tmp_path / "run", tiny_settings(data))
    first = Fault(trainer, "gradient", "decoder", math.inf, {2})
    check = trainer.guard.check
    trainer.guard.check = lambda step: check(step) if step.end % 40 == 0 else None  # type: ignore[method-assign]
    later = Fault(trainer, "data", "encoder", math.nan, {4})
    with pytest.raises(NonFiniteError, match=r"^gradient/decoder was not finite"):
        train(trainer)
    assert (first.fired, later.fired, trainer.images) == (1, 1, 32)
    ((_, then),) = first.bad
    now = trainer.players.tensors()
    assert_unchanged(without_averages(now), without_averages(then))


# Policy skip.


@pytest.mark.parametrize(("place", "player"), TRANSIENT)
def test_a_step_that_is_not_finite_is_left_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, player: str
) -> None:
    value = math.nan if player == "encoder" else math.inf
    trainer = begin(tmp_path / "run", tiny_settings(data, *SKIP))
    fault = Fault(trainer, place, player, value, {3})
    train(trainer)
    assert trainer.images == 48
    ((before, after),) = fault.bad
    assert_step_not_taken(without_averages(before), without_averages(after), place, player)
    assert not not_finite(after | trainer.players.tensors())
    assert any(not torch.equal(now, after[name]) for name, now in trainer.players.tensors().items())
    rows = read_rows(RunDirectory(tmp_path / "run").metrics)
    assert [row["guard/skipped_steps"] for row in rows] == [0, 0, 1, 1, 1, 1]
    warning = (
        f"{culprit(place, player)} was not finite at 8 px, before 24 images; it has not reached the weights; 1 steps"
    )
    assert capsys.readouterr().out.count(warning) == 1


def test_the_averages_go_on_towards_the_weights_in_a_step_that_is_left_out(data: Path, tmp_path: Path) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data, *SKIP))
    fault = Fault(trainer, "data", "encoder", math.nan, {3})
    train(trainer)
    ((before, after),) = fault.bad
    assert_step_not_taken(without_averages(before), without_averages(after), "data", "encoder")
    keep = 0.5 ** (8 / 20)
    for name, average in before.items():
        if "_ema." in name:
            want = keep * average + (1 - keep) * before[name.replace("_ema.", ".")]
            torch.testing.assert_close(after[name], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("steps", "count"), [({2, 3}, 2), ({1, 2, 4, 5}, 4), ({2, 3, 4}, None), ({1, 3, 4, 5}, None)])
def test_only_so_many_steps_in_a_row_are_left_out(
    data: Path, tmp_path: Path, steps: set[int], count: int | None
) -> None:
    """Not more than two here; the third is an error."""
    trainer = begin(tmp_path / "run", tiny_settings(data, *SKIP, "guard.limit=2"))
    fault = Fault(trainer, "gradient", "encoder", math.nan, steps)
    if count is None:
        with pytest.raises(NonFiniteError, match=f"before {8 * max(steps)} images"):
            train(trainer)
        assert trainer.images == 8 * (max(steps) - 1)
    else:
        train(trainer)
        assert read_rows(RunDirectory(tmp_path / "run").metrics)[-1]["guard/skipped_steps"] == count
    assert fault.fired == len(steps)
    assert not not_finite(trainer.players.tensors())


@pytest.mark.parametrize(("place", "player"), LASTING)
def test_an_optimizer_that_stays_as_it_is_ends_the_run(data: Path, tmp_path: Path, place: str, player: str) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data, *SKIP, "guard.limit=2"))
    fault = Fault(trainer, place, player, math.nan, {3})
    with pytest.raises(NonFiniteError, match=rf"^the optimizer's state of the {player} was not finite"):
        train(trainer)
    assert trainer.images == 32
    for before, after in fault.bad:
        assert_step_not_taken(without_averages(before), without_averages(after), place, player)


def test_steps_left_out_are_counted_through_a_kill(data: Path, tmp_path: Path) -> None:
    """One before the checkpoint, and one after it that is met again."""
    settings = tiny_settings(data, *SKIP, "checkpoint.every=24")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    ends = []
    for path, stops in ((straight, (None,)), (killed, (5, None))):
        for steps in stops:
            trainer = begin(path, settings)
            fault = Fault(trainer, "data", "encoder", math.nan, {2, 4})
            ends.append(train(trainer, steps=steps))
        assert fault.fired == (2 if path == straight else 1)
    assert [end.images for end in ends] == [48, 40, 48]
    assert_same(ends[2].players.tensors(), ends[0].players.tensors())
    assert RunDirectory(killed).metrics.read_bytes() == RunDirectory(straight).metrics.read_bytes()
    assert [row["guard/skipped_steps"] for row in read_rows(RunDirectory(killed).metrics)] == [0, 1, 1, 2, 2, 2]


# Policy rollback.


Undisturbed = tuple[Path, dict[str, Tensor]]


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A run that nothing happens to, and its tensors at the end."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    trainer = train(begin(path, tiny_settings(data, *ROLLBACK, "monitoring.trace=true")))
    return path, snapshot(trainer.players.tensors())


def assert_as_undisturbed(trainer: Trainer, path: Path, undisturbed: Undisturbed) -> None:
    assert trainer.images == 48
    assert_same(trainer.players.tensors(), undisturbed[1])
    got, want = RunDirectory(path), RunDirectory(undisturbed[0])
    assert got.metrics.read_bytes() == want.metrics.read_bytes()
    if got.trace.exists():
        assert got.trace.read_bytes() == want.trace.read_bytes()


@pytest.mark.parametrize(("place", "player"), TRANSIENT[::2] + LASTING)
def test_a_run_goes_back_once_and_ends_as_if_nothing_had_been(
    data: Path, tmp_path: Path, undisturbed: Undisturbed, place: str, player: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the last step in transition, to the checkpoint before it; everything written since is taken back."""
    path = tmp_path / "run"
    trainer = begin(path, tiny_settings(data, *ROLLBACK, "monitoring.trace=true"))
    fault = Fault(trainer, place, player, math.nan, {4}, times=1)
    train(trainer)
    assert fault.fired == 1
    assert_as_undisturbed(trainer, path, undisturbed)
    told = capsys.readouterr().out
    assert told.count(f"warning: {culprit(place, player)} was not finite at 8 px, before 32 images") == 1
    assert told.count(f"back to {path}/checkpoints/images-000000000016") == 1


def test_faults_at_different_places_do_not_add_up(data: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    path = tmp_path / "run"
    trainer = begin(path, tiny_settings(data, *ROLLBACK, "guard.limit=1"))
    faults = [Fault(trainer, "data", "encoder", math.nan, {step}, times=1) for step in (3, 4, 6)]
    train(trainer)
    assert [fault.fired for fault in faults] == [1, 1, 1]
    assert_as_undisturbed(trainer, path, undisturbed)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_fault_that_returns_ends_the_run(data: Path, tmp_path: Path, limit: int) -> None:
    path = tmp_path / "run"
    trainer = begin(path, tiny_settings(data, *ROLLBACK, f"guard.limit={limit}"))
    fault = Fault(trainer, "gradient", "decoder", math.inf, {4})
    with pytest.raises(NonFiniteError, match=r"^gradient/decoder was not finite at 8 px, before 32 images"):
        train(trainer)
    assert fault.fired == 1 + limit
    assert [int(p.name.removeprefix("images-")) for p in RunDirectory(path).checkpoints.glob("images-*")] == [16]


def test_there_is_no_going_back_before_the_first_checkpoint(data: Path, tmp_path: Path) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data, *ROLLBACK))
    fault = Fault(trainer, "data", "encoder", math.nan, {2}, times=1)
    with pytest.raises(NonFiniteError, match="before 16 images"):
        train(trainer)
    assert fault.fired == 1


def test_a_damaged_checkpoint_is_passed_over_on_the_way_back(
    data: Path, tmp_path: Path, undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    trainer = begin(path, tiny_settings(data, *ROLLBACK))
    fault = Fault(trainer, "data", "encoder", math.nan, {5}, times=1)

    def damage() -> None:
        if trainer.images == 32 and not fault.fired:
            with open(next((path / "checkpoints" / "images-000000000032").glob("shard-*")), "r+b") as file:
                file.write(b"damaged")

    train(trainer, after=damage)
    assert_as_undisturbed(trainer, path, undisturbed)
    told = capsys.readouterr().out
    assert "is damaged; it is now" in told and "back to" in told and "images-000000000016" in told


def _goes_back(path: Path) -> None:
    trainer = begin(path)
    Fault(trainer, "data", "encoder", math.nan, {4}, times=1)
    train(trainer)


@pytest.mark.slow
def test_tensorboard_holds_no_step_twice_after_a_return(data: Path, tmp_path: Path) -> None:
    images = ("monitoring.images_every=8", "monitoring.grid=2")
    path = open_run(tmp_path / "run", data, *ROLLBACK, *images)
    on_processes(
        1, _goes_back, path
    )  # a process of its own: the names of its files follow from how many it has written
    events = EventAccumulator(str(RunDirectory(path).tensorboard), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    scalars = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    pictures = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    saves = {tag: steps for tag, steps in scalars.items() if tag.startswith("checkpoint/")}
    assert len(saves) == 3 and all(steps == [16, 32, 48] for steps in saves.values())
    for tag, steps in (scalars | pictures).items():
        if tag not in saves:
            assert steps == list(range(8, 49, 8)), tag
    assert len(pictures) == 3 and "kl/real" in scalars


def test_tensorboard_holds_every_save_at_its_own_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the disk; two that are noticed together would share one."""

    def slowly(*args: Any) -> int:
        size = write(*args)
        time.sleep(0.1)
        return size

    monkeypatch.setattr("sivae_dist.checkpoint.saver.write", slowly)
    train(begin(tmp_path / "run", tiny_settings(data, "checkpoint.every=16")))
    events = EventAccumulator(str(RunDirectory(tmp_path / "run").tensorboard))
    events.Reload()
    assert [event.step for event in events.Scalars("checkpoint/seconds")] == [16, 32, 48]


# On several processes, one of which sees it.


def _faulty(path: Path, place: str, player: str, value: float, times: int) -> tuple[Any, ...]:
    """What is raised, where it ends, and all tensors around each bad step and at the end."""
    trainer = begin(path)
    fault = Fault(trainer, place, player, value, {4}, times)
    message = None
    try:
        train(trainer)
    except NonFiniteError as error:
        message = str(error)
    tensors = snapshot(trainer.players.tensors())
    around = fault.bad if message is None else [(fault.before, tensors)]
    return message, trainer.images, fault.fired, around, tensors


@pytest.mark.parametrize(
    ("place", "player", "value"),
    [("loss alone", "encoder", math.nan), ("decoder", "decoder", math.inf), ("exp_avg", "encoder", math.nan)],
)
def test_one_process_stops_all(data: Path, tmp_path: Path, place: str, player: str, value: float) -> None:
    path = open_run(tmp_path / "run", data)
    ends = on_processes(2, _faulty, path, place, player, value, 9)
    for process, (message, images, fired, around, _) in enumerate(ends):
        assert message.startswith(f"{culprit(place, player)} was not finite at 8 px, before 32 images")
        assert (images, fired) == (24, 1)
        ((before, after),) = around
        assert_step_not_taken(before, after, place, player, hit=process == 1)


@pytest.mark.parametrize(
    ("place", "player", "value"), [("data", "encoder", math.inf), ("gradient", "decoder", math.nan)]
)
def test_all_processes_leave_a_step_out_that_is_bad_on_one(
    data: Path, tmp_path: Path, place: str, player: str, value: float
) -> None:
    path = open_run(tmp_path / "run", data, *SKIP)
    ends = on_processes(2, _faulty, path, place, player, value, 9)
    for message, images, fired, around, tensors in ends:
        assert (message, images, fired) == (None, 48, 1)
        ((before, after),) = around
        assert_step_not_taken(without_averages(before), without_averages(after), place, player)
        assert_same(tensors, ends[0][4])
    counts = [row["guard/skipped_steps"] for row in read_rows(RunDirectory(path).metrics)]
    assert counts == [0, 0, 0, 1, 1, 1]


@pytest.mark.slow
def test_all_processes_go_back_together(data: Path, tmp_path: Path) -> None:
    straight, path = (open_run(tmp_path / name, data, *ROLLBACK) for name in ("straight", "run"))
    want = on_processes(2, trained, straight)[0]
    for message, images, fired, _, tensors in on_processes(2, _faulty, path, "exp_avg_sq", "decoder", math.inf, 1):
        assert (message, images, fired) == (None, 48, 1)
        assert_same(tensors, want)
    assert RunDirectory(path).metrics.read_bytes() == RunDirectory(straight).metrics.read_bytes()


def _left_out(path: Path, place: str, player: str) -> tuple[int, list[str], dict[str, Tensor]]:
    """Steps that this process has left out of four, which tensors are not finite, and those of the other player."""
    trainer = begin(path)
    Fault(trainer, place, player, math.nan, {4})
    trainer.guard.check = lambda step: None  # type: ignore[method-assign]
    train(trainer, steps=4)
    tensors = snapshot(trainer.players.tensors())
    return int(trainer.guard.skipped), not_finite(tensors), of("decoder" if player == "encoder" else "encoder", tensors)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "player"), [("exp_avg", "encoder"), ("exp_avg_sq", "decoder")])
def test_all_processes_leave_a_step_out_when_the_optimizer_of_one_is_not_finite(
    data: Path, tmp_path: Path, place: str, player: str
) -> None:
    """Were they to disagree, their weights would part, and one would wait for the other in vain."""
    path = open_run(tmp_path / "run", data)
    ends = on_processes(2, _left_out, path, place, player)
    assert [skipped for skipped, _, _ in ends] == [1, 1]
    assert [odd for _, odd, _ in ends] == [[], [f"{player}_optim.{place}.blocks.4.conv2.weight"]]
    assert_same(ends[0][2], ends[1][2])


# The guard by itself.


def test_terms_may_have_other_names_in_the_next_step() -> None:
    """As those of a warm-up and of what follows it."""
    guard = Guard(GuardSettings(policy="skip"), CPU)
    bad, good = torch.tensor(math.nan), torch.tensor(1.0)
    no = torch.tensor(False)
    guard.note({"a": good, "b": bad}, {}, {}, no)
    guard.note({"a": good, "c": good, "d": bad}, {}, {}, no)
    message = guard.check(STEP)
    assert message is not None and message.startswith("warning: d was not finite at 4 px, before 8 images")
    assert "2 steps have been skipped" in message


def test_of_steps_in_a_row_the_first_is_told() -> None:
    guard = Guard(GuardSettings(policy="skip"), CPU)
    bad, good = torch.tensor(math.inf), torch.tensor(1.0)
    guard.note({"a": good, "b": bad}, {}, {}, torch.tensor(False))
    guard.note({"a": bad, "b": bad}, {}, {}, torch.tensor(False))
    assert str(guard.check(STEP)).startswith("warning: b was")
    assert guard.check(STEP) is None  # told once
    guard.note({"a": good, "b": good}, {}, {}, torch.tensor(True))
    assert guard.check(STEP) is None
    guard.note({"a": bad, "b": good}, {}, {}, torch.tensor(False))
    assert str(guard.check(STEP)).startswith("warning: a was")


def test_a_cause_is_told_before_its_consequence() -> None:
    bad, good = torch.tensor(math.nan), torch.tensor(1.0)
    for term, sound, told in ((bad, False, "a"), (good, False, "the optimizer's state of the x"), (good, True, "g")):
        guard = Guard(GuardSettings(policy="skip"), CPU)
        guard.note({"a": term}, {"x": torch.tensor(sound)}, {"g": bad}, torch.tensor(False))
        assert str(guard.check(STEP)).startswith(f"warning: {told} was")


@pytest.mark.parametrize(("policy", "allowed"), [("stop", False), ("rollback", False), ("skip", True)])
def test_after_a_bad_step_only_skip_takes_another(policy: str, allowed: bool) -> None:
    guard = Guard(GuardSettings.model_validate({"policy": policy}), CPU)
    assert bool(guard.allowed())
    guard.note({"a": torch.tensor(math.nan)}, {}, {}, torch.tensor(False))
    assert bool(guard.allowed()) is allowed
    guard.reset(0)
    assert bool(guard.allowed())


def test_a_warm_up_may_end_between_two_bad_steps(data: Path, tmp_path: Path) -> None:
    trainer = begin(tmp_path / "run", tiny_settings(data, *SKIP, "objective.warmup=16"))
    fault = Fault(trainer, "data", "encoder", math.nan, {2, 3})
    train(trainer)
    assert (fault.fired, trainer.images) == (2, 48)
    rows = read_rows(RunDirectory(tmp_path / "run").metrics)
    assert "kl/fake" in rows[2] and "kl/fake" not in rows[1]
    assert [row["guard/skipped_steps"] for row in rows] == [0, 1, 2, 2, 2, 2]
