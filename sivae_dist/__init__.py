"""Training of Soft-IntroVAE at high resolution: models, objectives, engines, checkpoints, figures.

from sivae_dist import load_pretrained
model = load_pretrained("runs/ffhq256")
images = model.sample(16, seed=0)
"""

from typing import TYPE_CHECKING

__all__ = ["__version__", "load_pretrained"]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sivae_dist.use.export import load_pretrained
else:

    def __getattr__(name: str) -> object:
        if name != "load_pretrained":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from sivae_dist.use.export import load_pretrained  # which imports torch, and the package is used without

        return load_pretrained
