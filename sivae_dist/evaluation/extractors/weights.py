"""The file of Inception's weights."""

from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from sivae_dist.published import PublishedFile

INCEPTION = PublishedFile(
    url=URL_INCEPTION_V3,
    user="FID",
    genuine="those of 2015",
    setting="evaluation.weights",
    digest_setting="evaluation.sha256",
    consequence="; its values are then not called FID",
)


def is_of_2015(sha256: str) -> bool:
    """Whether weights with this checksum are the genuine ones."""
    return sha256.startswith(INCEPTION.digits)
