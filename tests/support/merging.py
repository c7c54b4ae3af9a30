"""Made-up runs for the tests of merging."""

import hashlib
from pathlib import Path
from typing import Any

from reports.merging.reading import Source, sources
from tests.support.reports import OPTIONS, make_report, make_row


def digest(*words: object) -> str:
    """SHA-256 of the words."""
    return hashlib.sha256("-".join(map(str, words)).encode()).hexdigest()


def make_run(
    name: str, *rows: tuple[str, str, int, float], seed: int = 0, options: dict[str, Any] | None = None, **run: Any
) -> dict[str, Source]:
    """One run of these rows (basis, config, bits, Top-1), whose artifacts follow from the seed and the options."""
    chosen = OPTIONS | (options or {})
    made = [make_row(*row, sha256=digest(*row[:3], seed, *chosen.values())) for row in rows]
    facts = {"seed": seed, "options": chosen, "weights": "checkpoint a.th", "command": f"run {name}"} | run
    return {name: sources(make_report(made, **facts), Path("runs") / name)[0]}
