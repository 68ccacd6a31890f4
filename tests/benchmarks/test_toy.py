"""The benchmark of iterations on points: what it counts, and its table."""

from pathlib import Path

import pytest
import torch

from benchmarks import toy
from benchmarks.toy import OURS, Toy, table

HIDDEN = 2 * 512 * 256 * 256
"""Floating-point operations of one hidden layer, of 512 points."""
ENDS = 2 * 512 * 256
"""The same of a number that goes into the first hidden layer or comes from the last."""


def passes(name: str, layers: int) -> int:
    """By hand: forward, gradients of outputs and gradients of weights of each network, with 2 or 4 numbers at its ends.

    A gradient of the encoder's input is needed where it is the decoder's output, not of the data.
    """
    body = (layers - 1) * HIDDEN
    encoder, decoder = body + (2 + 4) * ENDS, body + (2 + 2) * ENDS
    first = 2 * ENDS
    if name == "vae":  # E(X), D(Z), back to E's weights; D(Z), back to D's
        return (encoder + decoder) + (2 * encoder - first) + decoder + decoder + (2 * decoder - first)
    again = 2 * encoder + 2 * (2 * encoder - first)  # E(X_r, X_f), back to E's weights alone
    own = encoder + 2 * decoder + (2 * encoder - first) + decoder  # E(X), D(Z), D(Z_f); X_f is without a gradient
    of_decoder = 2 * decoder + 2 * encoder + 2 * encoder + 2 * (2 * decoder - first)
    if name == "intro":
        return own + again + of_decoder
    return own + again + 2 * decoder + 2 * decoder + of_decoder + 2 * decoder  # D(Z_rf, Z_ff), and gamma_r's


@pytest.mark.parametrize("what", [name for name in OURS if name != "Soft-IntroVAE"])
def test_operations_are_counted(what: str) -> None:
    """Of Soft-IntroVAE in the authors' form: the printed one goes through X_r into the encoder's input once more."""
    name, changes = OURS[what]
    layers = 4 if "model.hidden_layers=4" in changes else 3
    assert Toy(name, changes).flops() == passes(name, layers)


def test_table() -> None:
    seconds = {"authors": [0.3, 0.1, 0.2], next(iter(OURS)): [0.1, 0.1, 0.5], "VAE": [0.05], "product": [0.001]}
    lines = list(table(seconds, {next(iter(OURS)): 1_000_000_000, "VAE": 10**9}))
    assert lines[0] == "- products of 512 x 256 x 256: 67 GFLOP/s\n"
    assert lines[3:] == [
        "| authors | 200.0 |  | 2,560 |  |  |",
        "| Soft-IntroVAE, 4 hidden layers | 100.0 | 2.00, goal 2 reached | 5,120 | 1.00 | 15% |",
        "| VAE | 50.0 |  | 10,240 | 1.00 | 30% |",
    ]


def test_it_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        toy.main(["--rounds", "1", "--out", str(tmp_path / "toy.md")])
    finally:
        torch.set_num_threads(threads)
    shown = capsys.readouterr().out
    assert (tmp_path / "toy.md").read_text() == shown
    assert [line.split(" | ")[0] for line in shown.splitlines()[-7:-2]] == [
        "|---|---|---|---|---|---|",
        *(f"| {name}" for name in OURS),
    ]


def test_another_folder_is_no_clone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no clone of taldatech/soft-intro-vae-pytorch"):
        toy.taking_turns(tmp_path, {}, 1)
