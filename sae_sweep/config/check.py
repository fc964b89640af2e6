"""Validation once, at the edge: pydantic's findings as one message with a way out."""

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sae_sweep.config.names import in_words, nearest
from sae_sweep.config.run import RunConfig
from sae_sweep.config.sae import ARCHITECTURES
from sae_sweep.errors import BadInput

Model = TypeVar("Model", bound=BaseModel)


class Setting(BaseModel):
    """One setting: what help and messages say of it."""

    key: str
    text: str
    default: Any = None
    is_text: bool = False
    """Whether any characters are a value: a path, a name, a URL."""
    choices: frozenset[str] = frozenset()
    """The words that are a value, where only some are."""


def settings(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting below a model, in order, a key once."""
    seen: dict[str, Setting] = {}
    for name, info in model.model_fields.items():
        key = prefix + name
        groups = [group for group in _groups(info.annotation) if not key.startswith("sweep.")]
        found = [one for group in groups for one in settings(group, key + ".")]
        for one in found or [_setting(key, info)]:
            # every class of a union brings its own kind
            seen.setdefault(one.key, one).choices |= one.choices
        if len(groups) > 1:
            kind = seen[f"{key}.kind"]
            kind.text += f": {', '.join(ARCHITECTURES)}."
    yield from seen.values()


def _setting(key: str, info: FieldInfo) -> Setting:
    return Setting(
        key=key,
        text=info.description or "",
        default=info.get_default(call_default_factory=True),
        is_text=info.annotation in {str, str | None},
        choices=_choices(info.annotation),
    )


def _choices(annotation: Any) -> frozenset[str]:
    """The words of a Literal, alone or beside None."""
    if get_origin(annotation) is Literal:
        return frozenset(word for word in get_args(annotation) if isinstance(word, str))
    return frozenset(word for part in get_args(annotation) for word in _choices(part))


def _groups(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes inside an annotation, through unions and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return [group for part in get_args(annotation) for group in _groups(part)]
    return []


def validate(model: type[Model], data: Mapping[str, Any], prefix: str = "") -> Model:
    """Build a settings class.

    Raises:
        BadInput: names the first offending setting, its value and the way out.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise BadInput(_message(error, prefix)) from None


def _message(error: ValidationError, prefix: str) -> str:
    first = error.errors(include_url=False)[0]
    # pydantic puts the branch of a tagged union into the path
    kinds = [str(part) for part in first["loc"] if part in ARCHITECTURES]
    key = prefix + ".".join(str(part) for part in first["loc"] if part not in ARCHITECTURES)
    value = first["input"]
    match first["type"]:
        case "extra_forbidden":
            return f"{key}={in_words(value)}: {_unknown(key, kinds)}"
        case "value_error":
            return str(first["ctx"]["error"])
        case "union_tag_not_found":
            return f"{key}.kind is missing: choose one of {', '.join(ARCHITECTURES)}"
        case "union_tag_invalid":
            return f"{key}.kind={value.get('kind')}: choose one of {', '.join(ARCHITECTURES)}"
        case _:
            return f"{key}={value}: {_lower(first['msg'])}"


def _unknown(key: str, kinds: list[str]) -> str:
    """Say whose setting it is, or which names are near."""
    name = key.rpartition(".")[2]
    owners = [kind for kind, one in ARCHITECTURES.items() if name in one.model_fields]
    if kinds and owners:
        return (
            f"a setting of sae.kind={' and '.join(owners)}, not of {kinds[0]}; "
            f"use sae.kind={owners[0]} or leave it out"
        )
    return f"no such setting; {nearest(key, [setting.key for setting in settings()])}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
