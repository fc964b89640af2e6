"""Metrics on the validation split: one pass, float64 sums, no effect on training."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_sweep.kernels import cpu
from sae_sweep.sae import AbstractSae
from sae_sweep.train import by_group
from sae_sweep.train.ground_truth import GroundTruth
from sae_sweep.train.source import ActivationSource, TargetSource, TruthSource

REPORT_TOKENS = 4096
"""Validation tokens behind the figures of a report; the final evaluation reads them all."""

REPORT_METRICS = ("fvu", "explained_variance", "l0", "l0_fraction", "dead_features", "always_on")

RARE_SHARE = 0.0005
ALWAYS_ON_SHARE = 0.8
N_PEAKS = 10
MASSIVE = 10.0
"""Times the median norm above which a row counts as massive (Sun et al. 2024, arXiv:2402.17762)."""
CHUNK_ENTRIES = 2**22
"""Entries of the [tokens, latents] matrix that are held at once."""


class Evaluation(NamedTuple):
    """Metrics and statistics of a module on the validation split."""

    metrics: dict[str, float]
    """By the names of `records.METRICS`; not finite where the definition divides by zero."""
    always_on_ids: tuple[int, ...]
    """The latents counted by `always_on`."""
    frequency: Float[Tensor, " m"]
    """Share of validation tokens in which each latent fires."""
    max_activation: Float[Tensor, " m"]
    """Each latent's largest activation; 0 where it never fires."""
    groups: by_group.Groups
    """The same within each group of tokens; no groups where that was not requested."""


class _Sums(NamedTuple):
    """Running totals over tokens, all updated in place."""

    error: Float[Tensor, ""]
    """Sum of ||x - x_hat||^2."""
    x: Float[Tensor, " d"]
    x_square: Float[Tensor, ""]
    activation: Float[Tensor, ""]
    fired: Int64[Tensor, " m"]
    """Tokens in which each latent is > 0."""
    largest: Float[Tensor, " m"]


class _Peaks(NamedTuple):
    """The largest activations so far, one per token."""

    values: Float[Tensor, " peaks"]
    latents: Int64[Tensor, " peaks"]


class _Massive:
    """Validation rows whose norms are many times the median's, and the error without them.

    Raw norms count, and those of normalised rows: many such rows move the mean towards themselves,
    and a large mean hides them among raw rows.
    """

    def __init__(self, activations: ActivationSource, tokens: int, like: Tensor) -> None:
        """Find the rows: norms first, then all else in the pass that evaluates."""
        rows = CHUNK_ENTRIES // activations.d
        norms = []
        for one in range(0, tokens, rows):
            x = activations.validation_rows(one, min(one + rows, tokens))
            raw = x / activations.scale + activations.mean
            norms.append(torch.stack([x.norm(dim=1), raw.norm(dim=1)]))
        norm = torch.cat(norms, dim=1)
        median = norm.median(dim=1, keepdim=True).values
        massive = (norm > MASSIVE * median) & (median > 0)
        self._is_massive = massive.any(dim=0).to(like.device)
        self._sums = like.new_zeros((2, 2), dtype=torch.float64)
        self._mean = like.new_zeros((2, activations.d), dtype=torch.float64)

    def add(self, x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], start: int) -> None:
        """Add consecutive rows, the first of them at `start`."""
        if not self._is_massive.any():
            return
        massive = self._is_massive[start : start + len(x)]
        for number, chosen in enumerate((~massive, massive)):
            rows = x[chosen].double()
            self._sums[number, 0] += (rows - x_hat[chosen].double()).square().sum()
            self._sums[number, 1] += rows.square().sum()
            self._mean[number] += rows.sum(0)

    def metrics(self) -> dict[str, float]:
        """The metrics; empty where no row is massive."""
        n_massive, n = int(self._is_massive.sum()), len(self._is_massive)
        if not n_massive:
            return {}
        error, square = self._sums[0]
        variance = square - self._mean[0].square().sum() / (n - n_massive)
        mean = self._mean.sum(0) / n
        # sum ||x - mean||^2 = sum ||x||^2 - 2 <sum x, mean> + n ||mean||^2, for either kind of rows
        counts = self._mean.new_tensor([n - n_massive, n_massive])
        spread = self._sums[:, 1] - 2 * self._mean @ mean + counts * mean.square().sum()
        return {
            "fvu_ordinary": (error / variance).item(),
            "massive_rows": n_massive / n,
            "massive_variance": (spread[1] / spread.sum()).item(),
        }


def chunk_rows(n_latents: int) -> int:
    """Rows whose latents fit into `CHUNK_ENTRIES`."""
    return max(1, CHUNK_ENTRIES // n_latents)


@torch.no_grad()
def report(sae: AbstractSae, activations: ActivationSource) -> dict[str, float]:
    """Compute `REPORT_METRICS` over the first `REPORT_TOKENS` validation tokens."""
    tokens = min(REPORT_TOKENS, activations.n_validation)
    found = _evaluate(sae, activations, tokens, n_groups=0, whole=False)
    return {name: found.metrics[name] for name in REPORT_METRICS}


@torch.no_grad()
def evaluate(sae: AbstractSae, activations: ActivationSource) -> Evaluation:
    """Compute every metric that validation tokens define, over all of them.

    What only training knows (loss parts, dead_train, means over its last half) is not here.
    """
    n_groups = len(activations.group_names)
    found = _evaluate(sae, activations, activations.n_validation, n_groups, whole=True)
    return found._replace(metrics=found.metrics | _cosines(sae.w_dec[found.frequency > 0]))


def _evaluate(
    sae: AbstractSae, activations: ActivationSource, tokens: int, n_groups: int, *, whole: bool
) -> Evaluation:
    """Compute the metrics of the first tokens; those of parts of a dictionary too, if `whole`."""
    m = len(sae.w_dec)
    nested: dict[str, Tensor] = {}
    massive = _Massive(activations, tokens, sae.w_enc) if whole else None
    truth = _ground_truth(sae, activations) if whole else None
    sums, group_sums = _zeros(sae), by_group.zeros(n_groups, sae.w_dec)
    peaks = _Peaks(sums.largest.new_empty(0), sums.fired.new_empty(0))
    for start in range(0, tokens, chunk_rows(m)):
        stop = min(start + chunk_rows(m), tokens)
        rows = activations.validation_rows(start, stop).to(sae.w_enc)
        latents, x_hat = sae.read(rows)
        x = rows  # what is to be reconstructed
        if sae.config.transcoder:
            assert isinstance(activations, TargetSource)
            x = activations.validation_targets(start, stop).to(sae.w_enc)
        for name, part in (sae.nested(latents) if whole else {}).items():
            skipped = 0 if sae.w_skip is None else rows @ sae.w_skip.T
            error = (x.double() - (part + skipped).double()).square().sum()
            nested[name] = nested.get(name, sums.error.new_zeros(())) + error
        if sae.config.signed:  # what is counted and compared is how strongly latents act
            latents = latents.abs()
        _add(sums, x, latents, x_hat)
        if massive is not None:
            massive.add(x, x_hat, start)
        if truth is not None:
            assert isinstance(activations, TruthSource)
            truth.add(latents, activations.validation_truth(start, stop).to(latents.device))
        strongest = latents.max(dim=1)
        peaks = _highest(peaks, _Peaks(strongest.values, strongest.indices))
        if n_groups:
            groups = activations.validation_groups(start, stop)
            by_group.add(group_sums, groups, x, latents, x_hat)
    frequency = sums.fired.double() / tokens
    always_on = (frequency > ALWAYS_ON_SHARE).nonzero()[:, 0].tolist()
    metrics = _metrics(sums, tokens) | {"diversity": float(len(set(peaks.latents.tolist())))}
    if massive is not None:
        metrics |= massive.metrics()
    if truth is not None:
        metrics |= truth.metrics()
    variance = sums.x_square - sums.x.square().sum() / tokens
    return Evaluation(
        metrics=metrics | {name: (error / variance).item() for name, error in nested.items()},
        always_on_ids=tuple(always_on),
        frequency=frequency,
        max_activation=sums.largest,
        groups=by_group.figures(group_sums),
    )


def _ground_truth(sae: AbstractSae, activations: ActivationSource) -> GroundTruth | None:
    """Metrics against the true dictionary, where it is known."""
    if not isinstance(activations, TruthSource) or activations.true_features is None:
        return None
    return GroundTruth(sae.w_dec, activations.true_features.to(sae.w_dec))


def _zeros(sae: AbstractSae) -> _Sums:
    m, d = sae.w_dec.shape
    exact = sae.w_dec.new_zeros((), dtype=torch.float64)
    count = sae.w_dec.new_zeros((), dtype=torch.int64)
    return _Sums(
        error=exact.clone(),
        x=exact.new_zeros(d),
        x_square=exact.clone(),
        activation=exact.clone(),
        fired=count.new_zeros(m),
        largest=sae.w_dec.new_zeros(m),
    )


def _add(
    sums: _Sums,
    x: Float[Tensor, "n d"],
    latents: Float[Tensor, "n m"],
    x_hat: Float[Tensor, "n d"],
) -> None:
    exact = x.double()
    sums.error.add_((exact - x_hat.double()).square().sum())
    sums.x.add_(exact.sum(dim=0))
    sums.x_square.add_(exact.square().sum())
    sums.activation.add_(latents.sum(dtype=torch.float64))
    sums.fired.add_((latents > 0).sum(dim=0))
    torch.maximum(sums.largest, latents.amax(dim=0), out=sums.largest)


def _highest(earlier: _Peaks, later: _Peaks) -> _Peaks:
    """Keep the `N_PEAKS` largest positive values; of equal ones those of earlier tokens."""
    values, latents = (torch.cat(pair) for pair in zip(earlier, later, strict=True))
    order = values.argsort(descending=True, stable=True)[:N_PEAKS]
    order = order[values[order] > 0]
    return _Peaks(values[order], latents[order])


def _metrics(sums: _Sums, tokens: int) -> dict[str, float]:
    m, d = len(sums.fired), len(sums.x)
    variance = sums.x_square - sums.x.square().sum() / tokens
    fvu = (sums.error / variance).item()
    frequency = sums.fired.double() / tokens
    l0 = frequency.sum().item()
    return {
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "mse": sums.error.item() / (tokens * d),
        "l0": l0,
        "l0_fraction": l0 / m,
        "dead_features": (sums.fired == 0).double().mean().item(),
        "rare_features": (frequency < RARE_SHARE).double().mean().item(),
        "always_on": float((frequency > ALWAYS_ON_SHARE).sum()),
        "mean_activation": (sums.activation / sums.fired.sum()).item(),
        "max_activation": sums.largest.max().item(),
    }


def _cosines(rows: Float[Tensor, "alive d"]) -> dict[str, float]:
    """Metrics of the cosines between rows; NaN for fewer than two."""
    if len(rows) < 2:
        return dict.fromkeys(("similarity", "decoder_cosine"), float("nan"))
    unit = torch.nn.functional.normalize(rows, dim=1)
    nearest, absolute = [], 0.0
    for start in range(0, len(unit), chunk_rows(len(unit))):
        chunk = unit[start : start + chunk_rows(len(unit))]
        cosine = cpu.linear(chunk, unit) if unit.device.type == "cpu" else chunk @ unit.T
        own = torch.arange(len(chunk), device=rows.device)
        cosine[own, own + start] = 0
        absolute += cosine.abs().sum(dtype=torch.float64).item()
        cosine[own, own + start] = -torch.inf
        nearest.append(cosine.amax(dim=1))
    return {
        "similarity": torch.cat(nearest).mean(dtype=torch.float64).item(),
        "decoder_cosine": absolute / (len(rows) * (len(rows) - 1)),
    }
