"""report.html in a browser: sorted, filtered, brushed, selected; nothing leaves it."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import Ran, grid, write_store

from analysis import contents, report, web
from sae_sweep.errors import BadInput
from sae_sweep.records.references import FOLDER as REFERENCES
from sae_sweep.records.references import Reference
from sae_sweep.records.store import Reader

pytestmark = [pytest.mark.figures, pytest.mark.slow]

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
ROWS = "return [...document.querySelectorAll('#trials tbody tr')].map((one) => one.dataset.uid)"
COLUMN = """
const i = [...document.querySelectorAll('#trials th')]
  .findIndex((one) => one.textContent.startsWith(arguments[0]));
return [...document.querySelectorAll('#trials tbody tr')].map((one) => one.cells[i].textContent)
"""
CURVES = """
const place = document.getElementById('curves');
return place.hidden ? [] : place.data.map((one) => one.legendgroup)
"""
FRONT = """
const named = (name) => document.getElementById('front').data.find((one) => one.name === name);
return named(arguments[0])
"""


ELSEWHERE = Reference(
    HOSTILE, "saelens", "topk", 32, "f" * 64, "a" * 12, metrics={"fvu": 0.31, "l0": 12.0}
)

BOXES = """
const box = (css) => document.querySelector(css).getBoundingClientRect().toJSON();
return {
  answer: box('#lead section'),
  front: box('#front'),
  paper: getComputedStyle(document.body).backgroundColor,
}
"""


def write_page(
    folder: Path, trials: list[Ran], references: Sequence[Reference] = (), **run: Any
) -> Path:
    for one in references:
        path = folder / "out" / "study" / REFERENCES / one.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one.text())
    with Reader(write_store(folder, trials, **run)) as reader:
        sweep = reader.sweep()
        page = report.render(sweep, folder / "out" / "study", reader.history, html=True)
    return page.with_suffix(".html")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trials = grid()
    trials[8].error = HOSTILE
    folder = tmp_path_factory.mktemp("page")
    return write_page(folder, trials, [ELSEWHERE], question=HOSTILE)


def visit(browser: Any, page: Path) -> None:
    """Open a page and wait for its table: the browser may still show the page before."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page.as_uri())
    ready = "return [location.href, document.getElementById('count')?.textContent]"
    WebDriverWait(browser, 30).until(
        lambda _: (seen := browser.execute_script(ready))[0] == page.as_uri() and seen[1]
    )


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The page in the browser; it has to stay quiet and by itself, whatever a test does."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get_log("browser"), browser.get_log("performance")
    visit(browser, page)
    drawn = "return document.querySelectorAll('#parallel .axis-brush, #front .points path').length"
    WebDriverWait(browser, 30).until(lambda _: browser.execute_script(drawn) > 8)
    yield browser
    assert [one for one in browser.get_log("browser") if one["level"] == "SEVERE"] == []
    messages = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    requests = [
        one["params"]["request"]["url"]
        for one in messages
        if one["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [page.as_uri()]
    assert browser.execute_script("return window.broken") is None


def test_what_was_trained_elsewhere_stands_beside_the_front(opened: Any) -> None:
    shown = opened.execute_script(FRONT, "references")
    assert (shown["x"], shown["y"]) == ([12.0], [0.31])
    assert "trained elsewhere (saelens)" in shown["text"][0]
    assert ELSEWHERE.name not in opened.execute_script(FRONT, "trials")["text"]
    assert opened.find_element("css selector", "figcaption .references").is_displayed()


def click(browser: Any, css: str) -> None:
    browser.find_element("css selector", css).click()


def test_every_trial_stands_in_the_table(opened: Any) -> None:
    assert opened.execute_script(ROWS) == [trial.record.uid for trial in grid()]
    assert "12 of 12 trials" in opened.find_element("id", "count").text


def test_a_click_on_a_heading_sorts_and_the_missing_stand_last(opened: Any) -> None:
    heading = "#trials th:nth-child(6)"
    assert opened.find_element("css selector", heading).text == "fvu"
    click(opened, heading)
    shown = opened.execute_script(COLUMN, "fvu")
    values = [float(text) for text in shown if text]
    assert values == sorted(values)
    assert shown[-3:] == ["", "", ""]
    click(opened, heading)
    again = [float(text) for text in opened.execute_script(COLUMN, "fvu") if text]
    assert again == values[::-1]


KEPT = {
    "k=8": lambda trial: trial.assignment["sae.k"] == 8,
    "fvu<0.2": lambda trial: trial.final.get("fvu", 1) < 0.2,
    "k>=8 status=done": lambda t: t.assignment["sae.k"] >= 8 and t.status == "done",
    "failed": lambda trial: trial.status == "failed",
}
"""Words of a filter, and which trials they keep."""


def test_the_filter_keeps_what_it_says(opened: Any) -> None:
    for words, kept in KEPT.items():
        opened.find_element("id", "filter").clear()
        opened.find_element("id", "filter").send_keys(words)
        assert opened.execute_script(ROWS) == [one.record.uid for one in grid() if kept(one)]


def test_dragging_along_an_axis_keeps_the_trials_of_the_range(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    axes = opened.find_elements("css selector", "#parallel .axis-brush .background")
    first = axes[0]  # k, ascending from the bottom
    height = first.rect["height"]
    # a pointer moves only within what the window shows
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", first)
    # the element's middle is where the pointer starts: from below it to under the axis
    chain = ActionChains(opened).move_to_element(first).move_by_offset(0, int(0.3 * height))
    chain.click_and_hold().move_by_offset(0, int(0.3 * height)).release().perform()
    uids = [one.record.uid for one in grid() if one.assignment["sae.k"] == 4]
    assert set(opened.execute_script(ROWS)) < set(uids)
    opened.find_element("id", "clear").click()
    assert len(opened.execute_script(ROWS)) == 12


def test_rows_and_points_select_trials_whose_curves_stand_side_by_side(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    opened.find_element("id", "clear").click()
    assert opened.execute_script(CURVES) == []
    first, second = (trial.record.uid for trial in grid()[:2])
    click(opened, f"tr[data-uid='{first}']")
    click(opened, f"tr[data-uid='{second}']")
    assert opened.execute_script(CURVES) == [first, second]
    assert grid()[0].record.label in opened.find_element("id", "chosen").text
    uid = opened.execute_script(FRONT, "trials")["customdata"][3][0]
    marks = opened.find_elements("css selector", "#front .scatterlayer .points path.point")
    ActionChains(opened).move_to_element(marks[3]).click().perform()
    assert set(opened.execute_script(CURVES)) == {first, second, uid}
    assert uid not in {first, second}


def test_a_card_selects_its_configuration(opened: Any) -> None:
    opened.find_element("id", "clear").click()
    card = opened.find_element("css selector", "#cards .card")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", card)
    card.click()
    assert opened.execute_script(CURVES) == [card.get_attribute("data-uid")]
    assert card.get_attribute("aria-pressed") == "true"


def test_the_front_is_a_staircase(opened: Any) -> None:
    front = opened.execute_script(FRONT, "front")
    assert front["line"]["shape"] == "hv"
    assert front["x"] == sorted(front["x"])
    assert front["y"] == sorted(front["y"], reverse=True)
    assert len(opened.execute_script(FRONT, "lost")["x"]) == 2, "one diverged, one with fvu 3.5"


def test_a_point_of_the_front_tells_the_whole_configuration(opened: Any) -> None:
    texts = opened.execute_script(FRONT, "trials")["text"]
    for name in ("expansion_factor", "k", "aux_coeff", "aux_target", "fvu", "l0", "dead_features"):
        assert f"<br>{name} " in texts[0], name
    assert "%" in texts[0].split("<br>dead_features ")[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_first_screen_answers_at_every_width(opened: Any, width: int, scheme: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    theme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)
    try:
        opened.execute_script("scrollTo(0, 0)")
        fits = f"return document.documentElement.scrollWidth <= {width}"
        WebDriverWait(opened, 10).until(
            lambda _: opened.execute_script(fits), "the page scrolls sideways"
        )
        found = opened.execute_script(BOXES)
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert found["answer"]["top"] < 300
    beside = found["front"]["left"] >= found["answer"]["right"]
    assert beside == (width > 1000)
    if beside:
        assert found["front"]["bottom"] < 900
    assert (found["paper"] == "rgb(255, 255, 255)") == (scheme == "light")


def test_no_chart_offers_to_upload_itself(opened: Any) -> None:
    found = "return document.querySelectorAll('.modebar-btn').length"
    assert opened.execute_script(found) == 0


def test_what_users_wrote_is_text(opened: Any) -> None:
    assert HOSTILE in opened.find_element("id", "summary").text
    opened.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    assert HOSTILE in opened.find_element("tag name", "main").text.split("Status")[1]


def test_a_link_to_a_topic_opens_it(opened: Any, page: Path) -> None:
    assert "details.md" not in page.read_text().partition('<section id="details">')[0]
    assert not opened.execute_script("return document.getElementById('topic-3').open")
    opened.execute_async_script(
        "addEventListener('hashchange', () => setTimeout(arguments[0])); location.hash = 'topic-3'"
    )
    assert opened.execute_script("return document.getElementById('topic-3').open")


def test_topics_are_folded_by_group_with_their_first_sentence(page: Path) -> None:
    details = page.read_text().partition('<section id="details">')[2]
    groups = re.findall(r'<h3 class="group">([^<]*)</h3>', details)
    assert groups == [topic.group for topic in contents.TOPICS if topic.group]
    assert details.count('<details class="topic"') > 20
    fold = details.partition("<span>Pareto front</span>")[2]
    assert fold.startswith('<span class="teaser">Pareto front (fvu down, l0 down): 3 of 8')


def test_the_first_page_stands_whole_on_it(page: Path) -> None:
    text = page.read_text()
    for title in ("Answer", "Can it be trusted?", "Effects", "Front", "Limits", "Next", "Methods"):
        assert f">{title}</h2>" in text, title


def test_the_same_records_give_the_same_page(page: Path, tmp_path: Path) -> None:
    trials = grid()
    trials[8].error = HOSTILE
    again = write_page(tmp_path, trials, [ELSEWHERE], question=HOSTILE)
    assert again.read_text() == page.read_text()


def test_a_report_without_html_removes_the_old_page(tmp_path: Path) -> None:
    page = write_page(tmp_path, grid()[:2])
    with Reader(f"sqlite:///{tmp_path / 'sae_sweep.db'}") as reader:
        report.render(reader.sweep(), page.parent, reader.history)
    assert not page.exists()


@pytest.mark.parametrize("trials", [[], grid()[2:3], [Ran({"sae.k": 4}, status="running")]])
def test_a_page_of_little_opens(browser: Any, tmp_path: Path, trials: list[Ran]) -> None:
    browser.get_log("browser")
    visit(browser, write_page(tmp_path, trials))
    assert len(browser.execute_script(ROWS)) == len(trials)
    assert [one for one in browser.get_log("browser") if one["level"] == "SEVERE"] == []


def test_a_missing_library_is_asked_for_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    with pytest.raises(BadInput, match=r"--html needs the package plotly: pip install"):
        web.require()
