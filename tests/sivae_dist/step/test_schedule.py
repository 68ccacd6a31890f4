import math
from itertools import pairwise
from typing import Any

import pytest

from sivae_dist.step.schedule import Phase, Schedule, ScheduleSettings, Segment, crosses

GROWING = [4, 8, 16]


def plan(resolutions: list[int] | None = None, samples: int = 1000, warmup: int = 0, **values: Any) -> Schedule:
    if "epochs" not in values:
        values = {"images": 100} | values
    return Schedule(ScheduleSettings.model_validate(values), resolutions or GROWING, samples, warmup)


def test_phases() -> None:
    schedule = plan(
        images={4: 100, 8: 200, 16: 300},
        blend={4: 0.9, 8: 0.5, 16: 0.25},
        batch={4: 8, 8: 4, 16: 2},
        lr_encoder={4: 1, 8: 2, 16: 3},
        lr_decoder=5,
    )
    assert schedule.phases == [
        Phase(0, 4, start=0, images=100, blend_images=0, batch=8, lr_encoder=1, lr_decoder=5),
        Phase(1, 8, start=100, images=200, blend_images=100, batch=4, lr_encoder=2, lr_decoder=5),
        Phase(2, 16, start=300, images=300, blend_images=75, batch=2, lr_encoder=3, lr_decoder=5),
    ]
    assert [phase.end for phase in schedule.phases] == [100, 300, 600]
    assert schedule.total == 600
    at = {0: 4, 99: 4, 100: 8, 299: 8, 300: 16, 599: 16, 600: 16, 700: 16}
    assert {position: schedule.phase_at(position).resolution for position in at} == at


def test_epochs_are_passes_over_the_training_samples() -> None:
    assert [p.images for p in plan(samples=29_000, epochs={4: 30, 8: 0.5, 16: 1}).phases] == [870_000, 14_500, 29_000]
    assert [p.images for p in plan(samples=3, epochs=0.5).phases] == [2, 2, 2]  # the nearest number of images


@pytest.mark.parametrize("values", [{}, {"images": 10, "epochs": 1}])
def test_one_length_is_needed(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"either schedule\.images or schedule\.epochs"):
        ScheduleSettings.model_validate(values)


@pytest.mark.parametrize("curve", ["linear", "cosine"])
def test_blend(curve: str) -> None:
    schedule = plan(images=1000, blend=0.4, blend_curve=curve, batch=10)
    shares = [0.0, 0.25, 0.5, 0.75, 0.9975]
    expected = [s if curve == "linear" else (1 - math.cos(math.pi * s)) / 2 for s in shares]
    assert [schedule.blend_at(1000 + round(400 * s)) for s in shares] == pytest.approx(expected)
    assert schedule.blend_at(1000) == 0.0 and schedule.blend_at(2000) == 0.0
    values = [schedule.blend_at(position) for position in range(1000, 1400)]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(values))
    for outside in (0, 999, 1400, 1999, 2400, 2999, 3000):
        assert schedule.blend_at(outside) is None
    begin, end, after = schedule.step_at(1000), schedule.step_at(1399), schedule.step_at(1400)
    assert (begin.blend, begin.segment) == (0.0, Segment(8, True, False))
    assert 0.99 < end.blend < 1.0 and end.segment.blending
    assert (after.blend, after.segment) == (1.0, Segment(8, False, False))


def test_cosine_is_the_authors() -> None:
    """Measured in their code with transitions of 8 epochs: 0.038 after one, 0.5 after four, 0.962 after seven."""
    schedule = plan([4, 8], samples=1000, epochs=16)
    values = [schedule.blend_at(16_000 + 1000 * epoch) for epoch in (0, 1, 4, 7)]
    assert values == pytest.approx([0.0, 0.038, 0.5, 0.962], abs=5e-4)
    assert schedule.blend_at(24_000) is None


def test_blend_of_nothing_and_of_all() -> None:
    assert all(step.blend == 1.0 for step in plan(blend=0, batch=10).steps(0))
    full = plan(blend=1, batch=10)
    assert [step.segment.blending for step in full.steps(0)] == [False] * 10 + [True] * 20
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"schedule\.blend .* at 8 px"):
            plan(blend=wrong)


def test_final_decay() -> None:
    schedule = plan(images=1000, final_decay=0.5, final_lr=0.1, lr_encoder=2.0, lr_decoder={4: 1, 8: 1, 16: 4})
    for position, factor in {0: 1, 1999: 1, 2000: 1, 2500: 1, 2750: 0.55, 3000: 0.1, 4000: 0.1}.items():
        step = schedule.step_at(position)
        assert schedule.decay_at(position) == pytest.approx(factor)
        assert step.lr_encoder == pytest.approx(2 * factor)
        assert step.lr_decoder == pytest.approx((4 if position >= 2000 else 1) * factor)
    assert plan(images=1000).decay_at(2999) == 1.0
    assert plan(images=1000, final_decay=1, final_lr=0).decay_at(2100) == pytest.approx(0.9)


def test_a_step_belongs_to_the_phase_of_its_first_image() -> None:
    """The batch divides no phase: a step runs over the border, and the next phase begins late."""
    schedule = plan(images={4: 10, 8: 10, 16: 10}, batch={4: 4, 8: 3, 16: 7}, blend=0.5)
    steps = [(s.position, s.end, s.phase.resolution, s.segment.blending) for s in schedule.steps(0)]
    assert steps == [
        (0, 4, 4, False), (4, 8, 4, False), (8, 12, 4, False),
        (12, 15, 8, True), (15, 18, 8, False), (18, 21, 8, False),
        (21, 28, 16, True), (28, 35, 16, False),
    ]  # fmt: skip
    assert schedule.step_at(12).blend == pytest.approx(0.5 - 0.5 * math.cos(math.pi * 2 / 5))


def test_steps_go_on_from_the_end_of_any_step() -> None:
    schedule = plan(images={4: 50, 8: 70, 16: 33}, batch={4: 8, 8: 6, 16: 4}, final_decay=0.5, warmup=20)
    steps = list(schedule.steps(0))
    assert steps[0].position == 0 and steps[-1].end >= schedule.total > steps[-1].position
    for k, step in enumerate(steps):
        assert list(schedule.steps(step.end)) == steps[k + 1 :]
        assert schedule.step_at(step.position) == step
    assert list(schedule.steps(schedule.total)) == []


def test_warm_up() -> None:
    schedule = plan(images=20, batch=8, warmup=25)
    warming = {s.position: s.segment.warming_up for s in schedule.steps(0)}
    assert warming == {0: True, 8: True, 16: True, 24: True, 32: False, 40: False, 48: False, 56: False}
    assert not any(s.segment.warming_up for s in plan(batch=8).steps(0))


@pytest.mark.parametrize(
    ("batch", "world_size", "nearest"),
    [(10, 4, 8), (11, 4, 12), (9, 4, 8), (2, 4, 4), (30, 7, 28), (33, 7, 35), (1, 8, 8), (100, 64, 128)],
)
def test_refuses_a_world_size(batch: int, world_size: int, nearest: int) -> None:
    schedule = plan(batch={4: 16 * world_size, 8: batch, 16: batch})
    with pytest.raises(ValueError, match=rf"schedule\.batch\.8={nearest}$") as caught:
        schedule.check_world_size(world_size)
    assert f"{batch} at 8 px" in str(caught.value) and f"among {world_size} processes" in str(caught.value)
    assert nearest % world_size == 0 and nearest > 0
    plan(batch=nearest).check_world_size(world_size)


def test_accepts_a_world_size() -> None:
    schedule = plan(batch={4: 512, 8: 64, 16: 32})
    for world_size in (1, 2, 4, 8, 16, 32):
        schedule.check_world_size(world_size)
    with pytest.raises(ValueError, match=r"16 px.*schedule\.batch\.16=64"):
        schedule.check_world_size(64)


def test_crosses() -> None:
    schedule = plan(images=100, batch=8)
    hits = [s.end for s in schedule.steps(0) if crosses(s, 20)]
    assert hits == [24, 40, 64, 80, 104, 120, 144, 160, 184, 200, 224, 240, 264, 280, 304]
    assert not any(crosses(s, 0) for s in schedule.steps(0))
    assert all(crosses(s, 3) for s in schedule.steps(0))  # more than one multiple inside a step is one crossing
    assert not crosses(schedule.step_at(20), 20) and crosses(schedule.step_at(12), 20)


def test_empty_phases_are_left_out() -> None:
    schedule = plan([4, 8, 16, 32], images={4: 10, 8: 0, 16: 20, 32: 0}, blend=0.5)
    assert [(p.resolution, p.start, p.images, p.blend_images) for p in schedule.phases] == [
        (4, 0, 10, 0),
        (16, 10, 20, 10),
    ]
    assert schedule.total == 30 and schedule.phase_at(30).resolution == 16
    # The decay is that of the last phase that there is.
    assert plan(images={4: 10, 8: 10, 16: 0}, final_decay=1, final_lr=0).decay_at(15) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="every phase is empty"):
        plan(images=0)


def test_the_first_phase_has_no_transition() -> None:
    assert plan(images={4: 0, 8: 100, 16: 100}).phases[0].blend_images == 0


@pytest.mark.parametrize("name", ["images", "epochs", "batch", "blend", "lr_encoder", "lr_decoder"])
def test_missing_resolution_is_named(name: str) -> None:
    values: dict[str, Any] = {name: {4: 1, 8: 1, 32: 1}}
    with pytest.raises(ValueError, match=rf"schedule\.{name} has no value for 16 px; it has \[4, 8, 32\]"):
        plan(**values)


def test_batch_without_images() -> None:
    with pytest.raises(ValueError, match=r"schedule\.batch is 0 at 8 px"):
        plan(batch={4: 1, 8: 0, 16: 1})


def test_negative_epochs() -> None:
    with pytest.raises(ValueError, match=r"schedule\.epochs|epochs"):
        plan(epochs=-1)


@pytest.mark.parametrize("warmup", [0, 7, 100, 130])
@pytest.mark.parametrize("blend", [0, 0.01, 0.5, 1])
def test_the_segment_after_a_step(warmup: int, blend: float) -> None:
    """As the steps of the run say, one after the other."""
    schedule = plan(batch={4: 8, 8: 7, 16: 64}, blend=blend, warmup=warmup)
    steps = list(schedule.steps(0))
    for index, step in enumerate(steps):
        expected = next((later for later in steps[index:] if later.segment != step.segment), None)
        assert schedule.following(step) == expected


def test_milestones() -> None:
    schedule = plan([1], images=100, batch=10, lr_encoder=2.0, lr_decoder=1.0, milestones=[30, 55], gamma=0.5)
    rates = [(step.lr_encoder, step.lr_decoder) for step in schedule.steps(0)]
    assert rates == [(2.0, 1.0)] * 3 + [(1.0, 0.5)] * 3 + [(0.5, 0.25)] * 4
    assert plan(images=100, milestones=[150], final_decay=1, final_lr=0).decay_at(250) == pytest.approx(0.05)
    with pytest.raises(ValueError, match=r"schedule\.milestones must rise: 30, 30"):
        plan(milestones=[30, 30])


def test_a_milestone_is_past_once_a_step_has_its_rate() -> None:
    """Until then a run may be resumed with another."""

    def past(images: int, *milestones: int) -> dict[str, object]:
        return plan([1], images=100, batch=10, milestones=milestones).past(images)

    assert past(30, 30) == past(30) == past(30, 40)
    assert past(40, 30) != past(40) and past(40, 30) != past(40, 20, 30)
    assert past(40, 30) == past(40, 30, 80)
