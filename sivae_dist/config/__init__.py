"""A run's settings: what there is, how it is read from YAML, and what of it may change later."""

from sivae_dist.config.run_settings import (
    RunSettings,
    config_path,
    differences,
    load_config,
    read_settings,
    run_name,
    validate,
)

__all__ = ["RunSettings", "config_path", "differences", "load_config", "read_settings", "run_name", "validate"]
