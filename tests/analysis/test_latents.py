"""A trial's page of latents in a browser: searched, sorted, opened; nothing leaves it."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_sweeps import grid, write_store

from analysis import report
from analysis.cli import main
from analysis.latents import filtered, write_page
from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord
from sae_sweep.records.names import CONTEXTS_FILE
from sae_sweep.records.store import Reader

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
PIECES = [" the", " sun", HOSTILE, " moon"]
N = 3000
ROWS = "return [...document.querySelectorAll('#latents tbody tr')].map((e) => Number(e.dataset.id))"
TRIAL = TrialRecord("abcdef012345", "exp2_k8", "done", {})


def make(folder: Path, n: int = N) -> Path:
    """The folder of a trial whose latent i fires on i / n of the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    frequency = [i / n for i in range(n)]
    columns = {
        "id": range(n),
        "frequency": frequency,
        "max_activation": [2.0 * f for f in frequency],
    }
    groups = {"frequency_de": [0.5 * f for f in frequency], "frequency_en": frequency}
    pd.DataFrame({**columns, **groups}).to_parquet(folder / "latents.parquet")
    tokens = [0, 1, 2, 3, 0, 3]
    latents = [
        {
            "contexts": [
                ["top", 0, 4, [[1 + i % 3, 2.0 * i / n]]],
                ["quantile 0.5", 4, 6, [[5, 0.1]]],
            ],
            "histogram": [5, 3, 1],
            "neighbours": [[(i + 1) % n, 0.5], [(i + 2) % n, 0.25]],
        }
        if i
        else {"contexts": [], "histogram": [], "neighbours": [[1, 0.5]]}
        for i in range(n)
    ]
    found = {"pieces": PIECES, "tokens": tokens, "windows": [0, 4], "latents": latents}
    (folder / CONTEXTS_FILE).write_bytes(gzip.compress(json.dumps(found).encode()))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(TRIAL, make(tmp_path_factory.mktemp("trial")))


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    yield browser
    assert [one for one in browser.get_log("browser") if one["level"] == "SEVERE"] == []
    messages = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    requests = [
        one["params"]["request"]["url"]
        for one in messages
        if one["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.execute_script("return window.broken") is None


def search(opened: Any, words: str) -> list[int]:
    box = opened.find_element("id", "search")
    box.clear()
    box.send_keys(words)
    return opened.execute_script(ROWS)


def test_a_part_of_thousands_is_drawn_and_more_when_asked(opened: Any) -> None:
    assert f"{N} of {N} latents" in opened.find_element("id", "count").text
    assert opened.execute_script(ROWS) == list(range(N - 1, N - 201, -1)), "most frequent first"
    opened.find_element("id", "more").click()
    assert len(opened.execute_script(ROWS)) == 400


def test_headings_sort(opened: Any) -> None:
    opened.find_element("css selector", "#latents th:nth-child(1)").click()
    assert opened.execute_script(ROWS)[:3] == [0, 1, 2]
    opened.find_element("css selector", "#latents th:nth-child(1)").click()
    assert opened.execute_script(ROWS)[:3] == [N - 1, N - 2, N - 3]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("dead", [0]),
        ("17", [17]),
        ("freq>=0.99 freq<0.9905", [2971, 2970]),
        ("moon freq<0.003", [8, 5, 2]),
        ("de", [0]),
    ],
)
def test_the_search_keeps_what_it_says(opened: Any, words: str, kept: list[int]) -> None:
    found = search(opened, words)
    assert found == (kept if words != "de" else []), "every latent fires most in en"


def test_latents_that_are_always_on_are_marked_and_listed(opened: Any, page: Path) -> None:
    ids = [i for i in range(N) if i / N > 0.8]
    assert filtered(page.parent, "always_on") == ids
    assert filtered(page.parent, "dead") == [0]
    search(opened, "always_on")
    assert f"{len(ids)} of {N}" in opened.find_element("id", "count").text


def test_a_latent_opens_with_its_contexts_and_neighbours(opened: Any) -> None:
    search(opened, "16")
    opened.find_element("css selector", "tr[data-id='16']").click()
    shown = opened.find_element("id", "latent")
    assert "Latent 16" in shown.text
    contexts = shown.find_elements("css selector", ".context")
    assert contexts[0].get_attribute("textContent") == "".join(PIECES), "hostile text is text"
    assert contexts[1].get_attribute("textContent") == " the moon"
    (on,) = contexts[0].find_elements("css selector", ".on")
    assert on.get_attribute("textContent") == HOSTILE
    assert "rgba(213, 94, 0, 0.82)" in on.value_of_css_property("background-color")
    assert len(shown.find_elements("css selector", ".bars div")) == 3
    shown.find_element("css selector", "button").click()
    assert "Latent 17" in opened.find_element("id", "latent").text


def test_the_page_holds_no_hostile_tag(page: Path) -> None:
    text = page.read_text()
    assert "<img" not in text
    assert text.count("</script>") == 2


def test_the_commands_name_what_is_missing(tmp_path: Path, capsys: Any) -> None:
    write_store(tmp_path, grid())
    record = grid()[0].record
    words = ["latents", record.uid[:8], "--outputs", str(tmp_path)]
    assert main(words) == 2
    assert "latents.parquet cannot be read" in capsys.readouterr().err
    folder = make(tmp_path / "trials" / record.folder, 12)
    assert main([*words, "--filter", "always_on"]) == 0
    assert capsys.readouterr().out.split() == ["10", "11"]
    assert main(words) == 0
    assert (folder / "latents.html").exists()
    (folder / CONTEXTS_FILE).unlink()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert re.search(rf"does not exist: python -m sae_sweep latents {record.uid} collects", said)


def test_the_report_links_to_the_pages_that_are_there(tmp_path: Path) -> None:
    with Reader(write_store(tmp_path, grid())) as reader:
        chosen = report.recommended(reader.sweep())[0]
        link = f"](../trials/{chosen.folder}/latents.html)"
        make(tmp_path / "trials" / chosen.folder, 12)
        write_page(chosen, tmp_path / "trials" / chosen.folder)
        page = report.render(reader.sweep(), tmp_path / "study", reader.history)
    assert link in page.read_text().partition("**Front**")[2].partition("**Next**")[0]
    details = (page.parent / "details.md").read_text()
    assert link in details.partition("## Recommended trials")[2].partition("\n## ")[0]


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, 12)
    shutil.copy(make(tmp_path / "other", 11) / CONTEXTS_FILE, folder)
    with pytest.raises(BadInput, match=r"12 latents in latents\.parquet and 11 in contexts"):
        write_page(TRIAL, folder)
