import pytest

from basis.errors import CompressionError
from pipeline.errors import BusyError, ClusterError, DataError, OptionsError
from pipeline.failure import EXIT_CODES, Failure, failure_of
from pipeline.runtime.signals import Terminated

RESUME = "to go on from the last checkpoint, run the same command again"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OptionsError("wrong"), Failure("OptionsError", "wrong", 2, True)),
        (DataError("torn\nfile"), Failure("DataError", "torn file", 4, True)),
        (CompressionError("not finite"), Failure("CompressionError", "not finite", 4, True)),
        (OSError(28, "No space left", "o/r.md"), Failure("OSError", "No space left: o/r.md", 1, True)),
        (BusyError("in use"), Failure("BusyError", "in use", 1, True)),
        (ClusterError("no Ray"), Failure("ClusterError", "no Ray", 1, True)),
        (TimeoutError("slow"), Failure("TimeoutError", "slow", 1, True)),
        (KeyError("by us"), Failure("KeyError", "internal error: KeyError: 'by us'", 1, False)),
        (SystemExit(0), Failure("SystemExit", "internal error: SystemExit: 0", 1, False)),
        (
            KeyboardInterrupt(),
            Failure(
                "KeyboardInterrupt",
                f"interrupted; {RESUME}",
                130,
                True,
            ),
        ),
        (
            Terminated(),
            Failure("Terminated", f"terminated; {RESUME}", 143, True),
        ),
    ],
)
def test_what_ends_a_run_has_one_code_and_one_sentence(error: BaseException, expected: Failure) -> None:
    failure = failure_of(error)
    assert failure == expected
    assert failure.exit_code in EXIT_CODES
    assert failure.status == ("interrupted" if failure.exit_code > 100 else "failed")
