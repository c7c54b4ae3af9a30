"""Event files, read back with TensorBoard's own reader."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.options.options import Options
from pipeline.tracking import tracking
from pipeline.training.state import EpochFigures, TrainingLabel
from tests.pipeline.tracking.conftest import REPORT, free_port, wait_for


def options(out: Path, track: str = "tensorboard") -> Options:
    server = {"tracking_uri": f"http://127.0.0.1:{free_port()}"} if "mlflow" in track else {}
    return Options(config="3,3,2,2", track=track, out=out, seed=7, **server)


def events(out: Path) -> EventAccumulator:
    """The run's own events; what it was run with is in a folder below."""
    (run,) = (out / "tensorboard").iterdir()
    return EventAccumulator(str(run)).Reload()


def text(found: EventAccumulator, tag: str) -> str:
    (event,) = found.Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def test_a_run_is_all_there_though_another_tracker_is_down(finished, caplog) -> None:
    (finished / "report.md").write_text("# The report\n")
    with tracking(options(finished, "mlflow,tensorboard")) as tracker:
        for epoch in (1, 2):
            tracker.epoch(
                TrainingLabel("cosine 3,3,2,2", "finetune"), EpochFigures(epoch=epoch, loss=1 / epoch, lr=0.02 / epoch)
            )
        tracker.finish(REPORT, finished)
    (warning,) = caplog.messages
    assert "tracking with mlflow at " in warning
    found = events(finished)
    for name, expected in {"loss": [1.0, 0.5], "lr": [0.02, 0.01]}.items():
        curve = found.Scalars(f"cosine-3.3.2.2/finetune/{name}")
        assert [point.step for point in curve] == [1, 2]
        assert [point.value for point in curve] == pytest.approx(expected)
    assert found.Scalars("baseline/top1")[0].value == pytest.approx(91.73)
    assert found.Scalars("cosine-3.3.2.2-4/top1_quant")[0].value == pytest.approx(90.21)
    assert (text(found, "report"), text(found, "status")) == ("# The report\n", "FINISHED")
    (parameters,) = (finished / "tensorboard").rglob("hparams.yml")
    assert {"run: out", "config: 3,3,2,2", "seed: 7"} <= set(parameters.read_text().splitlines())


def test_a_run_that_ends_early_says_so(tmp_path) -> None:
    with pytest.raises(ValueError, match="early"), tracking(options(tmp_path)) as tracker:  # noqa: PT012
        tracker.epoch(TrainingLabel("dense", "finetune"), EpochFigures(epoch=1, loss=1.0, lr=0.1))
        wait_for(lambda: list(tmp_path.rglob("hparams.yml")))
        raise ValueError("early")
    assert text(events(tmp_path), "status") == "FAILED"


def test_a_folder_that_cannot_be_written(tmp_path, finished, caplog) -> None:
    (finished / "tensorboard").write_text("a file")
    with tracking(options(finished)) as tracker:
        tracker.finish(REPORT, finished)
    (warning,) = caplog.messages
    assert warning == (
        f"tracking with tensorboard at {finished}/tensorboard: Not a directory; the run goes on without it"
    )
