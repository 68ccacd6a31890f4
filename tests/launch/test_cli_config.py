"""`sivae config`, and what a shell completes."""

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from sivae_dist.config.names import Summary, config_names, config_path, summary
from tests.command import ENVIRONMENT, command

TORCH_FREE = """
import sys
from launch.cli import main
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def complete(*words: str) -> list[str]:
    """Candidates for the last of the words, by bash's protocol, in this process."""
    variables = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1), "_SIVAE_COMPLETE": "complete_bash"}
    done = CliRunner().invoke(app, [], prog_name="sivae", env=variables)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.output.split()


@pytest.mark.parametrize("before", [["train"], ["submit"], ["config", "show"]])
def test_names_of_configurations(before: list[str]) -> None:
    assert complete("sivae", *before, "off") == ["official/celebahq256", "official/cifar10", "official/ffhq256"]
    assert complete("sivae", *before, "") == config_names()
    assert complete("sivae", *before, "nothing") == []  # bash offers files


@pytest.mark.parametrize(
    "before",
    [["train", "tiny"], ["submit", "tiny"], ["config", "show", "tiny"], ["sweep", "x.yaml"], ["evaluate", "x"]],
)
def test_keys_of_settings(before: list[str]) -> None:
    assert complete("sivae", *before, "schedule.bl") == [
        "schedule.blend=",
        "schedule.blend_of=",
        "schedule.blend_curve=",
    ]
    assert complete("sivae", *before, "seed=1", "engine.st") == [
        "engine.stage=",
        *(f"engine.stage={k}" for k in range(4)),
    ]


def test_values_of_settings_as_bash_splits_them() -> None:
    train = ("sivae", "train", "tiny", "--data", "x")
    assert complete(*train, "engine.precision", "=", "b") == ["bf16"]
    assert complete(*train, "engine.precision", "=") == ["fp32", "tf32", "bf16", "fp64"]
    assert complete(*train, "engine.precision=b") == ["engine.precision=bf16"]
    assert complete(*train, "data.path") == ["data.path=", "data.path=VALUE"]


def test_keys_to_explain() -> None:
    assert complete("sivae", "config", "explain", "guard") == ["guard.policy", "guard.limit"]


def test_bash_completes_with_the_script_that_is_installed(tmp_path: Path) -> None:
    """The function that `sivae --install-completion` gives to bash, called as bash calls it; torch stays out."""
    (tmp_path / "main.py").write_text(TORCH_FREE)
    starter = tmp_path / "sivae"
    starter.write_text(f'#!/bin/sh\nexec "{command()[0]}" -P "{tmp_path}/main.py" "$@"\n')
    starter.chmod(0o755)
    environment = ENVIRONMENT | {"LC_ALL": "C.UTF-8", "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = """
        set -e
        sivae --install-completion bash 2>/dev/null
        source ~/.bashrc
        COMP_WORDS=(sivae train tiny engine.precision = b) COMP_CWORD=5
        $(complete -p sivae | sed 's/.*-F \\([^ ]*\\).*/\\1/') sivae
        echo "<${COMPREPLY[*]}>"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1] == "<bf16>", done.stderr
    assert done.stderr.split() == ["False"]


def test_list_has_a_line_for_each_configuration() -> None:
    done = CliRunner().invoke(app, ["config", "list"], env={"COLUMNS": "500"})
    assert done.exit_code == 0
    head, *lines = done.output.splitlines()
    assert head.split() == ["name", "trains", "hardware", "expect"]
    assert [line.split()[0] for line in lines] == config_names()
    (tiny,) = (line for line in lines if line.startswith("tiny "))
    assert all(part in tiny for part in summary(config_path("tiny")))


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_says_what_to_expect(name: str) -> None:
    assert all(summary(config_path(name))), "see sivae_dist/config/names.py for what the comment has to say"


def test_summaries_are_sentences_of_the_comment(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    comment = "# Cats, version 1.2, at\n# 64 px. More.\n#   sivae train mine.\n# Hardware: a GPU; small. Expect fur.\n"
    file.write_text(f"{comment}seed: 1\n")
    assert summary(file) == Summary("Cats, version 1.2, at 64 px", "a GPU; small", "fur")
    file.write_text("seed: 1  # Expect nothing.\n")
    assert summary(file) == Summary("", "", "")


def test_explain_prints_or_fails_in_one_line() -> None:
    runner = CliRunner()
    assert "schedule.batch: a whole number" in runner.invoke(app, ["config", "explain", "schedule.batch"]).output
    wrong = runner.invoke(app, ["config", "explain", "batchsize"])
    assert wrong.exit_code == 1
    assert wrong.output.strip() == "error: unknown key batchsize; did you mean schedule.batch or evaluation.batch?"


def test_help_mentions_completion() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
