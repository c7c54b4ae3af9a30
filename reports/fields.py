"""Field types of report.json, with their constraints, and the base class of its objects."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


def to_json(value: Any) -> Any:
    """Convert a value to JSON's types: None for NaN and infinities, lists for arrays and tuples, text for paths."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Keys:
    """Constraint on the keys of a mapping, for validation and for the JSON Schema.

    Attributes:
        pattern: Regular expression that every key matches.
        required: Keys that must be present.
    """

    pattern: str = ".*"
    required: tuple[str, ...] = ()

    def check(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return ``value``.

        Raises:
            ValueError: A key is missing or does not match the pattern.
        """
        if missing := [key for key in self.required if key not in value]:
            raise ValueError(f"keys: {missing[0]} is missing; allowed: {', '.join(self.required)}, and others")
        if wrong := [key for key in value if not re.search(self.pattern, key)]:
            raise ValueError(f"keys: got {wrong[0]!r}; allowed: keys that match {self.pattern}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"propertyNames": {"pattern": self.pattern}, "required": list(self.required)}


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Figure = Annotated[float, Field(strict=True, ge=0)]
"""A figure that cannot be negative: seconds, errors, percent of parameters."""
Megabytes = Annotated[float, Field(strict=True, gt=0)]
Percent = Annotated[float, Field(strict=True, ge=0, le=100)]
Probability = Annotated[float, Field(strict=True, ge=0, le=1)]
Change = Annotated[float, Field(strict=True, ge=-100, le=100)]
Pair = Annotated[list[Positive], Field(min_length=2, max_length=2)]
Matrix = Annotated[
    list[Annotated[list[Annotated[float, Field(strict=True)] | None], Field(min_length=1)]], Field(min_length=1)
]
Basis = Literal["cosine", "chebyshev", "fracsrf", "fractional"]
FAMILIES: Final = ("fracsrf", "fractional")
"""The choices of a basis that are parametric families, which have no orders."""
Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)]
Scalar = bool | Number | str
Settings = dict[str, Scalar | None]
"""Settings that distinguish a run of a merged report from the others: name -> value."""
Options = Annotated[
    dict[str, Scalar | list[Number | str] | None],
    Keys(r"^[a-z][a-z0-9_]*$", ("config", "bits", "basis", "model", "weights", "data", "out")),
]
Versions = Annotated[dict[str, Text], Keys(required=("python", "seriesquant", "torch"))]
CODED: Final = "coded"
"""Key of the rounding error of a row of a target, whose integers have no fixed width."""
RoundingErrors = Annotated[dict[str, Figure | None], Keys(rf"^([2-8]|{CODED})$")]
LayerBytes = Annotated[dict[str, Count], Keys(rf"^([2-8]|{CODED})$")]


class Part(BaseModel):
    """An object of report.json: refuses unknown fields, accepts numpy values, and stores None for NaN."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    MERGED_ONLY: ClassVar[tuple[str, ...]] = ()
    """Fields that only a merged report has; they are left out of the file where they are None."""

    @field_validator("*", mode="before")
    @classmethod
    def _to_json(cls, value: Any) -> Any:
        return to_json(value)

    @model_serializer(mode="wrap")
    def _without_merged_only(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value for name, value in handler(self).items() if value is not None or name not in self.MERGED_ONLY
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Require every field in a written report but those of merged reports."""
        described = handler.resolve_ref_schema(handler(schema))
        for name, each in described["properties"].items():
            each.pop("title", None)
            each.pop("default", None)
            if name in cls.MERGED_ONLY:
                (known,) = (kind for kind in each.pop("anyOf") if kind != {"type": "null"})
                each.update(known)
        described["required"] = [name for name in described["properties"] if name not in cls.MERGED_ONLY]
        return described
