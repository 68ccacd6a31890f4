"""Images of several kinds go through a network in one pass, or in one each where it looks across its batch."""

from typing import Any

import pytest
from torch import nn

from sivae_dist.objectives import IntroSettings, SoftIntroSettings
from tests.sivae_dist.objectives.rendering import BATCH, Case, Step, compare, package, style

SETTINGS = {
    "soft_intro": SoftIntroSettings(beta_neg=8.0, gamma_r=0.3),
    "reencoded": SoftIntroSettings(beta_neg=8.0, gamma_r=0.3, stop_gradient="reencoded"),
    "intro": IntroSettings(margin=100.0),
}


def step(case: Case, settings: Any) -> tuple[Step, dict[str, list[int]]]:
    """A step of both players, and the images of each pass, by network."""
    passes: dict[str, list[int]] = {"encoder": [], "decoder": []}
    handles = []
    for name, network in (("encoder", case.encoder), ("decoder", case.decoder)):

        def note(_module: nn.Module, args: Any, name: str = name) -> None:
            passes[name].append(len(args[0]))

        handles.append(network.register_forward_pre_hook(note))
    taken = package(case, settings)
    for handle in handles:
        handle.remove()
    return taken, passes


@pytest.mark.parametrize("alone", ["encoder", "decoder"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_passes_apart_give_the_same(settings: Any, alone: str) -> None:
    """Of a network whose samples are independent, with layer noise and style mixing."""
    case = style()
    together, before = step(case, settings)
    getattr(case, alone).concatenates = False
    apart, after = step(case, settings)
    compare(apart, together)
    assert 2 * BATCH in before[alone] and set(after[alone]) == {BATCH}
    assert sum(after[alone]) == sum(before[alone])
    assert {**after, alone: before[alone]} == before
