"""Settings of what a run logs, and how often."""

from pydantic import Field

from sivae_dist.settings import Images, Settings


class MonitoringSettings(Settings):
    scalars_every: Images = Field(5_000, gt=0)
    """Images between two rows of metrics.jsonl and points in TensorBoard."""
    images_every: Images = 50_000
    """Images between two image grids, in TensorBoard and RUN/figures/training; 0 for none, and no curves at the end.
    Samples that are no images are drawn as points."""
    trace: bool = False
    """Write a row per position (sample, flip, hashes of all inputs and draws) to trace.jsonl, to compare runs."""
    grid: int = Field(8, ge=1)
    """Columns of an image grid."""
