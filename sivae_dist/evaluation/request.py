"""The request that `sivae evaluate` sends to its processes."""

from sivae_dist.config.imports import import_all
from sivae_dist.config.opening import settings_of
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.settings import Settings

_SETTABLE = ("evaluation", "data", "device", "watchdog")


class Request(Settings):
    checkpoint: str = "latest"
    """`latest`, `best`, or a number of images seen."""
    overrides: tuple[str, ...] = ()
    """`key=value`, for settings that do not change the model."""
    imports: tuple[str, ...] = ()
    """Modules besides those that the run names, with metrics that were written later, for example."""

    def settings(self, run: RunDirectory) -> RunSettings:
        """The run's, with the overrides. ValueError for one that belongs to training, or a module that is not there."""
        import_all(self.imports)
        for assignment in self.overrides:
            if assignment.split("=")[0].split(".")[0] not in _SETTABLE:
                raise ValueError(
                    f"{assignment}: only {', '.join(_SETTABLE)} can be set here, the rest is fixed by the run"
                )
        return settings_of(run, self.overrides)
