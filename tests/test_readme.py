"""Every command of the README does what it says, in the order in which it stands there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from analysis.cli import main as analysis
from sae_sweep.cli import main as sae_sweep

ROOT = Path(__file__).resolve().parents[1]
DOCS = [
    "docs/" + name
    for name in (
        "sweeps.md",
        "search.md",
        "results.md",
        "models.md",
        "files.md",
        "synthetic.md",
        "architectures.md",
        "clusters.md",
        "sharing.md",
    )
]
PAGES = ["README.md", *DOCS]
""" In the order in which their commands are run."""

MAKE = {"make sweep", "make test"}
"""Run by CI itself."""

GPU = {"python -m benchmarks.gpu --part 1"}
"""`tests/test_gpu_benchmark.py` runs what of it can be run without one."""

DRY = (
    "activations.model=",
    "activations=files",
    "+sweep=grid_topk",
    "+sweep=target_l0",
    "+sweep=optuna_l1_alpha",
    "+sweep=pareto_l1",
    "train.kernels=fused",
    "+sweep=layer_quality",
)
"""Too long, or in need of a network, a cluster or a server: composed, validated and estimated."""


def commands() -> list[str]:
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "tests" / "data", folder / "tests" / "data")
    (folder / "my_texts.jsonl").write_text('{"text": "a sentence"}\n' * 9)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_run_in_their_order(folder, monkeypatch, capsys) -> None:
    import numpy as np

    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nobody is there
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    (folder / "my_activations").mkdir()
    np.save(
        folder / "my_activations" / "a.npy", np.random.default_rng(0).normal(size=(300_000, 16))
    )
    ran = 0
    for command in commands():
        if command in MAKE | GPU:
            continue
        variables, words = _split(command)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert words[:2] == ["python", "-m"], command
        tool = {"sae_sweep": sae_sweep, "analysis": analysis}[words[2]]
        extra = ["dry_run=true"] if _is_only_shown(words) else []
        if "store=postgres" in words:  # no server to be had here: the message is the test
            assert tool([*words[3:], *extra]) == 2
            assert "secret" not in capsys.readouterr().err
            monkeypatch.delenv("SAE_SWEEP_STORE")
        else:
            assert tool([*words[3:], *extra]) == 0, command
        ran += 1
    assert ran > 15
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


def _split(command: str) -> tuple[dict[str, str], list[str]]:
    words = shlex.split(command)
    variables = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    return variables, words


def _is_only_shown(words: list[str]) -> bool:
    long = any(word.startswith(DRY) for word in words)
    return long and "dry_run=true" not in words


def test_the_table_of_sweeps_is_complete() -> None:
    shipped = {path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml")}
    text = (ROOT / "docs" / "sweeps.md").read_text()
    table = set(re.findall(r"^\| `(\w+)` \| +\d+ \|", text, re.MULTILINE))
    assert table == shipped


PROSE = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"]
)


@pytest.mark.parametrize("name", PROSE)
def test_links_and_paths_of_the_texts_exist(name) -> None:
    page = ROOT / name
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    links = [link for link in links if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\(([^)#]+)\)", text))


def test_the_page_of_settings_is_what_the_classes_say(capsys) -> None:
    assert sae_sweep(["help", "settings"]) == 0
    assert (ROOT / "docs" / "settings.md").read_text() == capsys.readouterr().out
