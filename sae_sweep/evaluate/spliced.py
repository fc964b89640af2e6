"""What a model loses when an SAE's reconstruction stands in place of its activations.

One clean and two ablated passes per source are kept in outputs/cache/spliced and shared by all
trials; a trial then costs one pass through the part of the model above its SAE.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sae_sweep.activations import Inputs, ModelReader, Wanted
from sae_sweep.activations.manifest import read_manifest
from sae_sweep.activations.model_folder import model_folder
from sae_sweep.activations.pretrained import pooled_by, read_head
from sae_sweep.disk import make_once, replacing
from sae_sweep.errors import BadInput
from sae_sweep.evaluate.whole_model import WholeModel, load
from sae_sweep.evaluate.windows import Batch, Text, batches, texts
from sae_sweep.inputs import edge, note
from sae_sweep.records import digest
from sae_sweep.records.metrics import BY_HEAD
from sae_sweep.sae import AbstractSae

SCHEMA = 2
"""Raised when the same settings would give other clean or ablated passes."""


class Source(NamedTuple):
    """A source of activations whose SAEs are evaluated inside the model."""

    wanted: Wanted
    windows: int
    """How many windows of the validation split, at most: `evaluate.windows`."""
    outputs: Path
    """Folder of all outputs."""


class Clean(NamedTuple):
    """A batch of windows and the states of the clean pass over it."""

    batch: Batch
    read: Float[Tensor, "rows d"]
    """States of the text tokens at the place that an SAE reads."""
    replaced: Float[Tensor, "windows length d"]
    """States of all tokens at the place that it replaces."""
    final: Float[Tensor, "windows length d"]
    """The model's last states."""

    def with_rows(self, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "windows length d"]:
        """The replaced states with other ones for the text tokens; special tokens keep theirs."""
        states = self.replaced.clone()
        states[self.batch.is_text.to(states.device)] = rows.to(states)
        return states


Rows = Callable[[Clean], Float[Tensor, "rows d"]]
"""What stands in place of the states of a batch's text tokens."""


class Measured(NamedTuple):
    """What passes with replaced states come to."""

    cosine: float
    """Mean over windows of the cosine of pooled outputs with the clean ones."""
    ce: float
    """Mean over predicted tokens of the cross-entropy in nats; NaN without a head."""
    kl: float
    """Mean over predicted tokens of KL(clean || replaced) in nats; NaN without a head."""


def can_evaluate(wanted: Wanted) -> bool:
    """Whether a source's rows can be put back into a model: one row per token of text."""
    return wanted.config.kind == "model" and wanted.config.pooling == "token"


def require(objectives: Sequence[str], wanted: Wanted) -> None:
    """Check that a source's model has what objectives are measured by.

    Raises:
        BadInput: it has no language-model head.
    """
    named = [name for name in objectives if name in BY_HEAD]
    config = wanted.config
    if named and read_head(model_folder(config), config) is None:
        raise BadInput(
            f"search.objective={named[0]}: {_without_head(config.model)}; use "
            "search.objective=output_cosine or fvu"
        )


def prepare(source: Source) -> None:
    """Make the clean and ablated passes of a source, where they are not there.

    Raises:
        BadInput: for a model that cannot be run as a whole.
    """
    file = _file(source)
    lock = source.outputs / "cache" / "locks" / file.name
    make_once(file, lock, lambda: _write(source, file))
    if _metadata(file)["head"] is None:
        note(
            f"{_without_head(source.wanted.config.model)}: with an SAE in it, output_cosine is "
            f"measured, and {', '.join(BY_HEAD)} are not"
        )


class Evaluator:
    """The model of a source, loaded once, and what it does without an SAE."""

    def __init__(self, source: Source) -> None:
        """Read the passes that `prepare` has written; the model is loaded when it is first run."""
        self._source = source
        self._config = source.wanted.config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _file(self) -> Path:
        return _file(self._source)

    @cached_property
    def _inputs(self) -> Inputs:
        return ModelReader([self._config], self._source.outputs).inputs(self._source.windows)

    @cached_property
    def _model(self) -> WholeModel:
        return load(self._config, self._inputs)

    @torch.no_grad()
    def metrics(self, sae: AbstractSae) -> dict[str, float]:
        """What the model loses with an SAE in it, by the names of `records.METRICS`."""
        sae = sae.to(self._device)
        outputs = sae.target_normalisation or sae.normalisation

        def reconstruction(clean: Clean) -> Float[Tensor, "rows d"]:
            x = sae.normalisation.apply(clean.read.float())
            return outputs.invert(sae.read(x).x_hat)

        metadata = _metadata(self._file)
        self._model.to(self._device)
        try:
            found = self.measure(reconstruction, metadata["head"])
        finally:
            self._model.to("cpu")  # a GPU's memory is the training's
        before: dict[str, float] = metadata["figures"]
        metrics = before | {"output_cosine": found.cosine}
        if metadata["head"] is not None:
            clean, zero, mean = (before[f"ce_{name}"] for name in ("clean", "zero", "mean"))
            metrics |= {
                "ce_loss_increase": found.ce - clean,
                "ce_recovered": (zero - found.ce) / (zero - clean),
                "ce_recovered_mean": (mean - found.ce) / (mean - clean),
                "kl": found.kl,
            }
        return metrics

    def measure(self, rows: Rows, head: str | None) -> Measured:
        """Run all windows with other states in place of the text tokens' own."""
        return _measure(self._model, self._clean(head), rows, pooled_by(model_folder(self._config)))

    def _clean(self, head: str | None) -> Iterator[tuple[Text, Clean]]:
        with safe_open(self._file, framework="pt") as file:
            for text in texts(head):
                for number, batch in enumerate(batches(self._inputs, text, head)):
                    parts = (
                        file.get_tensor(f"{text}.{number}.{name}").to(self._device)
                        for name in ("read", "replaced", "final")
                    )
                    yield text, Clean(batch, *parts)


def _file(source: Source) -> Path:
    """Where the passes of a source lie; kinds of device differ in their last bits."""
    pooling = pooled_by(model_folder(source.wanted.config))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fingerprint = source.wanted.source.fingerprint
    name = digest([SCHEMA, fingerprint, source.windows, pooling, device])
    return source.outputs / "cache" / "spliced" / f"{name}.safetensors"


def _metadata(file: Path) -> dict[str, Any]:
    with edge(str(file), "delete it and run again"), safe_open(file, framework="pt") as opened:
        told: dict[str, Any] = json.loads(opened.metadata()["spliced"])
    return told


@torch.no_grad()
def _write(source: Source, file: Path) -> None:
    config = source.wanted.config
    inputs = ModelReader([config], source.outputs).inputs(source.windows)
    model = load(config, inputs)
    if model.head == "masked" and inputs.mask_id is None:
        raise BadInput(
            f"activations.model={config.model} is a masked language model, and its tokeniser has "
            "no mask token: set evaluate.windows=0"
        )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    passes = [
        (text, _clean_pass(model, batch))
        for text in texts(model.head)
        for batch in batches(inputs, text, model.head)
    ]
    manifest = read_manifest(source.wanted.folder(source.outputs))
    mean = torch.tensor(manifest.target_mean or manifest.mean)
    pooling = pooled_by(model_folder(config))
    measured = {
        "clean": _measure(model, passes, None, pooling),
        "zero": _measure(model, passes, lambda clean: torch.zeros_like(clean.read), pooling),
        "mean": _measure(model, passes, lambda clean: mean.expand_as(clean.read), pooling),
    }
    figures = {f"output_cosine_{name}": measured[name].cosine for name in ("zero", "mean")}
    if model.head is not None:
        figures |= {f"ce_{name}": one.ce for name, one in measured.items()}
    told = {"head": model.head, "figures": figures, "model": config.model}
    tensors: dict[str, Tensor] = {}
    for text in texts(model.head):
        for number, clean in enumerate(clean for name, clean in passes if name == text):
            for name in ("read", "replaced", "final"):
                tensors[f"{text}.{number}.{name}"] = getattr(clean, name).cpu().contiguous()
    with replacing(file) as temporary:
        temporary.write_bytes(save(tensors, {"spliced": json.dumps(told)}))


def _without_head(name: str | None) -> str:
    return f"activations.model={name} was saved without a language-model head"


def _clean_pass(model: WholeModel, batch: Batch) -> Clean:
    passed = model.run(batch.ids, batch.lengths)
    return Clean(batch, passed.read[batch.is_text], passed.replaced, passed.final)


def _measure(
    model: WholeModel,
    passes: Iterator[tuple[Text, Clean]] | list[tuple[Text, Clean]],
    rows: Rows | None,
    pooling: str,
) -> Measured:
    """Run with replaced states; without `rows` the clean passes themselves are measured."""
    cosine = ce = kl = 0.0
    windows = tokens = 0
    for text, clean in passes:
        batch, final = clean.batch, clean.final
        if rows is not None:
            final = model.run(batch.ids, batch.lengths, clean.with_rows(rows(clean))).final
        if text == "plain":
            ours, theirs = (_pooled(each, batch.lengths, pooling) for each in (final, clean.final))
            cosine += torch.cosine_similarity(ours, theirs).sum(dtype=torch.float64).item()
            windows += len(batch.ids)
        if batch.predicted.any():
            lost, divergence = _losses(model, clean, final)
            ce, kl, tokens = ce + lost, kl + divergence, tokens + int(batch.predicted.sum())
    nothing = float("nan")
    if not tokens:
        return Measured(cosine / windows, nothing, nothing)
    return Measured(cosine / windows, ce / tokens, kl / tokens)


def _losses(
    model: WholeModel, clean: Clean, final: Float[Tensor, "windows length d"]
) -> tuple[float, float]:
    """Sums of cross-entropy and divergence, window by window: a vocabulary's logits are large."""
    ce = kl = 0.0
    batch = clean.batch
    for row, length in enumerate(batch.lengths.tolist()):
        here = batch.predicted[row, :length].to(final.device)
        if not here.any():
            continue
        truth = batch.truth[row, :length].to(final.device)[here, None]
        window = slice(row, row + 1)
        # cloned: a product's last bits may depend on where in memory its operands begin
        found = model.log_probabilities(final[window, :length].clone())[0, here]
        ce -= found.gather(1, truth).sum(dtype=torch.float64).item()
        if final is not clean.final:
            before = model.log_probabilities(clean.final[window, :length].clone())[0, here]
            kl += (before.exp() * (before - found)).sum(dtype=torch.float64).item()
    return ce, kl


def _pooled(
    final: Float[Tensor, "windows length d"], lengths: Int64[Tensor, " windows"], how: str
) -> Float[Tensor, "windows d"]:
    """One vector per window, as sentence-transformers pools: special tokens count."""
    if how == "cls":
        return final[:, 0].float()
    places = torch.arange(final.shape[1], device=final.device)
    mask = (places < lengths.to(final.device)[:, None]).float()[:, :, None]
    return (final.float() * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
