"""Values as Python prints them, without running any code."""

import ast
import json
import math
from typing import Any

from sae_sweep.inputs import reason

NAMES = {
    **{"None": None, "null": None, "True": True, "true": True, "False": False, "false": False},
    **{"nan": math.nan, "NaN": math.nan, "inf": math.inf, "Infinity": math.inf},
}
SCALARS = frozenset(
    {"float", "int", "bool", "str", "str_", "bool_"}
    | {f"{kind}{bits}" for kind in ("float", "int", "uint") for bits in (8, 16, 32, 64)}
)
"""Calls that print one value: `np.float64(0.5)`, `float('nan')`."""


def parse(text: str) -> Any:
    """Read JSON, or what Python prints of dicts, lists and scalars: nan, inf and None included.

    Raises:
        ValueError: it is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return _value(ast.parse(text, mode="eval").body)
    except Exception as error:  # noqa: BLE001
        # a number too large, a name of no scalar, a key that cannot be one: whatever it is
        raise ValueError(reason(error)) from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES:
            return NAMES[name]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {_value(key): _value(value) for key, value in pairs if key is not None}
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_value(item) for item in items]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return +_value(operand)
        case ast.Call(
            func=ast.Name(id=name) | ast.Attribute(attr=name), args=[one], keywords=[]
        ) if name in SCALARS:
            value = _value(one)
            return float(value) if name.startswith("float") else value
        case _:
            raise ValueError(f"{ast.unparse(node)[:40]} is no plain value")
