"""What a cluster is like: typed once into configs/clusters/NAME.yaml or ~/.config/sivae/clusters/NAME.yaml."""

import difflib
import math
import re
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from data_pipelines.problems import Problem, did_you_mean, problems
from launch.clusters.slurm.gpu_requests import gpu_count, gres_count, with_gpus, without_gpus
from launch.clusters.slurm.options import WITHOUT_KEY, Options, sbatch_options, srun_options
from sivae_dist.config.yaml_reading import read_yaml
from sivae_dist.settings import Settings

USER_FOLDER = Path("~/.config/sivae/clusters")

PARALLEL = 8
"""Tasks of a sweep at once where nothing else is said."""

_LONGEST_DELAY = 120


def parse_time(value: object) -> object:
    """SLURM's notations of a time limit (`90`, `mm:ss`, `hh:mm:ss`, `d-hh`, `d-hh:mm`, ...) as minutes, rounded up."""
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", value.strip(), re.ASCII)
    days, *rest = match.groups() if match else (None,)
    numbers = [int(part) for part in rest if part is not None]
    # With days the first number means hours; without them it means hours only if there are three.
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    seconds = 86400 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))
    if not seconds:
        raise ValueError(f"{value!r} is no time limit: write minutes (90), hh:mm:ss or days-hh:mm:ss (1-12:00:00)")
    return math.ceil(seconds / 60)


def _parse_memory(value: object) -> object:
    if value is None:
        return None
    text = str(value).strip()
    if not re.fullmatch(r"\d+(?:[KMGT]B?)?", text, re.IGNORECASE | re.ASCII):
        raise ValueError(f"{text!r} is no amount of memory: write 64G (K, M, G or T; megabytes without), or 0 for all")
    return text


def _parse_count(value: object) -> object:
    """A whole number as text, or as SLURM writes a range of one (`2-2`)."""
    if value is None or (isinstance(value, int) and value > 0):
        return value
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(value).strip(), re.ASCII)
    if match is None or not int(match[1]) or (match[2] or match[1]) != match[1]:
        raise ValueError(f"{value!r} is not a whole number of at least 1")
    return int(match[1])


def _check_gpus(value: str | int | None) -> str | int | None:
    if value is None:
        return None
    count = gpu_count(value)
    return count if str(value).strip().isdecimal() else str(value).strip()


def _check_gpus_per_task(value: str | None) -> str | None:
    if value is not None and gpu_count(value) != 1:
        raise ValueError(f"a process drives one GPU: write 1 or TYPE:1, not {value}, and tasks_per_node as needed")
    return value


def _check_name(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise ValueError("a job's name cannot be empty")
    return value


Count = Annotated[int, BeforeValidator(_parse_count)]
Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


class ClusterSettings(Settings):
    """Resources of a job, and how its cluster wants to be asked for them. Options of `sivae submit` come first."""

    cluster_name: str | None = None
    """SLURM's own ClusterName (`scontrol show config`), by which these settings are found without being named."""
    job_name: Annotated[str | None, AfterValidator(_check_name)] = None
    """Name of the jobs, in which `{name}` stands for what sivae would take: the configuration's or the sweep's."""
    nodes: Count = 1
    gpus_per_node: Annotated[Text | int, AfterValidator(_check_gpus)] = 1
    """GPUs of a node (`4`), with their type where the cluster asks for it (`a100:4`), one process for each. 0 trains on
    CPUs; tasks_per_node then is the number of processes."""
    gpus_per_task: Annotated[Text | None, AfterValidator(_check_gpus_per_task)] = None
    """`1` or `a100:1` has SLURM bind a GPU to each process; tasks_per_node is their number where gpus_per_node is not
    set."""
    gres: Text | None = None
    """Generic resources of a node. Its GPUs (`gpu:a100:4`) take the place of gpus_per_node, on clusters that know only
    this option; others (`nvme:100G`) are asked for besides."""
    tasks_per_node: Count | None = None
    """Processes of a node; None for one per GPU."""
    cpus_per_task: Count = 4
    mem: Annotated[Text | None, BeforeValidator(_parse_memory)] = None
    """Memory of a node, as SLURM writes it (`64G`; `0` takes all). None leaves it to the cluster."""
    time: Annotated[int, BeforeValidator(parse_time)] = 24 * 60
    """Time limit in minutes, or as SLURM writes it (`1-12:00:00`). A longer run continues in the next job."""
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    exclude: Text | None = None
    signal_delay: Annotated[int, Field(ge=1)] | None = None
    """Seconds before the time limit at which the run is asked to save and stop; it should be twice what a checkpoint
    takes. None for 120, or a quarter of a short limit."""
    setup: tuple[str, ...] = ()
    """Shell commands before the processes start (`module load cuda`). Those of the command line follow the file's."""
    container_image: Text | None = None
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """How an image is run: by srun's option --container-image, or by `apptainer exec`."""
    srun: Options = {}
    """Further options of srun, by long names or as on a command line."""
    sbatch: Options = {}
    """Further options of sbatch, by long names, as on a command line or as in a script. Each takes the place of the
    line that sivae would write; `true` is an option without a value, `false` leaves the line out."""
    max_array_size: Annotated[int, Field(ge=1)] | None = None
    """Tasks of a job array at most; None asks SLURM."""

    @model_validator(mode="before")
    @classmethod
    def _fold(cls, values: Any) -> Any:
        return one_layer(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _fit_together(self) -> "ClusterSettings":
        for name in ("ntasks", "gpus"):
            self._per_node(name)
        if self.delay >= 60 * self.time:
            raise ValueError(
                f"signal_delay: {self.delay} s before a time limit of {60 * self.time} s is no time to train"
            )
        return self

    def _per_node(self, name: str) -> int | None:
        """What an option of sbatch asks for in total. ValueError when the nodes cannot have equal shares."""
        text = self.sbatch.get(name)
        if text is None or text is False:
            return None
        total = gpu_count("" if text is True else text)
        if total % self.nodes or not total:
            raise ValueError(f"sbatch option {name}: {text} cannot be divided among {self.nodes} nodes")
        return total // self.nodes

    @property
    def gpus(self) -> int:
        """Of a node, however they are asked for."""
        if found := gres_count(self.gres) or self._per_node("gpus"):
            return found
        if self.gpus_per_task is not None and "gpus_per_node" not in self.model_fields_set:
            return self.tasks_per_node or self._per_node("ntasks") or 1
        return gpu_count(self.gpus_per_node)

    @property
    def processes_per_node(self) -> int:
        return self._per_node("ntasks") or self.tasks_per_node or max(1, self.gpus)

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

    def gpu_options(self) -> Options:
        """The options of sbatch that ask for GPUs and other generic resources."""
        asked: dict[str, Any] = {"gres": self.gres, "gpus-per-task": self.gpus_per_task}
        instead = self.gpus_per_task is not None and "gpus_per_node" not in self.model_fields_set
        if not (instead or gres_count(self.gres) or "gpus" in self.sbatch) and gpu_count(self.gpus_per_node):
            asked["gpus-per-node"] = self.gpus_per_node
        return {name: str(value) for name, value in asked.items() if value is not None}


_FOLDED = {
    "job-name": "job_name", "nodes": "nodes", "ntasks-per-node": "tasks_per_node", "gpus-per-node": "gpus_per_node",
    "gpus-per-task": "gpus_per_task", "gres": "gres", "cpus-per-task": "cpus_per_task", "mem": "mem", "time": "time",
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint", "exclude": "exclude",
}  # fmt: skip
"""Options of sbatch that are settings as well, since sivae has to know them, or has keys for them."""

_ALWAYS = {"nodes", "tasks_per_node", "time", "job_name"}
_LINES = {"gpus_per_node", "cpus_per_task"}
"""Settings with a value of their own, whose lines may be left out: of a partition that has GPUs without saying so."""


def one_layer(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of one place (a file, or a command's options) with its options of sbatch and srun as settings where
    there are such. ValueError in one line a problem."""
    values = dict(values)
    options = sbatch_options(values.pop("sbatch", None) or {})
    _take_the_place(options, values)
    if isinstance(values.get("setup"), str):
        values["setup"] = tuple(values["setup"].splitlines())
    srun = srun_options(values.pop("srun", None) or {})
    if (image := srun.pop("container-image", None)) is not None:
        values |= {"container_image": image, "container_runtime": "pyxis"}
    return values | ({"sbatch": options} if options else {}) | ({"srun": srun} if srun else {})


def _take_the_place(options: Options, values: dict[str, Any]) -> None:
    """Of settings, of which some exclude each other in SLURM."""
    if {"mem-per-cpu", "mem-per-gpu"} & options.keys():
        values.pop("mem", None)
    if "gres" in options and gres_count(_text("gres", options["gres"])) and "gpus-per-node" not in options:
        values.pop("gpus_per_node", None)
    if "gpus" in options:
        values.pop("gpus_per_node", None)
    for name, key in _FOLDED.items():
        if name not in options:
            continue
        if options[name] is False:
            if key in _ALWAYS:
                raise ValueError(f"sbatch option {name} cannot be left out: the run depends on its value")
            if key not in _LINES:
                values[key] = options.pop(name) or None
            continue
        values[key] = _text(name, options.pop(name))
    if "signal" in options:
        values["signal_delay"] = _signal_delay(_text("signal", options.pop("signal")))
    if (gpus := gres_count(values.get("gres"))) and "gpus_per_node" in values:
        if gpu_count(values["gpus_per_node"]) != gpus:
            raise ValueError(
                f"gres: {values['gres']} and gpus_per_node: {values['gpus_per_node']} contradict each other: write one"
            )
        del values["gpus_per_node"]


def _text(name: str, value: str | bool) -> str:
    if isinstance(value, bool):
        raise ValueError(f"sbatch option {name} needs a value")
    return value


def _signal_delay(text: str) -> int:
    match = re.fullmatch(r"(?:(?:SIG)?USR2|12)@(\d+)", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(
            f"sbatch option signal cannot be {text}: all processes wait for USR2 to save; write signal_delay: SECONDS"
        )
    return int(match[1])


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Two layers, of which the upper one comes first. What excludes each other in SLURM is taken from one of them."""
    below, above = dict(lower), dict(upper)
    options = {name: dict(below.pop(name, {})) for name in ("sbatch", "srun")}
    given = above.get("sbatch", {})
    if "mem" in above or {"mem-per-cpu", "mem-per-gpu"} & given.keys():
        below.pop("mem", None)
        for name in ("mem-per-cpu", "mem-per-gpu"):
            options["sbatch"].pop(name, None)
    if "tasks_per_node" in above:
        options["sbatch"].pop("ntasks", None)
    if gres_count(below.get("gres")) and "gres" not in above and gpu_count(above.get("gpus_per_node", 0)):
        above["gres"] = with_gpus(below["gres"], above.pop("gpus_per_node"))  # as this cluster wants to be asked
    elif (
        {"gpus_per_node", "gpus"} & (above.keys() | given.keys())
        or gres_count(above.get("gres"))
        or (above.keys() >= {"gpus_per_task", "tasks_per_node"})
    ):
        below.pop("gpus_per_node", None)
        options["sbatch"].pop("gpus", None)
        if "gres" in below:
            below["gres"] = without_gpus(below["gres"])
    setup = (*below.get("setup", ()), *above.get("setup", ()))
    merged = {name: value | above.get(name, {}) for name, value in options.items()}
    return (
        below | above | {name: value for name, value in merged.items() if value} | ({"setup": setup} if setup else {})
    )


def load_cluster(name: str | None, changes: dict[str, Any]) -> ClusterSettings:
    """The settings of a cluster with `changes` on top. `name`: a file, its name without folder and ending, or `auto`,
    which takes the file whose cluster_name SLURM reports, and defaults when there is none; None for defaults.

    ValueError in one line a problem.
    """
    path = None if name is None else _of_this_cluster() if name == "auto" else _named(name)
    above = _layer("options", changes)
    below = {} if path is None else _layer(str(path), _read(path))
    origin = "options" if path is None else str(path)
    values = merge(below, above)
    try:
        return ClusterSettings.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in problems(error, ClusterSettings, values):
            place = "options" if problem.key.partition(".")[0] in above else origin
            lines.append(f"{place}: {_with_a_way_out(problem)}")
        raise ValueError("\n".join(lines)) from None


def _with_a_way_out(problem: Problem) -> str:
    if not problem.whole:
        return str(problem)
    if problem.key.replace("_", "-") in WITHOUT_KEY:
        return f"unknown key {problem.key}; it is an option of sbatch, which goes below `sbatch:`"
    hint = "" if "did you mean" in problem.message else "; options of sbatch that have no key go below `sbatch:`"
    return f"{problem}{hint}"


def _layer(origin: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        return one_layer(values)
    except ValueError as error:
        raise ValueError("\n".join(f"{origin}: {line}" for line in str(error).splitlines())) from None


def _named(name: str) -> Path:
    candidates = (Path(name).expanduser(), *_files())
    path = next((path for path in candidates if path.is_file() and name in (str(path), path.stem)), None)
    if path is None and candidates[0].is_file():
        path = candidates[0]
    if path is None:
        known = sorted({file.stem for file in _files()}) or ["none"]
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(
            f"there is no cluster {name}: neither a file nor one of {', '.join(known)}{did_you_mean(near)}"
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    """As text, for YAML would take 12:00:00 for a number."""
    values = read_yaml(path, as_text=True)
    return {key: value for key, value in values.items() if value != ""}


def _files() -> list[Path]:
    package = Path(__file__).parents[3]
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
