import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from made_sweeps import Load, Ran, grid, write_store

from analysis import contents, report
from analysis.cli import main
from analysis.study.table import load as to_study
from analysis.topics.interactions import cells, cells_of
from sae_sweep.errors import BadInput
from sae_sweep.records import METRICS
from sae_sweep.records.store import Reader, Sweep
from sae_sweep.rules.dominance import pareto

pytestmark = pytest.mark.figures

GOLDEN = Path(__file__).parent / "golden"


def render(loaded: tuple[Sweep, Reader], folder: Path) -> Path:
    sweep, reader = loaded
    return report.render(sweep, folder, reader.history)


def whole(page: Path) -> str:
    """The first page and the details."""
    return page.read_text() + page.with_name("details.md").read_text()


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the full grid's report, for tests that only read it."""
    folder = tmp_path_factory.mktemp("rendered")
    with Reader(write_store(folder, grid())) as reader:
        return render((reader.sweep(), reader), folder / "out" / "study").parent


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "draw", lambda *_: {})


@pytest.mark.parametrize("name", ["report.md", "details.md"])
def test_the_report_is_the_golden_one(rendered: Path, name: str) -> None:
    page, golden = rendered / name, GOLDEN / name
    same = page.read_text() == golden.read_text()
    assert same, f"the report changed. Read it; where it is better: cp {page} {golden}"


@pytest.mark.slow
def test_a_second_rendering_is_byte_for_byte_the_first(rendered: Path, load: Load) -> None:
    first = hashes(rendered)
    render(load(grid()), rendered)
    assert hashes(rendered) == first
    assert {"report.md", "data/runs.csv", "figures/pareto_frontier.png"} <= set(first)
    assert [path.name for path in rendered.parent.iterdir()] == ["study"]


def test_every_figure_and_data_file_that_the_page_names_exists(rendered: Path) -> None:
    names = set(re.findall(r"(?:figures|data)/\w+\.\w+", whole(rendered / "report.md")))
    assert names == set(hashes(rendered)) - {"report.md", "details.md"}


def test_every_entry_of_the_contents_is_a_heading(rendered: Path) -> None:
    details = (rendered / "details.md").read_text()
    titles = re.findall(r"^## (.+)$", details, re.MULTILINE)
    (line,) = re.findall(r"Contents: .+$", details, re.MULTILINE)
    assert re.findall(r"\[([^\]]+)\]", line) == titles
    page = (rendered / "report.md").read_text()
    assert re.findall(r"\[([^\]]+)\]\(details\.md#", page)[-len(titles) :] == titles


def test_what_ended_without_a_rank_is_listed_with_its_reason(rendered: Path) -> None:
    trials, text = grid(), (rendered / "details.md").read_text()
    reasons = {
        2: "loss is nan at step 30",
        5: "fvu 3.5 is not below 1",
        8: r"OSError: a \| b",
        9: "the sweep was stopped before this trial ended",
    }
    for i, reason in reasons.items():
        (line,) = [one for one in text.splitlines() if reason in one]
        assert trials[i].record.uid in line
    counts = "12 configurations: 9 done, 1 diverged, 1 failed and 1 interrupted. 8 are ranked"
    assert f"12 trials of {counts}" in text


@pytest.mark.usefixtures("without_figures")
def test_no_path_of_this_machine_and_no_store_is_printed(load: Load, tmp_path: Path) -> None:
    private = {"activations.files": "/home/me/acts"}
    trials = [dataclasses.replace(one, settings=private) for one in grid()]
    text = whole(render(load(trials), tmp_path / "study"))
    assert str(tmp_path) not in text
    assert "/home/me" not in text
    assert ".../acts" in text


@pytest.mark.usefixtures("without_figures")
def test_rows_of_a_table_have_as_many_cells_as_its_header(load: Load, tmp_path: Path) -> None:
    sweep = load(grid(), question="a | b\n# <script>`x` [y](z)")
    text = whole(render(sweep, tmp_path / "study"))
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    assert "# &lt;script&gt;\\`x\\` \\[y\\](z)" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "trials",
    [
        pytest.param([], id="no trial"),
        pytest.param([Ran({"sae.k": k}, status="queued") for k in (4, 8)], id="none started"),
        pytest.param([Ran({"sae.k": 4}, status="failed", error="boom")], id="one failed"),
        pytest.param([Ran({"sae.k": 4}, {"fvu": 0.5, "dead_features": 0.1, "l0": 4.0})], id="one"),
        pytest.param([Ran({}, {"fvu": 0.5})], id="no axis"),
        pytest.param(
            [Ran({"sae.k": k}, status="diverged", curve=[1.0, float("inf")]) for k in (4, 8)],
            id="all diverged",
        ),
        pytest.param(
            [Ran({"sae.k": k}, {"fvu": 2.0, "dead_features": 0.1}) for k in (4, 8)], id="all worse"
        ),
        pytest.param(
            [
                Ran({"sae.k": k, "train.lr": lr}, dict.fromkeys(METRICS, 0.5), curve=[0.5] * 3)
                for k in (4, 8)
                for lr in (1e-4, 1e-3)
            ],
            id="constant metrics",
        ),
        pytest.param(
            [Ran({"sae.k": k}, dict.fromkeys(METRICS, float("nan"))) for k in (4, 8)], id="all nan"
        ),
        pytest.param(
            [
                Ran({"sae.k": k}, {"fvu": 0.5, "dead_features": float("nan"), "l0": 0.0, "x": 1.0})
                for k in (4, 8)
            ],
            id="some nan",
        ),
        pytest.param(
            [Ran({"sae.k": k}, {"fvu": 0.0, "dead_features": k / 8, "l0": k}) for k in (4, 8)],
            id="perfect",
        ),
        pytest.param(
            [
                Ran({"train.lr": 10.0**-i, "train.seed_init": s}, {"fvu": 0.1 * i + s / 100})
                for i in (1, 2)
                for s in (0, 1, 2)
            ],
            id="seeds",
        ),
        pytest.param(
            [
                Ran({"sae.l1_alpha": a, "sae.n_latents": m}, {"fvu": a / 9, "dead_features": 1 / m})
                for a, m in ((1, 64), (2, 128))
            ],
            id="empty cells",
        ),
        pytest.param(
            [Ran({"train.lr": i / 999}, {"fvu": i / 50}) for i in range(1, 40)], id="many"
        ),
        pytest.param(
            [
                Ran({"sae.k": k}, {"fvu": 1 / k, "dead_features": float("inf"), "l0": k})
                for k in (4, 8, 16)
            ],
            id="an infinite column",
        ),
        pytest.param(
            [Ran({"sae.k": k}, {"dead_features": 0.1, "l0": k}) for k in (4, 8)], id="no fvu"
        ),
        pytest.param([Ran({"sae.k": k}, {"fvu": 1 / k}) for k in (4, 8, 16)], id="fvu alone"),
        pytest.param(
            [
                Ran({"sae.aux_kind": value}, {"fvu": 0.1 * i, "dead_features": 0.1})
                for i, value in enumerate((1, 0.5, "usage", None, True), start=1)
            ],
            id="mixed types",
        ),
        pytest.param(
            [
                Ran({"sae.k": k, "train.lr": 1e-3}, {"fvu": 1 / k, "dead_features": 0.1})
                for k in (4, 8, 16)
            ],
            id="a single level",
        ),
        pytest.param(
            [
                Ran(
                    {"sae.k": k, "train.seed_init": s, "train.seed_data": s},
                    {"fvu": 0.5, "dead_features": 0.1, "l0": 8.0},
                )
                for k in (4, 8, 16)
                for s in (0, 1, 2)
            ],
            id="all tied over seeds",
        ),
    ],
)
def test_no_state_of_a_sweep_breaks_the_report(
    trials: list[Ran], load: Load, tmp_path: Path
) -> None:
    text = whole(render(load(trials, ended=False), tmp_path / "study"))
    assert f"{len(trials)} trial" in text
    for trial in trials:
        assert trial.error is None or trial.error in text
    assert not re.search(
        r"\b(nan|inf|None)\b", text.replace("loss is nan", "").replace("is nan at", "")
    )


@pytest.mark.usefixtures("without_figures")
def test_one_seed_gives_the_banner_and_seeds_give_the_floor(load: Load, tmp_path: Path) -> None:
    banner = (
        "Noise unknown: no configuration has two seeds; differences between single trials are not"
    )
    lone = [Ran({"sae.k": k}, {"fvu": 1 / k}) for k in (4, 8)]
    assert banner in whole(render(load(lone), tmp_path / "a"))
    seeded = [
        Ran({"sae.k": k, "train.seed_init": s}, {"fvu": 1 / (k + s)})
        for k in (4, 8)
        for s in (0, 1)
    ]
    text = whole(render(load(seeded, name="seeded"), tmp_path / "b"))
    assert banner not in text
    assert "told apart from" in text


@pytest.mark.usefixtures("without_figures")
def test_trials_of_different_devices_are_warned_of(load: Load, tmp_path: Path) -> None:
    trials = [Ran({"sae.k": k}, {"fvu": 0.1}, device=d) for k, d in ((4, "cpu"), (8, "H200"))]
    text = whole(render(load(trials), tmp_path / "study"))
    assert "Trials mix devices or threads: H200, 1 thread (1); cpu, 1 thread (1)." in text


@pytest.mark.usefixtures("without_figures")
def test_a_report_is_current_until_its_records_change(load: Load, tmp_path: Path) -> None:
    sweep, reader = load(grid())
    assert not report.is_current(sweep, tmp_path / "study")
    page = report.render(sweep, tmp_path / "study", reader.history)
    assert report.is_current(sweep, tmp_path / "study")
    first = dataclasses.replace(sweep.members[0].trial, status="diverged")
    changed = sweep._replace(members=[sweep.members[0]._replace(trial=first), *sweep.members[1:]])
    assert not report.is_current(changed, tmp_path / "study")
    page.unlink()
    assert not report.is_current(sweep, tmp_path / "study")


@pytest.mark.usefixtures("without_figures")
def test_a_report_of_another_version_is_not_current(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, reader = load(grid()[:2])
    report.render(sweep, tmp_path / "study", reader.history)
    monkeypatch.setattr(report, "REPORT_VERSION", report.REPORT_VERSION + 1)
    assert not report.is_current(sweep, tmp_path / "study")


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_rendering_that_dies_leaves_the_old_report(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, reader = load(grid())
    report.render(sweep, tmp_path / "out" / "study", reader.history)
    before = hashes(tmp_path / "out")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report.data, "write", die)
    with pytest.raises(KeyboardInterrupt):
        report.render(sweep, tmp_path / "out" / "study", reader.history)
    assert hashes(tmp_path / "out") == before


@pytest.mark.slow
def test_a_figure_that_is_no_more_goes(load: Load, tmp_path: Path) -> None:
    stale = tmp_path / "study" / "figures" / "heatmap_gone.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    render(load(grid()[:2]), tmp_path / "study")
    assert not stale.exists()


def test_a_file_in_the_reports_place_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "study").touch()
    with pytest.raises(BadInput, match=r"outputs=.*study is a file: move it away"):
        render(load([]), tmp_path / "study")


@pytest.mark.usefixtures("without_figures")
def test_the_data_files_say_what_the_store_says(load: Load, tmp_path: Path) -> None:
    trials = grid()
    sweep, reader = load(trials, ended=False)
    data = report.render(sweep, tmp_path / "study", reader.history).parent / "data"
    runs = pd.read_csv(data / "runs.csv").set_index("uid")
    metrics = json.loads((data / "grid_metrics.json").read_text())
    assert metrics["digest"] == sweep.digest
    assert [one["uid"] for one in metrics["runs"]] == list(runs.index)
    for trial in trials:
        row = runs.loc[trial.record.uid]
        assert row["status"] == trial.status
        assert row["sae.k"] == trial.assignment["sae.k"]
        for name, value in trial.final.items():
            assert row[name] == value
    points = runs[runs["ranked"]]
    for front in json.loads((data / "pareto_optimal_configs.json").read_text())["fronts"]:
        names = [one["metric"] for one in front["objectives"]]
        columns = points.rename(columns={"sae.n_latents": "n_latents"})[names].to_numpy(float)
        mask = pareto(columns, [one["direction"] for one in front["objectives"]])
        assert {one["uid"] for one in front["members"]} == set(points.index[mask])


def test_a_cell_is_the_median_of_its_ranked_trials_or_their_mean(
    load: Load,
) -> None:
    study = to_study(load(grid())[0])
    found = cells(study, METRICS["fvu"])
    assert found is not None
    frame = study.ranked.assign(wide=study.ranked["n_latents"] / 64)
    grouped = frame.groupby(["wide", "k"])["fvu"]
    assert found.counts.sum() == len(study.ranked)
    for (wide, k), values in grouped:
        i, j = found.up.order.index(f"{wide:g}"), found.across.order.index(f"{k:g}")
        assert found.middles[i, j] == values.median()
        assert found.counts[i, j] == len(values)
    means = cells_of(study, METRICS["fvu"], found.across, found.up, "mean").middles
    for (wide, k), values in grouped:
        i, j = found.up.order.index(f"{wide:g}"), found.across.order.index(f"{k:g}")
        assert means[i, j] == pytest.approx(values.prod() ** (1 / len(values)))


def test_figures_are_drawn_for_what_there_is(load: Load, tmp_path: Path) -> None:
    sweep, reader = load([Ran({"sae.k": k}, status="running", curve=[0.9, 0.8]) for k in (4, 8)])
    study = dataclasses.replace(to_study(sweep), history=reader.history)
    drawn = contents.draw(study, tmp_path)
    assert set(drawn) == {"status_map", "curves_fvu", "curves_dead_features", "curves_loss"}


@pytest.mark.slow
def test_a_dollar_sign_in_a_name_is_no_mathematics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(
        f"cost $_$ {k} {s},{k},{s},{0.3 + k / 100 + s / 1000},{0.01 * s},{k}\n"
        for k in (8, 16, 32)
        for s in (0, 1)
    )
    Path("dollars.csv").write_text(f"name,k,seed,fvu,dead_features,l0\n{rows}")
    assert main(["import", "dollars.csv", "--name", "dollars"]) == 0
    drawn = {path.stem for path in Path("outputs/dollars/figures").glob("*.png")}
    assert {"pareto_frontier", "rank_stability"} <= drawn
    assert "cost $_$" in Path("outputs/dollars/details.md").read_text()


BIG = [
    Ran(
        {"sae.k": k, "train.lr": lr, "sae.aux_coeff": aux, "train.seed_init": s},
        {"fvu": 0.9 / k**0.3 + s / 1e3 + lr, "dead_features": 0.2 - 0.1 * aux + s / 1e3, "l0": k},
        "done" if (k, lr) != (512, 1e-4) else "diverged",
        error=None if (k, lr) != (512, 1e-4) else "loss is nan " * 50,
    )
    for k in (4, 8, 16, 32, 64, 128, 256, 512)
    for lr in (1e-4, 2e-4, 3e-4, 1e-3)
    for aux in (0, 0.1, 0.5)
    for s in (0, 1)
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "trials",
    [
        pytest.param(grid(), id="grid"),
        pytest.param(BIG, id="big"),
        pytest.param(BIG[:1], id="one"),
        pytest.param([], id="none"),
    ],
)
def test_the_first_page_is_short(load: Load, tmp_path: Path, trials: list[Ran]) -> None:
    about = {"settings": ["sae.k", "train.beta1"], "metrics": ["dead_features", "fvu"]}
    page = render(load(trials, config={"sweep": {"about": about}}), tmp_path / "study").read_text()
    assert len(page.splitlines()) <= 150
    assert len(page.split()) <= 1500
    first = page.split("\n## ")[0]
    if trials is BIG:
        answer = first.partition("**Answer**")[2].partition("![")[0]
        assert "**k** 4 to 512" in answer
        assert "lr" not in answer  # the question is not about it
        assert "`train.beta1` did not vary in this sweep: nothing is said of it." in answer
        assert "figures/pareto_frontier.png" in "\n".join(first.splitlines()[:25])
