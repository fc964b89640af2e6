"""Probes of the rows' labels on latents of recommended trials, by label."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.context import ReportContext
from analysis.findings.ranking import leaders
from analysis.page import style
from analysis.page.blocks import Block
from analysis.page.markdown import MISSING, code, counted, escaped, listed, number, table
from analysis.study.table import Study, trial_table
from sae_sweep.records.metrics import PROBED_LATENTS
from sae_sweep.records.names import PROBES_FILE

GUESSING = 0.5
"""Balanced accuracy of a probe that guesses."""
MOST_TRIALS = 30
MOST_BY_LABEL = 3
"""Trials that have a table by label."""
FEW = {f"{n}": f"{n} latent{'' if n == 1 else 's'}" for n in PROBED_LATENTS}
FEATURES = {**FEW, "all": "all latents", "raw": "activations", "chance": "dealt out"}
"""What a probe sees, as in the file, and what its column is called."""
COLUMNS = {"label", "features", "accuracy", "low", "high", "latents", "n_train", "n_test"}


@dataclass(frozen=True)
class LabelsRead:
    """Accuracy of probes on one trial's latents, over all labels."""

    uid: str
    trial: str
    """Its label."""
    labels: int
    few: tuple[float, ...]
    """Mean balanced accuracy on the fewest latents, then on more."""
    all_latents: float
    raw: float
    """On the activations in place of latents."""
    dealt_out: float
    """On these, with the labels dealt out at random."""

    @property
    def words(self) -> str:
        """The means."""
        few = [
            f"{number(value, 3)} on {name}"
            for name, value in zip(FEW.values(), self.few, strict=True)
        ]
        found = listed([*few, f"{number(self.all_latents, 3)} on all latents"])
        return (
            f"{code(self.trial)}: over {counted(self.labels, 'label')}, a probe tells one from the "
            f"others with a balanced accuracy of {found}; {number(self.raw, 3)} on the activations "
            f"themselves, {number(self.dealt_out, 3)} with the labels dealt out at random."
        )


@dataclass(frozen=True)
class WeakestLabel:
    """The label with the worst probe on a single latent."""

    uid: str
    trial: str
    label: str
    accuracy: float
    low: float
    high: float
    not_told: int
    """Labels whose interval on one latent holds what guessing gives."""
    labels: int

    @property
    def words(self) -> str:
        """The label, and how many are not told at all."""
        return (
            f"{code(self.trial)}: on one latent, the label {escaped(self.label)} is told worst "
            f"({number(self.accuracy, 3)}, 95 % interval {number(self.low, 3)} to "
            f"{number(self.high, 3)}); {self.not_told:,} of {counted(self.labels, 'label')} "
            f"{'is' if self.not_told == 1 else 'are'} not told from guessing ({GUESSING:g})."
        )


def probing(context: ReportContext) -> list[Block]:
    """A row per recommended trial and the first front's, and tables by label of the first."""
    found = _probed(context.study)
    if not found:
        return []
    first = next(iter(found.values()))
    counts = first[first["features"] == "raw"]
    note = (
        "Can the labels of `activations.group` be read off the latents? An example is the mean over"
        " a validation document's rows of one label. A logistic regression learns from two thirds "
        "of the documents to tell one label from all others, and is tested on the last third: no "
        "document is on both sides. Told is the balanced accuracy, the mean of the shares of the "
        f"label's examples and of the others that are told rightly: guessing gives {GUESSING:g}. "
        "The single latents are those whose means differ most between the label and the others, "
        "by the documents to learn from (as SAEBench's sparse probing, arXiv:2503.09532). "
        "Intervals are 95 %, of the tested examples alone: another split would choose other "
        f"latents. {int(counts['n_train'].sum()):,} labelled examples to learn from, "
        f"{int(counts['n_test'].sum()):,} to be tested on."
    )
    claims = [_read(context.study, uid, probes) for uid, probes in found.items()]
    header = ["trial", *FEATURES.values()]
    means = [
        [
            code(_label(context.study, uid)),
            *(number(_mean(probes, features), 3) for features in FEATURES),
        ]
        for uid, probes in found.items()
    ]
    by_label: list[Block] = []
    for uid, probes in list(found.items())[:MOST_BY_LABEL]:
        head = f"### {code(_label(context.study, uid))} by label"
        by_label += [head, _weakest(context.study, uid, probes), _by_label(probes)]
    pictures = context.picture(NAME, CAPTION)
    shown: list[Block] = [*claims[:MOST_BY_LABEL], table(header, means)]
    return ["## Probes by label", note, *shown, *pictures, *by_label]


def _probed(study: Study) -> dict[str, pd.DataFrame]:
    """The probes of each shown trial that has them."""
    if "probe_accuracy_all" not in study.ranked:
        return {}
    measured = study.ranked["probe_accuracy_all"].dropna().index
    wanted = leaders(study) or list(map(str, measured))
    shown = [uid for uid in wanted if uid in measured][:MOST_TRIALS]
    return {
        uid: probes
        for uid in shown
        if (probes := trial_table(study, uid, PROBES_FILE, COLUMNS)) is not None
    }


def _label(study: Study, uid: str) -> str:
    return study.member(uid).trial.label


def _mean(probes: pd.DataFrame, features: str) -> float:
    return float(probes["accuracy"][probes["features"] == features].mean())


def _read(study: Study, uid: str, probes: pd.DataFrame) -> LabelsRead:
    few = tuple(_mean(probes, features) for features in FEW)
    rest = (_mean(probes, features) for features in ("all", "raw", "chance"))
    return LabelsRead(uid, _label(study, uid), probes["label"].nunique(), few, *rest)


def _weakest(study: Study, uid: str, probes: pd.DataFrame) -> WeakestLabel:
    rows = probes[probes["features"] == next(iter(FEW))].sort_values(["accuracy", "label"])
    first = rows.iloc[0]
    return WeakestLabel(
        uid,
        _label(study, uid),
        str(first["label"]),
        float(first["accuracy"]),
        float(first["low"]),
        float(first["high"]),
        int((rows["low"] <= GUESSING).sum()),
        len(rows),
    )


def _by_label(probes: pd.DataFrame) -> str:
    header = ["label", "learnt from", "tested on", *FEATURES.values(), "latents, first to last"]
    lines = []
    for label, rows in probes.groupby("label", sort=True):
        by_features: dict[str, Any] = {str(one["features"]): one for _, one in rows.iterrows()}
        most = by_features[list(FEW)[-1]]
        lines.append(
            [
                escaped(label),
                *(f"{int(most[name]):,}" for name in ("n_train", "n_test")),
                *(_cell(by_features.get(features)) for features in FEATURES),
                ", ".join(map(str, most["latents"])) or MISSING,
            ]
        )
    return table(header, lines)


def _cell(probe: Any) -> str:
    if probe is None:
        return MISSING
    value, low, high = (f"{float(probe[name]):.2f}" for name in ("accuracy", "low", "high"))
    return f"{value} ({low} to {high})"


NAME = "probing"
CAPTION = "how well each label is read off the first recommended trial's latents"
TALLEST = 12.0


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """A row per label of the first recommended trial: accuracy on few latents, all, and none."""
    for uid, probes in _probed(study).items():
        labels = sorted(probes["label"].unique(), reverse=True)
        figure, (axes,) = style.new(1, 1, (6.5, min(TALLEST, 1.8 + 0.5 * len(labels))))
        shown = [one for one in FEATURES if one != "chance"]
        for place, features in enumerate(shown):
            rows = probes[probes["features"] == features].set_index("label").loc[labels]
            y = [i + 0.18 * (1.5 - place) for i in range(len(rows))]
            value = rows["accuracy"].to_numpy()
            bounds = [value - rows["low"].to_numpy(), rows["high"].to_numpy() - value]
            colour = style.GREY if features == "raw" else style.COLOURS[place]
            axes.errorbar(
                value, y, xerr=bounds, fmt=style.MARKERS[place], color=colour, markersize=5,
                linewidth=1.5, label=FEATURES[features],
            )  # fmt: skip
        axes.axvline(GUESSING, color=style.BLACK, linewidth=1, linestyle="--", label="guessing")
        axes.set_yticks(range(len(labels)), [style.fitted(str(one)) for one in labels])
        axes.set_xlabel("balanced accuracy, with its 95 % interval")
        axes.set_title(style.fitted(_label(study, uid)), loc="left")
        figure.legend(loc="outside lower left", ncols=5)
        return [style.save(figure, folder, NAME, CAPTION)]
    return []
