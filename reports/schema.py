"""JSON Schema (draft 2020-12) of report.json, generated from the models of ``reports.model``."""

from typing import Any

from reports.model import SCHEMA_VERSION, Report


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema of report.json: the models' fields, and the rules that join several fields."""
    generated = Report.model_json_schema(ref_template="#/$defs/{model}")
    definitions = generated.pop("$defs")
    definitions["Gate"]["allOf"] = _GATE_RULES
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:seriesquant:report:{SCHEMA_VERSION}",
        **generated,
        "title": f"report.json of seriesquant, schema {SCHEMA_VERSION}",
        "description": "A figure that was not measured is null. Top-1 is in percent, differences of Top-1 are in "
        "percentage points, and MB are 10^6 bytes.",
        "allOf": _REPORT_RULES,
        "$defs": definitions,
    }


def _field(name: str, **schema: Any) -> dict[str, Any]:
    return {"properties": {name: schema}}


_DONE = _field("status", const="done")
_OF_ONE_RUN = {**_DONE, "not": {"required": ["sources"]}}
_KNOWN_AFTER_A_RUN = {
    "model": "string",
    "weights": "string",
    "dataset": "object",
    "seed": "integer",
    "device": "string",
    "precision": "string",
    "options": "object",
    "out": "string",
    "calibration_images": "integer",
    "duration_s": "number",
}
_REPORT_RULES: list[dict[str, Any]] = [
    {
        "if": _DONE,
        "then": {
            "properties": {
                "error": {"type": "null"},
                "exit_code": {"enum": [0, 3]},
                "baseline": {"type": "object"},
                "rows": {"minItems": 1},
            }
        },
        "else": {"properties": {"error": {"type": "object"}, "gate": _field("passed", type="null")}},
    },
    {
        "if": _OF_ONE_RUN,
        "then": _field("run", properties={name: {"type": kind} for name, kind in _KNOWN_AFTER_A_RUN.items()}),
    },
    {"if": _field("status", const="interrupted"), "then": _field("exit_code", enum=[129, 130, 143])},
    {"if": _field("status", const="failed"), "then": _field("exit_code", enum=[1, 2, 4, 5])},
    {
        "if": _field("exit_code", const=3),
        "then": _field("gate", **_field("passed", const=False)),
        "else": _field("gate", **_field("passed", enum=[True, None])),
    },
]
_GATE_RULES: list[dict[str, Any]] = [
    {
        "if": {"properties": {"max_drop": {"type": "null"}, "max_size_mb": {"type": "null"}, "targets": {"const": 0}}},
        "then": _field("passed", enum=[False, None]),
    },
    {
        "if": _field("passed", const=False),
        "then": _field("failures", minItems=1),
        "else": _field("failures", maxItems=0),
    },
]
