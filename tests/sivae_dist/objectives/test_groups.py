"""Weights and terms by group of z, and what a run says of them. The gradients: test_against_paper.py."""

import math
from typing import Any

import pytest
import torch

from sivae_dist.config.run_settings import RunSettings, validate
from sivae_dist.objectives import Objective, SoftIntroSettings, VaeSettings
from sivae_dist.objectives.elbo import divergence, kl_divergence

GROUPS = {"class": 2, "content": 3}
BOTH = {"class": 1024, "content": 2048}


def run(**objective: Any) -> RunSettings:
    values = {"data": {"path": "none"}, "schedule": {"images": 64}, "model": {"name": "translation"}}
    return validate(values | {"objective": {"name": "soft_intro"} | objective}, "here")


def test_the_sum_of_groups_is_all_of_z() -> None:
    mu, logvar = torch.randn(2, 4, 5, dtype=torch.float64)
    kl = divergence(mu, logvar, GROUPS)
    torch.testing.assert_close(kl.groups["class"], kl_divergence(mu[:, :2], logvar[:, :2]))
    torch.testing.assert_close(kl.groups["content"], kl_divergence(mu[:, 2:], logvar[:, 2:]))
    torch.testing.assert_close(kl.total, kl_divergence(mu, logvar))
    torch.testing.assert_close(kl.weighted(0.3), 0.3 * kl.total)
    wanted = 2 * kl.groups["class"] + 5 * kl.groups["content"]
    torch.testing.assert_close(kl.weighted({"content": 5.0, "class": 2.0}), wanted)
    first, second = kl.halves()
    torch.testing.assert_close(torch.cat((first.total, second.total)), kl.total)
    terms = kl.terms("fake")
    assert list(terms) == ["kl/fake", "kl/fake/class", "kl/fake/content"]
    assert terms["kl/fake/content"] == kl.groups["content"].mean()
    assert list(divergence(mu, logvar, {}).terms("real")) == ["kl/real"]


def test_a_dry_run_shows_each() -> None:
    """c of each group, and where each one's KL(fake) would rest by itself: ln(beta_neg / (2 beta_kl)) / c."""
    settings = run(beta_rec=0.5, beta_neg=BOTH)
    model = settings.model
    columns = settings.objective.columns(64, model.dimensions)
    assert columns["beta rec/kl/neg"] == "0.5/1/class 1024, content 2048"
    slopes = [2 * beta / (3 * 64 * 64) for beta in BOTH.values()]
    assert columns["c"] == f"class {slopes[0]:.3g}, content {slopes[1]:.3g}"
    resting = [math.log(beta / 2) / slope for beta, slope in zip(BOTH.values(), slopes, strict=True)]
    assert columns["resting KL"] == f"class {resting[0]:.1f}, content {resting[1]:.1f}"
    assert "class 37, content 21" in settings.objective.remarks(64, model.dimensions)["beta_neg"]
    one = run(beta_neg=256).objective.columns(64, model.dimensions)
    assert one["beta rec/kl/neg"] == "1/1/256"


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        ({"beta_kl": {"class": 1}}, "objective.beta_kl has values for class, but the groups of this model's z are "),
        ({"beta_neg": {"class": 1, "pose": 2}}, "objective.beta_neg has values for class, pose, but the groups of"),
        ({"beta_kl": {"class": 1, "content": -1}}, "objective.beta_kl.content: must be at least 0.0, not -1"),
        ({"beta_kl": {"class": {32: 1}, "content": 1}}, "objective.beta_kl.class has no value for 64 px; it has [32]"),
        ({"beta_neg": {"class": "much", "content": 1}}, "objective.beta_neg.class: a number is needed, not 'much'"),
    ],
)
def test_groups_that_cannot_be(objective: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError) as error:
        run(**objective)
    assert str(error.value).removeprefix("here: ").startswith(problem), error.value


def test_values_by_resolution_within_groups() -> None:
    settings = run(beta_kl={"class": {64: 3}, "content": 1}, beta_neg={64: 7})
    assert isinstance(settings.objective, SoftIntroSettings)
    weights = settings.objective.weights(64, 1)
    assert weights.beta_kl == {"class": 3, "content": 1} and weights.beta_neg == 7


@pytest.mark.parametrize("settings", [VaeSettings(), SoftIntroSettings()])
@pytest.mark.parametrize("group", ["class", "content"])
def test_the_collapse_of_a_group_is_named(settings: Objective, group: str) -> None:
    terms = {"kl/real": 9.0, "kl/fake": 12.0, "kl/real/class": 4.0, "kl/real/content": 5.0, "kl/rec/class": 0.01}
    assert settings.fault(terms) is None
    terms[f"kl/real/{group}"] = 0.02
    fault = settings.fault(terms)
    assert fault is not None
    assert fault.format_map(terms).startswith(
        f"posterior collapse: KL(real) of {group} 0.02 has stayed below 0.05 nats, so that the code of {group} says "
        "nothing. Lower objective.beta_kl"
    )
