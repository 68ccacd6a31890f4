"""What a cluster is like: typed once into configs/clusters/NAME.yaml or ~/.config/sivae/clusters/NAME.yaml."""

import math
import re
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from sivae_dist.settings import Settings

USER_FOLDER = Path("~/.config/sivae/clusters")

_LONGEST_DELAY = 120


def parse_time(value: object) -> object:
    """SLURM's notations of a time limit (`90`, `mm:ss`, `hh:mm:ss`, `d-hh`, `d-hh:mm`, ...) as minutes, rounded up."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", value.strip())
    if match is None:
        raise ValueError(f"{value!r} is no time limit: write minutes, hh:mm:ss or days-hh:mm:ss")
    days, *rest = match.groups()
    numbers = [int(part) for part in rest if part is not None]
    # With days the first number means hours; without them it means hours only if there are three.
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    seconds = 86400 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))
    return math.ceil(seconds / 60)


class ClusterSettings(Settings):
    """Resources of a job, and how its cluster wants to be asked for them. Options of `sivae submit` come first."""

    cluster_name: str | None = None
    """SLURM's own ClusterName, by which these settings are found without being named."""
    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(1, ge=0)
    """0 trains on CPUs; tasks_per_node then says with how many processes."""
    tasks_per_node: Annotated[int, Field(ge=1)] | None = None
    """Processes a node; None for one a GPU."""
    cpus_per_task: int = Field(4, ge=1)
    mem: str | None = None
    """Memory a node, as SLURM writes it (`64G`)."""
    time: Annotated[int, BeforeValidator(parse_time), Field(ge=1)] = 24 * 60
    """Time limit in minutes, or as SLURM writes it (`1-12:00:00`). A run that needs longer goes on in the next one."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    signal_delay: Annotated[int, Field(ge=1)] | None = None
    """Seconds before the time limit at which the run is asked to save and stop; it should be twice what a checkpoint
    takes. None for 120, or a quarter of a short limit."""
    setup: tuple[str, ...] = ()
    """Shell commands before the processes start (`module load cuda`)."""
    container_image: str | None = None
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """How an image is run: by srun's option --container-image, or by `apptainer exec`."""
    srun: tuple[str, ...] = ()
    """Further arguments of srun."""
    sbatch: dict[str, str | int | bool] = {}
    """Further options of sbatch, by their long names."""
    max_array_size: Annotated[int, Field(ge=1)] | None = None
    """Tasks of a job array at most; None asks SLURM."""

    @property
    def processes_per_node(self) -> int:
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node

    @property
    def delay(self) -> int:
        """Seconds between the request to stop and the time limit."""
        return self.signal_delay or min(_LONGEST_DELAY, 15 * self.time)

    @property
    def margin(self) -> int:
        """Seconds before the time limit at which a job that has not saved by then is requeued all the same."""
        return max(1, min(20, self.delay // 4))


def load_cluster(name: str, changes: dict[str, Any]) -> ClusterSettings:
    """The settings of a cluster with `changes` on top. `name`: a file, its name without folder and ending, or `auto`,
    which takes the file whose cluster_name SLURM reports, and defaults when there is none.

    ValueError in one line a problem.
    """
    if name == "auto":
        path = _of_this_cluster()
    else:
        path = next(
            (path for path in (Path(name), *_files()) if path.is_file() and name in (str(path), path.stem)), None
        )
        if path is None:
            known = sorted({file.stem for file in _files()}) or ["none"]
            raise ValueError(f"there is no cluster {name}: neither a file nor one of {', '.join(known)}")
    values = _read(path) if path is not None else {}
    try:
        return ClusterSettings.model_validate(values | changes)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"]))
            origin = "options" if key in changes or path is None else str(path)
            lines.append(f"{origin}: {key}: {problem['msg'].removeprefix('Value error, ')}")
        raise ValueError("\n".join(lines)) from None


def _read(path: Path) -> dict[str, Any]:
    """As text, for YAML would take 12:00:00 for a number; `true` alone is a flag of sbatch's."""
    try:
        values = yaml.load(path.read_text(), yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings")
    flags = values.get("sbatch")
    if isinstance(flags, dict):
        values["sbatch"] = {key: True if value == "true" else value for key, value in flags.items()}
    return {key: value for key, value in values.items() if value != ""}


def _files() -> list[Path]:
    package = Path(__file__).parent.parent
    folders = (
        USER_FOLDER.expanduser(),
        package / "configs" / "clusters",
        package / "sivae_dist" / "configs" / "clusters",
    )
    return [path for folder in folders for path in sorted(folder.glob("*.yaml"))]


def _of_this_cluster() -> Path | None:
    name = slurm_config().get("ClusterName")
    return next((path for path in _files() if name and _read(path).get("cluster_name") == name), None)


def slurm_config() -> dict[str, str]:
    """What `scontrol show config` says; empty where there is no SLURM."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.partition("=") for line in done.stdout.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
