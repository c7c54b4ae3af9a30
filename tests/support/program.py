"""The program as a process, as users run it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 600


def run_program(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end in a folder, with a store of the folder's own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run_pipeline.py"), *arguments],
        cwd=folder,
        env={**os.environ, "SERIESQUANT_CACHE": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
