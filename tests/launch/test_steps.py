"""Steps on random images, with labels where the networks are told them."""

from pathlib import Path

import pytest
import torch

from launch.steps import Stepper
from tests.helpers import CPU, tiny_settings


@pytest.mark.parametrize("family", [(), ("model={name: residual, resolution: 8, latent: 8, widths: [6]}",)])
def test_conditional_networks_are_given_labels(family: tuple[str, ...]) -> None:
    labelled = ("model.conditional=true", "model.class_names=[a, b, c]")
    settings = tiny_settings(Path("none"), *family, "objective.style_mixing=0", *labelled)
    stepper = Stepper(settings, CPU, 8)
    label = stepper.cond(50).label
    assert label is not None and label.unique().tolist() == [0, 1, 2]
    terms = stepper.step(stepper.images(4), stepper.draws(4))
    assert terms["taken"] and torch.isfinite(terms["loss/encoder"])


def test_others_are_given_none() -> None:
    assert Stepper(tiny_settings(Path("none")), CPU, 8).cond(4).label is None
