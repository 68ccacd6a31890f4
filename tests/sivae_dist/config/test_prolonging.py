"""A run that has begun may get another future, and never another past."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml

from sivae_dist.config.opening import prepare_run, settings_of
from sivae_dist.config.prolonging import prolonging_command
from sivae_dist.config.run_settings import RunSettings, changes_the_past, free_keys, load_config
from sivae_dist.objectives import OBJECTIVES, VaeSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.settings import MAY_CHANGE, Settings
from sivae_dist.step.schedule import Schedule
from tests.helpers import assert_same, begin, random_set, snapshot, tiny_settings, train

TO_16 = ("model.resolution=16", "schedule.images={4: 16, 8: 32, 16: 0}")
"""Trained to 8 px, with blocks for 16."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", samples=16, resolution=16)


def saved(path: Path, data: Path, images: int, *settings: str) -> RunDirectory:
    """A run that looks like one that was ended after `images`."""
    run = RunDirectory(path)
    prepare_run(run, tiny_settings(data, *settings))
    (run.checkpoints / f"images-{images:012d}").mkdir(parents=True)
    return run


def refusal(run: RunDirectory, data: Path, *settings: str) -> str:
    before = run.config.read_bytes()
    with pytest.raises(ValueError, match=r"init\.run=") as caught:
        prepare_run(run, tiny_settings(data, *settings), 16)
    assert run.config.read_bytes() == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("first", "then", "whole"),
    [
        # The batch of 8 goes past the end of 44; half of 32 images is the transition, and stays it.
        (("schedule.images={4: 16, 8: 28}",), ("schedule.images={4: 16, 8: 60}",), ("schedule.blend_of.8=28",)),
        (TO_16, ("model.resolution=16", "schedule.images={4: 16, 8: 32, 16: 24}"), ()),
        (("schedule.images={4: 16}", "model.resolution=4"), ("schedule.images={4: 40}", "model.resolution=4"), ()),
    ],
    ids=["last phase", "further phase", "one phase"],
)
def test_a_prolonged_run_is_one_that_was_longer_from_the_start(
    data: Path, tmp_path: Path, first: tuple[str, ...], then: tuple[str, ...], whole: tuple[str, ...]
) -> None:
    """Bit for bit: weights, averages, optimizer state, and metrics, of which each step has a row here."""
    prolonged, straight = tmp_path / "prolonged", tmp_path / "straight"
    train(begin(prolonged, tiny_settings(data, *first)))
    (note,) = prepare_run(RunDirectory(prolonged), tiny_settings(data, *then))
    assert note.startswith("the schedule is ") and "schedule.images" in note
    assert prepare_run(RunDirectory(prolonged), tiny_settings(data, *then)) == []  # the same command again
    got = snapshot(train(begin(prolonged)).players.tensors())
    want = snapshot(train(begin(straight, tiny_settings(data, *then, *whole))).players.tensors())
    assert_same(got, want)
    assert RunDirectory(prolonged).metrics.read_bytes() == RunDirectory(straight).metrics.read_bytes()
    assert RunDirectory(prolonged).config.read_bytes() == RunDirectory(straight).config.read_bytes()


@pytest.mark.parametrize(
    ("images", "change"),
    [
        (32, "schedule.images.8=64"),  # in the midst of the last phase, and of its transition
        (24, "schedule.images.8=24"),
        (16, "schedule.images.8=64"),
        (16, "schedule.blend.8=0.25"),  # not begun
        (16, "schedule.batch.8=4"),
        (48, "schedule.lr_encoder.16=1"),
        (32, "schedule.final_decay=0.3"),
        (32, "schedule.milestones=[32]"),
        (8, "schedule.reset_optimizer=true"),
    ],
)
def test_what_lies_ahead_may_change(data: Path, tmp_path: Path, images: int, change: str) -> None:
    wide = ("schedule.batch={4: 8, 8: 8}", "schedule.blend={8: 0.5}", "schedule.lr_encoder={4: 0.1, 8: 0.1, 16: 0.1}")
    run = saved(tmp_path / "run", data, images, *wide)
    asked = tiny_settings(data, *wide, change)
    (note,) = prepare_run(run, asked, 16)
    assert change.partition("=")[0] in note
    before, now = (
        Schedule(settings.schedule, [4, 8], 16) for settings in (tiny_settings(data, *wide), settings_of(run))
    )
    taken = [step for step in before.steps(0) if step.end <= images]
    fields = [(s.position, s.batch, s.segment, s.blend, s.lr_encoder, s.lr_decoder) for s in taken]
    again = [step for step in now.steps(0) if step.end <= images]
    assert [(s.position, s.batch, s.segment, s.blend, s.lr_encoder, s.lr_decoder) for s in again] == fields
    assert prepare_run(run, asked, 16) == []


@pytest.mark.parametrize(
    ("images", "change", "words"),
    [
        (24, "schedule.images.4=24", "the number of images at 4 px"),
        (32, "schedule.images.8=8", "fewer than its transition of 16"),
        (48, "schedule.images.8=24", "the number of images at 8 px"),
        (24, "schedule.blend=0.25", "the transition at 8 px"),
        (24, "schedule.blend_curve=linear", "the transitions"),
        (16, "schedule.batch=16", "the batch at 4 px"),
        (16, "schedule.lr_decoder={4: 0.5, 8: 0.01}", "the decoder's learning rate at 4 px"),
        (48, "schedule.final_decay=0.5", "the learning rates, which have begun to fall"),
        (24, "schedule.milestones=[16]", "the learning rates, which have fallen at a milestone"),
        (24, "schedule.reset_optimizer=true", "the optimizer's state"),
    ],
)
def test_what_was_done_may_not(data: Path, tmp_path: Path, images: int, change: str, words: str) -> None:
    run = saved(tmp_path / "run", data, images)
    if "fewer" in words:
        with pytest.raises(ValueError, match=words):
            prepare_run(run, tiny_settings(data, change), 16)
        return
    line = refusal(run, data, change)
    assert words in line and change.partition("=")[0] in line and f"{images} images" in line, line


def test_a_decay_that_has_begun_is_the_past(data: Path, tmp_path: Path) -> None:
    falling = ("schedule.final_decay=0.5", "schedule.final_lr=0.1")  # from image 32 on
    begun = saved(tmp_path / "begun", data, 48, *falling)
    assert "have begun to fall" in refusal(begun, data, *falling, "schedule.images.8=64")
    ahead = saved(tmp_path / "ahead", data, 40, *falling)  # whose last step began where the rates begin to fall
    prepare_run(ahead, tiny_settings(data, *falling, "schedule.images.8=64"), 16)


def test_blocks_that_are_not_there_cannot_be_trained(data: Path, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", data, 48)
    line = refusal(run, data, "model.resolution=16", "schedule.images={4: 16, 8: 32, 16: 32}")
    assert "model.resolution" in line and "all blocks exist from the start" in line


def test_epochs_are_compared_by_their_images(data: Path, tmp_path: Path) -> None:
    epochs = ("schedule.images=null", "schedule.epochs={4: 1, 8: 2}")
    run = saved(tmp_path / "run", data, 48)
    (note,) = prepare_run(run, tiny_settings(data, *epochs), 16)
    assert note.startswith("the schedule is different from here on")
    prepare_run(run, tiny_settings(data, "schedule.images=null", "schedule.epochs={4: 1, 8: 3}"), 16)
    assert yaml.safe_load(run.config.read_text())["schedule"]["blend_of"] == {8: 32}
    assert "4 px" in refusal(run, data, "schedule.images=null", "schedule.epochs={4: 2, 8: 3}")


# What is said at the end.


def typed(command: str) -> tuple[RunDirectory, RunSettings]:
    """What a shell and `sivae train` make of a command."""
    sivae, train, config, assignment, option, run = shlex.split(command)
    assert (sivae, train, option) == ("sivae", "train", "--run-dir")
    return RunDirectory(Path(run)), load_config(config, [assignment])


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [
        ((), 48, 80),
        (("schedule.images=24",), 48, 72),
        (("schedule.images=null", "schedule.epochs={4: 1, 8: 1.5}"), 40, 64),
        (("schedule.images={4: 16, 8: 28}",), 48, 72),  # the last batch goes past 44
    ],
)
def test_the_command_that_prolongs_can_be_typed(
    data: Path, tmp_path: Path, settings: tuple[str, ...], before: int, after: int
) -> None:
    run = saved(tmp_path / "a run", data, before, *settings)
    schedule = Schedule(settings_of(run).schedule, [4, 8], 16)
    assert schedule.end == before
    directory, longer = typed(prolonging_command(run.path, settings_of(run), schedule))
    assert directory.path == run.path
    prepare_run(directory, longer, 16)
    assert Schedule(settings_of(run).schedule, [4, 8], 16).end == after


def test_after_a_decay_the_command_begins_another_run(data: Path, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", data, 48, "schedule.final_decay=0.5")
    directory, again = typed(
        prolonging_command(run.path, settings_of(run), Schedule(settings_of(run).schedule, [4, 8], 16))
    )
    assert directory.path == tmp_path / "run-again"
    assert again.init.run == run.path


def test_a_run_at_its_end_says_so_and_says_it_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(begin(run, tiny_settings(data, "schedule.images={4: 16}", "model.resolution=4", "monitoring.images_every=8")))
    said = capsys.readouterr().out
    assert f"finished: {run} has seen the 16 images of its schedule\n" in said
    assert [line.split()[-len(words) :] for line, words in zip(said.splitlines()[-4:], commands(run), strict=True)] == [
        list(map(str, words)) for words in commands(run)
    ]
    assert (run / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (run / "figures" / "training").glob("sample-*")) == [
        "sample-000000000008.png",
        "sample-000000000016.png",
    ]
    train(begin(run))
    again = capsys.readouterr().out
    assert f"{run} is finished already: it has seen the 16 images of its schedule" in again
    assert "sivae train" in again.splitlines()[-1] and "finished:" not in again


def commands(run: Path) -> list[tuple[object, ...]]:
    return [
        ("sivae", "sample", run, "--out", run / "figures" / "samples.png"),
        ("sivae", "evaluate", run),
        ("sivae", "export", run, "run-model"),
        ("sivae", "train", run / "config.yaml", "schedule.images.4=32", "--run-dir", run),
    ]


def test_precisions_that_differ_in_rounding_alone(data: Path, tmp_path: Path) -> None:
    """On GPUs `fp32` was between the two before `tf32` had a name."""
    run = saved(tmp_path / "run", data, 24, "engine.precision=fp32")
    assert prepare_run(run, tiny_settings(data, "engine.precision=tf32"), 16) == [
        "engine.precision differs from what this run was started with"
    ]
    assert prepare_run(run, tiny_settings(data, "engine.precision=tf32", "engine.deterministic=true"), 16) == [
        "engine.deterministic differs from what this run was started with"
    ]
    assert "engine.precision" in refusal(run, data, "engine.precision=bf16")


def test_what_may_change_is_marked_where_it_is_defined() -> None:
    """The keys that have been free since the first run, whose directories are to be resumed."""
    assert {*free_keys()} == {
        "imports", "device", "checkpoint", "monitoring", "evaluation", "guard", "watchdog",
        "data.path", "data.loader", "data.threads", "data.prefetch", "data.faults", "data.max_faults", "data.remote",
        "engine.compile", "engine.checkpoint_activations", "engine.max_batch_per_rank", "engine.rehearsal",
        "engine.deterministic", "engine.kernels", "engine.name", "engine.stage", "engine.offload", "engine.deepspeed",
        "objective.vgg_weights",
    }  # fmt: skip
    for key in ("seed", "data.flip", "engine.precision", "objective.name", "optimizer.beta1", "init.run"):
        assert changes_the_past(key), key
    for key in ("device", "checkpoint.every", "data.remote.cache", "engine.deepspeed.zero_optimization"):
        assert not changes_the_past(key), key


class _Display(Settings):
    every: int = 1


class _Own(VaeSettings):
    name: Literal["own"] = "own"  # type: ignore[assignment]
    strength: float = 1.0
    shown: Annotated[int, MAY_CHANGE] = 3
    display: Annotated[_Display, MAY_CHANGE] = _Display()


def test_a_component_of_ones_own_marks_its_settings(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES._kinds, "own", _Own)  # type: ignore[arg-type]
    run = RunDirectory(tmp_path / "run")
    prepare_run(run, tiny_settings(data, "objective={name: own}"))
    (run.checkpoints / "images-000000000008").mkdir(parents=True)
    notes = prepare_run(run, tiny_settings(data, "objective={name: own, shown: 5, display: {every: 2}}"), 16)
    assert "objective.shown" in str(notes) and "objective.display.every" in str(notes)
    with pytest.raises(ValueError, match=r"objective\.strength"):
        prepare_run(run, tiny_settings(data, "objective={name: own, strength: 2}"), 16)
