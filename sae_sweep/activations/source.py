"""The identity of activations, before any is computed."""

from pathlib import Path
from typing import assert_never

from sae_sweep.activations import collect, files, synthetic
from sae_sweep.activations.manifest import SCHEMA
from sae_sweep.activations.plan import Wanted, require_two_windows
from sae_sweep.activations.reader import Identity
from sae_sweep.config import ActivationsConfig, Source
from sae_sweep.errors import BadInput
from sae_sweep.records import digest

PLACES = {"model", "revision", "text", "files"}
"""Settings that locate content: its checksums replace them in the fingerprint."""


def describe(config: ActivationsConfig, outputs: Path) -> Source:
    """Identify a source by its settings and the checksums of its files.

    Checksums are remembered in outputs/cache, so that only new or changed files are read.

    Raises:
        BadInput: for a source that is missing, cannot be read, or does not fit the settings.
    """
    identity = _identify(config, outputs)
    if config.d is not None and config.d != identity.d:
        raise BadInput(
            f"activations.d={config.d}, but the source has {identity.d}: "
            f"set activations.d={identity.d} or leave it out"
        )
    settings = dict(identity.settings)
    dtype = identity.dtype if config.dtype == "auto" else config.dtype
    if dtype != "float32":
        settings["dtype"] = dtype
    if config.windowed:
        settings["window_rows"] = config.window_rows
    acting = {key: value for key, value in settings.items() if key not in PLACES}
    content = {"schema": SCHEMA, "kind": config.kind, "content": identity.content}
    source = Source(
        digest({**content, "d": identity.d, "settings": acting}),
        identity.d,
        config.train_tokens,
        settings,
        identity.has_target,
        dtype,
    )
    require_two_windows(Wanted(config, source))
    return source


def declare(config: ActivationsConfig) -> Source:
    """Describe a source by its settings alone, for a dry run that cannot reach it.

    The fingerprint is not that of the real source.

    Raises:
        BadInput: without activations.d.
    """
    if config.d is None:
        raise BadInput(
            "activations.d=null: without reading the source, its width has to be declared"
        )
    settings = config.model_dump(exclude_none=True, exclude={"d"})
    fingerprint = digest(settings)
    return Source(fingerprint, config.d, config.train_tokens, settings, config.has_target)


def _identify(config: ActivationsConfig, outputs: Path) -> Identity:
    match config.kind:
        case "model":
            return collect.identify(config, outputs)
        case "files":
            return files.identify(config, outputs)
        case "synthetic":
            return synthetic.identify(config)
        case _:
            assert_never(config.kind)
