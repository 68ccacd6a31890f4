"""Runs of models that are told the class: from the data set's labels to every engine's weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from sivae_dist.config.opening import prepare_run, settings_of
from sivae_dist.run.directory import RunDirectory
from tests.engines import go_on, with_engine
from tests.helpers import (
    assert_same,
    begin,
    labelled_set,
    largest_difference,
    on_processes,
    open_run,
    tiny_settings,
    train,
    trained,
)
from tests.prepared import bless

TOLD = "model.conditional=true"
NAMES = ("ant", "bee", "cat")
NOISY = (TOLD, "model.noise=true", "optimizer.eps=1e-5")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_set(tmp_path_factory.mktemp("labelled") / "set", array_max_resolution=4)


# What a run records.


def test_a_run_records_the_names_of_its_classes(labelled: Path, tmp_path: Path) -> None:
    run = RunDirectory(open_run(tmp_path / "run", labelled, TOLD))
    model = settings_of(run).model
    assert model.named_classes() == NAMES and model.classes == 3
    assert "  class_names:\n  - ant\n  - bee\n  - cat\n" in run.config.read_text()
    assert prepare_run(run, tiny_settings(labelled, TOLD)) == []  # the same command again
    assert prepare_run(run, settings_of(run)) == []
    assert settings_of(run).model == model


def test_a_run_without_labels_records_none(labelled: Path, tmp_path: Path) -> None:
    model = settings_of(RunDirectory(open_run(tmp_path / "run", labelled))).model
    assert model.classes == 0 and model.named_classes() == ()


@pytest.mark.parametrize("name", ["007", "no", "1e-3", "null", "true", "a: b", "#1"])
def test_any_name_comes_back_from_the_file(labelled: Path, tmp_path: Path, name: str) -> None:
    data = renamed(labelled, tmp_path / "set", (name, "bee", "cat"))
    run = RunDirectory(open_run(tmp_path / "run", data, TOLD))
    assert settings_of(run).model.named_classes() == (name, "bee", "cat")


def renamed(data: Path, copy: Path, classes: tuple[str, ...]) -> Path:
    shutil.copytree(data, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"classes": classes}))
    return copy


def test_data_of_other_classes_do_not_continue_it(labelled: Path, tmp_path: Path) -> None:
    other = renamed(labelled, tmp_path / "other", ("cat", "ant", "bee"))
    path = open_run(tmp_path / "run", labelled, TOLD)
    trained(path)
    with pytest.raises(ValueError, match=r"other settings \(.*model.class_names.*\)"):
        prepare_run(RunDirectory(path), tiny_settings(other, TOLD))
    prepare_run(RunDirectory(path), settings_of(RunDirectory(path)))
    moved = settings_of(RunDirectory(path))
    moved = moved.model_copy(update={"data": moved.data.model_copy(update={"path": str(other)})})
    prepare_run(RunDirectory(path), moved)  # which asks nothing of the data
    with pytest.raises(ValueError, match=r"other has 3 classes \(cat, ant, bee\), but model.class_names"):
        begin(path)


def test_data_without_labels_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{data} has no labels, which model.conditional=true needs: [^\n]*$"):
        open_run(tmp_path / "run", data, TOLD)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_trained_without_its_names(labelled: Path, tmp_path: Path) -> None:
    path = open_run(tmp_path / "run", labelled, TOLD)
    config = RunDirectory(path).config
    config.write_text(config.read_text().replace("class_names:\n  - ant\n  - bee\n  - cat\n", "class_names: []\n"))
    with pytest.raises(ValueError, match=r"the settings do not name the classes of .*set: begin the run by"):
        begin(path)


# What it learns.


def test_every_image_comes_with_its_label(labelled: Path, tmp_path: Path) -> None:
    trainer = begin(open_run(tmp_path / "run", labelled, TOLD, "schedule.images={4: 16, 8: 16}"))
    seen: list[Tensor] = []
    trainer.players.encoder.register_forward_pre_hook(lambda _m, args: seen.append(args[1].label))
    own = np.load(labelled / "labels.npy")
    want = [own[trainer.data.order.at(position, 8)[0]].tolist() for position in range(0, 32, 8)]
    train(trainer)
    of_steps = [label.tolist() for label in seen]
    # Of a step: E(X); E of X_r and X_f together, by the encoder's objective and by the decoder's.
    assert of_steps == [one for labels in want for one in (labels, labels * 2, labels * 2)]
    assert len({tuple(labels) for labels in want}) == 4


def test_the_labels_are_the_images_own(labelled: Path, tmp_path: Path) -> None:
    """Others end elsewhere, and so does a run that is told none."""
    permuted = tmp_path / "permuted"
    shutil.copytree(labelled, permuted)
    labels = np.load(permuted / "labels.npy")
    np.save(permuted / "labels.npy", (labels + 1) % 3)
    bless(permuted)
    runs = {name: open_run(tmp_path / name, data, TOLD) for name, data in (("a", labelled), ("b", permuted))}
    a, b = (trained(run) for run in runs.values())
    assert a.keys() == b.keys() and largest_difference(a, b) > 1e-2
    assert {name for name in a if "embedding" in name} == {
        f"{network}{kind}.mapping.embedding.weight"
        for network in ("encoder", "decoder")
        for kind in ("", "_ema", "_optim.step", "_optim.exp_avg", "_optim.exp_avg_sq")
    }


def test_both_loaders_teach_the_same(labelled: Path, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    runs = [open_run(tmp_path / loader, labelled, TOLD, f"data.loader={loader}") for loader in ("cpu", "dali")]
    cpu, dali = (trained(run) for run in runs)
    assert_same(dali, cpu)


def test_micro_batches_keep_labels_and_images_together(labelled: Path, tmp_path: Path) -> None:
    whole, parts = (
        open_run(tmp_path / size, labelled, *NOISY, f"engine.max_batch_per_rank={size}", "engine.precision=fp64")
        for size in ("8", "2")
    )
    assert largest_difference(trained(parts, disturbed=True), trained(whole, disturbed=True)) < 1e-9


def test_a_killed_run_ends_with_the_same_bits(labelled: Path, tmp_path: Path) -> None:
    straight, killed = (
        open_run(tmp_path / name, labelled, *NOISY, f"checkpoint.every={every}")
        for name, every in (("straight", 0), ("killed", 16))
    )
    trained(killed, steps=3)
    assert begin(killed).images == 16
    assert_same(trained(killed), trained(straight))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(labelled: Path, tmp_path: Path) -> None:
    one, two = (open_run(tmp_path / name, labelled, *NOISY, "engine.precision=fp64") for name in ("one", "two"))
    want, (got, other) = trained(one, disturbed=True), on_processes(2, trained, two, None, True)
    assert_same(got, other)
    assert 0 < largest_difference(got, want) < 1e-9  # another order of summation, which shows that it is compared


@pytest.mark.slow
def test_zero_learns_what_ddp_does(labelled: Path, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", labelled, *NOISY, "checkpoint.every=8")
    trained(run, steps=3)
    paths = [with_engine(run, labelled, engine, *NOISY) for engine in ("ddp", "zero2")]
    ddp, zero = on_processes(2, go_on, paths, 1)[0]
    assert {name for name in zero if "embedding" in name} and ddp.keys() == zero.keys()
    for name, tensor in ddp.items():
        limit = 2e-5 if "_optim." in name else 1e-6
        assert largest_difference({name: zero[name]}, {name: tensor}) <= limit, name
