"""Networks. Nothing here knows of processes, optimizers or files.

Every encoder is called as `encoder(x, stage) -> (mu, logvar)` and every decoder as
`decoder(z, stage, noise, mixing) -> x`, so that an objective needs to know neither.
"""

from sivae_dist.models.stage import Mixing, Stage
from sivae_dist.models.style import StyleDecoder, StyleEncoder, StyleSettings, build

__all__ = ["Mixing", "Stage", "StyleDecoder", "StyleEncoder", "StyleSettings", "build"]
