"""Points 2 and 5: agreement with the CPU, exact repetition, and protection of the weights."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch

from launch.doctor.gpu.course import Course, stepper
from launch.doctor.report import Finding
from launch.doctor.selftest import TOLERANCE
from launch.steps import copied, same, worst
from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.checkpoint.saver import CheckpointSaver
from sivae_dist.checkpoint.settings import CheckpointSettings
from sivae_dist.engines.settings import USUAL_ENGINE
from sivae_dist.step.randomness import normals

_NOISE = 699_008
"""Values of layer noise for decoding one image of ffhq256 at 256 px; a single draw of so many would depend on the GPU's
model."""
_POSITIONS = 4
_PLAIN = f"engine.name={USUAL_ENGINE}"


def against_cpu(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Compares one fp64 step of tiny networks, and one of the intended networks, with the same draws."""
    yield from course.test.step()
    side = min(64, course.config.model.final_resolution)
    cpu = torch.device("cpu")

    def stepped(device: torch.device) -> dict[str, torch.Tensor]:
        settings = course.settings(f"engine={{name: {USUAL_ENGINE}, precision: fp64}}", "optimizer.eps=1e-3")
        one = stepper(settings, device, side)
        one.step(one.images(2), one.draws(2, on=cpu))
        return copied(one.players.tensors())

    name, size = worst(stepped(course.device), stepped(cpu))
    facts |= {"worst": name, "difference": size}
    text = f"the intended networks, one fp64 step at {side} px, CPU against {course.device.type}: {size:.1e} ({name})"
    yield Finding("ok" if size < TOLERANCE else "fail", "2 step", text, "" if size < TOLERANCE else "send the JSON")


def exactness(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    yield from _saved(course)
    yield from _repeated(course, facts)
    yield from _poisoned(course)
    yield from _fingerprint(course, facts)


def _saved(course: Course) -> Iterator[Finding]:
    """Compares a checkpoint written during steps with a copy made before them."""
    stepper = course.stepper(course.sizes[-1][0], _PLAIN)
    x, draws = stepper.images(2), stepper.draws(2)
    stepper.step(x, draws)
    folder = CheckpointFolder(course.test.root / "saved")
    folder.path.mkdir()
    saver = CheckpointSaver(folder, CheckpointSettings(), course.device)
    try:
        want = copied(stepper.players.tensors())
        saver.save(2, stepper.players.tensors(), None)
        for _ in range(course.steps):
            stepper.step(x, draws)
        saver.wait()
        saver.check()
    finally:
        saver.close()
    found, _ = folder.newest_valid(move_aside=False)
    name = "nothing was saved" if found is None else same(dict(found.load()), want)
    if name is None:
        yield Finding("ok", "5 save", f"a checkpoint written during {course.steps} steps equals the state before them")
    else:
        todo = "set checkpoint.background=false until this is fixed; send the JSON"
        yield Finding(
            "fail", "5 save", f"a checkpoint written during steps differs from the state before: {name}", todo
        )


def _repeated(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Repeats steps from the seed, with and without engine.deterministic."""

    def steps(deterministic: bool) -> dict[str, torch.Tensor]:
        exactly = f"engine.deterministic={str(deterministic).lower()}"
        stepper = course.stepper(min(64, course.config.model.final_resolution), _PLAIN, exactly)
        x, draws = stepper.images(2), stepper.draws(2)
        for _ in range(course.steps):
            stepper.step(x, draws)
        return copied(stepper.players.tensors())

    for deterministic in (False, True):
        first, second = steps(deterministic), steps(deterministic)
        name, (_, size) = same(first, second), worst(first, second)
        how = "with" if deterministic else "without"
        facts[f"{how} deterministic"] = {"first": name, "difference": size}
        text = f"{course.steps} steps twice {how} engine.deterministic: "
        if name is None:
            yield Finding("ok", "5 again", f"{text}equal bit for bit")
        elif deterministic:
            todo = "a resumed run may differ here; send the JSON"
            yield Finding("fail", "5 again", f"{text}{name} differs, by {size:.1e}", todo)
        else:
            yield Finding("ok", "5 again", f"{text}they differ by up to {size:.1e}, as is allowed")


def _poisoned(course: Course) -> Iterator[Finding]:
    """Puts a NaN into Adam's state: the step must not be taken."""
    stepper = course.stepper(course.sizes[-1][0], _PLAIN)
    x, draws = stepper.images(2), stepper.draws(2)
    stepper.step(x, draws)
    engine = stepper.players.encoder_engine
    state = engine.optimizer.state[engine.parameters[0]]
    state["exp_avg"].view(-1)[0] = torch.nan
    want = copied(dict(stepper.players.encoder.named_parameters()))
    taken = bool(stepper.step(x, draws)["taken"])
    moved = same(copied(dict(stepper.players.encoder.named_parameters())), want)
    if taken or moved is not None:
        todo = "weights are not protected here: send the JSON before training"
        yield Finding(
            "fail", "5 guard", f"a step was taken with a NaN in Adam's state ({moved or 'the decoder'} changed)", todo
        )
    else:
        yield Finding("ok", "5 guard", "a NaN in Adam's state does not reach the weights")


def _fingerprint(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Fingerprint of the layer noise, which must be the same on all GPU models."""
    noise = normals(0, "noise", 0, _POSITIONS, _NOISE, course.device)
    digest = hashlib.sha256(noise.cpu().numpy().tobytes()).hexdigest()
    facts["noise"] = digest
    kind = "all GPUs" if course.device.type == "cuda" else "all CPUs"
    yield Finding("ok", "5 noise", f"fingerprint {digest[:16]}, which must be the same on {kind}")
