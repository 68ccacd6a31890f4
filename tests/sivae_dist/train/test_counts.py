"""Counts of a whole step: those of a real one, and those that were recorded."""

from pathlib import Path

import pytest
import torch

from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.models.layers import forms
from sivae_dist.models.layers.forms import Form
from sivae_dist.step.schedule import Segment
from sivae_dist.train.counts import Counts, count_step
from sivae_dist.train.kernel_counts import _unseen_by, kernels_counted
from sivae_dist.train.memory import estimate
from sivae_dist.train.players import Players
from sivae_dist.train.tracing import FakeMode, Tracker, micro_batch
from tests.helpers import CPU, tiny_settings

INTRO = "objective={name: intro, margin: 4}"

RECORDED: dict[tuple[Form, int, str], Counts] = {
    ("plain", 256, "bf16"): Counts(6_307_815_358_464, 6_393, 150_019_207_354, 7_459_490_997),
    ("fused", 64, "bf16"): Counts(2_159_611_871_232, 4_480, 16_123_540_348, 449_261_575),
    ("fused", 256, "bf16"): Counts(4_216_581_914_624, 6_036, 53_211_117_324, 1_611_314_055),
    ("native", 8, "fp32"): Counts(80_988_078_080, 1_031, 3_801_799_066, 155_049_525),
    ("native", 64, "bf16"): Counts(2_156_729_991_168, 1_950, 9_489_775_972, 415_706_631),
    ("native", 256, "fp32"): Counts(4_128_119_455_744, 2_136, 44_130_402_386, 2_930_233_345),
    ("native", 256, "bf16"): Counts(4_203_281_383_424, 2_478, 23_934_402_804, 1_477_096_199),
}
"""Of steps of ffhq256 with 4 images, by form of the layers, resolution and precision."""


COMPILED = Counts(4_603_904, 310, 1_264_252, 154_699)
"""Of a step of `VAE` with 64 images."""


def real(settings: RunSettings, blending: bool, parts: int, batch: int) -> Counts:
    """Of a second step that is taken."""
    players = Players(settings, CPU)
    players.prepare(Segment(8, blending, warming_up=False))
    part, allowed = micro_batch(settings, players.decoder, 8, blending, batch), torch.ones((), dtype=torch.bool)
    for tensor in (part[0], part[2].z, part[2].eps, part[2].noise):
        assert tensor is not None
        tensor.normal_()
    if part[2].mixing is not None:
        part[2].mixing.z.normal_()
    for _ in range(2):
        with Tracker() as tracker:
            encoder = players.encoder_engine.update([part] * parts, 0.0, allowed)
            crossed = [(part[0], turn.crossing, *part[1:]) for turn in encoder.turns]
            players.decoder_engine.update(crossed, 0.0, encoder.taken)
            players.average(parts * batch)
        del encoder, crossed
    return Counts(tracker.flops, tracker.operations, tracker.traffic, tracker.peak)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assignments", "blending", "parts"),
    [
        ((), True, 2),
        (("engine.precision=bf16",), False, 1),
        (("engine.precision=fp64", "optimizer.clip=1"), False, 1),
        (("engine.checkpoint_activations=true",), True, 1),
        ((INTRO,), False, 2),
    ],
)
def test_what_a_real_step_does(assignments: tuple[str, ...], blending: bool, parts: int) -> None:
    run = tiny_settings(Path("none"), *assignments)
    found, expected = count_step(run, 8, 4, share=4 * parts, blending=blending), real(run, blending, parts, 4)
    assert found[:3] == expected[:3]
    assert found.peak == pytest.approx(expected.peak, rel=0.03)
    assert found.flops == estimate(run, 8, blending, 4, 1, share=4 * parts, device="cpu").flops


@pytest.mark.slow
@pytest.mark.parametrize(("form", "resolution", "precision"), RECORDED)
def test_a_step_of_ffhq256_costs_what_was_recorded(form: Form, resolution: int, precision: str) -> None:
    """Whatever makes it cheaper is recorded anew, so that it stays so; what makes it 2% more expensive is seen here."""
    run = load_config("ffhq256", [f"engine.precision={precision}"])
    with forms.using(form):
        found = count_step(run, resolution, 4)
    for name, value, recorded in zip(Counts._fields, found, RECORDED[form, resolution, precision], strict=True):
        assert recorded / 1.02 < value < 1.02 * recorded, f"{name}: {found}"


@pytest.mark.slow
def test_operations_do_not_depend_on_the_batch_and_bytes_are_in_proportion_to_it() -> None:
    one, two, three = (count_step(tiny_settings(Path("none")), 8, batch) for batch in (2, 4, 6))
    assert one.operations == two.operations == three.operations
    assert three.traffic - two.traffic == two.traffic - one.traffic > 0
    assert (one.flops, three.flops) == (two.flops // 2, 3 * two.flops // 2)


def test_a_process_with_compiled_layers_traces_fused_ones(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    with forms.using("compiled"):
        found = count_step(settings, 4, 2)
    with forms.using("fused"):
        assert found == count_step(settings, 4, 2)


@pytest.mark.slow
def test_what_cannot_be_traced_is_counted_as_ddp_does_it_eagerly() -> None:
    plain = count_step(tiny_settings(Path("none"), "engine.precision=bf16"), 8, 2)
    for engine in ("{name: zero, stage: 3, precision: bf16}", "{name: ddp, compile: true, precision: bf16}"):
        assert count_step(tiny_settings(Path("none"), f"engine={engine}"), 8, 2) == plain


# With torch.compile.


def test_a_kernel_counts_all_that_it_is_given_and_gives() -> None:
    def both(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ((x * 2).cos() @ w).relu() + 1

    torch._dynamo.reset()
    with FakeMode():
        x, w = torch.empty(10, 20), torch.empty(20, 30)
        with Tracker() as tracker, kernels_counted(tracker), _unseen_by(tracker):
            torch.compile(both, fullgraph=True)(x, w)
    assert tracker.operations == 3
    assert tracker.traffic == 4 * (200 + 200 + (200 + 600 + 300) + 300 + 300)
    assert tracker.flops == 2 * 10 * 20 * 30
    torch._dynamo.reset()


VAE = ("objective={name: vae}", "engine.precision=bf16", "model.resolution=4", "schedule.images=16")


@pytest.mark.slow
def test_a_compiled_step_costs_what_was_recorded() -> None:
    """Of a small model at 4 px; docs/performance.md has ffhq256."""
    run = tiny_settings(Path("none"), *VAE)
    found = count_step(run, 4, 64, compiled=True)
    for name, value, recorded in zip(Counts._fields, found, COMPILED, strict=True):
        assert recorded / 1.02 < value < 1.02 * recorded, f"{name}: {found}"
    with forms.using("fused"):
        eager = count_step(run, 4, 64)
    assert found.operations < eager.operations and found.traffic < eager.traffic
    assert forms.current() != "compiled"
