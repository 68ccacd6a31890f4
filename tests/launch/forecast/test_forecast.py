"""The arithmetic of a plan: its counts, memory, communication and money; and what it refuses."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.forecast import command
from launch.forecast.actual import actual
from launch.forecast.forecast import exposed, forecast, segments
from launch.forecast.gpus import GPUS
from launch.forecast.machine import Machine, Rate, Stream, read_machine
from launch.forecast.roofline import seconds_of, time_of_step
from launch.forecast.show import facts
from sivae_dist.config.opening import prepare_run
from sivae_dist.models.layers import forms
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import append_rows
from sivae_dist.step.schedule import Segment
from sivae_dist.train.communication import Communication, communication
from sivae_dist.train.counts import trace_step
from sivae_dist.train.memory import estimate
from sivae_dist.train.trainer import make_schedule
from sivae_dist.train.work import Work
from tests.helpers import tiny_settings

H100 = GPUS["h100"]
NONE = Path("none")


def machine(**changes: Any) -> Machine:
    """One whose operations take as long as their bytes, at 1 GB/s, or their arithmetic, at 1 GFLOP/s."""
    kinds = {one.kind for one in H100.rates}
    values: dict[str, Any] = {
        "name": "plain",
        "device": "cpu",
        "measured": True,
        "source": [],
        "rates": [
            Rate(kind=kind, precision="fp32", channels=1, positions=1, flops_per_second=1e9) for kind in sorted(kinds)
        ],
        "streams": [
            Stream(kind="elementwise", precision="fp32", bytes=size, seconds=size / 1e9) for size in (1, 1 << 40)
        ],
        "operation_seconds": 0.0,
        "memory": 10**12,
        "process_bytes": 0,
    }
    return Machine.model_validate(values | changes)


def work(**changes: Any) -> Work:
    return Work("convolution", torch.float32, False, 4, 4, 8, 3000, 2000)._replace(**changes)


def test_an_operation_takes_the_larger_of_arithmetic_and_traffic() -> None:
    assert seconds_of(work(), machine(), "fp32") == pytest.approx(3e-6)
    assert seconds_of(work(bytes=5000), machine(), "fp32") == pytest.approx(5e-6)
    assert seconds_of(work(kind="copy", positions=0, flops=0), machine(), "fp32") == pytest.approx(2e-6)
    with pytest.raises(ValueError, match="plain has no constants for convolution in bf16"):
        seconds_of(work(dtype=torch.bfloat16), machine(), "bf16")


def test_rates_are_interpolated_between_shapes_and_constant_beyond_them() -> None:
    points = {(4, 16): 1e9, (4, 256): 4e9, (64, 16): 4e9, (64, 256): 16e9}
    rates = [
        Rate(kind="product", precision="fp32", channels=c, positions=p, flops_per_second=rate)
        for (c, p), rate in points.items()
    ]
    found = machine(rates=rates)
    for (channels, positions), rate in points.items():
        assert found.flops_per_second("product", "fp32", channels, positions) == pytest.approx(rate)
    assert found.flops_per_second("product", "fp32", 16, 64) == pytest.approx(4e9)  # half way in both logarithms
    assert found.flops_per_second("product", "fp32", 1, 1) == pytest.approx(1e9)
    assert found.flops_per_second("product", "fp32", 1000, 10**6) == pytest.approx(16e9)


def test_streams_have_a_least_time_and_grow_in_proportion() -> None:
    points = [Stream(kind="copy", precision="fp32", bytes=b, seconds=s) for b, s in ((100, 1e-6), (10_000, 1e-5))]
    found = machine(streams=points)
    assert [found.stream_seconds("copy", "fp32", size) for size in (1, 100, 1000, 10_000, 10**6)] == pytest.approx(
        [1e-6, 1e-6, math.sqrt(10) * 1e-6, 1e-5, 1e-3]
    )


def test_a_gpu_computes_while_the_host_issues_and_a_cpu_does_not() -> None:
    step = Counter({work(): 2, work(backward=True): 1})
    cpu = time_of_step(step, machine(operation_seconds=1e-6), "fp32")
    assert (cpu.forward, cpu.backward, cpu.total) == pytest.approx((8e-6, 4e-6, 12e-6))
    gpu = machine(operation_seconds=1e-6, device="cuda")
    assert time_of_step(step, gpu, "fp32").total == pytest.approx(9e-6)
    assert time_of_step(step, gpu.model_copy(update={"operation_seconds": 1e-5}), "fp32").total == pytest.approx(3e-5)


def test_every_step_of_a_schedule_is_in_one_segment() -> None:
    settings = tiny_settings(
        NONE, "schedule.images={4: 20, 8: 33}", "schedule.batch={4: 8, 8: 4}", "schedule.blend=0.6",
        "objective.warmup=30",
    )  # fmt: skip
    schedule = make_schedule(settings, 1)
    found: dict[Segment, int] = {}
    for phase, first, end in schedule.begun(schedule.end):
        found |= segments(schedule, phase, first, end)
    expected: dict[Segment, int] = {}
    for step in schedule.steps(0):
        expected[step.segment] = expected.get(step.segment, 0) + 1
    assert found == expected and len(found) == 4


@pytest.mark.slow
def test_a_phase_is_what_its_steps_count() -> None:
    """On a machine of 1 GFLOP/s and boundless bandwidth, and on one of 1 GB/s and boundless arithmetic."""
    settings = tiny_settings(
        NONE, "schedule.images={4: 0, 8: 32}", "engine.max_batch_per_rank=2", "engine.kernels=fused"
    )
    schedule = make_schedule(settings, 1)
    with forms.using("fused"):
        traced = trace_step(settings, 8, 2, 2)
        memory = estimate(settings, 8, False, 2, 2, share=4, device="cpu")
    fast = machine(streams=[Stream(kind="elementwise", precision="fp32", bytes=1 << 40, seconds=1e-30)])
    (phase,) = forecast(settings, schedule, fast, 2).phases
    assert (phase.steps, phase.batch, phase.parts) == (4, 2, 2)
    flops = sum(each.flops * times for each, times in traced.work.items() if each.positions)  # depthwise ones left out
    assert 0.9 * traced.counts.flops < flops <= traced.counts.flops
    assert phase.seconds == pytest.approx(4 * flops / 1e9, rel=1e-6)
    rates = [one.model_copy(update={"flops_per_second": 1e30}) for one in machine().rates]
    (phase,) = forecast(settings, schedule, machine(rates=rates), 2).phases
    assert phase.seconds == pytest.approx(4 * sum(w.bytes * n for w, n in traced.work.items()) / 1e9, rel=1e-6)
    assert phase.memory == memory.peak - memory.overhead
    assert phase.sent == 4 * communication(settings, 8, 2, parts=2).sent


@pytest.mark.slow
def test_money_and_energy_and_more_gpus() -> None:
    settings = tiny_settings(NONE, "schedule.images={4: 64, 8: 0}", "schedule.batch=8", "engine.max_batch_per_rank=1")
    alone = H100.model_copy(update={"within_node": 1e30, "operation_seconds": 0.0})
    found = {n: forecast(settings, make_schedule(settings, 1), alone, n, price=2.0) for n in (2, 4)}
    # A step of twice as many micro-batches, but for what is done once a step.
    assert found[2].hours() / found[4].hours() == pytest.approx(2, rel=0.2)
    for n, one in found.items():
        assert one.gpu_hours() == pytest.approx(n * one.hours())
        assert one.cost() == pytest.approx(2 * one.gpu_hours())
        assert one.kilowatt_hours() == pytest.approx(0.7 * one.gpu_hours())
        (phase,) = facts(one)["phases"]
        assert phase["images_per_second"] == pytest.approx(64 / (3600 * one.hours()))
        assert facts(one)["gpu_hours"] == phase["gpu_hours"]


def test_communication_is_hidden_behind_the_end_of_backward_but_for_the_last_bucket() -> None:
    links = machine(per_node=4, within_node=1e9, between_nodes=1e8)
    gradients, bucket = 100 << 20, 25 << 20
    others = 2 * 3 / 4
    four, eight = Communication(gradients, 0, 4), Communication(gradients, 0, 8)
    assert exposed(four, 0.0, links) == pytest.approx(others * gradients / 1e9)
    assert exposed(four, 2.0, links) == pytest.approx(others * gradients / 1e9 - 0.1)
    assert exposed(four, 180.0, links) == pytest.approx(others * bucket / 1e9)
    assert exposed(eight, 0.0, links) == pytest.approx(2 * 7 / 8 * gradients / 1e8)  # through several nodes
    assert exposed(Communication(0, gradients, 4), 180.0, links) == pytest.approx(others / 2 * gradients / 1e9)
    assert exposed(Communication(gradients, 0, 1), 0.0, links) == exposed(four, 0.0, machine()) == 0


def test_sums_of_batch_statistics_are_waited_for_one_by_one() -> None:
    links = machine(per_node=4, within_node=1e9, sum_seconds=1e-4)
    statistics = Communication(0, 0, 4, statistics=10**6, sums=300)
    assert statistics.sent == 2 * 10**6 * 3 // 4
    assert exposed(statistics, 180.0, links) == pytest.approx(300 * 1e-4 + 2 * 3 / 4 * 1e6 / 1e9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": "0"}, "--gpus 0: numbers of GPUs are whole and positive"),
        ({"gpus": "8,x"}, "--gpus 8,x"),
        ({"gpus": None}, "give --gpus"),
        ({"price": -1.0}, "--price -1: a GPU-hour costs more than nothing"),
        ({"price": math.nan}, "--price nan"),
        ({"gpu": "b300"}, "--gpu b300: known are h100, h200, a100, 4090"),
        ({"gpu": None}, "give either --gpu"),
        ({"machine_file": Path("x.json")}, "give either --gpu"),
        ({"gpus": "3"}, "the batch of 32 at 4 px cannot be divided among 3 processes; the nearest"),
        ({"assignments": ["engine.precision=fp64"]}, "engine.precision=fp64: there are no constants of H100"),
        ({"config": "ffhq256"}, "the schedule is in epochs: give --samples"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(changes: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "config": "tiny", "assignments": [], "gpu": "h100", "machine_file": None, "gpus": "8", "price": None,
        "samples": None, "out": None,
    }  # fmt: skip
    with pytest.raises(ValueError) as caught:
        command.plan_run(**given | changes)
    assert words in str(caught.value)


@pytest.mark.slow
def test_a_table_shows_what_the_json_has_and_a_column_says_why_it_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    command.plan_run("tiny", ["model.resolution=4"], "a100", None, "2,3", 1.5, None, out)
    written, text = json.loads(out.read_text()), capsys.readouterr().out
    (run,) = written["plans"]
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["4"])
    (phase,) = run["phases"]
    assert row[1:4] == [f"{phase['images_per_second']:,.4g}", "16", f"{phase['memory_bytes'] / 1e9:.1f}"]
    assert row[-2:] == [f"{phase['cost']:,.2f}", f"{phase['kwh']:,.4g}"]
    assert written["refused"].keys() == {"3"} and written["refused"]["3"] in " ".join(text.split())


def test_a_run_is_compared_with_its_plan(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    settings = tiny_settings(NONE)
    prepare_run(run, settings)
    rows = [(8, 10.0), (16, 30.0), (24, 5.0), (32, 7.0), (48, 6.0)]
    append_rows(
        run.speed,
        [{"images": n, "speed/images_per_second": speed, "memory/resident_gb": n} for n, speed in rows]
        + [{"images": 48, "checkpoint/seconds": 1.0}],
    )
    found = actual(run, make_schedule(settings, 1))
    assert found[4] == (20.0, 16 * 2**30) and found[8] == (6.0, 48 * 2**30)


def test_a_machine_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(machine(operation_seconds=2e-6).model_dump_json())
    assert read_machine(path) == machine(operation_seconds=2e-6)
    path.write_text('{"name": "x"}')
    with pytest.raises(ValueError, match=r"machine\.json is not written by `sivae benchmark`"):
        read_machine(path)
