"""The density of a trained model's samples at given points: log p(x) by importance sampling, and the authors' ELBO."""

import math

import torch
from torch import Tensor

from sivae_dist.objectives.elbo import kl_divergence
from sivae_dist.step.randomness import normals
from sivae_dist.use.pretrained import Pretrained

_AT_ONCE = 1 << 21
"""Values of z that are held at once."""


def elbo(model: Pretrained, x: Tensor, batch: int = 8192) -> Tensor:
    """-(KL(q(z|x) || p(z)) + |x - decoder(mu)|^2) at points x [N, D], float64 [N].

    The authors' figure 9b shows its exponential as a density, and their gnELBO sums it over a grid. z is the encoder's
    mean, and both weights are 1 whatever the model was trained with (plot_vae_density in their code). Therefore it is
    neither a bound of `log_density` nor normalized.
    """
    found = []
    for part in x.split(batch):
        mu, logvar = (code.double() for code in model.encode(part))
        error = (model.decode(mu.to(model.dtype)).double() - part.to(mu)).flatten(1).square().sum(1)
        found.append(-(kl_divergence(mu, logvar) + error).cpu())
    return torch.cat(found)


def log_density(
    model: Pretrained, x: Tensor, deviation: float, *, draws: int = 32, prior_draws: int = 4096, seed: int = 0
) -> Tensor:
    """log p(x) in nats at points x [N, D], float64 [N], for z ~ N(0, I) and x ~ N(decoder(z), deviation^2 I).

    Estimated by importance sampling: `draws` z of q(z|x) for each x, and `prior_draws` of p(z), which all x share. A z
    is weighted by both together (the balance heuristic of Veach and Guibas, 1995):

        p(x) ~ sum over all z of p(x|z) p(z) / (draws q(z|x) + prior_draws p(z))

    so that no weight is larger than p(x|z) / prior_draws. Draws of q alone miss p(x) wherever the encoder is wrong
    about z, as an introspective one is on purpose for points that are not real. For few dimensions of z.
    """
    latent = model.settings.latent
    eps = normals(seed, "density of the encoder", 0, draws, latent, torch.device("cpu")).to(x.device, torch.float64)
    prior = normals(seed, "density of the prior", 0, prior_draws, latent, torch.device("cpu"))
    of_prior = model.decode(prior.to(model.dtype)).double().flatten(1)
    prior = prior.to(of_prior)
    found = []
    for part in x.split(max(1, _AT_ONCE // (latent * (draws + prior_draws)))):
        mu, logvar = (code.double() for code in model.encode(part))
        own = mu[:, None] + eps.to(mu) * (0.5 * logvar).exp()[:, None]
        z = torch.cat((own, prior.expand(len(part), -1, -1)), 1)
        decoded = model.decode(own.flatten(0, 1).to(model.dtype)).double().flatten(1)
        images = torch.cat((decoded.unflatten(0, own.shape[:2]), of_prior.expand(len(part), -1, -1)), 1)
        likelihood = _log_normal(part.to(mu).flatten(1)[:, None] - images, torch.tensor(2 * math.log(deviation)).to(mu))
        at_prior = _log_normal(z, torch.zeros_like(logvar[:1, None]))
        proposal = torch.logaddexp(
            math.log(draws) + _log_normal(z - mu[:, None], logvar[:, None]), math.log(prior_draws) + at_prior
        )
        found.append(torch.logsumexp(likelihood + at_prior - proposal, 1).cpu())
    return torch.cat(found)


def _log_normal(distance: Tensor, logvar: Tensor) -> Tensor:
    """log N(distance; 0, exp(logvar)) [..., D] summed over D."""
    return -0.5 * (distance.square() * (-logvar).exp() + logvar + math.log(2 * math.pi)).sum(-1)
