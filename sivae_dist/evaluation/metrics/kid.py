"""KID: the maximum mean discrepancy of Inception features."""

from typing import Any

from torch import Tensor

from sivae_dist.evaluation.metrics.base import Features, Found, Metric

SUBSETS = 100
SUBSET_SIZE = 1000
"""As everybody has it; smaller where there are fewer images."""


class KernelDistance(Metric):
    """Mean squared maximum mean discrepancy with a cubic kernel over random subsets of features of samples and of real
    images (Binkowski et al. 2018, section 4)."""

    needs = (Features,)
    keeps_features = True
    distance = "kernel_distance"
    libraries = ("torch-fidelity",)

    def value(self, found: Found) -> float:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric  # takes seconds

        generated, real = _features(found)
        return float(kid_features_to_metric(generated, real, **self.details(found), verbose=False)[KEY_METRIC_KID_MEAN])

    def details(self, found: Found) -> dict[str, Any]:
        """Number and size of the subsets, as torch-fidelity takes them."""
        return {"kid_subsets": SUBSETS, "kid_subset_size": min(SUBSET_SIZE, *map(len, _features(found)))}


def _features(found: Found) -> tuple[Tensor, Tensor]:
    """[n, D] of samples and of real images."""
    generated, real = found.features.generated.features, found.features.real.features
    assert generated is not None and real is not None
    return generated, real
