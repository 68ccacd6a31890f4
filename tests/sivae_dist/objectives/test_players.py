"""What every objective keeps to: two players with their own parameters, one forward, losses in fp32 or wider."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from sivae_dist.models import Stage
from sivae_dist.models.layers import forms
from sivae_dist.objectives import IntroSettings, SoftIntroSettings, VaeSettings
from tests.sivae_dist.objectives.rendering import (
    BATCH,
    EVERY_CASE,
    LATENT,
    Case,
    freeze,
    mlp,
    parameters,
    style,
    translation,
)

SOFT_INTRO, INTRO = SoftIntroSettings(beta_neg=8.0, gamma_r=0.3), IntroSettings(margin=100.0)
OF_GROUPS = SoftIntroSettings(
    beta_kl={"class": 2.7, "content": 1.2}, beta_neg={"class": 9.0, "content": 27.0}, gamma_r=0.3
)
OBJECTIVES: dict[str, tuple[Any, bool]] = {
    "soft_intro": (SOFT_INTRO, False),
    "soft_intro's warm-up": (SOFT_INTRO, True),
    "intro": (INTRO, False),
    "intro's warm-up": (INTRO, True),
    "vae": (VaeSettings(), False),
}
EVERY_OBJECTIVE = pytest.mark.parametrize(("settings", "warming_up"), OBJECTIVES.values(), ids=OBJECTIVES)


def build(case: Case, settings: Any, warming_up: bool, amp: torch.dtype | None = None) -> tuple[nn.Module, nn.Module]:
    objectives: tuple[nn.Module, nn.Module] = settings.build(
        case.encoder, case.decoder, case.resolution, case.dimensions, warming_up=warming_up, amp=amp
    )
    return objectives


@EVERY_CASE
@EVERY_OBJECTIVE
def test_players(make: Callable[..., Case], settings: Any, warming_up: bool) -> None:
    case = make()
    players = (case.encoder, case.decoder)
    z = torch.empty(0)
    for turn, objective in enumerate(build(case, settings, warming_up)):
        player, partner = players[turn], players[1 - turn]
        own = dict(objective.named_parameters())
        assert {id(p) for p in own.values()} == {id(p) for p in player.parameters()}
        assert not {id(p) for p in own.values()} & {id(p) for p in partner.parameters()}
        assert {name.removeprefix("player.") for name in own} == parameters(player).keys()
        assert not set(objective.modules()) & set(partner.modules())

        freeze(player, False)
        freeze(partner, True)
        out: Any = (
            objective(case.x, case.cond, case.draws) if turn == 0 else objective(case.x, z, case.cond, case.draws)
        )
        loss, terms = out.loss, out.terms
        assert loss.ndim == 0 and loss.dtype == torch.float64
        assert terms and all(term.ndim == 0 and not term.requires_grad for term in terms.values())
        if turn == 0:
            z = out.crossing
            assert z.shape == (BATCH, LATENT) and not z.requires_grad
        loss.backward()
        assert all(p.grad is None for p in partner.parameters())
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in player.parameters())
        player.zero_grad(set_to_none=True)


@EVERY_OBJECTIVE
def test_losses_are_fp32_under_autocast(settings: Any, warming_up: bool) -> None:
    case = style(mixing=False, noise=False)
    case.encoder.float(), case.decoder.float()
    x, draws = case.x.float(), case.draws._replace(z=case.draws.z.float(), eps=case.draws.eps.float())
    seen = set()
    for module in (case.encoder, case.decoder):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d) or type(layer).__name__ == "Conv2d":
                layer.register_forward_hook(lambda _module, _args, output: seen.add(output.dtype))
    encoder_objective, decoder_objective = build(case, settings, warming_up, torch.bfloat16)
    loss, terms, z, _ = encoder_objective(x, case.cond._replace(stage=Stage(8)), draws)
    decoder_loss, more, _ = decoder_objective(x, z, case.cond._replace(stage=Stage(8)), draws)
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in (loss, decoder_loss, *terms.values(), *more.values())} == {torch.float32}


@pytest.mark.parametrize(
    ("make", "settings"),
    [(mlp, INTRO), pytest.param(partial(translation, "another"), OF_GROUPS, marks=pytest.mark.slow)],
    ids=["intro", "groups of pairs"],
)
def test_one_graph(make: Callable[..., Case], settings: Any) -> None:
    """torch.compile finds no break in IntroVAE's objectives, nor in those of groups of z and pairs of images; what it
    runs is the same."""
    case = make()
    torch._dynamo.reset()
    z = torch.empty(0)
    for turn, objective in enumerate(build(case, settings, False)):
        arguments = (case.x, case.cond, case.draws) if turn == 0 else (case.x, z, case.cond, case.draws)
        eager = objective(*arguments)
        with forms.using("compiled"):
            compiled = torch.compile(objective, backend="eager", fullgraph=True, dynamic=False)(*arguments)
        torch.testing.assert_close(compiled[0], eager[0], rtol=1e-10, atol=0)
        torch.testing.assert_close(compiled[1], eager[1], rtol=1e-10, atol=0)
        if turn == 0:
            z = eager[2]
