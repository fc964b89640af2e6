"""Sweeps that were run elsewhere: what is read, what is said of it, and what is refused."""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Build, grid

from analysis.cli import main
from analysis.foreign import Request, import_sweep
from analysis.foreign.cells import half_digit
from analysis.study.table import load as to_study
from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord
from sae_sweep.rules.dominance import pareto

DATA = Path(__file__).parents[1] / "data"
TOPK, MULTILINGUAL, JOBS = (
    DATA / f"{name}.csv" for name in ("topk_grid", "multilingual_top_rows", "l1_jobs")
)
SUMMARY = json.loads((DATA / "multilingual_summary.json").read_text())["metrics"]
BOUNDS = {name: (SUMMARY[name]["min"], SUMMARY[name]["max"]) for name in ("dead_features", "fvu")}

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(rows: Sequence[Row], name: str = "runs.csv") -> Path:
    path = Path(name)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).to_parquet(path, index=False)
    return path


def records(rows: Sequence[Row], name: str = "runs.csv", **said: Any) -> list[TrialRecord]:
    sweep, _ = import_sweep(Request(write(rows, name), "elsewhere", **said))
    return [member.trial for member in sweep.members]


def page(path: Path, *options: str) -> str:
    assert main(["import", str(path), "--name", "elsewhere", *options]) == 0
    folder = Path("outputs/elsewhere")
    return (folder / "report.md").read_text() + (folder / "details.md").read_text()


def bullets(text: str, section: str) -> list[str]:
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^- (.+)$", body, re.MULTILINE)


def plain(row: int = 0, **more: Any) -> Row:
    return {"k": 2 ** (row + 2), "fvu": 0.5 / (row + 1), "dead": 0.1 * (row + 1)} | more


# the published tables


def test_the_published_grid_has_fronts_of_4_2_11_and_11() -> None:
    asked = ["fvu,k", "fvu,dead_features", "fvu,k,dead_features", "fvu,k,n_latents"]
    page(TOPK, *(word for names in asked for word in ("--objectives", names)))
    told = json.loads(Path("outputs/elsewhere/data/pareto_optimal_configs.json").read_text())
    sizes = {
        ",".join(one["metric"] for one in front["objectives"]): len(front["members"])
        for front in told["fronts"]
    }
    assert [sizes[names] for names in asked] == [4, 2, 11, 11]


def test_explained_variance_becomes_fvu_and_percent_a_share() -> None:
    text = page(TOPK)
    theirs, ours = pd.read_csv(TOPK), pd.read_csv("outputs/elsewhere/data/runs.csv")
    np.testing.assert_allclose(ours["fvu"], 1 - theirs["explained_variance"], atol=1e-12)
    np.testing.assert_allclose(ours["dead_features"], theirs["death_percent"] / 100, atol=1e-12)
    assert ours["sae.n_latents"].tolist() == theirs["d_sae"].tolist()
    assert "| fvu | ratio | lower | log | 1 - explained_variance, which the file has" in text
    assert "| dead_features | share | lower | linear | column death_percent / 100 |" in text


def test_the_published_scores_are_reproduced_and_rank_by_dead_latents() -> None:
    bounds = [f"{name}={low}:{high}" for name, (low, high) in BOUNDS.items()]
    text = page(MULTILINGUAL, *(word for one in bounds for word in ("--bounds", one)))
    rows = pd.read_csv(MULTILINGUAL).dropna(subset=["combined_score"])
    order = rows[["combined_score", "dead_features", "fvu"]].rank().corr()["combined_score"]
    spread = (rows["dead_features"].max() - rows["dead_features"].min()) / np.diff(
        BOUNDS["dead_features"]
    )
    told = " ".join(bullets(text, "Imported records"))
    assert "each scaled to its bounds, in 10 of 10 rows, within the digits" in told
    assert f"with dead_features is {order['dead_features']:.2f} over 10 rows" in told
    assert f"with fvu is {order['fvu']:.2f} over 10 rows" in told
    assert f"dead_features spans {spread[0]:.3g} over" in told
    assert f"{(rows['fvu'] >= 1).sum()} of the 10 rows" in told
    assert text.count("| yes |") == 10


@pytest.mark.slow
def test_scores_with_other_bounds_are_not_reproduced_and_without_bounds_not_judged() -> None:
    other = page(MULTILINGUAL, "--bounds", "dead_features=0:1", "--bounds", "fvu=0.004:676")
    assert "in 0 of 10 rows, within the digits" in other
    assert "is the sum of" not in page(MULTILINGUAL)


def test_a_target_of_a_loss_that_is_off_is_inactive() -> None:
    sweep, _ = import_sweep(Request(MULTILINGUAL, "elsewhere"))
    off = [one for one in sweep.members if one.assignment["sae.aux_coeff"] == 0]
    assert [one.assignment["sae.aux_target"] for one in off] == [None, None]
    assert all("aux_target" not in one.trial.config["sae"] for one in off)
    (target,) = (one for one in to_study(sweep).hyperparameters if one.key == "sae.aux_target")
    assert target.kind == "conditional"


def test_two_widths_give_no_law_and_a_rising_response_no_curve() -> None:
    told = bullets(page(JOBS), "Response of l0 to l1_alpha")
    jobs = pd.read_csv(JOBS).set_index("l1_alpha")["l0_fraction"]
    assert told == [
        "no curve is fitted: the response is not monotone, l0_fraction "
        f"{jobs[0.001]} at l1_alpha 0.001 (n_latents 65,536) and {jobs[0.05]} at 0.05 (63,488), "
        "where it should fall",
        "how l1_alpha changes with n_latents is not estimable: 1 width with 3 values of it or "
        "more, and it needs 3",
    ]


def test_three_widths_give_the_law_with_an_interval_that_holds_the_truth() -> None:
    power = 0.4
    rows = [
        {"l1_coefficient": a, "d_sae": m, "l0_fraction": 0.05 * (a / (m / 512) ** power) ** -1.2}
        for m in (256, 512, 1024, 2048)
        for a in (0.5, 1.0, 2.0, 4.0)
    ]
    told = bullets(page(write(rows)), "Response of l0 to l1_alpha")[-1]
    found = re.search(
        r"to the power ([\d.]+)\*\* at l0_fraction \S+, 95 % interval (\S+) to (\S+), from 4 ",
        told,
    )
    assert found is not None
    middle, low, high = map(float, found.groups())
    assert low < power < high
    assert middle == pytest.approx(power, abs=0.1)


def test_the_footer_claims_nothing_of_ours() -> None:
    text = page(TOPK)
    assert f"| sha256 | `{hashlib.sha256(TOPK.read_bytes()).hexdigest()}` |" in text
    assert "| rows | 12, each a trial |" in text
    assert "`python -m analysis import topk_grid.csv --name elsewhere`" in text
    for ours in ("../trials/", "scaled so that E", "whole validation split", "1970-01-01"):
        assert ours not in text
    assert str(DATA) not in text


# formats


@pytest.mark.parametrize("name", ["runs.csv", "runs.jsonl", "runs.parquet"])
def test_every_format_gives_the_same_records(name: str) -> None:
    rows = [plain(i, run_name=f"r{i}") for i in range(3)]
    found = records(rows, name)
    assert [(one.label, one.config, one.final) for one in found] == [
        (one.label, one.config, one.final) for one in records(rows)
    ]
    assert found[1].config == {"sae": {"k": 8}}
    assert found[1].final["fvu"] == 0.25


@pytest.mark.slow
def test_our_own_export_comes_back(build: Build) -> None:
    url = build(grid())
    for kind in ("csv", "parquet"):
        file = Path(f"ours.{kind}")
        assert main(["export", "--store", url, "--format", kind, "--to", str(file)]) == 0
        text = page(file)
        ours, back = pd.read_csv("ours.csv"), pd.read_csv("outputs/elsewhere/data/runs.csv")
        same = ["label", "status", "ranked", "sae.k", "sae.expansion_factor", "fvu", "l0"]
        pd.testing.assert_frame_equal(ours[same], back[same], check_dtype=False)
        assert "OSError: a \\| b &lt;c&gt;" in text


def test_wandb_exports_are_read_nested_or_flat() -> None:
    flat = [
        {"Name": "calm-sky-1", "State": "finished", "Runtime": 61, "Tags": "", "Sweep": "s",
         "config.learning_rate": 3e-4, "config.dict_size": 512, "metrics/l0": 40.5,
         "metrics/explained_variance": 0.8, "losses/overall_loss": 1.5, "_step": 9},
        {"Name": "calm-sky-2", "State": "crashed", "Runtime": 5, "Tags": "", "Sweep": "s",
         "config.learning_rate": 1e-3, "config.dict_size": 512, "metrics/l0": "NaN",
         "metrics/explained_variance": "", "losses/overall_loss": "Infinity", "_step": 2},
    ]  # fmt: skip
    first, second = records(flat)
    assert first.config == {"train": {"lr": 3e-4}, "sae": {"n_latents": 512}}
    assert (first.status, first.seconds, first.final["fvu"]) == ("done", 61.0, 0.2)
    assert first.final["l0_fraction"] == pytest.approx(40.5 / 512)
    assert (second.status, second.error) == ("failed", "State is crashed in the file")
    assert (second.final["l0"], second.final["loss"]) == (None, None)
    nested = [
        {"name": "a", "config": {"lr": {"value": 3e-4, "desc": None}, "k": {"value": 8}},
         "summary": {"fvu": 0.2}}
    ]  # fmt: skip
    assert records(nested, "runs.jsonl")[0].config == {"train": {"lr": 3e-4}, "sae": {"k": 8}}
    written = [{key: str(value) for key, value in nested[0].items()}]  # dicts as Python writes them
    assert records(written)[0].config == {"train": {"lr": 3e-4}, "sae": {"k": 8}}


def make_folders(names: Sequence[str], **config: Any) -> Path:
    for i, name in enumerate(names):
        folder = Path("runs", name)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"fvu": 0.1 * (i + 1), "frac_alive": 0.9}))
        if config:
            (folder / "config.json").write_text(json.dumps({"trainer": config}))
    return Path("runs")


def test_a_folder_of_runs_tells_settings_by_its_names() -> None:
    names = ["exp32_k1024_lr3e-04_aux1e+00_tgt2e-02", "exp64_k1024_lr5e-04_noaux"]
    path = make_folders(names)
    sweep, imported = import_sweep(Request(path, "elsewhere"))
    assert [one.trial.label for one in sweep.members] == names
    assert sweep.members[0].trial.config == {
        "sae": {"expansion_factor": 32, "k": 1024, "aux_coeff": 1, "aux_target": 0.02},
        "train": {"lr": 3e-4},
    }
    assert sweep.members[1].assignment["sae.aux_coeff"] == 0
    assert sweep.members[0].trial.final["dead_features"] == 0.1
    said = [note.words for note in imported.notes]
    assert any("are read from the names of 2 runs: names round" in words for words in said)


def test_columns_count_before_names() -> None:
    names = ["exp2_k8_lr2e-04_noaux", "exp2_k8_lr3e-04_noaux-0123456789ab"]
    path = make_folders(names, lr=0.00024)
    sweep, imported = import_sweep(Request(path, "elsewhere"))
    assert [one.trial.config["train"]["lr"] for one in sweep.members] == [0.00024] * 2
    (words,) = (one.words for one in imported.notes if "another lr" in one.words)
    assert words.startswith("1 name tells another lr than the column, `exp2_k8_lr3e-04")


# the mapping


def test_the_mapping_is_shown_and_can_be_overridden(capsys: pytest.CaptureFixture[str]) -> None:
    path = write([plain(i, warmth=i, quality=1 - 0.1 * i) for i in range(3)])
    text = page(path, "--map", "warmth=train.warmth", "--map", "dead=ignore",
                "--map", "quality=alive_features")  # fmt: skip
    out = capsys.readouterr().out
    assert re.search(r"^warmth +train\.warmth +--map +3$", out, re.MULTILINE)
    assert re.search(r"^dead +ignore +--map +3$", out, re.MULTILINE)
    assert "| `k` | `sae.k` | name | 3 | 3 |" in text
    ours = pd.read_csv("outputs/elsewhere/data/runs.csv")
    assert ours["train.warmth"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(ours["dead_features"], [0.0, 0.1, 0.2], atol=1e-12)


def test_two_columns_for_one_metric_are_refused_with_the_way_out() -> None:
    path = write([plain(i, frac_dead=0.3) for i in range(2)])
    message = r"columns dead and frac_dead are both read as dead_features.*--map 'frac_dead=ignore'"
    with pytest.raises(BadInput, match=message):
        import_sweep(Request(path, "elsewhere"))
    for overrides in ({"frac_dead": "ignore"}, {"dead": "dead_features"}):
        sweep, _ = import_sweep(Request(path, "elsewhere", overrides=overrides))
        assert sweep.members[0].trial.final["dead_features"] == 0.1


def test_a_column_that_repeats_another_is_left_out_and_said() -> None:
    rows = [plain(i, dead_features=0.1 * (i + 1)) for i in range(2)]
    _, imported = import_sweep(Request(write(rows), "elsewhere"))
    assert [one.rule for one in imported.columns if one.ours == "ignore"] == ["dead says it"]


@pytest.mark.parametrize(
    ("column", "values", "ours", "expected"),
    [
        ("dead_pct", [25, 50], None, [0.25, 0.5]),
        ("frac_alive", [0.25, 1], None, [0.75, 0.0]),
        ("num_dead", [16, 32], None, [0.25, 0.5]),
        ("sparsity/dead_features", [16, 32], "dead_count", [0.25, 0.5]),
        ("dead_latents", [25, 50], "dead_percent", [0.25, 0.5]),
    ],
)
def test_dead_latents_are_a_share_however_they_are_written(
    column: str, values: list[float], ours: str | None, expected: list[float]
) -> None:
    rows = [{"d_sae": 64, "fvu": 0.1 * (i + 1), column: one} for i, one in enumerate(values)]
    found = records(rows, overrides={column: ours} if ours else {})
    assert [one.final["dead_features"] for one in found] == expected


# rows that are not as they should be


def test_equal_rows_are_kept_and_are_no_seeds() -> None:
    rows = [plain(0), plain(0), plain(0, fvu=0.4), plain(1)]
    text = page(write(rows))
    assert "2 rows have the settings and seeds of an earlier row, 1 of them all its cells" in text
    assert "Noise unknown: no configuration has two seeds" in text
    assert len(pd.read_csv("outputs/elsewhere/data/runs.csv")) == 4


def test_seeds_in_the_file_give_a_noise_floor() -> None:
    rows = [plain(i, seed=s, fvu=0.5 / (i + 1) + 0.01 * s) for i in range(3) for s in range(2)]
    text = page(write(rows))
    assert "| told apart from, m = 1 |" in text
    assert "earlier row" not in text


NOT_QUITE: dict[str, list[Row]] = {
    "nan and inf": [plain(0), plain(1, fvu="nan"), plain(2, dead="inf"), plain(3, fvu="-")],
    "one row": [plain(0)],
    "one level": [plain(0), plain(0, fvu=0.4)],
    "mixed settings": [plain(0, lr="auto"), plain(1, lr=0.1), plain(2, lr=None)],
    "no dead column": [{"k": 4, "fvu": 0.2}, {"k": 8, "fvu": 0.1}],
    "all failed": [plain(0, status="failed"), plain(1, status="killed")],
    "constant metric": [plain(i, fvu=0.5, dead=0.5) for i in range(4)],
    "no setting": [{"fvu": 0.2}, {"fvu": 0.1}],
    "no fvu": [{"k": 4, "l0": 4.0}, {"k": 8, "l0": 8.0}],
    "worse than the mean": [plain(i, fvu=2.0) for i in range(3)],
    "markdown in names": [plain(0, name="a | b\n<script>"), plain(1, name="`x` [y](z)")],
}


@pytest.mark.parametrize("rows", NOT_QUITE.values(), ids=NOT_QUITE.keys())
def test_rows_that_are_not_as_they_should_be_still_give_a_page(rows: list[Row]) -> None:
    text = page(write(rows))
    assert len(pd.read_csv("outputs/elsewhere/data/runs.csv")) == len(rows)
    without_words = re.sub(r"is NaN or infinite|nan and inf", "", text)
    assert not re.search(r"\b(nan|NaN|inf)\b", without_words)
    assert "<script>" not in re.sub(r"`[^`]*`", "", text)


def test_values_that_are_not_finite_and_runs_that_failed_are_said() -> None:
    finished = [row | {"State": "finished"} for row in NOT_QUITE["nan and inf"]]
    text = page(write([*finished, plain(4, State="crashed")]))
    told = bullets(text, "Imported records")
    assert "fvu is NaN or infinite in 1 row: left out of every figure." in told
    assert "dead_features is NaN or infinite in 1 row: left out of every figure." in told
    for status, reason in [
        ("diverged", "fvu is not finite in the file"),
        ("done", "it has no fvu"),
        ("failed", "State is crashed in the file"),
    ]:
        assert re.search(rf"\| {status} +\| {reason} +\|", text), reason


NOTES = (
    r"\d+ columns? that (varies|vary) (is|are) not read: .+",
    r"No column says how a run ended: \d+ rows? taken as done(, .+)?\.",
    r"\d+ rows? (has|have) the settings and seeds of an earlier row, .+",
    r".+ (is|are) read from the names of \d+ runs?: .+",
    r"\d+ names? tells? another \S+ than the column, .+",
    r"\d+ rows? (has|have) an aux_target beside an aux_coeff of 0: .+",
    r"\S+ is NaN or infinite in \d+ rows?: left out of every figure\.",
    r"`\S+` is the sum of .+, each scaled to its bounds, in \d+ of \d+ rows?, .+",
    r"Scaled so, \S+ spans \S+ over the \d+ rows? with `\S+`\.",
    r"Spearman's correlation of `\S+` with \S+ is -?\d\.\d\d over \d+ rows\.",
    r"\d+ of the \d+ rows? with `\S+` reconstruct no better than the mean \(fvu not below 1\)\.",
)


@pytest.mark.parametrize("path", [TOPK, MULTILINGUAL, JOBS], ids=lambda path: path.stem)
def test_every_note_is_of_a_known_kind(path: Path) -> None:
    for words in bullets(page(path), "Imported records"):
        assert any(re.fullmatch(pattern, words) for pattern in NOTES), words


def test_half_a_digit_is_of_what_was_written() -> None:
    written = ["0.0094", "12", "4.1e-05", 0.25, 3]
    assert [half_digit(one) for one in written] == pytest.approx([5e-5, 0.5, 5e-7, 0.005, 0.5])


# the command


def test_a_second_import_is_byte_for_byte_the_first_and_no_store_is_written() -> None:
    def contents() -> dict[str, bytes]:
        return {str(one): one.read_bytes() for one in Path("outputs").rglob("*") if one.is_file()}

    page(TOPK, "--question", "Is k all that counts?")
    first = contents()
    assert "**Question:** Is k all that counts?" in Path("outputs/elsewhere/report.md").read_text()
    page(TOPK, "--question", "Is k all that counts?")
    assert contents() == first
    assert not [name for name in first if name.endswith(".db")]


def test_a_report_of_ours_takes_objectives_too(build: Build) -> None:
    url = build(grid())
    assert main(["report", "--store", url, "--objectives", "explained_variance, k"]) == 0
    told = json.loads(Path("outputs/study/data/pareto_optimal_configs.json").read_text())
    asked = told["fronts"][-1]
    assert [one["direction"] for one in asked["objectives"]] == ["up", "down"]
    table = pd.read_csv("outputs/study/data/runs.csv").query("ranked")
    points = table[["explained_variance", "sae.k"]].to_numpy(dtype=float)
    expected = table["uid"][pareto(points, ["up", "down"])]
    assert {one["uid"] for one in asked["members"]} == set(expected)


def make_bad(name: str, content: str | bytes) -> Callable[[], Path]:
    def make() -> Path:
        path = Path(name)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


GOOD = "k,fvu,dead\n4,0.5,0.1\n8,0.4,0.2\n"


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: Path("no.csv"), [], "import no.csv: there is no such file or folder"),
        (make_bad("a.csv", ""), [], "import a.csv: it holds no run"),
        (make_bad("a.csv", "k,fvu\n"), [], "import a.csv: it holds no run"),
        (make_bad("a.txt", GOOD), [], "import a.txt: .txt is not known: give a .csv, .jsonl or"),
        (make_bad("a.csv", b"\xff\xfe\x00"), [], "import a.csv is UTF-16: save it in UTF-8"),
        (make_bad("a.csv", "k,fvu\n4\n"), [], "import a.csv: row 1 has 1 cells and the header 2"),
        (make_bad("a.csv", "fvu,fvu\n1,2\n"), [], "import a.csv: two columns are called fvu"),
        (make_bad("a.jsonl", "{"), [], "import a.jsonl line 1 cannot be read (Expecting"),
        (make_bad("a.jsonl", "[1]\n"), [], "import a.jsonl line 1 is not a JSON object"),
        (make_bad("a.parquet", GOOD), [], "import a.parquet cannot be read (Parquet magic"),
        (make_bad("a.csv", "x,y\n1,2\n"), [], "import a.csv: no column is a metric that is known; "
         "there are x, y: name one"),
        (make_bad("a.csv", "fvu\nmuch\n"), [], "column fvu, row 1: 'much' is no number"),
        (make_bad("a.csv", "fvu\n-1\n"), [], "column fvu, row 1: -1 cannot be fvu"),
        (make_bad("a.csv", "dead\n85.5\n"), [], "column dead, row 1: 85.5 cannot be dead_features "
         "(dead_features would be 85.5): say what it is, --map 'dead=dead_percent'"),
        (make_bad("a.csv", "ev\n70\n"), [], "column ev, row 1: 70 cannot be explained_variance"),
        (make_bad("a.csv", "num_dead\n3\n"), [], "column num_dead is read as dead_count, and row 1 "
         "has no n_latents"),
        (make_bad("a.csv", "fvu,status\n0.1,odd\n"), [], "column status, row 1: 'odd' is no st"),
        (make_bad("a.csv", "fvu,state\n0.1,done\n1,\n"), [], "column state, row 2: '' is no st"),
        (make_bad("a.csv", GOOD), ["--map", "K=k"], "--map K=k: there is no column K; did you"),
        (make_bad("a.csv", GOOD), ["--map", "k=kk"], "--map k=kk: kk is no metric or setting"),
        (make_bad("a.csv", GOOD), ["--map", "k"], "--map k: write THEIRS=OURS"),
        (make_bad("a.csv", GOOD), ["--name", "trials"], "--name=trials cannot name a folder"),
        (make_bad("a.csv", GOOD), ["--name", "../x"], "--name=../x cannot name a folder"),
        (make_bad("a.csv", GOOD), ["--bounds", "fvu=0:1"], "--bounds fvu=...: no column is a"),
        (make_bad("a.csv", GOOD), ["--bounds", "fvu=1:0"], "--bounds fvu=1:0: write METRIC=LOW:"),
        (make_bad("a.csv", GOOD), ["--bounds", "odd=0:1"], "--bounds odd=0:1: odd is no metric"),
        (make_bad("a.csv", GOOD), ["--objectives", "fvu,ded_features"], "--objectives fvu,ded_featu"
         "res: ded_features is no metric with a better direction; did you mean dead_features"),
        (make_bad("a.csv", GOOD), ["--objectives", "fvu"], "--objectives fvu: give two different"),
        (make_bad("a.csv", GOOD), ["--objectives", "fvu,l0"], "--objectives l0: no trial of good "
         "has it; there are fvu, "),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_exit_code_2(
    make: Callable[[], Path],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["import", str(make()), "--name", "good", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1
    assert not Path("outputs/good").exists()


def test_folders_without_runs_and_with_broken_ones_are_refused() -> None:
    Path("runs/a").mkdir(parents=True)
    with pytest.raises(BadInput, match="none of its 1 folders holds a JSON file"):
        import_sweep(Request(Path("runs"), "elsewhere"))
    Path("runs/a/config.json").write_text("{")
    with pytest.raises(BadInput, match=r"import runs/a/config\.json cannot .*: it is no JSON"):
        import_sweep(Request(Path("runs"), "elsewhere"))
    shutil.rmtree("runs/a")
    with pytest.raises(BadInput, match="none of its 0 folders"):
        import_sweep(Request(Path("runs"), "elsewhere"))


def test_a_bounded_metric_that_a_scored_row_lacks_is_refused() -> None:
    path = write([{"fvu": 0.1, "combined_score": 0.3, "name": "lone"}])
    with pytest.raises(BadInput, match=r"--bounds dead_features=\.\.\.: run lone has a score but"):
        import_sweep(Request(path, "elsewhere", bounds={"dead_features": (0.0, 1.0)}))
