"""Recommended configurations."""

from dataclasses import dataclass
from urllib.parse import quote

from analysis.context import ReportContext
from analysis.findings.ranking import lowest, picks, tied_with_first, whole
from analysis.page.blocks import Block
from analysis.page.markdown import MISSING, code, counted, number, table
from analysis.study.table import Study, trial_folder
from analysis.topics.in_model import headline
from sae_sweep.records import METRICS
from sae_sweep.records.names import LATENTS_PAGE


@dataclass(frozen=True)
class Recommendation:
    """One configuration, and everything that it is recommended for."""

    uses: tuple[tuple[str, str], ...]
    """Title, and by what it was chosen."""
    label: str
    uid: str
    seeds: int
    values: tuple[tuple[str, float | None], ...]
    """Main metrics, means over its seeds."""
    tied: int | None
    """Other configurations that noise does not tell from it in `tied_in`; None where noise is
    unknown, or the choice is by no single metric."""
    tied_in: str | None
    """The metric by which it was chosen first."""
    lost: int
    """Runs of it that came to nothing."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        titles = "; ".join(f"{title} ({criterion})" for title, criterion in self.uses)
        values = ", ".join(f"{name} {number(value)}" for name, value in self.values)
        seeds = f", means of {self.seeds} seeds" if self.seeds > 1 else ""
        tied = ""
        if self.tied is not None:
            others = counted(self.tied, "other") if self.tied else "no other"
            tied = f"; tied with {others} in {self.tied_in} within the noise"
        if self.lost:
            tied += f"; **{counted(self.lost, 'run')} of it came to nothing**"
        return f"**{titles}:** {code(self.label)} ({code(self.uid)}), {values}{seeds}{tied}."


def recommendations(study: Study) -> list[Recommendation]:
    """Every recommended configuration once, with its uses."""
    found = picks(study)
    claims = []
    for uid in dict.fromkeys(pick.uid for pick in found):
        mine = [pick for pick in found if pick.uid == uid]
        metrics = [pick.metric for pick in mine if pick.metric is not None]
        claims.append(
            Recommendation(
                tuple((pick.title, pick.criterion) for pick in mine),
                study.member(uid).trial.label,
                uid,
                int(study.configurations["seeds"][uid]),
                _values(study, uid),
                _tied(study, metrics[0]) if metrics else None,
                metrics[0] if metrics else None,
                int(study.configurations["lost"][uid]),
            )
        )
    return claims


def _values(study: Study, uid: str) -> tuple[tuple[str, float | None], ...]:
    rows = study.configurations
    values = [
        (one.name, float(rows[one.name][uid])) for one in [*study.main_metrics, *headline(study)]
    ]
    return tuple((name, value if value == value else None) for name, value in values)


def _tied(study: Study, metric: str) -> int | None:
    found = tied_with_first(study, METRICS[metric], lowest(study, metric, whole(study)))
    return None if found is None else int(found.sum()) - 1


def recommended(context: ReportContext) -> list[Block]:
    """Whole existing configurations to start from, by use."""
    study = context.study
    found = picks(study)
    if not found:
        return []
    note = (
        "Each is one configuration of this sweep, with all its settings, that no other ranked one "
        "beats in the objectives named, by means over seeds; none is put together from the levels "
        "of several."
    )
    if left_out := len(study.configurations) - len(whole(study)):
        note += (
            f" {counted(left_out, 'configuration')} of which a run came to nothing "
            f"{'is' if left_out == 1 else 'are'} left out."
        )
    header = ["use", "by", "trial", "uid", "unbeaten in", "folder", "note"]
    names = [one.name for one in [*study.main_metrics, *headline(study)]]
    parts: list[Block] = ["## Recommended trials", note]
    return [*parts, table([*header, *names], _rows(study), left=7)]


def latents_link(study: Study, uid: str) -> str:
    """A link to the page of what a trial's latents fire on; nothing where it is not there."""
    folder = trial_folder(study, uid)
    if folder is None or not (folder / LATENTS_PAGE).exists():
        return ""
    return f"[what its latents fire on](../trials/{quote(folder.name)}/{LATENTS_PAGE})"


def _rows(study: Study) -> list[list[str]]:
    rows: list[list[str]] = []
    titles: dict[str, str] = {}
    for pick in picks(study):
        trial = study.member(pick.uid).trial
        same = f"same run as “{titles[pick.uid]}”" if pick.uid in titles else ""
        note = "; ".join(one for one in (same, latents_link(study, pick.uid)) if one)
        titles.setdefault(pick.uid, pick.title)
        words = [pick.title, pick.criterion, code(trial.label), code(pick.uid)]
        folder = code(f"../trials/{trial.folder}/") if study.imported is None else MISSING
        values = [number(value) for _, value in _values(study, pick.uid)]
        rows.append([*words, pick.undominated_in, folder, note, *values])
    return rows
