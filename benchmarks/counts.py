"""What a training step costs in numbers that are the same on every machine (sivae_dist/train/counts.py).

    python -m benchmarks.counts [--config ffhq256] [--rows 64,256] [--batch 4] [--compiled]
                                [--set KEY=VALUE ...] [--out FILE]

By resolution, in fp32 and bf16: floating-point operations and bytes read and written, of an image; operations of torch,
which are at least the kernels that a GPU is given; and the most memory that the step holds beyond what it begins with.
Nothing is computed, so that the largest step takes some seconds and hardly any memory.
"""

import argparse
from pathlib import Path

from benchmarks.report import report
from sivae_dist.config.run_settings import load_config
from sivae_dist.train.counts import count_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="ffhq256")
    parser.add_argument("--rows", help="pixels, as 64,256; all of the model's by default")
    parser.add_argument("--batch", type=int, default=4, help="images of a step")
    parser.add_argument("--compiled", action="store_true", help="as engine.compile makes it; minutes a row")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    runs = {
        precision: load_config(arguments.config, ["data.path=unused", *arguments.set, f"engine.precision={precision}"])
        for precision in ("fp32", "bf16")
    }
    known = runs["fp32"].model.resolutions
    rows = known if arguments.rows is None else [int(one) for one in arguments.rows.split(",")]
    if not set(rows) <= set(known):
        parser.error(f"--rows {arguments.rows}: the model has {', '.join(map(str, known))}")
    with report(arguments.out, "Counts of a training step", ("torch",)) as say:
        say(f"\n{arguments.batch} image(s) a step:\n")
        say("| px, type | GFLOP an image | GB read and written an image | operations | GB at the peak |")
        say("|---|---|---|---|---|")
        for resolution in rows:
            for precision, run in runs.items():
                found = count_step(run, resolution, arguments.batch, compiled=arguments.compiled)
                flops, traffic = found.flops / arguments.batch / 1e9, found.traffic / arguments.batch / 1e9
                cells = (f"{resolution}, {precision}", f"{flops:.1f}", f"{traffic:.2f}", f"{found.operations:,}")
                say(f"| {' | '.join(cells)} | {found.peak / 1e9:.2f} |")


if __name__ == "__main__":
    main()
