"""The benchmark of a training iteration: its baseline has the authors' operations, and its table what was measured."""

import argparse
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks import iteration
from benchmarks.authors_iteration import AuthorsIteration
from benchmarks.iteration import LR, Contender, Goal, Measured, Row, begin, compare, rows_of
from benchmarks.machine import instruction_sets
from benchmarks.plain_iteration import Down, Layer, PlainIteration, Up, optimizer_of
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.models.style import StyleSettings
from sivae_dist.objectives.soft_intro import SoftIntroSettings
from sivae_dist.train.memory import estimate
from sivae_dist.train.tracing import Tracker
from tests.authors import AUTHORS, needs_authors

ROOT = Path(__file__).parents[2]
TINY = ["model.latent=8", "model.base_width=2", "model.max_width=8", "model.decoder_mapping=2"]

FLOPS_OF_THE_AUTHORS = {
    4: 3_727_687_680,
    8: 23_748_132_864,
    16: 103_622_295_552,
    32: 422_911_328_256,
    64: 901_893_505_024,
    128: 1_204_275_560_448,
    256: 1_507_823_632_384,
}
"""An image's, of their iteration at the widths of ffhq256 without style mixing, counted in their modules."""


def settings(*assignments: str) -> RunSettings:
    return load_config("ffhq256", ["data.path=unused", "device=cpu", *assignments])


def parts_of(run: RunSettings) -> tuple[StyleSettings, SoftIntroSettings, float]:
    assert isinstance(run.model, StyleSettings) and isinstance(run.objective, SoftIntroSettings)
    return run.model, run.objective, LR


def flops_of(contender: Contender, resolution: int) -> int:
    """An image's."""
    iterate = contender.ready(resolution, 2)
    with Tracker() as tracker:
        iterate()
    return tracker.flops // 2


# The plain rendering.


@pytest.mark.parametrize("resolution", FLOPS_OF_THE_AUTHORS)
def test_the_plain_rendering_has_the_operations_of_the_authors(resolution: int) -> None:
    with torch.device("meta"):
        plain = PlainIteration(*parts_of(settings("objective.style_mixing=0")))
        assert flops_of(plain, resolution) == FLOPS_OF_THE_AUTHORS[resolution]


@needs_authors
@pytest.mark.parametrize("resolution", [4, 16, 128, 256])
@pytest.mark.parametrize("mixing", [0, 1])
def test_the_authors_have_the_same_operations(resolution: int, mixing: int) -> None:
    parts = parts_of(settings(*TINY, f"objective.style_mixing={mixing}"))
    authors, plain = AuthorsIteration(AUTHORS, *parts), PlainIteration(*parts)
    assert flops_of(authors, resolution) == flops_of(plain, resolution) > 0


def test_the_folded_forms_equal_the_plain_ones() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for kind, expected in (
        (Up, lambda weight: F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)),
        (Down, lambda weight: F.avg_pool2d(F.conv2d(x, weight, padding=1), 2)),
    ):
        for resolution in (64, 128):
            layer: Any = kind(5, 3, resolution).double()
            assert layer.folded is (resolution == 128)
            torch.testing.assert_close(layer(x), expected(layer.weight), rtol=0, atol=1e-12)


def test_the_plain_rendering_trains_what_a_stage_uses_and_averages_it() -> None:
    torch.manual_seed(0)
    random.seed(0)
    plain = PlainIteration(*parts_of(settings(*TINY)))
    networks = (plain.encoder, plain.decoder)
    before = [{name: p.clone() for name, p in network.named_parameters()} for network in networks]
    plain.ready(8, 10_000 // 1000)()
    share = 1 - 0.5 ** (10 / 10_000)
    for network, average, old in zip(networks, plain.averages, before, strict=True):
        for (name, weight), kept in zip(network.named_parameters(), average.parameters(), strict=True):
            used = not any(f".{r}." in name for r in (16, 32, 64, 128, 256)) and not name.startswith(
                ("from_rgb.4", "to_rgb.4")
            )
            assert torch.equal(weight, old[name]) is not used, name
            torch.testing.assert_close(kept, torch.lerp(old[name], weight, share))


def test_the_plain_losses_follow_from_the_pixels_and_the_divergences() -> None:
    """With weights of zero all images are black and all posteriors N(0, 1): what is left is known."""
    run = settings(*TINY, "objective.scale=0.01", "objective.gamma_r=0.5")
    plain = PlainIteration(*parts_of(run))
    for network in (plain.encoder, plain.decoder):
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
    x = torch.full((2, 3, 4, 4), 0.5)
    error = 0.25 * 3 * 4 * 4
    assert plain.encoder_loss(x).item() == pytest.approx(0.01 * 0.1 * error + 2 * 0.25)
    assert plain.decoder_loss(x).item() == pytest.approx(0.01 * 0.1 * error)


def test_weights_of_the_plain_rendering_learn_in_proportion_to_their_size() -> None:
    layer = Layer(4, 8, lr_factor=0.1)
    rates = {id(group["params"][0]): group["lr"] for group in optimizer_of(layer, 2.0).param_groups}
    assert layer.bias is not None
    assert rates == {id(layer.weight): pytest.approx(2 * math.sqrt(2 / 8) * 0.1), id(layer.bias): pytest.approx(0.2)}


# The table.


def measured(seconds: float) -> Measured:
    return Measured([3 * seconds, seconds], 1, 1)


@pytest.mark.parametrize(
    ("sets", "bf16"),
    [
        (["amx_bf16", "avx512_bf16", "avx2"], (6.0, False)),
        (["avx512_bf16", "avx2"], (3.0, True)),
        (["avx2"], (None, None)),
    ],
)
def test_goals_are_those_of_the_processor(sets: list[str], bf16: tuple[float | None, bool | None]) -> None:
    figures = {"plain": measured(8.0), "fp32": measured(5.0), "bf16": measured(2.0)}
    found = compare(figures, Row(32, 8, Goal(1.6, 6)), "plain", sets)
    assert found["fp32"] == (1.6, 1.6) and found["fp32"].reached is True
    assert (found["bf16"].ratio, found["bf16"].goal, found["bf16"].reached) == (4.0, *bf16)


@pytest.mark.slow
def test_rows_hold_what_was_measured() -> None:
    said: list[str] = []
    arguments = argparse.Namespace(
        authors=None, config="ffhq256", set=TINY, rounds=2, rows=[iteration.ROWS[8], iteration.ROWS[16]]
    )
    contenders = begin(arguments)
    rows = list(rows_of(contenders, arguments, said.append))
    assert [(row["resolution"], row["batch"]) for row in rows] == [(8, 8), (16, 8)]
    for row in rows:
        figures, ratios = row["measured"], row["ratios"]
        assert list(figures) == ["plain", "fp32", "bf16"]
        assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in figures.values())
        for name in ("fp32", "bf16"):
            assert ratios[name]["ratio"] == min(figures["plain"]["seconds"]) / min(figures[name]["seconds"])
            run = settings(*TINY, f"engine.precision={name}")
            assert figures[name]["flops"] == estimate(run, row["resolution"], False, 8, 1, device="cpu").flops // 8
        assert figures["fp32"]["flops"] <= figures["bf16"]["flops"] < figures["plain"]["flops"]
        held = estimate(settings(*TINY), row["resolution"], False, 8, 1, device="cpu").activations
        assert figures["fp32"]["peak"] > held
        line = next(line for line in said if line.startswith(f"| {row['resolution']}, 8 |"))
        assert line.count("|") == 9 and f"| {ratios['fp32']['ratio']:.2f} |" in line
    ours = contenders[1]
    assert isinstance(ours, iteration.OurIteration) and ours.images == 2 * (2 + 2) * 8
    states = ours.players.encoder_engine.optimizer.state.values()
    assert max(int(state["step"]) for state in states) == 2 * (2 + 2)


@pytest.mark.slow
def test_the_command_writes_its_table_and_its_figures(tmp_path: Path) -> None:
    words = ["--rows", "8", "--rounds", "1", "--set", *TINY, "--json", str(tmp_path / "a.json")]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.iteration", *words, "--out", str(tmp_path / "a.md")],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.md").read_text() == done.stdout
    assert "| 8, 8 |" in done.stdout and "python -m benchmarks.iteration --rows 8" in done.stdout
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["instruction_sets"] == instruction_sets() and facts["set"] == TINY and facts["baseline"] == "plain"
    (row,) = facts["rows"]
    reached = row["ratios"]["fp32"]["ratio"] >= 1.3
    assert row["ratios"]["fp32"]["reached"] is reached
    assert f"1.3, {'reached' if reached else 'missed'}" in done.stdout


def test_what_is_no_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it has no style_soft_intro_vae/model.py"):
        AuthorsIteration(tmp_path, *parts_of(settings(*TINY)))
    with pytest.raises(ValueError, match=r"model.encoder_mapping is 2: the authors' code has 3 layers there"):
        AuthorsIteration(tmp_path, *parts_of(settings(*TINY, "model.encoder_mapping=2")))
