"""The report of a sweep: sections, figures and data in one folder."""

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analysis import contents, data, web
from analysis.context import REPORT_VERSION, ReportContext
from analysis.findings.fronts import refuse_unknown
from analysis.findings.ranking import picks
from analysis.findings.thresholds import Thresholds
from analysis.foreign.imported import Imported
from analysis.page.blocks import Blocks, markdown
from analysis.page.markdown import anchor, escaped
from analysis.study.table import History, Study, load, no_history, remembered
from analysis.topics import summary
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge
from sae_sweep.records import TrialRecord
from sae_sweep.records.references import FOLDER as REFERENCES
from sae_sweep.records.references import read_references
from sae_sweep.records.store import Sweep
from sae_sweep.remote import remote_of

PAGE, DETAILS = Path("report.md"), Path("details.md")
WEB_PAGE = Path("report.html")
RECORD = Path("data", "grid_metrics.json")
"""Says of which records the report is; written last: a half-replaced report is not current."""


def render(  # noqa: PLR0913 - keywords, each an option of the command
    sweep: Sweep,
    folder: Path,
    history: History = no_history,
    *,
    html: bool = False,
    imported: Imported | None = None,
    objectives: Sequence[Sequence[str]] = (),
    thresholds: Thresholds | None = None,
) -> Path:
    r"""Write report.md, details.md, figures/ and data/ into a folder; returns the page's path.

    With `html` also report.html, the same in one file, its trials to explore.

    Everything is made in a temporary folder first, so a report that fails or is killed leaves the
    old one as it was.

    Args:
        sweep: what to report on.
        folder: where; files of an earlier report there are replaced.
        history: the course of metrics during training.
        html: write report.html beside it.
        imported: where the records come from, if the sweep was run elsewhere.
        objectives: fronts to show beside the usual ones, by metrics' names.
        thresholds: what the scorecard grades by; this package's table where None.

    Raises:
        BadInput: a file stands where the folder should be; a library that html needs is missing;
            no trial has an objective.

    Example:
        >>> from pathlib import Path
        >>> from analysis.foreign import Request, import_sweep
        >>> _ = Path("mine.csv").write_text("k,fvu,l0\n8,0.4,8\n16,0.3,16\n32,0.2,32\n")
        >>> sweep, _ = import_sweep(Request(Path("mine.csv"), "mine"))
        >>> page = render(sweep, Path("reports", "mine"))
        >>> page.name, page.read_text().partition("\n")[0]
        ('report.md', '# mine')
    """
    if html:
        web.require()
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"outputs={folder} is a file: move it away, or name another --outputs")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        fresh = Path(temporary)
        study = dataclasses.replace(
            load(sweep),
            history=remembered(history),
            trials_folder=folder.parent / "trials",
            imported=imported,
            references=read_references(folder),
        )
        refuse_unknown(study, objectives)
        figures = contents.draw(study, fresh / "figures")
        context = ReportContext(study, figures, tuple(map(tuple, objectives)), thresholds)
        first, groups = summary.summary(context), contents.compose(context)
        sections = [blocks for group in groups.values() for blocks in group]
        data.write(context, [first, *sections], fresh / "data")
        (fresh / PAGE).write_text(page(first, sections), encoding="utf-8")
        (fresh / DETAILS).write_text(details(study, sections), encoding="utf-8")
        if html:
            whole = web.page(study, first, groups, fresh / "figures")
            (fresh / WEB_PAGE).write_text(whole, encoding="utf-8")
        _replace(fresh, folder)
    return folder / PAGE


def share(folder: Path) -> str | None:
    """Publish a report where its outputs are remote; returns the URL of its page there."""
    remote = remote_of(folder.parent)
    if remote is None:
        return None
    pages = [folder / one for one in (PAGE, DETAILS, WEB_PAGE)]
    beside = [(folder / one).rglob("*") for one in ("figures", "data", REFERENCES)]
    files = [*pages, *itertools.chain.from_iterable(beside)]
    names = [one.relative_to(folder).as_posix() for one in files if one.is_file()]
    remote.publish(folder.name, names)
    return f"{remote.url}/{folder.name}/{PAGE}"


def recommended(sweep: Sweep) -> list[TrialRecord]:
    """The trials that the report will recommend, each once."""
    study = load(sweep)
    return [study.member(uid).trial for uid in dict.fromkeys(pick.uid for pick in picks(study))]


def page(first: Blocks, sections: Sequence[Blocks]) -> str:
    """The first page as Markdown, with links to every topic of the details."""
    anchors = [(title, anchor(title)) for title in _titles(sections)]
    return markdown([*first, *summary.contents(anchors)]) + "\n"


def details(study: Study, sections: Sequence[Blocks]) -> str:
    """Every topic as one page of Markdown with its contents."""
    links = " · ".join(f"[{title}](#{anchor(title)})" for title in _titles(sections))
    header = f"# {escaped(study.run.name)}: details"
    answer = f"The answer stands in [{PAGE}]({PAGE}). Contents: {links}"
    return "\n\n".join([header, answer, *map(markdown, sections)]) + "\n"


def _titles(sections: Sequence[Blocks]) -> list[str]:
    return [str(blocks[0]).partition("\n")[0].removeprefix("## ") for blocks in sections]


def is_current(sweep: Sweep, folder: Path) -> bool:
    """Whether the folder holds the report of exactly these records."""
    try:
        with edge(str(folder / RECORD), "the report is written again"):
            told = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            said = (told.get("digest"), told.get("report_version"))
    except BadInput:
        return False
    return said == (sweep.digest, REPORT_VERSION) and (folder / PAGE).is_file()


def _replace(fresh: Path, folder: Path) -> None:
    """Put new files in place of old ones, one rename each, and remove those that are no more."""
    new = sorted(path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file())
    for name in sorted(new, key=lambda name: (name == RECORD, name == PAGE)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).replace(folder / name)
    for old in [*(folder / "figures").glob("*.png"), *folder.glob(WEB_PAGE.name)]:
        if old.relative_to(folder) not in new:
            old.unlink()
