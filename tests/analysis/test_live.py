"""watch --html: the page of a running sweep, in a browser that follows it."""

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import Ran, grid, start_run, write_store

from analysis import live, report
from analysis.cli import main
from analysis.live import Pages, Served
from sae_sweep.errors import BadInput
from sae_sweep.records import Outcome, Row
from sae_sweep.records.store import Reader, Store

pytestmark = pytest.mark.figures

CURVE = "return document.getElementById('running-curves')?.data?.map((one) => one.y.length) ?? []"


@pytest.fixture(autouse=True)
def without_a_browser_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, str]]:
    monkeypatch.setattr(live, "PATIENCE", 0.05)
    served = Served()
    served.publish("<p>one</p><script>run</script>")
    with live.serving(served) as address:
        yield served, address


def ask(address: str, **headers: str) -> tuple[int, str, str | None]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers["X-Version"]
    except urllib.error.HTTPError as error:
        return error.code, "", None


def test_news_come_without_scripts_and_only_once(served: tuple[Served, str]) -> None:
    page, address = served
    assert ask(address) == (200, "<p>one</p><script>run</script>", "1")
    assert ask(f"{address}now?after=0") == (200, "<p>one</p>", "1")
    assert ask(f"{address}now?after=1")[0] == 204
    page.publish("<p>two</p>", final=True)
    assert ask(f"{address}now?after=1") == (200, "", "2"), "the finished report is loaded whole"
    assert not page.final_seen.is_set()
    ask(address)
    assert page.final_seen.wait(10)


def test_only_this_machine_by_its_own_name_is_answered(served: tuple[Served, str]) -> None:
    _, address = served
    assert address.startswith("http://127.0.0.1:")
    assert ask(address, Host="elsewhere.example")[0] == 403
    assert ask(f"{address}now?after=x")[0] == 404
    assert ask(f"{address}etc/passwd")[0] == 404


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BadInput, match=rf"--port={port} cannot be used .*: name another"),
            live.serving(Served(), port),
        ):
            pass


def test_what_is_no_port_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = write_store(tmp_path, grid()[:2])
    assert main(["watch", "--html", "--port", "70000", "--store", url]) == 2
    assert capsys.readouterr().err == "--port=70000 is no port: give 1 to 65535, e.g. 8000\n"


def test_nothing_new_is_no_news(tmp_path: Path) -> None:
    trials = [*grid()[:2], Ran({"sae.k": 32}, status="running", curve=[0.5, 0.4])]
    url, uid = f"sqlite:///{tmp_path / 'sae_sweep.db'}", trials[2].record.uid
    with Store(url) as store:
        run = start_run(store, url, trials)
        reader = Reader(url)
        pages = Pages(reader)
        text = pages.render(reader.sweep())
        assert not pages.has_news(reader.sweep())
        store.rows(run, [Row(uid, 30, {"fvu": 0.3})])
        assert pages.has_news(reader.sweep())
    assert "2 of 3 trials have ended" in text
    assert "20 of 100" in text
    assert "width: 73.3%" in text


def test_memory_of_a_gpu_is_read_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "0, NVIDIA H100 80GB HBM3, 20480, 81559\n1, NVIDIA Tegra, [N/A], [N/A]\n"
    done = subprocess.CompletedProcess([], 0, told)
    monkeypatch.setattr(live.subprocess, "run", lambda *_, **__: done)
    (one,) = live.devices()
    assert one["name"] == "GPU 0 of this machine, NVIDIA H100 80GB HBM3"
    assert (one["text"], one["percent"]) == ("20.0 of 80 GiB in use", 25)


def test_without_a_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert live.devices() == []


@pytest.mark.slow
def test_a_sweep_that_has_ended_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = write_store(tmp_path, grid()[:2])
    assert main(["watch", "--html", "--store", url, "--outputs", str(tmp_path / "out")]) == 0
    written = capsys.readouterr()
    page = tmp_path / "out" / "study" / "report.html"
    assert written.out == f"page: {page}\n"
    assert written.err == f"no browser was found here: open {page.as_uri()}\n"
    assert page.is_file()


def start_watching(words: list[str]) -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and the address that it serves."""
    watching = subprocess.Popen(
        [sys.executable, "-m", "analysis", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    line = watching.stdout.readline()
    assert line.startswith("page: http://127.0.0.1:"), watching.communicate()
    return watching, line.split()[1]


@pytest.mark.slow
def test_ctrl_c_ends_it_without_a_trace(tmp_path: Path) -> None:
    url = write_store(tmp_path, [*grid()[:2], Ran({"sae.k": 32}, status="running")], ended=False)
    words = ["watch", "--html", "--store", url, "--outputs", str(tmp_path / "out")]
    watching, address = start_watching(words)
    assert ask(address)[0] == 200
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert errors.startswith("no browser was found here: open http://127.0.0.1:")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_the_browser_follows_a_sweep_to_its_report(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    trials = [*grid()[:2], Ran({"sae.k": 32}, status="running", curve=[0.5, 0.4])]
    url, uid = f"sqlite:///{tmp_path / 'sae_sweep.db'}", trials[2].record.uid
    words = ["watch", "--html", "--every", "0.1", "--store", url, "--outputs", str(tmp_path)]
    with Store(url) as store:
        run = start_run(store, url, trials)
        watching, address = start_watching(words)
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(address)
        wait = WebDriverWait(browser, 60)
        wait.until(lambda _: browser.execute_script(CURVE) == [2])
        browser.execute_script("window.mark = 1; document.getElementById('filter').value = 'k=4'")
        store.rows(run, [Row(uid, 30, {"fvu": 0.3})])
        wait.until(lambda _: browser.execute_script(CURVE) == [3])
        assert browser.execute_script("return window.mark") == 1, "it is not loaded again"
        final = {"fvu": 0.2, "l0": 32.0, "dead_features": 0.1}
        store.outcome(run, Outcome(uid, "done", 100, final, None, 2.5, ()))
        wait.until(lambda _: "3 of 3 trials" in browser.find_element("id", "live").text)
        assert browser.execute_script("return document.getElementById('filter').value") == "k=4"
        store.finish_run(run)
        with Reader(url) as reader:  # as its driver does
            report.render(reader.sweep(), tmp_path / "study", reader.history)
        wait.until(lambda _: browser.find_elements("id", "details"))
    written, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert written == f"page: {tmp_path / 'study' / 'report.html'}\n"
    assert not browser.find_elements("id", "live")
    assert (tmp_path / "study" / "report.html").is_file()
    assert [one for one in browser.get_log("browser") if one["level"] == "SEVERE"] == []
    messages = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    asked = {
        one["params"]["request"]["url"]
        for one in messages
        if one["method"] == "Network.requestWillBeSent"
    }
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked
