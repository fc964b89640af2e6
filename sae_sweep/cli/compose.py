"""From YAML and the command line to plain settings: the only reader of Hydra."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import YAMLError  # type: ignore[import-untyped]

from sae_sweep.cli.config_files import choice_files, cleaned
from sae_sweep.cli.sweep_axes import replace_axis, take_axes, with_axes_in_words
from sae_sweep.config import (
    RunConfig,
    SearchConfig,
    SweepConfig,
    TrialConfig,
    nearest,
    settings,
    validate,
)
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge, reason
from sae_sweep.search import examples

KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
SETTINGS_GROUPS = frozenset(
    setting.key.partition(".")[0] for setting in settings() if "." in setting.key
)
TEXT_SETTINGS = frozenset(setting.key for setting in settings() if setting.is_text)

FROM_ENVIRONMENT = (
    *("activations.files", "activations.model", "activations.text", "outputs", "store.url"),
)
"""Paths, URLs and what belongs to a machine: settings that may be ${oc.env:NAME}."""


class Composed(NamedTuple):
    """The composed settings of a run, as written."""

    settings: dict[str, Any]
    """Plain values by group; every axis stands in sweep.space, sweep.zip or sweep.when."""
    given: frozenset[str]
    """Dotted settings that the command line set."""


class _Override(NamedTuple):
    """One KEY=VALUE of the command line."""

    text: str
    """As it was typed."""
    key: str
    value: Any
    """As Hydra reads it."""
    written: str
    """The value in Hydra's grammar."""


def compose(overrides: list[str], config_dir: Path | None = None) -> Composed:
    """Compose the settings that a command line asks for.

    Args:
        overrides: GROUP=NAME, +sweep=NAME, KEY=VALUE and axes at a setting's key, e.g.
            sae.k=[8,16].
        config_dir: a folder with further choices for the groups, e.g. sweep/mine.yaml.

    Raises:
        BadInput: for what cannot be read, a choice that does not exist, a key given twice, and
            axes of a shape that no sweep has. Settings are not validated here.
    """
    if config_dir is not None and not config_dir.is_dir():
        raise BadInput(f"--config-dir={config_dir}: there is no such folder; name an existing one")
    known = choices(config_dir)
    for_hydra = []
    axes: dict[str, dict[str, Any]] = {}
    given: dict[str, str] = {}
    for one in map(_parse, overrides):
        if one.key in given:
            raise BadInput(f"{given[one.key]} and {one.text}: {one.key} is given twice; keep one")
        given[one.key] = one.text
        if one.key in known:
            for_hydra.append(_choose(one, known[one.key], config_dir))
        elif one.key in (found := take_axes(_nested(one.key, one.value))):
            axes |= found
        else:
            for_hydra.append(f"++{one.key}={one.written}")
    composed = _read(for_hydra, config_dir)
    keys = [key for key in given if key not in known]
    return Composed(_with_axes(composed, axes, keys), frozenset(keys))


def validate_run(settings: dict[str, Any]) -> RunConfig:
    """Validate a run; its trial groups by the first point, since axes may give what they lack.

    Raises:
        BadInput: names the first offending setting, its value and the way out.
    """
    sweep = validate(SweepConfig, settings["sweep"], "sweep.")
    search = validate(SearchConfig, settings["search"], "search.")
    first = examples(settings, sweep, search)[0]
    return validate(RunConfig, {**settings, **first.settings})


def choices(config_dir: Path | None = None) -> dict[str, list[str]]:
    """Name the choices of every group, those of a user's own folder included."""
    groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    found: dict[str, set[str]] = {group: set() for group in groups}
    for folder in [conf_dir(), *([config_dir] if config_dir else [])]:
        for file in choice_files(folder):
            group, _, name = file.relative_to(folder).with_suffix("").as_posix().partition("/")
            if name and group in found:
                found[group].add(name)
    return {group: sorted(names) for group, names in found.items()}


def conf_dir() -> Path:
    """Find conf/: inside the package when installed from a wheel, else beside it in the clone."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def _parse(text: str) -> _Override:
    _require_utf8(text)
    key, equals, written = text.lstrip("+").partition("=")
    if text.startswith("~"):
        raise BadInput(f"{text}: a setting cannot be deleted; {_instead_of(key.lstrip('~'))}")
    if not equals or not KEY.fullmatch(key):
        raise BadInput(f"{text}: write KEY=VALUE, e.g. sae.k=32, or +sweep=NAME")
    if key.split(".")[0] == "hydra":
        raise BadInput(
            f"{text}: Hydra only composes here, its settings have no effect; "
            "--config-dir DIR adds a folder of your own"
        )
    if key in TEXT_SETTINGS and written not in {"", "null"} and written[0] not in "[{'\"":
        # a path, a URL or a commit such as 12e4567 is text, whatever Hydra's grammar makes of it
        written = _quoted(written)
    try:
        [override] = OverridesParser.create().parse_overrides([f"++{key}={written}"])
    except HydraException:
        raise BadInput(
            f"{text}: the value cannot be read; quote it for the shell and for Hydra, "
            f"e.g. '{key}=\"...\"'"
        ) from None
    if override.is_sweep_override():
        raise BadInput(f"{text}: an axis is written in brackets, e.g. {key}=[8,16]")
    return _Override(text, key, override.value(), written)


def _instead_of(key: str) -> str:
    """What a setting can be given in place of being deleted."""
    default = {one.key: one.default for one in settings()}
    if key not in default:
        return f"give it the value you want, as {key}=VALUE"
    shown = json.dumps(default[key], default=str)
    return f"give it the value you want, e.g. its default {key}={shown}"


def _require_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Python carries bytes that it cannot decode as lone surrogates, which nothing can print
        shown = text.encode(errors="backslashreplace").decode()
        raise BadInput(f"{shown}: not valid UTF-8; rename it or use a UTF-8 locale") from None


def _choose(one: _Override, names: list[str], config_dir: Path | None) -> str:
    """Write the choice of a group for Hydra."""
    name = str(one.value)
    if isinstance(one.value, dict | list) or name not in names:
        misnamed = (config_dir or Path()) / one.key / f"{name.removesuffix('.yml')}.yml"
        if config_dir and misnamed.is_file():
            raise BadInput(f"{one.text}: files of choices end in .yaml: rename {misnamed}")
        raise BadInput(
            f"{one.text}: there is no such choice; {nearest(name, names, 'the list')} "
            f"({one.key} has {', '.join(names)})"
        )
    # no sweep is a default, so Hydra wants it added; the other groups have a default to change
    return f"{'+' if one.key == 'sweep' else ''}{one.key}={_quoted(name)}"


def _read(overrides: list[str], config_dir: Path | None) -> dict[str, Any]:
    """Compose with Hydra; a missing value stays MISSING."""
    with contextlib.ExitStack() as stack:
        copied: Path | None = None
        if config_dir is not None:
            copied = stack.enter_context(cleaned(config_dir))
            folder = _quoted(f"file://{copied.resolve()}")
            overrides = [*overrides, f"hydra.searchpath=[{folder}]"]

        def explain(error: Exception) -> str:
            return _reason(error).replace(str(copied), str(config_dir))

        way_out = "correct the file or the setting that this names"
        stack.enter_context(
            edge("the configuration", way_out, "cannot be composed", explain=explain)
        )
        with hydra.initialize_config_dir(str(conf_dir()), version_base=None):
            composed = hydra.compose("config", overrides)
        _refuse_environment(composed)
        plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    found = {str(key): value for key, value in plain.items()}
    for group in SETTINGS_GROUPS & found.keys():
        if not isinstance(found[group], dict) and not (group == "sweep" and found[group] is None):
            raise BadInput(
                f"{group}={found[group]}: this is a group of settings: write them below it, as in "
                f"{group}: {{KEY: VALUE}}"
            )
    return found


def _refuse_environment(composed: DictConfig) -> None:
    """Allow only settings of where and how a sweep runs to read the environment.

    A sweep file may come from somebody else, and what it asks stands in the report.
    """
    read: list[str] = []

    def noted(name: str, *default: Any) -> Any:
        read.append(name)
        return oc.env(name, *default)

    def visit(node: DictConfig | ListConfig, key: str) -> None:
        for name in range(len(node)) if isinstance(node, ListConfig) else list(node):
            if OmegaConf.is_missing(node, name):
                continue
            inner = f"{key}.{name}".lstrip(".")
            value = node[name]  # resolved here, whatever it refers to
            allowed = inner in FROM_ENVIRONMENT or inner.startswith("executor.")
            if read and not allowed:
                raise BadInput(
                    f"{inner} takes the environment variable {read[0]}, which the report would "
                    f"show: write the value; only {', '.join(FROM_ENVIRONMENT)} and executor may "
                    "take one"
                )
            read.clear()
            if isinstance(value, DictConfig | ListConfig):
                visit(value, inner)

    OmegaConf.register_new_resolver("oc.env", noted, replace=True)
    try:
        visit(composed, "")
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _with_axes(
    composed: dict[str, Any], axes: dict[str, dict[str, Any]], given: list[str]
) -> dict[str, Any]:
    """Move every axis to the sweep, those of the command line in place of the sweep's."""
    written = composed.get("sweep") or {}
    if "sweep" in written:
        raise BadInput(
            "sweep.sweep: the sweep's file composes one level too deep; "
            "start it with the line '# @package _global_'"
        )
    sweep = validate(SweepConfig, with_axes_in_words(written), "sweep.").model_dump(by_alias=True)
    trial = {group: composed[group] for group in TrialConfig.model_fields if group in composed}
    for key, axis in take_axes(trial).items():
        if key in given:
            continue
        if key in sweep["space"]:
            raise BadInput(f"{key}={axis}: sweep.space has an axis of this setting too; keep one")
        sweep["space"][key] = axis
    for key in given:
        replace_axis(sweep, key, axes.get(key))
    tied = [key for one in sweep["zip"] for key in one["keys"]]
    _drop_missing(composed, {*sweep["space"], *tied})
    return {**composed, **trial, "sweep": sweep}


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _reason(error: Exception) -> str:
    """Say what is wrong in one line, and where."""
    cause = error.__cause__ or error
    if isinstance(cause, YAMLError):
        return " ".join(str(cause).split())
    first = reason(cause)
    return f"{cause.full_key}: {first}" if isinstance(cause, OmegaConfBaseException) else first


def _drop_missing(group: dict[str, Any], axes: set[str], prefix: str = "") -> None:
    """Leave out values that are still to be given where an axis gives them."""
    for name, value in list(group.items()):
        key = prefix + name
        if isinstance(value, dict):
            _drop_missing(value, axes, key + ".")
        elif value == MISSING and key not in axes:
            raise BadInput(f"{key} has no value: give one, e.g. {key}=VALUE")
        elif value == MISSING:
            del group[name]
