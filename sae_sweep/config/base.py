"""The base of all settings: frozen, and unknown keys are refused."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """A group of settings; the text under each field is its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "give a number")
    return value


Number = BeforeValidator(_no_bool)

LARGEST = 2**40
LARGEST_PRODUCT = 2**62
LARGEST_FACTOR = 1e6
LARGEST_WEIGHT = 1e30
"""Bounds far above any use, so that no product of a few settings overflows."""

Count = Annotated[int, Field(gt=0, le=LARGEST), Number]
# may be resolved to a factor times a count, which must not be refused where both are allowed
Product = Annotated[int, Field(gt=0, le=LARGEST_PRODUCT), Number]
Factor = Annotated[float, Field(gt=0, le=LARGEST_FACTOR), Number]
Seed = Annotated[int, Field(ge=0, lt=2**63), Number]
Positive = Annotated[float, Field(gt=0, le=LARGEST_WEIGHT), Number]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST_WEIGHT), Number]
Fraction = Annotated[float, Field(ge=0, le=1), Number]
OpenFraction = Annotated[float, Field(gt=0, lt=1), Number]
