"""Cost and risks of a sweep: the text of `dry_run=true`."""

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from sae_sweep import activations
from sae_sweep.activations import Wanted
from sae_sweep.config import RunConfig, Trial, risks
from sae_sweep.errors import BadInput
from sae_sweep.remote import remote_of
from sae_sweep.search import LISTED, warnings
from sae_sweep.tune.expansion import Expansion
from sae_sweep.tune.plan import (
    ShapeKey,
    cohort_size,
    memory_bytes,
    result_bytes,
    resume_bytes,
    shape_key,
    size_in_memory,
)

GEMMS_PER_STEP = 4.0
"""A trial's time, reports and final evaluation included, in units of its encoder products
[batch, d] x [d, n_latents]: what `grid_topk` took on a CPU."""


def missing_activations(expansion: Expansion, outputs: Path) -> list[str]:
    """Fingerprints that would have to be extracted."""
    root = outputs / "activations"
    return [
        fingerprint
        for fingerprint in expansion.resolver.activations
        if not (root / fingerprint / "manifest.json").exists()
    ]


def disk_bytes(
    expansion: Expansion, todo: Sequence[Trial], config: RunConfig, outputs: Path
) -> int:
    """Disk that activations, checkpoints and weights will take."""
    missing = set(missing_activations(expansion, outputs))
    rows = sum(
        activations.disk_bytes(one)
        for one in _wanted(expansion)
        if one.source.fingerprint in missing
    )
    weights = config.store.weights != "none"
    kept = sum(result_bytes(trial, weights=weights) for trial in todo)
    if remote_of(outputs) is not None:
        kept = 0  # this disk holds them only until they are uploaded
    at_once = _slots(config) * (config.executor.cohort or 1)
    resume = sorted((resume_bytes(trial) for trial in todo), reverse=True)[:at_once]
    return rows + kept + sum(resume)


def require_disk(need: int, outputs: Path) -> None:
    """Refuse a sweep for which there is no room.

    Raises:
        BadInput: with what is needed and what is there.
    """
    free = shutil.disk_usage(outputs).free
    if need > free:
        raise BadInput(
            f"outputs={outputs} has {_size(free)} free and the sweep needs about {_size(need)} "
            "for activations, checkpoints and weights: free some, choose another outputs, or set "
            "store.weights=none"
        )


def describe_cost(
    expansion: Expansion, done: set[str], config: RunConfig, outputs: Path
) -> list[str]:
    """The lines that a dry run prints."""
    planned, unknown = expansion.planned, expansion.resolver.unknown_source
    todo = [trial for trial in planned if trial.uid not in done]
    slots = _slots(config)
    lines = [f"sweep {config.sweep.name}: {len(planned)} trials, {len(todo)} to train"]
    if expansion.examples:
        lines = [
            f"sweep {config.sweep.name}: at most {len(planned)} trials, which search.kind="
            f"{config.search.kind} chooses; estimated from the ends of the axes"
        ]
    if unknown:
        lines.append(f"what is done already cannot be told: {unknown}")
    lines += [f"merged: {words}" for words in expansion.merged]
    if todo:
        lines += _cohorts(todo, slots, config)
        lines.append(
            f"time: about {_duration(_seconds(todo, config) / slots)} of training, "
            "from a probe of this machine's matrix product; extraction not counted"
        )
    lines += _activations(expansion, todo, config, outputs)
    lines.append(f"disk: about {_size(disk_bytes(expansion, todo, config, outputs))}")
    found = Counter(risk for trial in planned for risk in risks(trial))
    lines += [f"risk in {n} of {len(planned)}: {risk}" for risk, n in found.items()]
    lines += [f"warning: {words}" for words in warnings(config.sweep, config.search)]
    return lines


def _wanted(expansion: Expansion) -> list[Wanted]:
    """The activations that the planned trials read."""
    sources = {trial.source.fingerprint: trial.source for trial in expansion.planned}
    configs = expansion.resolver.activations
    return [Wanted(configs[fingerprint], source) for fingerprint, source in sources.items()]


def _activations(
    expansion: Expansion, todo: Sequence[Trial], config: RunConfig, outputs: Path
) -> list[str]:
    """Cost of activations, and the effect of a bounded cache."""
    probed = expansion.resolver.unknown_source is None
    lines, wanted = [], _wanted(expansion)
    for together in activations.passes(wanted):
        missing = [
            one
            for one in together
            if activations.missing_rows(one, outputs) and not _published(one, outputs)
        ]
        if missing:
            lines.append(_extraction(missing, outputs, probed=probed))
    by_source: dict[str, list[Trial]] = {}
    for trial in todo:
        by_source.setdefault(trial.source.fingerprint, []).append(trial)
    for together in activations.passes(wanted):
        bounded = {
            one.source.fingerprint: one
            for one in together
            if activations.cache_bytes(one) is not None and one.source.fingerprint in by_source
        }
        for name, one in bounded.items():
            lines.append(_bounded(one, by_source[name], config, probed=probed))
        if len(bounded) > 1:
            trials = [trial for trial in todo if trial.source.fingerprint in bounded]
            words = f"in all about {sum(_waves(trials, config)):.3g} passes of the model"
            words += f" for {len(bounded)} sources that one pass could serve"
            one_after_another = ": one slot trains on one source after another"
            lines.append(words + (one_after_another if _slots(config) == 1 else ""))
    return lines


def _published(one: Wanted, outputs: Path) -> bool:
    """Whether the rows are in remote outputs already and come from there."""
    remote = remote_of(outputs)
    return remote is not None and remote.index(f"activations/{one.source.fingerprint}") is not None


def _extraction(missing: Sequence[Wanted], outputs: Path, *, probed: bool) -> str:
    """What extraction writes before training starts."""
    rows = max(activations.missing_rows(one, outputs) for one in missing)
    space = sum(
        activations.stored_bytes(one, activations.missing_rows(one, outputs)) for one in missing
    )
    kind = missing[0].config.kind
    words = f"activations to extract: {rows:,} rows ({kind}), {_size(space)}"
    if len(missing) > 1:
        words += f" for {len(missing)} places of the model in one pass"
    if kind == "model" and probed:
        each = activations.seconds_per_row([one.config for one in missing])
        words += f", about {_duration(rows * each)} from a probe of one batch"
    return words


def _bounded(one: Wanted, trials: Sequence[Trial], config: RunConfig, *, probed: bool) -> str:
    """How often the model runs over the text because the cache does not hold all of it."""
    bound = activations.cache_bytes(one)
    assert bound is not None
    whole = activations.stored_bytes(one, one.config.train_tokens)
    waves = _waves(trials, config)
    passes = sum(waves)
    at_once = min(len(trials), math.ceil(_slots(config) * max(_sizes(trials, config).values())))
    words = (
        f"cache of {_size(bound)} for {_size(whole)} of training rows of {one.source.fingerprint}: "
        f"about {passes:.3g} passes over them ({len(waves)} waves of at most {at_once} trials, "
        f"{max(waves):.3g} epochs each)"
    )
    if passes > 1:
        words += " where one would do"
    if one.config.kind == "model" and probed:
        seconds = passes * one.source.train_tokens * activations.seconds_per_row([one.config])
        words += f": about {_duration(seconds)} of the model"
    return words


def _waves(trials: Sequence[Trial], config: RunConfig) -> list[float]:
    """Passes of the model by each wave of slots, whose trials read the same windows together.

    A slot takes trials of one source and shape, and none once it has begun.
    """
    cohorts: list[float] = []
    alike = _alike(trials)
    for key, size in _sizes(trials, config).items():
        epochs = max(
            one.steps * one.train.batch_size / one.source.train_tokens for one in alike[key]
        )
        cohorts += [epochs] * math.ceil(len(alike[key]) / size)
    slots = _slots(config)
    return [max(cohorts[first : first + slots]) for first in range(0, len(cohorts), slots)]


def _sizes(trials: Sequence[Trial], config: RunConfig) -> dict[ShapeKey, float]:
    """Trials of each shape in a slot; below 1 where a search has fewer trials than slots."""
    slots, limit = _slots(config), config.executor.cohort
    if config.search.kind in LISTED:
        return {key: size_in_memory(some, slots, limit) for key, some in _alike(trials).items()}
    at_once = config.search.at_once or slots * (limit or 1)
    return dict.fromkeys(_alike(trials), at_once / slots)


def _alike(trials: Sequence[Trial]) -> dict[ShapeKey, list[Trial]]:
    """Trials by shape."""
    found: dict[ShapeKey, list[Trial]] = {}
    for trial in trials:
        found.setdefault(shape_key(trial), []).append(trial)
    return found


def _cohorts(todo: Sequence[Trial], slots: int, config: RunConfig) -> list[str]:
    gpus = config.executor.kind == "ray" and torch.cuda.is_available()
    size = cohort_size(len(todo), slots, config.executor.cohort)
    keys = Counter(shape_key(trial) for trial in todo)
    peak = max(memory_bytes(trial) for trial in todo)
    where = "GPUs" if gpus else "cores"
    grows = config.executor.cohort is None and any(key.kernels == "fused" for key in keys)
    at_once = "as many at once as pay" if grows else f"{size} trials at once"
    return [
        f"cohorts: {len(keys)} of trials that can share a program; {slots} slots on {where}, "
        f"{at_once} in each",
        f"memory: about {_size(peak)} a trial beside the activations",
    ]


def _slots(config: RunConfig) -> int:
    if config.executor.kind == "inline":
        return 1
    return config.executor.slots or torch.cuda.device_count() or len(os.sched_getaffinity(0))


def _seconds(todo: Sequence[Trial], config: RunConfig) -> float:
    """Training time of all trials in one slot, in seconds."""
    rate = _matmul_rate(config.executor.threads)
    return GEMMS_PER_STEP * sum(2.0 * trial.work for trial in todo) / rate


def _matmul_rate(threads: int) -> float:
    """Floating-point operations per second of a square product."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, before = (4096, 1) if device.type == "cuda" else (512, torch.get_num_threads())
    torch.set_num_threads(threads if device.type == "cpu" else before)
    a = torch.ones(size, size, device=device)
    (a @ a).sum().item()
    began = time.perf_counter()
    (a @ a @ a @ a @ a).sum().item()
    elapsed = time.perf_counter() - began
    torch.set_num_threads(before)
    return 4 * 2 * size**3 / elapsed


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
