"""What was guessed stands on the first page: how inputs were read, and rows that carry the fvu."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from made_sweeps import Load, grid

from analysis import report
from analysis.cli import main
from analysis.foreign import Request, import_sweep
from analysis.study.table import load as to_study
from analysis.topics.groups import specific
from sae_sweep.errors import BadInput
from sae_sweep.records.store import NOTES, Reader, Store


def first_page(load: Load, folder: Path, trials) -> str:
    sweep, reader = load(trials)
    return report.render(sweep, folder / "study", reader.history).read_text()


@pytest.mark.parametrize(("variance", "said"), [(0.97, True), (0.09, False)])
def test_massive_rows_are_said_where_they_carry_the_variance(
    load: Load, tmp_path: Path, variance: float, said: bool
) -> None:
    trials = grid()
    for one in trials:
        if one.final:
            one.final |= {"fvu_ordinary": 0.6, "massive_rows": 1 / 32}
            one.final["massive_variance"] = variance
    trials[0].final["fvu_ordinary"] = 0.7  # the median stays
    page = first_page(load, tmp_path, trials)
    sentence = (
        "Massive activations: 3.12% of the validation rows have norms over 10 times the median and "
        f"carry {variance:.0%} of the variance, so fvu is mostly theirs: "
    )
    assert (sentence in page) == said
    assert ("0.6 without them (fvu_ordinary); `activations.max_norm=10` drops" in page) == said


def test_what_the_runs_noted_is_repeated_once_and_counted_beyond_four(
    load: Load, tmp_path: Path
) -> None:
    sweep, _ = load(grid())
    url = f"sqlite:///{tmp_path / 'sae_sweep.db'}"
    notes = [f"activations.text={name}: 2 hidden files left out" for name in "abcde"]
    fields = {"question": "", "config": {}, "command": "", "git": None, "versions": {}}
    before = sweep.digest
    with Store(url) as store:
        for told in (notes[:2], notes[1:]):
            run = store.start_run("study", **fields)
            store.enlist(run, [(one.trial, one.assignment) for one in sweep.members])
            store.keep(run, NOTES, told)
            store.finish_run(run)
    with Reader(url) as reader:
        sweep = reader.sweep("study")
        path = report.render(sweep, tmp_path / "study", reader.history)
    assert sweep.notes == tuple(notes)
    assert sweep.digest != before
    page, details = path.read_text(), path.with_name("details.md").read_text()
    assert [page.count(note) for note in notes] == [1, 1, 1, 1, 0]
    assert "1 further note on how the records were read: details." in page
    assert all(f"- {note}." in details for note in notes)


def test_an_import_says_on_its_first_page_what_it_skipped_and_did_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for i in range(4):
        (folder / f"r{i}").mkdir(parents=True)
        (folder / f"r{i}" / "config.json").write_text(f'{{"k": {2**i}, "zzq": {i * i % 3}}}')
        (folder / f"r{i}" / "metrics.json").write_text(f'{{"fvu": {0.5 / (i + 1)}, "l0": {2**i}}}')
    (folder / "latest").symlink_to("r3")
    (folder / ".ipynb_checkpoints").mkdir()
    words = ["import", str(folder), "--name", "found", "--outputs", str(tmp_path / "out")]
    assert main(words) == 0
    page = (tmp_path / "out" / "found" / "report.md").read_text()
    assert "2 names in the folder are hidden or a link to another one and no run" in page
    assert "No column says how a run ended: 4 rows taken as done" in page
    _, imported = import_sweep(Request(folder, "found"))
    for one in imported.notes:
        assert one.words in page


def test_an_empty_run_folder_is_no_done_run_on_the_first_page(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for i in range(3):
        (folder / f"r{i}").mkdir(parents=True)
        (folder / f"r{i}" / "metrics.json").write_text(f'{{"k": {2**i}, "fvu": 0.{i + 1}}}')
    (folder / "crashed").mkdir()
    words = ["import", str(folder), "--name", "found", "--outputs", str(tmp_path / "out")]
    assert main(words) == 0
    page = (tmp_path / "out" / "found" / "report.md").read_text()
    assert "3 rows taken as done, 1 without any metric as failed" in page


def test_a_damaged_table_in_a_trials_folder_is_named(load: Load, tmp_path: Path) -> None:
    sweep, _ = load(grid())
    study = dataclasses.replace(to_study(sweep), trials_folder=tmp_path / "trials")
    uid = str(study.trials.index[0])
    path = tmp_path / "trials" / study.member(uid).trial.folder / "groups.parquet"
    assert specific.figures(study, uid) is None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 and no more")
    again = r"\): delete it, or train the trial again with rerun=all"
    with pytest.raises(BadInput, match=rf"groups\.parquet cannot be read \(.+{again}"):
        specific.figures(study, uid)
    pd.DataFrame({"group": ["en"], "tokens": [3]}).to_parquet(path)
    with pytest.raises(BadInput, match=rf"it lacks dead_features, fvu, l0{again}"):
        specific.figures(study, uid)
