"""Compress a network in an Airflow DAG. A failure that a retry cannot mend is not retried.

The worker needs the program `seriesquant`. docs/jobs.md explains the exit codes.
"""

import json
import os
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

DONE = 0
RETRY = {
    1: "an internal error, a folder that cannot be written, or a lost process",
    129: "hung up",
    130: "interrupted",
    143: "terminated",
}
FAIL = {2: "wrong options", 3: "a gate missed", 4: "data or weights missing or damaged", 5: "a numerical failure"}

OUT = Path("/srv/seriesquant/runs/resnet20")
COMMAND = [
    "seriesquant",
    *["--config", "3,3,3,2", "--config", "3,3,2,2", "--bits", "8,4"],
    *["--weights", "/srv/seriesquant/data/resnet20.th", "--data", "/srv/seriesquant/data/cifar10.npz"],
    *["--max-drop", "1", "--max-size-mb", "0.25"],
    *["--log-format", "json", "--out", str(OUT)],
]
ENVIRONMENT = {"SERIESQUANT_CACHE": "/srv/seriesquant/cache", "OMP_NUM_THREADS": "4"}
SECONDS_TO_END = 20  # a run exits within 10 s of SIGTERM


def run_command() -> int:
    """Run the command and return its exit code. Terminate it if the task is cleared or times out."""
    process = subprocess.Popen(COMMAND, env={**os.environ, **ENVIRONMENT})
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(SECONDS_TO_END)


def result(code: int) -> dict[str, float]:
    """Return the Top-1 of each artifact.

    Raises:
        AirflowFailException: If the command failed and a retry would end the same way.
        AirflowException: If the command failed or was killed; a retry resumes from the last checkpoint.
    """
    if code not in (DONE, *FAIL):
        raise AirflowException(RETRY.get(code, f"killed: exit code {code}"))
    report = json.loads((OUT / "report.json").read_text(encoding="utf-8")) if (OUT / "report.json").exists() else {}
    if code in FAIL:
        sentences = [(report.get("error") or {}).get("message"), *(report.get("gate") or {}).get("failures", [])]
        raise AirflowFailException(f"{FAIL[code]}: {'; '.join(filter(None, sentences)) or 'see the log'}")
    return {row["artifact"]: row["top1_quant"] for row in report["rows"]}


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False, tags=["seriesquant"])
def compress_network() -> None:
    """Define the one task, which runs the command."""

    @task(
        retries=4,
        retry_delay=timedelta(minutes=1),
        retry_exponential_backoff=True,
        execution_timeout=timedelta(hours=12),
        pool="default_pool",
        pool_slots=4,  # equal to OMP_NUM_THREADS
    )
    def compress() -> dict[str, float]:
        return result(run_command())

    compress()


compress_network()
