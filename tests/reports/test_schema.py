"""The generated JSON Schema of report.json, and its agreement with the models."""

import copy

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from basis.parametric.families import FAMILIES
from pipeline.failure import EXIT_CODES
from pipeline.options.values import CHOICES
from reports import fields
from reports.model import Report
from tests.support.report_schema import SCHEMA, mistakes

COS = "cosine"


@pytest.fixture
def done(report, row) -> dict:
    """A whole report with made-up figures."""
    return report([row(COS, "6,3,3,2,2", 4, 98.61)], errors=True).model_dump()


def failed(done: dict) -> dict:
    error = {"type": "DataError", "message": "no file", "exit_code": 4}
    nothing = {"baseline": None, "rows": [], "layers": [], "kernels": None}
    unknown = dict.fromkeys(("model", "weights", "dataset", "seed", "device", "precision", "options", "out"))
    run = done["run"] | unknown | {"calibration_images": None, "stages": []}
    return done | {"status": "failed", "error": error, "exit_code": 4, "run": run} | nothing


# Fields that only a merged report has.
MERGED = {
    "Row": {"settings", "runs", "baseline_top1"},
    "Layer": {"settings", "runs"},
    "Baseline": {"top1_by_seed"},
}


def test_the_schema_is_one_and_describes_every_field() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for name, definition in SCHEMA["$defs"].items():
        assert definition["additionalProperties"] is False
        assert set(definition["properties"]) - set(definition["required"]) == MERGED.get(name, set())
        assert set(definition["required"]) <= set(definition["properties"])
        assert all(field.get("description") for field in definition["properties"].values())
    assert set(SCHEMA["properties"]) - set(SCHEMA["required"]) == {"sources"}
    assert SCHEMA["properties"]["exit_code"]["enum"] == sorted(EXIT_CODES)


def test_done_and_failed_reports_keep_to_it(done) -> None:
    for content in (done, failed(done)):
        assert mistakes(content) == []
        assert Report.model_validate(content).model_dump() == content


def test_filters_of_families_alone_have_no_orders(done) -> None:
    content = changed(done, ("kernels", "orders"), None)
    assert mistakes(content) == []
    assert Report.model_validate(content).model_dump() == content


def test_the_bases_without_orders_are_the_families() -> None:
    assert tuple(FAMILIES) == fields.FAMILIES


# Fields that contradict another field; only the schema compares fields.
CONTRADICTIONS = [
    (("exit_code",), 3),  # without a gate that failed
    (("error",), {"type": "E", "message": "m", "exit_code": 1}),  # in a report that is done
    (("rows",), []),
    (("baseline",), None),
    (("run", "model"), None),
    (("gate", "passed"), True),  # without a limit
    (("gate", "failures"), ["row"]),  # though none failed
]
CHANGES = [
    (("status",), "finished"),
    (("exit_code",), 6),
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
    (("kernels", "original"), [[]]),
    (("kernels", "orders"), [3]),
]


def changed(report: dict, place: tuple, value: object) -> dict:
    at = report
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return report


@pytest.mark.parametrize(("place", "value"), CHANGES)
def test_schema_and_models_refuse_the_same_values(done, place, value) -> None:
    assert mistakes(changed(done, place, value))
    with pytest.raises(ValidationError, match=str(place[-1])):
        Report.model_validate(done)


@pytest.mark.parametrize(("place", "value"), CONTRADICTIONS)
def test_the_schema_refuses_contradictions(done, place, value) -> None:
    assert mistakes(changed(done, place, value))


def test_a_gate_without_limits_may_fail(done) -> None:
    done["gate"] |= {"passed": False, "failures": ["cosine differs"]}
    assert mistakes(done)  # with exit code 0
    assert mistakes(done | {"exit_code": 3}) == []


@pytest.mark.parametrize("key", ["status", "error", "exit_code", "run", "gate", "rows"])
def test_no_field_may_be_missing(done, key) -> None:
    without = copy.deepcopy(done)
    del without[key]
    assert mistakes(without)


def test_a_failed_report_has_an_error_and_an_interrupted_one_its_codes(done) -> None:
    assert mistakes(failed(done) | {"error": None})
    assert mistakes(failed(done) | {"exit_code": 0})
    assert mistakes(failed(done) | {"status": "interrupted"})
    assert mistakes(failed(done) | {"status": "interrupted", "exit_code": 143}) == []


@pytest.mark.parametrize("name", ["basis", "backend", "scheme", "fit", "rounding"])
def test_a_row_may_have_every_choice_of_the_command_line(name) -> None:
    described = str(SCHEMA["$defs"]["Row"]["properties"][name])
    assert all(repr(choice) in described for choice in CHOICES[name])
