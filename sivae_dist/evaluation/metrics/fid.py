"""FID: the Frechet distance of Inception features."""

from sivae_dist.evaluation.metrics.base import Features, Found, Metric
from sivae_dist.evaluation.statistics import Statistics


class FrechetDistance(Metric):
    """Squared Frechet distance of two normal distributions, fitted to features of samples and of real images
    (Heusel et al. 2017, equation 6)."""

    needs = (Features,)
    distance = "frechet_distance"
    libraries = ("torch-fidelity",)

    def value(self, found: Found) -> float:
        return frechet_distance(found.features.real.statistics, found.features.generated.statistics)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared Frechet distance between two normal distributions, as torch-fidelity computes it."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric  # takes seconds

    first, second = ({"mu": s.mean, "sigma": s.covariance} for s in (a, b))
    return float(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID])
