"""Metrics of points beside the authors' own functions, on the same networks and points."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.toy import module_of
from data_pipelines.points.dataset import PointSettings
from sivae_dist.evaluation.metrics import METRICS, Found, Trained
from sivae_dist.evaluation.metrics.points import gnelbo
from sivae_dist.models import Stage
from sivae_dist.models.mlp import MlpSettings
from sivae_dist.use.pretrained import Pretrained
from tests.authors import AUTHORS, needs_authors
from tests.helpers import CPU

pytestmark = [needs_authors, pytest.mark.slow, pytest.mark.filterwarnings("ignore:torch.meshgrid")]

LAYERS, UNITS = 3, 32


class Points:
    """Stands for their data set: batch after batch of these points."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def next_batch(self, batch_size: int, device: torch.device) -> Tensor:
        batch, self.points = self.points[:batch_size], self.points[batch_size:]
        return batch


def trained(distribution: str) -> Trained:
    """Weights as a network begins, twice as large, so that points are spread over the plane."""
    torch.manual_seed(0)
    settings = MlpSettings(hidden_layers=LAYERS, hidden_units=UNITS)
    encoder, decoder = settings.build(3)
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            parameter.mul_(2)
    model = Pretrained(settings, encoder, decoder, Stage(1), 1000, live=True)
    return Trained(model, PointSettings(distribution=distribution).open(0, CPU), 0)


def theirs_of(of: Trained, theirs: Any) -> Any:
    """Their networks with the weights of ours, and the same samples."""
    model = theirs.SoftIntroVAESimple(n_layers=LAYERS - 1, num_hidden=UNITS)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (model.encoder.main, of.model.encoder),
        (model.decoder.main, of.model.decoder),
    ]
    for one, other in pairs:
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(other.parameters()), one.parameters())
    model.sample_with_noise = lambda num_samples, device: of.model.sample(num_samples, batch=num_samples)
    return model


def drawn(of: Trained, purpose: str, count: int) -> Points:
    return Points(torch.from_numpy(of.data.to_measure(of.seed, purpose, count)))


def measured(name: str, of: Trained) -> float:
    return METRICS[name]().value(Found({}, None, of))


@pytest.mark.parametrize(("distribution", "scale"), [("8gaussians", 1), ("rings", 2)])
def test_gnelbo(distribution: str, scale: int) -> None:
    """They compute in fp32, and so sum a million values."""
    of, theirs = trained(distribution), module_of(AUTHORS)
    grid = theirs.setup_grid(range_lim=2 * scale, n_pts=1024)
    test = drawn(of, "points for the ELBO", gnelbo.TEST_POINTS)
    expected = theirs.calculate_elbo_with_grid(theirs_of(of, theirs), test, grid, batch_size=128)
    assert not len(test.points)
    assert measured("gnelbo", of) == pytest.approx(expected, rel=2e-7, abs=0)


@pytest.mark.parametrize(("name", "jsd"), [("kl_official", False), ("jsd_official", True)])
@pytest.mark.parametrize(
    ("distribution", "scale"), [("8gaussians", 1), ("spiral", 2), ("checkerboard", 2), ("rings", 2)]
)
def test_divergences(distribution: str, scale: int, name: str, jsd: bool) -> None:
    of, theirs = trained(distribution), module_of(AUTHORS)
    real = drawn(of, "points for histograms", 5000)
    expected = theirs.calculate_sample_kl(theirs_of(of, theirs), real, use_jsd=jsd, xy_range=(-2 * scale, 2 * scale))
    assert measured(name, of) == pytest.approx(expected, rel=1e-14)
