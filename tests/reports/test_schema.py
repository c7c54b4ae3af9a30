import copy
import json

import pytest
from jsonschema import Draft202012Validator

from pipeline.failure import EXIT_CODES, run_header
from pipeline.options.options import Options
from reports.write import to_json
from tests.support.report_schema import SCHEMA, mistakes

COS = "cosine"


@pytest.fixture
def done(report, row) -> dict:
    """A whole report with made-up figures."""
    options = Options(config="6,3,3,2,2", bits=4)
    made = report(
        [row(COS, "6,3,3,2,2", 4, 98.61, finetune_s=1.0, qat_s=0.0, finetune_undone=False, qat_undone=False)],
        errors=True,
    )
    known = {key: value for key, value in made["run"].items() if key in ("weights", "dataset", "device", "precision")}
    facts = run_header(options.command(), options) | known | {"calibration_images": 1000, "duration_s": 71.2}
    facts["stages"] = [{"name": "baseline", "key": "ab12", "cached": True, "seconds": 3.5}]
    gate = {"max_drop": None, "max_size_mb": None, "passed": None, "failures": []}
    head = {"schema_version": 1, "status": "done", "error": None, "exit_code": 0}
    return json.loads(json.dumps(to_json(head | made | {"run": facts, "gate": gate})))


def failed(done: dict) -> dict:
    error = {"type": "DataError", "message": "no file", "exit_code": 4}
    nothing = {"baseline": None, "rows": [], "layers": [], "kernels": None}
    unknown = dict.fromkeys(("model", "weights", "dataset", "seed", "device", "precision", "options", "out"))
    run = done["run"] | unknown | {"calibration_images": None, "stages": []}
    return done | {"status": "failed", "error": error, "exit_code": 4, "run": run} | nothing


# What only a merged report has.
MERGED = {"row": {"settings", "runs", "baseline_top1"}, "layer": {"settings", "runs"}, "baseline": {"top1_by_seed"}}


def test_the_schema_is_one_and_describes_every_field() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for name in ("run", "row", "gate", "error", "hardware", "stage", "baseline", "layer"):
        definition = SCHEMA["$defs"][name]
        assert definition["additionalProperties"] is False
        assert set(definition["properties"]) - set(definition["required"]) == MERGED.get(name, set())
        assert set(definition["required"]) <= set(definition["properties"])
    assert set(SCHEMA["required"]) <= set(SCHEMA["properties"])
    assert SCHEMA["properties"]["exit_code"]["enum"] == sorted(EXIT_CODES)


def test_done_and_failed_reports_keep_to_it(done) -> None:
    assert mistakes(done) == []
    assert mistakes(failed(done)) == []


CHANGES = [
    (("status",), "finished"),
    (("exit_code",), 6),
    (("exit_code",), 3),  # without a gate that was missed
    (("error",), {"type": "E", "message": "m", "exit_code": 1}),  # in a report that is done
    (("rows",), []),
    (("baseline",), None),
    (("run", "model"), None),
    (("run", "git_commit"), "main"),
    (("run", "processes"), 0),
    (("run", "hardware", "cores"), "two"),
    (("run", "stages", 0, "cached"), None),
    (("run", "versions"), {"python": "3.11"}),
    (("run", "options", "bits"), {"a": 1}),
    (("rows", 0, "bits"), 9),
    (("rows", 0, "top1_quant"), 101),
    (("rows", 0, "sha256"), "ab"),
    (("rows", 0, "artifact"), "../a.onnx"),
    (("rows", 0, "new_figure"), 1),
    (("layers", 0, "kernel"), [3]),
    (("gate", "passed"), True),  # without a limit
    (("gate", "failures"), ["row"]),  # though none was missed
    (("kernels", "original"), [[]]),
]


@pytest.mark.parametrize(("place", "value"), CHANGES)
def test_it_refuses(done, place, value) -> None:
    at = done
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    assert mistakes(done)


@pytest.mark.parametrize("key", ["status", "error", "exit_code", "run", "gate", "rows"])
def test_it_misses_nothing(done, key) -> None:
    without = copy.deepcopy(done)
    del without[key]
    assert mistakes(without)


def test_a_failed_report_says_why_and_an_interrupted_one_has_its_codes(done) -> None:
    assert mistakes(failed(done) | {"error": None})
    assert mistakes(failed(done) | {"exit_code": 0})
    assert mistakes(failed(done) | {"status": "interrupted"})
    assert mistakes(failed(done) | {"status": "interrupted", "exit_code": 143}) == []
