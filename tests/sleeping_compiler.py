"""The background process of sivae_dist/train/ahead.py, with a compiler that sleeps and is known by its number."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sivae_dist.engines.settings import DdpSettings
from sivae_dist.train import precompile


def sleep(_settings: Any, *_: Any) -> None:
    compiler = subprocess.Popen(["sleep", "600"])
    Path(json.loads(sys.argv[2])["run"]).write_text(str(compiler.pid))
    compiler.wait()


if __name__ == "__main__":
    precompile.settings_of = lambda _run: precompile.RunSettings.model_construct(  # type: ignore[assignment]
        engine=DdpSettings()
    )
    precompile.compile_segment = sleep
    precompile.main(int(sys.argv[1]), json.loads(sys.argv[2]))
