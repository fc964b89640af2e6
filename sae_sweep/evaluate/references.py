"""Autoencoders that were trained elsewhere, on the validation rows of a sweep."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_sweep.activations import Activations, Wanted, describe, open_activations
from sae_sweep.config import ActivationsConfig, validate
from sae_sweep.errors import BadInput
from sae_sweep.evaluate.spliced import Evaluator, Source, can_evaluate, prepare
from sae_sweep.records.references import Reference
from sae_sweep.records.store import Sweep
from sae_sweep.remote import fetch
from sae_sweep.sae import Normalisation
from sae_sweep.sae.published import Published, place_of, renormalised, to_unit_rows
from sae_sweep.train import evaluate


class RowsOf(NamedTuple):
    """The activations of some of a sweep's trials."""

    fingerprint: str
    settings: dict[str, Any]
    """Those that act, as trials record them."""
    written: dict[str, Any]
    """Those of the run, axes included: what `ActivationsConfig` is made of."""

    @property
    def words(self) -> str:
        """What they are, for messages."""
        shown = {name: self.settings[name] for name in ("layer", "hook") if name in self.settings}
        return ", ".join(f"activations.{name}={value}" for name, value in shown.items())


def sources(sweep: Sweep) -> list[RowsOf]:
    """The different activations of a sweep's trials."""
    found: dict[str, RowsOf] = {}
    for assignment, trial in sweep.members:
        settings = trial.config["activations"]
        written = copy.deepcopy(sweep.run.config.get("activations", {}))
        for key, value in assignment.items():
            group, *names, last = key.split(".")
            if group == "activations":
                place = written
                for name in names:
                    place = place.setdefault(name, {})
                place[last] = value
        fingerprint = str(settings["fingerprint"])
        found.setdefault(fingerprint, RowsOf(fingerprint, settings, written))
    return list(found.values())


def choose(theirs: Published, among: list[RowsOf], asked: str | None) -> RowsOf:
    """The activations that an autoencoder is to be measured on: those of its layer, of its width.

    Args:
        theirs: the autoencoder.
        among: the activations of a sweep.
        asked: the beginning of a fingerprint; None where a single one fits.

    Raises:
        BadInput: none fits, or several do.
    """
    found = [one for one in among if asked is None or one.fingerprint.startswith(asked)]
    if not found:
        there = ", ".join(one.fingerprint for one in among)
        raise BadInput(f"--activations {asked}: no trial of the sweep has them; there are {there}")
    problems = [_too_different(theirs, one) or _elsewhere(theirs, one, asked) for one in found]
    fitting = [one for one, wrong in zip(found, problems, strict=True) if wrong is None]
    if not fitting:
        raise BadInput(str(problems[0]))
    if len(fitting) > 1:
        there = ", ".join(f"{one.fingerprint} ({one.words})" for one in fitting)
        raise BadInput(f"the sweep has several activations: choose one by --activations: {there}")
    return fitting[0]


def _too_different(theirs: Published, rows: RowsOf) -> str | None:
    """Why an autoencoder cannot read or reconstruct these rows."""
    d = rows.settings["d"]
    if theirs.d != d:
        return (
            f"the autoencoder is of width {theirs.d}, the rows of the sweep are of width {d}: give "
            "a sweep over the model that it was trained on"
        )
    has_target = "target_hook" in rows.settings or "target_layer" in rows.settings
    if theirs.sae.config.transcoder and "model" in rows.settings and not has_target:
        return (
            "the autoencoder is a transcoder, and the rows of the sweep have no target: give a "
            "sweep with activations.target_hook"
        )
    return None


def _elsewhere(theirs: Published, rows: RowsOf, asked: str | None) -> str | None:
    """Why an autoencoder is of another place than these rows; None where nothing says so."""
    if asked is not None or theirs.place is None or "model" not in rows.settings:
        return None
    if "hook" in rows.settings or theirs.layer == rows.settings.get("layer"):
        return None
    where = f" (activations.layer={theirs.layer})" if theirs.layer is not None else ""
    return (
        f"the autoencoder is of {theirs.place}{where}, the rows of the sweep are of {rows.words}: "
        f"give a sweep over its place, or --activations {rows.fingerprint} if that is the same"
    )


def measure(theirs: Published, rows: RowsOf, windows: int, outputs: Path, name: str) -> Reference:
    """Measure an autoencoder as a finished trial is, inside the model too where there is one.

    Args:
        theirs: the autoencoder; its module is changed.
        rows: the activations whose validation split it is measured on.
        windows: for the model with the autoencoder in it; 0: none.
        outputs: folder of all outputs.
        name: what it is called.

    Raises:
        BadInput: the rows are not there any more.
    """
    activations = open_activations(fetch(outputs, f"activations/{rows.fingerprint}"))
    notes = _unchecked(theirs, rows)
    sae = renormalised(theirs.sae, *normalisations(activations))
    try:
        to_unit_rows(sae)
    except BadInput:  # evaluation needs no unit rows
        notes.append("its decoder rows are not equally long: activations are on its own scale")
    metrics = evaluate(sae, activations).metrics
    if windows:
        try:
            metrics |= _spliced(theirs, rows, windows, outputs)
        except BadInput as error:
            notes.append(f"not measured inside the model: {error}")
    return Reference(
        name=name,
        layout=theirs.layout,
        kind=sae.config.kind,
        n_latents=len(sae.w_dec),
        checksum=theirs.checksum,
        fingerprint=rows.fingerprint,
        place=theirs.place,
        metrics=dict(metrics),
        notes=tuple(notes),
    )


def normalisations(activations: Activations) -> tuple[Normalisation, Normalisation | None]:
    """What rows go through, and targets where there are any."""
    outputs = None
    if activations.target_mean is not None:
        assert activations.target_scale is not None
        outputs = Normalisation(activations.target_mean, activations.target_scale)
    return Normalisation(activations.mean, activations.scale), outputs


def _unchecked(theirs: Published, rows: RowsOf) -> list[str]:
    """What is not known to fit."""
    notes: list[str] = []
    if "model" not in rows.settings:
        return notes
    same = theirs.place == place_of(rows.settings)
    if "hook" not in rows.settings:
        same = same or theirs.layer == rows.settings.get("layer")
    if theirs.place is None:
        notes.append("it does not say where in a model its rows are from")
    elif not same:
        notes.append(f"it is of {theirs.place}; whether that is {rows.words} is not known")
    model = rows.settings["model"]
    if theirs.model is not None and theirs.model != model:
        notes.append(f"it is of the model {theirs.model}, the rows are of {model}")
    return notes


def _spliced(theirs: Published, rows: RowsOf, windows: int, outputs: Path) -> Mapping[str, float]:
    """The metrics of the model with an autoencoder in it; none without a model of tokens."""
    config = validate(ActivationsConfig, rows.written, "activations.")
    if config.kind != "model":
        return {}
    wanted = Wanted(config, describe(config, outputs))
    if not can_evaluate(wanted):
        return {}
    if wanted.source.fingerprint != rows.fingerprint:
        raise BadInput("model or text have changed since the rows were made")
    source = Source(wanted, windows, outputs)
    prepare(source)
    return Evaluator(source).metrics(theirs.sae)
