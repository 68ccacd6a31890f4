"""The fully connected networks against what the appendix and the authors' code say of them."""

import pytest
import torch
from torch import Tensor

from sivae_dist.models import Cond, Stage
from sivae_dist.models.mlp import MlpSettings

COND = Cond(Stage(1))


@pytest.mark.parametrize(
    ("layers", "encoder", "decoder"),
    [
        (3, (2 * 256 + 256) + 2 * (256 * 256 + 256) + (256 * 4 + 4), (2 * 256 + 256) + 2 * (65536 + 256) + (512 + 2)),
        (4, 199_172, 198_658),  # the authors' networks, which have one number more in the decoder that is never used
    ],
)
def test_parameters(layers: int, encoder: int, decoder: int) -> None:
    networks = MlpSettings(hidden_layers=layers).shapes()
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [encoder, decoder]


def by_hand(network: torch.nn.Module, x: Tensor) -> Tensor:
    values = list(network.state_dict().values())
    for weight, bias in zip(values[:-2:2], values[1:-2:2], strict=True):
        x = (x @ weight.T + bias).clamp(min=0)
    return x @ values[-2].T + values[-1]


def test_networks_compute_what_they_say() -> None:
    encoder, decoder = MlpSettings(features=5, latent=3, hidden_layers=2, hidden_units=7).build(0)
    x, z = torch.randn(4, 5), torch.randn(4, 3)
    mu, logvar = encoder(x, COND)
    assert torch.allclose(torch.cat((mu, logvar), 1), by_hand(encoder, x), atol=1e-6)
    assert torch.allclose(decoder(z, COND), by_hand(decoder, z), atol=1e-6)
    assert (mu.shape, logvar.shape) == ((4, 3), (4, 3))


def test_outputs_are_wide() -> None:
    encoder, decoder = MlpSettings(hidden_layers=1, hidden_units=4).build(0)
    with torch.autocast("cpu", torch.bfloat16):
        mu, logvar = encoder(torch.randn(2, 2), COND)
        assert {mu.dtype, logvar.dtype, decoder(mu, COND).dtype} == {torch.float32}


def test_initial_weights_are_torchs() -> None:
    """Uniform, with variance 1 / (3 fan_in), as the authors' hyperparameters were found with."""
    encoder, _ = MlpSettings().build(0)
    weight = dict(encoder.named_parameters())["layers.1.weight"]
    assert weight.abs().max() <= 1 / 16 and weight.std().item() == pytest.approx(1 / 16 / 3**0.5, rel=0.02)
