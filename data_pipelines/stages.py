"""The stages of a data set: of images their resolutions, else a single one. Nothing is imported here."""

ONLY_STAGE = 1
"""The one stage of samples that have no resolution, such as points."""


def pixels(stage: int, before: str = "") -> str:
    """`64 px`, with a text before it: nothing at all for samples that have no resolution."""
    return "" if stage == ONLY_STAGE else f"{before}{stage} px"
