"""A sweep as a table: one row per trial, ready for every section and figure."""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Bool

from analysis.foreign.imported import Imported
from analysis.page.markdown import number
from analysis.study import configurations, hyperparameters, scales
from analysis.study.hyperparameters import Hyperparameter
from sae_sweep.inputs import edge
from sae_sweep.records import METRICS, Metric, TrialRecord
from sae_sweep.records.references import Reference
from sae_sweep.records.store import Member, Run, Sweep
from sae_sweep.remote import fetch

P = ParamSpec("P")
T = TypeVar("T")

RANKED_BY = ("fvu", "dead_features")
SAME_TASK = ("fingerprint", "train_tokens")
"""Settings of activations that may differ within one task."""
RUINED = ("diverged", "oom", "failed")
"""Statuses of failed trials; a finished trial with fvu >= 1 counts as failed too."""
L0_VARIES_FROM = 1.01
"""Largest over smallest l0 from which sparsity is an outcome of the sweep."""


Curve = tuple[np.ndarray, np.ndarray]
"""Steps and values of one trial."""

History = Callable[[Iterable[str], str], dict[str, Curve]]
"""From uids and a metric's name to the curves of the trials that reported it."""


def no_history(_uids: Iterable[str], _metric: str) -> dict[str, Curve]:
    """The course of trials that were not trained here."""
    return {}


def remembered(history: History) -> History:
    """The same history, which asks for each curve once."""
    known: dict[str, dict[str, Curve | None]] = {}

    def read(uids: Iterable[str], metric: str) -> dict[str, Curve]:
        of, wanted = known.setdefault(metric, {}), list(uids)
        fresh = [uid for uid in wanted if uid not in of]
        of |= {**dict.fromkeys(fresh), **history(fresh, metric)}
        return {uid: curve for uid in wanted if (curve := of[uid]) is not None}

    return read


@dataclass(frozen=True, eq=False)
class Study:
    """One run of a sweep, as analysis sees it."""

    run: Run
    digest: str
    members: list[Member]
    trials: pd.DataFrame
    """Index: uid. Columns: label, status, ranked, configuration, seed (a number for every pair of
    seeds), repeat (whether an earlier trial has the same settings, seeds and metrics: it is listed,
    not ranked), seconds, tokens, and the metrics (float, NaN where missing or not finite)."""
    scaled: pd.DataFrame
    """The metrics of `trials` on their declared scales."""
    hyperparameters: list[Hyperparameter]
    metrics: list[Metric]
    """Those that any trial has, in the registry's order; costs left out."""
    history: History = no_history
    """The course of a metric during training."""
    trials_folder: Path | None = None
    """Where the trials' weights and latents lie, if they do."""
    imported: Imported | None = None
    """Where the records come from, if the sweep was run elsewhere."""
    notes: tuple[str, ...] = ()
    """What its runs noted of how inputs were read."""
    references: tuple[Reference, ...] = ()
    """Autoencoders trained elsewhere, measured on the same rows: shown, never ranked."""
    kept: dict[object, Any] = field(default_factory=dict, repr=False)
    """Results of functions that are `once`."""

    def member(self, uid: str) -> Member:
        """A trial as the sweep asked for it."""
        return self.members[int(self.trials.index.get_indexer(pd.Index([uid]))[0])]

    def value(self, uid: str, metric: str) -> float:
        """A trial's metric or cost."""
        return float(self.trials[metric].loc[uid])

    def values(self, uid: str) -> list[str]:
        """A trial's main metrics in words: name and value."""
        return [f"{one.name} {number(self.value(uid, one.name))}" for one in self.main_metrics]

    @property
    def records(self) -> list[TrialRecord]:
        """The trials' records, in the order of the rows."""
        return [member.trial for member in self.members]

    @property
    def ranked(self) -> pd.DataFrame:
        """The trials that statistics, ranks and fronts are about."""
        return self.trials[self.trials["ranked"]]

    @cached_property
    def configurations(self) -> pd.DataFrame:
        """The ranked trials with their seeds averaged: what ranks, scores and fronts compare.

        None where the trials are of several tasks: what is best is a question within each.
        """
        compared = self.ranked if self.tasks <= 1 else self.ranked.head(0)
        averaged = configurations.averaged(compared, self.metrics)
        lost = self.trials["configuration"][self.ruined].value_counts()
        found = averaged["configuration"].map(lost).fillna(0).astype(int)
        return averaged.assign(lost=found)

    @cached_property
    def tasks(self) -> int:
        """Distinct activations (layer, model, text) in the sweep."""
        sources = [one.config.get("activations", {}) for one in self.records]
        kept = [{k: v for k, v in one.items() if k not in SAME_TASK} for one in sources]
        return len({str(sorted(one.items(), key=str)) for one in kept})

    @property
    def main_metrics(self) -> list[Metric]:
        """Reconstruction and dead latents, and sparsity where it varies."""
        names = [*RANKED_BY, *(["l0"] if self.l0_varies else [])]
        known = {metric.name for metric in self.metrics}
        return [METRICS[name] for name in names if name in known]

    @property
    def l0_varies(self) -> bool:
        """Whether sparsity differs between trials by more than a trifle."""
        if "l0" not in self.ranked:
            return False
        l0 = self.ranked["l0"].dropna()
        return bool(len(l0) and l0.max() > L0_VARIES_FROM * l0.min())

    @property
    def seeds(self) -> list[tuple[int, int]]:
        """Every trial's seeds: of the initial weights, of the data order."""
        return _seeds(self.records)

    @property
    def worse_than_mean(self) -> Bool[np.ndarray, " n"]:
        """Finished trials that reconstruct no better than the mean: listed, not ranked."""
        return np.array([record.worse_than_mean for record in self.records], dtype=bool)

    @cached_property
    def ended(self) -> Bool[np.ndarray, " n"]:
        """Trials that ended by themselves: done or failed."""
        return self.trials["status"].isin(["done", *RUINED]).to_numpy()

    @cached_property
    def ruined(self) -> Bool[np.ndarray, " n"]:
        """Failed trials: diverged, out of memory, raised, or with fvu >= 1."""
        return self.trials["status"].isin(RUINED).to_numpy() | self.worse_than_mean

    @property
    def sparsity(self) -> str | None:
        """What sparsity is measured by where it varies: l0, or k where no trial has an l0."""
        if "l0" in self.ranked and self.ranked["l0"].notna().any():
            return "l0" if self.l0_varies else None
        k = self.ranked["k"].dropna()
        return "k" if len(k) and k.min() < k.max() else None

    def where(self, status: str) -> Bool[np.ndarray, " n"]:
        """The trials of a status."""
        return (self.trials["status"] == status).to_numpy()


def once(compute: Callable[Concatenate[Study, P], T]) -> Callable[Concatenate[Study, P], T]:
    """Cache a function's result in the study, for several topics."""

    @wraps(compute)
    def kept(study: Study, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (compute, args, tuple(kwargs.items()))
        if key not in study.kept:
            study.kept[key] = compute(study, *args, **kwargs)
        result: T = study.kept[key]
        return result

    return kept


@once
def trial_folder(study: Study, uid: str) -> Path | None:
    """Where a trial's weights and tables lie, brought here if need be; None where none do."""
    if study.trials_folder is None:
        return None
    return fetch(study.trials_folder.parent, f"trials/{study.member(uid).trial.folder}")


def trial_table(study: Study, uid: str, name: str, columns: Set[str]) -> pd.DataFrame | None:
    """A table in a trial's folder, None where there is none.

    Raises:
        BadInput: it is damaged.
    """
    folder = trial_folder(study, uid)
    if folder is None or not (folder / name).exists():
        return None
    path = folder / name
    with edge(str(path), "delete it, or train the trial again with rerun=all"):
        table = pd.read_parquet(path)
        if lacking := columns - set(table.columns):
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        return table


def load(sweep: Sweep) -> Study:
    r"""Make a table of a sweep's records; nothing is dropped, `ranked` marks what counts.

    Ranked are trials that are done with a finite fvu below 1, which is what predicting the mean
    scores.

    Example:
        >>> from pathlib import Path
        >>> from analysis.foreign import Request, import_sweep
        >>> _ = Path("mine.csv").write_text("k,fvu,l0\n8,0.4,8\n16,0.3,16\n32,0.2,32\n")
        >>> sweep, _ = import_sweep(Request(Path("mine.csv"), "mine"))
        >>> study = load(sweep)
        >>> study.trials["fvu"].tolist()
        [0.4, 0.3, 0.2]
        >>> [one.name for one in study.hyperparameters]
        ['k']
    """
    records = [member.trial for member in sweep.members]
    names = {name for record in records for name in record.final}
    metrics = [one for one in METRICS.values() if one.name in names and one.kind != "cost"]
    varied = hyperparameters.find(sweep.members)
    trials = pd.DataFrame(
        {
            "label": pd.Series([record.label for record in records], dtype=object),
            "status": pd.Series([record.status for record in records], dtype=object),
            "seconds": _floats([record.seconds for record in records]),
            "tokens": _floats([tokens(record) for record in records]),
            "configuration": _configurations(varied, len(records)),
            **{one.name: _floats([r.final.get(one.name) for r in records]) for one in metrics},
            **{name: _floats([_cost(r, name) for r in records]) for name in ("k", "n_latents")},
        }
    )
    trials.index = pd.Index([record.uid for record in records], dtype=object)
    final = [one.name for one in metrics]
    if "l0" in trials:
        trials["l0"] = np.maximum(trials["l0"].to_numpy(), _smallest_l0(records))
    fvu = trials["fvu"] if "fvu" in trials else pd.Series(np.nan, index=trials.index)
    trials["seed"] = _numbered(_seeds(records))
    trials["repeat"] = trials.duplicated(["configuration", "seed", "status", *final], keep="first")
    trials["ranked"] = (trials["status"] == "done") & (fvu < 1) & ~trials["repeat"]
    scaled = _scaled(trials, metrics)
    return Study(
        *(sweep.run, sweep.digest, sweep.members, trials, scaled, varied, metrics),
        notes=sweep.notes,
    )


def tokens(record: TrialRecord) -> float | None:
    """Tokens that a trial is trained on, repeats counted."""
    train = record.config.get("train", {})
    steps, batch_size = train.get("steps"), train.get("batch_size")
    return None if steps is None or batch_size is None else float(steps * batch_size)


def _floats(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _cost(record: TrialRecord, name: str) -> float | None:
    return record.config.get("sae", {}).get(name)


def _seeds(records: list[TrialRecord]) -> list[tuple[int, int]]:
    trains = [record.config.get("train", {}) for record in records]
    return [(train.get("seed_init", 0), train.get("seed_data", 0)) for train in trains]


def _configurations(varied: list[Hyperparameter], trials: int) -> np.ndarray:
    """A number for every distinct configuration: equal but for the seeds."""
    return _numbered([tuple(str(one.given[i]) for one in varied) for i in range(trials)])


def _numbered(keys: Sequence[object]) -> np.ndarray:
    """A number for every distinct key, in the order of their first."""
    known = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([known[key] for key in keys], dtype=np.int64)


def _smallest_l0(records: list[TrialRecord]) -> np.ndarray:
    """One latent in all validation tokens: less cannot be told from none."""
    sizes = [record.config.get("activations", {}).get("validation_tokens") for record in records]
    return np.array([1.0 / size if size else 0.0 for size in sizes])


def _scaled(trials: pd.DataFrame, metrics: list[Metric]) -> pd.DataFrame:
    columns = {
        one.name: scales.onto(one, trials[one.name].to_numpy(dtype=np.float64)) for one in metrics
    }
    return pd.DataFrame(columns, index=trials.index)
