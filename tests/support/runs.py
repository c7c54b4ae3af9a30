"""Options of small runs, and their reports."""

from pathlib import Path

from pipeline.options.options import Options


def options(here, out, **changes):
    chosen = {
        "config": ("5,3,3", "3,2,2", "dense"),
        "basis": ("cosine", "chebyshev"),
        "bits": (8, 4),
        "model": "tiny_net:make",
        "data": "colours.npz",
        "epochs": 1,
        "out": Path(out),
    }
    return Options(**(chosen | changes))


def without_times(report):
    for name in ("duration_s", "stages"):
        report["run"].pop(name)
    return report
