"""Communication of a step: gradients of the parameters in use, once, while backward goes on; and votes."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from benchmarks.communication import Turn, simulated, turns
from data_pipelines.dataset import Request
from data_pipelines.order import Order
from sivae_dist.config.run_settings import load_config
from sivae_dist.step.schedule import Schedule, Segment
from sivae_dist.train.communication import Collective, Collectives, communication
from sivae_dist.train.memory import logged_terms, meta_networks
from sivae_dist.train.players import Players
from sivae_dist.train.trainer import Trainer, make_schedule
from tests.engines import ENGINES
from tests.helpers import CPU, begin, on_processes, open_run, tiny_settings

DDP, STATISTICS, STOP, QUARANTINE, LOG = (
    f"sivae_dist.{name}"
    for name in ("engines.ddp", "models.layers.batch_norm", "process.stopping", "step.quarantine", "train.trainer")
)
BATCH_NORM = ("model={name: residual, resolution: 8, latent: 8, widths: [6], norm: batch}", "objective.style_mixing=0")
SEGMENTS = [
    Segment(resolution, blending, warming_up)
    for resolution, blending in ((4, False), (8, True), (8, False))
    for warming_up in (True, False)
]


# Bytes, at every phase and for every engine.


def of_segments(assignments: tuple[str, ...], count: int, segments: list[Segment], parts: int) -> list[list[Turn]]:
    settings = tiny_settings(Path("none"), *assignments)
    with simulated(count):
        players = Players(settings, CPU)
        return [turns(settings, players, segment, parts) for segment in segments]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "parts"), [(8, 1), (16, 2)])
def test_ddp_reduces_the_gradients_in_use_once_and_nothing_else(count: int, parts: int) -> None:
    (found,) = on_processes(1, of_segments, (), count, SEGMENTS, parts)
    for segment, players in zip(SEGMENTS, found, strict=True):
        for turn in players:
            assert {(one.name, one.origin) for one in turn.noted} == {("all_reduce", DDP)}
            assert sum(one.bytes for one in turn.noted) == turn.in_use
            assert (turn.in_use < turn.whole) is (segment != Segment(8, True, segment.warming_up))
        said = communication(
            tiny_settings(Path("none")), segment.resolution, count, blending=segment.blending, parts=parts
        )
        assert said == (sum(turn.in_use for turn in players), 0, count, 0, 0)
        assert said.sent == 2 * said.reduced * (count - 1) // count


@pytest.mark.slow
def test_statistics_of_batches_are_summed_as_is_said() -> None:
    segments = [Segment(8, False, warming_up) for warming_up in (True, False)]
    settings = tiny_settings(Path("none"), *BATCH_NORM)
    for recompute in ("false", "true"):
        assignments = (*BATCH_NORM, f"engine.checkpoint_activations={recompute}")
        (found,) = on_processes(1, of_segments, assignments, 8, segments, 1)
        for segment, players in zip(segments, found, strict=True):
            sums = [one.bytes for turn in players for one in turn.noted if one.origin == STATISTICS]
            said = communication(settings, 8, 8, warming_up=segment.warming_up)
            assert (said.statistics, said.sums) == (sum(sums), len(sums)) != (0, 0)
            assert said.reduced == sum(one.bytes for turn in players for one in turn.noted if one.origin == DDP)
            assert said.sent == 2 * (said.reduced + said.statistics) * 7 // 8


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_zero_communicates_what_is_said(stage: int) -> None:
    engine, segments, parts, count = ENGINES[f"zero{stage}"], [Segment(8, True, False), Segment(8, False, False)], 2, 8
    (found,) = on_processes(1, of_segments, (engine,), count, segments, parts)
    for segment, players in zip(segments, found, strict=True):
        total: Counter[str] = Counter()
        for one in (one for turn in players for one in turn.noted if one.bytes > 8):  # others are norms and votes
            total["gathered" if one.name in ("all_gather", "broadcast") else "reduced"] += one.bytes
        said = communication(
            tiny_settings(Path("none"), engine), segment.resolution, count, blending=segment.blending, parts=parts
        )
        tensors = sum(turn.parameters for turn in players)
        assert 0 <= total["reduced"] - said.reduced <= parts * 4 * count * tensors  # padding of each slice
        if stage < 3:
            assert 0 <= total["gathered"] - said.gathered <= 16 * count * tensors
        else:
            assert said.gathered <= total["gathered"] <= 5 * said.gathered


def test_a_process_alone_sends_nothing() -> None:
    assert communication(tiny_settings(Path("none")), 8, 1) == (0, 0, 1, 0, 0)
    assert communication(tiny_settings(Path("none")), 8, 1).sent == 0


# When.


def of_ffhq256(resolution: int) -> list[Turn]:
    settings = load_config("ffhq256", ["data.path=unused", "device=cpu"])
    with simulated(8):
        return turns(settings, Players(settings, CPU), Segment(resolution, False, False), parts=2)


@pytest.mark.slow
def test_reduction_begins_while_backward_goes_on() -> None:
    """By facts: gradients that are still to come, and operations, when a bucket is handed over."""
    (found,) = on_processes(1, of_ffhq256, 8)
    for turn in found:
        assert len(turn.noted) >= 3 and sum(one.bytes for one in turn.noted) == turn.in_use
        accumulated = turn.parameters  # by the first micro-batch, which communicates nothing
        assert turn.ready[-1] == 2 * turn.parameters
        assert all(accumulated < ready < 2 * turn.parameters for ready in turn.ready[:-1])
        assert all(a > b > 0 for a, b in pairwise([1.0, *turn.to_come[:-1]]))


# All of a run's, on two processes.


def of_run(path: Path) -> list[list[Collective]]:
    """Of each step."""
    trainer = begin(path)
    steps: list[list[Collective]] = []
    told = trainer.monitor.step

    def step(current: Any) -> None:
        steps.append(list(collectives.noted))
        collectives.noted.clear()
        told(current)

    trainer.monitor.step = step  # type: ignore[method-assign]
    with Collectives() as collectives:
        trainer.train()
    trainer.close()
    return steps


@pytest.mark.slow
def test_a_step_of_a_run_sends_gradients_votes_and_logged_values(tmp_path: Path, data: Path) -> None:
    path = open_run(tmp_path / "run", data, "data.faults=quarantine", "monitoring.scalars_every=16")
    settings = tiny_settings(data)
    networks = sum(p.nbytes for network in meta_networks(settings) for p in network.parameters())
    for steps in on_processes(2, of_run, path):
        for number, resolution, blending in ((0, 4, False), (1, 4, False), (2, 8, True), (3, 8, True)):
            in_use = communication(settings, resolution, 2, blending=blending).reduced
            total: Counter[tuple[str, str]] = Counter()
            for one in steps[number]:
                total[one.origin, one.name] += one.bytes
            if number in (0, 2):  # a segment begins
                assert total[DDP, "all_reduce"] == 2 * in_use
                assert networks <= total[DDP, "broadcast"] <= networks + 2000  # buffers, and sizes of buckets
                continue
            logged = total.pop((LOG, "all_reduce"))
            assert logged == 8 * len([name for name in logged_terms(settings) if not name.startswith("schedule/")])
            assert total == {(STOP, "all_reduce"): 4, (QUARANTINE, "all_reduce"): 8, (DDP, "all_reduce"): in_use}


# The data of 16 processes.


def requests_of(rank: int, count: int, schedule: Schedule) -> list[Request]:
    trainer = Trainer.__new__(Trainer)
    trainer.settings, trainer.schedule, trainer.images = tiny_settings(Path("none")), schedule, 0
    with simulated(count, rank):
        return list(trainer._requests())


def all_requests(count: int) -> list[list[Request]]:
    return [requests_of(rank, count, schedule_of(count)) for rank in range(count)]


def schedule_of(batch: int) -> Schedule:
    settings = tiny_settings(Path("none"), f"schedule.batch={{4: {batch}, 8: {2 * batch}}}", "schedule.images=200")
    return make_schedule(settings, 24)


def test_sixteen_processes_divide_every_batch() -> None:
    (found,) = on_processes(1, all_requests, 16)
    schedule = schedule_of(16)
    for step, shares in zip(schedule.steps(0), zip(*found, strict=True), strict=True):
        assert [share.position for share in shares] == list(range(step.position, step.end, step.batch // 16))
        assert {share.count for share in shares} == {step.batch // 16}
    order = Order([7, 7, 7, 3], seed=0, flip=True)
    seen = np.concatenate([order.at(r.position, r.count)[0] for shares in zip(*found, strict=True) for r in shares])
    whole = len(seen) // 24 * 24
    assert np.array_equal(np.sort(seen[:whole].reshape(-1, 24), axis=1), np.tile(np.arange(24), (whole // 24, 1)))


def test_a_batch_that_sixteen_processes_cannot_divide_is_refused() -> None:
    schedule_of(16).check_world_size(16)
    with pytest.raises(ValueError, match=r"batch of 24 at 4 px .* among 16 processes"):
        schedule_of(24).check_world_size(16)


def test_simulated_processes_leave_no_group_behind() -> None:
    assert not dist.is_initialized()
    with simulated(16, rank=3):
        assert (dist.get_rank(), dist.get_world_size()) == (3, 16)
    assert not dist.is_initialized()
