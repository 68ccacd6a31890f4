"""Training of Soft-IntroVAE at high resolution: models, objectives, engines, checkpoints, figures.

from sivae_dist import load_pretrained
model = load_pretrained("runs/ffhq256")
images = model.sample(16, seed=0)

The names in `__all__` are the public interface (docs/library.md); everything else may change from release to release.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Pretrained",
    "RunDirectory",
    "RunSettings",
    "Trainer",
    "__version__",
    "load_config",
    "load_pretrained",
    "prepare_run",
    "settings_of",
]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sivae_dist.config.opening import prepare_run, settings_of
    from sivae_dist.config.run_settings import RunSettings, load_config
    from sivae_dist.run.directory import RunDirectory
    from sivae_dist.train.trainer import Trainer
    from sivae_dist.use.export import load_pretrained
    from sivae_dist.use.pretrained import Pretrained
else:
    _PLACES = {
        "Pretrained": "sivae_dist.use.pretrained",
        "RunDirectory": "sivae_dist.run.directory",
        "RunSettings": "sivae_dist.config.run_settings",
        "Trainer": "sivae_dist.train.trainer",
        "load_config": "sivae_dist.config.run_settings",
        "load_pretrained": "sivae_dist.use.export",
        "prepare_run": "sivae_dist.config.opening",
        "settings_of": "sivae_dist.config.opening",
    }

    def __getattr__(name: str) -> object:
        """Imported when asked for: most of it imports torch, and the package is used without."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)
