"""Probes of labels on an SAE's latents: on a few, on all, and on the raw activations.

Examples are means over the rows of one document that carry one label; a document serves either
learning or testing. A probe is a logistic regression that tells one label from all others.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from sae_sweep.activations import Activations
from sae_sweep.disk import replacing
from sae_sweep.records.metrics import PROBED_LATENTS
from sae_sweep.records.names import PROBES_FILE
from sae_sweep.sae import AbstractSae

TRAIN_SHARE = 2 / 3
"""Of the documents, those that probes learn from; the others test them."""
FEWEST = 10
"""Examples of a label, and of all others, that either part needs."""
MOST_LABELS = 20
"""Of more, those with the most examples are probed."""
CHUNK_ENTRIES = 2**22
"""Entries of the [rows, latents] matrix that are held at once."""


class Examples(NamedTuple):
    """Training and test examples of probes; an example is the rows of one document and label."""

    rows: Int64[np.ndarray, " rows"]
    """Validation rows that are read, ascending."""
    example: Int64[np.ndarray, " rows"]
    """The example that each row belongs to."""
    label: Int64[np.ndarray, " examples"]
    """Places in the activations' `group_names`."""
    tested: Bool[np.ndarray, " examples"]
    """Examples of the documents that no probe learns from."""
    probed: tuple[int, ...]
    """Labels with enough examples in both parts."""


class Accuracy(NamedTuple):
    """Accuracy of a probe on held-out documents."""

    value: float
    """Balanced accuracy: the mean of the shares of a label's examples and of all others that are
    told rightly; guessing gives 0.5."""
    low: float
    """Of a 95 % interval."""
    high: float


class Probe(NamedTuple):
    """One probe for one label."""

    label: str
    features: str
    """Its features: a number of latents, `all` of them, or `raw` activations; `chance`: raw
    activations with shuffled labels."""
    accuracy: Accuracy
    latents: tuple[int, ...]
    """The latents that it uses, the most predictive first; empty for all, and for raw
    activations."""
    n_train: int
    """Examples of the label that it has learnt from."""
    n_test: int
    """Examples of the label that it was tested on."""
    n_others: int
    """Examples of other labels that it was tested on."""


def obstacle(activations: Activations, column: str | None, documents: int) -> str | None:
    """Why no label of some activations can be probed for; None where one can.

    Args:
        activations: whose rows' groups are the labels.
        column: where they come from: `activations.group`.
        documents: as many of the validation documents are used, at most.
    """
    names = activations.group_names
    if len(names) < 2:
        told = f"names one group, {names[0]}" if column else "gives rows no labels"
        return (
            f"activations.group={column or 'null'} {told}: no probe can be tested; name a column "
            "with two labels or more"
        )
    if importlib.util.find_spec("sklearn") is None:
        return "probes need scikit-learn: pip install 'sae-sweep[probe]'"
    if not examples(activations, documents).probed:
        return (
            f"activations.group={column or 'group'}: no label of {len(names)} has {FEWEST} "
            f"validation documents to learn from and {FEWEST} to be tested on: raise "
            "activations.validation_tokens or evaluate.probe_documents"
        )
    return None


class Prober:
    """The labelled examples of some activations, and how well a probe does without an SAE."""

    def __init__(self, activations: Activations, documents: int, device: torch.device) -> None:
        """Take up to `documents` validation documents; nothing is read before it is needed."""
        self._activations = activations
        self._documents = documents
        self._device = device

    def metrics(self, sae: AbstractSae, folder: Path) -> dict[str, float]:
        """Probe an SAE's latents: means over labels, by the names of `records.METRICS`.

        Args:
            sae: a finished trial's.
            folder: the trial's, which the table of probes by label is written to.

        """
        probes = self.probes(sae)
        _write(folder, probes)
        by_features: dict[str, list[float]] = {}
        for one in probes:
            by_features.setdefault(one.features, []).append(one.accuracy.value)
        means = {name: float(np.mean(values)) for name, values in by_features.items()}
        chance = {"probe_chance": means.pop("chance")}
        return {f"probe_accuracy_{name}": value for name, value in means.items()} | chance

    def probes(self, sae: AbstractSae) -> list[Probe]:
        """All probes of an SAE and of the activations, label by label."""
        from threadpoolctl import threadpool_limits

        sae = sae.to(self._device)
        with threadpool_limits(torch.get_num_threads()):
            pooled = self._pooled(lambda x: sae.read(x).latents, len(sae.w_dec))
            found = [
                *self._of_few(pooled),
                *self._by_label("all", self._narrow(pooled), self._examples.label),
                *self._without_sae,
            ]
        return sorted(found, key=lambda one: one.label)

    @cached_property
    def _examples(self) -> Examples:
        return examples(self._activations, self._documents)

    @cached_property
    def _without_sae(self) -> list[Probe]:
        """Probes on the activations themselves, and with labels dealt out at random."""
        found = self._examples
        x = self._narrow(self._pooled(lambda x: x, self._activations.d))
        shuffled, random = found.label.copy(), np.random.default_rng(0)
        for part in (found.tested, ~found.tested):
            shuffled[part] = random.permutation(shuffled[part])
        raw = self._by_label("raw", x, found.label)
        return [*raw, *self._by_label("chance", x, shuffled)]

    @torch.no_grad()
    def _pooled(
        self, read: Callable[[Tensor], Tensor], width: int
    ) -> Float64[np.ndarray, "examples width"]:
        """The mean of each example's rows, as `read` sees them."""
        found = self._examples
        total = torch.zeros(len(found.label), width, dtype=torch.float64)
        step = max(1, CHUNK_ENTRIES // width)
        for start in range(0, self._activations.n_validation, step):
            low, high = np.searchsorted(found.rows, [start, start + step])
            if low < high:
                x = self._activations.validation_rows(start, start + step)
                x = x[torch.from_numpy(found.rows[low:high] - start)].to(self._device)
                places = torch.from_numpy(found.example[low:high])
                total.index_add_(0, places, read(x).double().cpu())
        counts = np.bincount(found.example, minlength=len(found.label))
        return total.numpy() / counts[:, None]

    def _of_few(self, pooled: Float64[np.ndarray, "examples m"]) -> list[Probe]:
        """Probes on the latents whose means differ most, as SAEBench chooses them."""
        probes = []
        for label in self._examples.probed:
            order = most_telling(pooled, self._examples, label)
            for n in PROBED_LATENTS:
                chosen = order[:n]
                z = _standardised(pooled[:, chosen], ~self._examples.tested)
                probe = self._probe(str(n), z, self._examples.label, label)
                probes.append(probe._replace(latents=tuple(chosen.tolist())))
        return probes

    def _by_label(
        self,
        features: str,
        z: Float64[np.ndarray, "examples width"],
        labels: Int64[np.ndarray, " examples"],
    ) -> list[Probe]:
        return [self._probe(features, z, labels, label) for label in self._examples.probed]

    def _probe(
        self,
        features: str,
        z: Float64[np.ndarray, "examples width"],
        labels: Int64[np.ndarray, " examples"],
        label: int,
    ) -> Probe:
        tested, is_label = self._examples.tested, labels == label
        accuracy = _accuracy(z, is_label, tested)
        n_test = int((is_label & tested).sum())
        return Probe(
            self._activations.group_names[label],
            features,
            accuracy,
            (),
            int((is_label & ~tested).sum()),
            n_test,
            int(tested.sum()) - n_test,
        )

    def _narrow(
        self, x: Float64[np.ndarray, "examples width"]
    ) -> Float64[np.ndarray, "examples _"]:
        """Standardised examples in as many dimensions as those to learn from span.

        A logistic regression with an L2 penalty has its weights in that span: it stays the same.
        """
        train = ~self._examples.tested
        z = _standardised(x, train)
        if z.shape[1] <= train.sum():
            return z
        products = z @ z[train].T
        square, axes = np.linalg.eigh(products[train])
        spanned = square > square[-1] * len(square) * np.finfo(np.float64).eps
        return products @ (axes[:, spanned] / np.sqrt(square[spanned]))


def examples(activations: Activations, documents: int) -> Examples:
    """Choose documents evenly over the validation split; the last third of them is for testing."""
    n = activations.n_validation
    _, first, places = np.unique(
        activations.validation_documents(0, n).numpy(), return_index=True, return_inverse=True
    )
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    document = order[places]  # numbered as they come
    chosen = np.linspace(0, len(first) - 1, min(documents, len(first))).round().astype(np.int64)
    rows = np.flatnonzero(np.isin(document, chosen))
    n_groups = len(activations.group_names)
    group = activations.validation_groups(0, n).numpy().astype(np.int64)
    pairs, example = np.unique(document[rows] * n_groups + group[rows], return_inverse=True)
    label = pairs % n_groups
    tested = pairs // n_groups >= chosen[min(round(TRAIN_SHARE * len(chosen)), len(chosen) - 1)]
    return Examples(rows, example, label, tested, _probed(label, tested, n_groups))


def _probed(
    label: Int64[np.ndarray, " examples"], tested: Bool[np.ndarray, " examples"], n_groups: int
) -> tuple[int, ...]:
    enough = np.ones(n_groups, dtype=bool)
    for part in (tested, ~tested):
        counts = np.bincount(label[part], minlength=n_groups)
        enough &= (counts >= FEWEST) & (counts.sum() - counts >= FEWEST)
    counts = np.where(enough, np.bincount(label, minlength=n_groups), 0)
    most = np.argsort(-counts, kind="stable")[: min(MOST_LABELS, int(enough.sum()))]
    return tuple(sorted(most.tolist()))


def most_telling(
    pooled: Float64[np.ndarray, "examples m"], found: Examples, label: int
) -> Int64[np.ndarray, " most"]:
    """The latents whose means over a label's examples and over the others differ most.

    Of the examples that probes learn from, as SAEBench's sparse probing (arXiv:2503.09532); the
    largest difference first, at equal ones the lower number.
    """
    train, is_label = ~found.tested, found.label == label
    apart = np.abs(pooled[train & is_label].mean(axis=0) - pooled[train & ~is_label].mean(axis=0))
    return np.argsort(-apart, kind="stable")[: max(PROBED_LATENTS)]


def _standardised(
    x: Float64[np.ndarray, "examples width"], train: Bool[np.ndarray, " examples"]
) -> Float64[np.ndarray, "examples width"]:
    """Mean 0 and deviation 1 over the examples to learn from; constants become 0."""
    spread = x[train].std(axis=0)
    return (x - x[train].mean(axis=0)) / np.where(spread > 0, spread, np.inf)


def _accuracy(
    z: Float64[np.ndarray, "examples width"],
    is_label: Bool[np.ndarray, " examples"],
    tested: Bool[np.ndarray, " examples"],
) -> Accuracy:
    """Learn from standardised examples of one part, test on the other."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(class_weight="balanced", max_iter=1000)
    probe.fit(z[~tested], is_label[~tested])
    right = probe.predict(z[tested]) == is_label[tested]
    return _balanced(right[is_label[tested]], right[~is_label[tested]])


def _balanced(ours: Bool[np.ndarray, " n"], others: Bool[np.ndarray, " k"]) -> Accuracy:
    """The mean of two shares, with an interval made of their Wilson intervals.

    The distances of a mean's bounds are those of its parts, squared and added (MOVER: Zou and
    Donner 2008, doi:10.1002/sim.3095).
    """
    # imported here: half a second, which slots without probes need not spend
    from scipy.stats import binomtest

    shares, low, high = [], [], []
    for part in (ours, others):
        share = float(part.mean())
        bounds = binomtest(int(part.sum()), len(part)).proportion_ci(method="wilson")
        shares.append(share)
        low.append(share - bounds.low)
        high.append(bounds.high - share)
    value = sum(shares) / 2
    return Accuracy(value, value - float(np.hypot(*low)) / 2, value + float(np.hypot(*high)) / 2)


def _write(folder: Path, probes: Sequence[Probe]) -> None:
    """Write a row per probe: its fields, the accuracy's as `accuracy`, `low` and `high`."""
    columns = {name: [getattr(one, name) for one in probes] for name in Probe._fields}
    accuracy = columns.pop("accuracy")
    for place, name in enumerate(("accuracy", "low", "high")):
        columns[name] = [one[place] for one in accuracy]
    columns["latents"] = pa.array([list(one) for one in columns["latents"]], pa.list_(pa.int32()))
    with replacing(folder / PROBES_FILE) as path:
        pq.write_table(pa.table(columns), path)
