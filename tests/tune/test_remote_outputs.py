"""Sweeps whose machines share nothing but an S3 server and a database."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_sweeps as sweeps
from s3_server import BUCKET, S3, serving

from sae_sweep.records import TrialRecord
from sae_sweep.records.store import Reader
from sae_sweep.remote import INDEX, VARIABLE, Remote

pytestmark = pytest.mark.slow

POSTGRES = pytest.param("postgresql", marks=pytest.mark.postgres)
on_postgres = pytest.mark.parametrize("store_url", [POSTGRES], indirect=True)

PORT = 6398
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
RESULTS = {"config.json", "latents.parquet", "sae.safetensors", INDEX}
SAVED = ("train.lr=1e-3", "train.epochs=3", "train.checkpoint_every=10")
"""Two trials that are often saved."""


@pytest.fixture
def s3(monkeypatch) -> Iterator[S3]:
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def there(s3, tmp_path) -> Remote:
    """Outputs that are nobody's mirror."""
    return Remote(f"s3://{BUCKET}/{uuid.uuid4().hex}", tmp_path / "nobody")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, str]:
    """The weights of the same sweep in a plain folder."""
    folder = tmp_path_factory.mktemp("plain")
    sweeps.run(folder, "inline")
    return {label: weights for label, (_, weights) in sweeps.results(folder).items()}


@pytest.fixture(scope="module")
def plain_saved(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plain")
    sweeps.run(folder, "inline", *SAVED)
    return {label: weights for label, (_, weights) in sweeps.results(folder).items()}


@pytest.fixture
def on(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Goes on working on another machine; gives the folder of its mirrors."""

    def machine(name: str) -> Path:
        monkeypatch.setenv(VARIABLE, str(tmp_path / name))
        return tmp_path / name

    return machine


def trials(url: str) -> list[TrialRecord]:
    with Reader(url) as reader:
        return list(reader.sweep("tiny").trials)


def weights(there: Remote, url: str) -> dict[str, str]:
    """Hashes of the weights of every trial, which are all done and in place."""
    found = {}
    for trial in trials(url):
        assert trial.status == "done"
        assert there.names(f"trials/{trial.folder}") == RESULTS
        there.mirror.mkdir(exist_ok=True)
        there.get(f"trials/{trial.folder}/sae.safetensors", there.mirror / "weights")
        found[trial.label] = hashlib.sha256((there.mirror / "weights").read_bytes()).hexdigest()
    return found


def command(*words: str) -> str:
    code, text = sweeps.forked(list(words))
    assert code == 0, text
    return text


@on_postgres
def test_a_sweep_ends_on_one_machine_and_is_read_on_others(there, s3, store_url, plain, on) -> None:
    words = (there.url, "inline", f"store.url={store_url}")
    on("a")
    text = sweeps.run(*words)
    assert f"published: {there.url}/tiny/report.md" in text
    assert {"report.md", "details.md", "data/grid_metrics.json"} < there.names("tiny")
    assert weights(there, store_url) == plain

    on("b")
    assert "nothing to train" in sweeps.run(*words)

    machine = on("c")
    outputs = ["--outputs", there.url, "--store", store_url]
    assert f"published: {there.url}/tiny/report.md" in command("report", "tiny", *outputs)
    label = trials(store_url)[0].label
    command("export", label, "--format", "saelens", *outputs)
    assert len(list(machine.glob("*/trials/*/saelens"))) == 1

    lost, other = (f"trials/{one.folder}" for one in trials(store_url)[:2])
    s3.client.delete_object(Bucket=BUCKET, Key=f"{there.url.split('/')[3]}/{lost}/sae.safetensors")
    assert f"lack their weights: {Path(lost).name} (gone)" in sweeps.run(*words)
    before = {one.uid: one.finished for one in trials(store_url)}
    sweeps.run(*words, "rerun=weights")
    changed = [one.folder for one in trials(store_url) if one.finished != before[one.uid]]
    assert changed == [Path(lost).name]
    assert weights(there, store_url) == plain

    command("forget", "--status", "done", *outputs)
    assert there.names("trials") == set()
    assert other not in there.names("trials")


@on_postgres
@pytest.mark.parametrize("name", ["sae.safetensors", "manifest.json"])
def test_a_machine_that_dies_in_an_upload_leaves_nothing_half_written(
    there, s3, store_url, plain_saved, on, name
) -> None:
    words = (there.url, "inline", f"store.url={store_url}", *SAVED)
    on("a")
    with s3.holding(name) as begun:
        process = sweeps.start(*words)
        sweeps.wait_until(begun.is_set, process)
        assert sweeps.kill(process) == -signal.SIGKILL
    folders = {one.rpartition("/")[0] for one in s3.objects() if one.endswith(INDEX)}
    assert all(name not in one for one in s3.objects())
    expected = "/activations/" if name != "manifest.json" else "no folder"
    assert all(expected in one for one in folders), folders

    on("b")
    sweeps.run(*words)
    assert weights(there, store_url) == plain_saved


@on_postgres
def test_a_trial_that_was_cut_off_goes_on_on_another_machine(
    there, s3, store_url, plain_saved, on
) -> None:
    words = (there.url, "inline", f"store.url={store_url}", *SAVED)
    on("a")
    process = sweeps.start(*words)
    state = "resume.safetensors"
    sweeps.wait_until(lambda: any(one.endswith(state) for one in s3.objects()), process)
    sweeps.kill(process)
    saved = {one for one in s3.objects() if one.endswith(state)}
    on("b")
    s3.asked.clear()
    sweeps.run(*words)
    read = {path.removeprefix(f"/{BUCKET}/") for method, path in s3.asked if method == "GET"}
    assert saved
    assert saved <= read
    assert weights(there, store_url) == plain_saved


@on_postgres
def test_a_bucket_that_stops_answering_ends_the_sweep_and_the_same_command_continues(
    there, s3, store_url, plain, on
) -> None:
    words = (there.url, "inline", f"store.url={store_url}")
    on("a")
    s3.refuses = lambda method, path: method == "PUT" and path.endswith("/sae.safetensors")
    text = sweeps.run(*words, code=1)
    assert f"outputs={there.url} cannot be written (" in text
    assert text.count("the same command continues") == 1
    s3.refuses = lambda method, path: False
    sweeps.run(*words)
    assert weights(there, store_url) == plain


def test_a_bucket_without_rights_is_one_message_before_any_work(s3, on) -> None:
    machine = on("a")
    store = "store.url=postgresql+psycopg://nobody@127.0.0.1:1/none"
    text = sweeps.run("s3://not-there/x", "inline", store, code=2)
    assert "sae_sweep: outputs=s3://not-there/x cannot be used (" in text
    assert len(text.splitlines()) == 1
    s3.refuses = lambda method, path: method == "PUT"
    text = sweeps.run(f"s3://{BUCKET}/x", "inline", store, code=2)
    assert "need rights to list, read, write and delete there" in text
    assert len(text.splitlines()) == 1
    assert list(machine.glob("*/activations/*")) == []


@pytest.fixture
def nodes(s3, tmp_path, monkeypatch) -> Iterator[list[Path]]:
    """Folders of the two nodes of a Ray cluster, each with mirrors of its own and one core."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    kinds = {
        "one": ["--head", f"--port={PORT}", "--include-dashboard=false"],
        "two": [f"--address=127.0.0.1:{PORT}"],
    }
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        try:
            for name, words in kinds.items():
                (tmp_path / name).mkdir()
                with (tmp_path / f"{name}.log").open("wb") as log:
                    node = subprocess.Popen(
                        [*RAY, "start", "--block", "--num-cpus=1", *words],
                        **{"stdout": log, "stderr": log, "start_new_session": True},
                        cwd=tmp_path / name,
                        env={
                            **os.environ,
                            "RAY_worker_niceness": "0",
                            VARIABLE: str(tmp_path / name),
                        },
                    )
                started.append(node)
                sweeps.wait_until(Path(folder, "ray", "ray_current_cluster").exists, node)
            yield [tmp_path / name for name in kinds]
        finally:
            for node in started:
                sweeps.kill_group(node)


@on_postgres
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_nodes_that_share_no_folder_train_one_sweep(
    there, s3, store_url, plain_saved, on, nodes
) -> None:
    driver = on("driver")
    shard = "/train-00000.safetensors"

    def meet(method: str, path: str) -> None:  # nobody ends a trial before both have begun
        deadline = time.monotonic() + 200
        while method == "PUT" and path.endswith("/sae.safetensors") and time.monotonic() < deadline:
            if sum(asked == "GET" and of.endswith(shard) for asked, of in s3.asked) == len(nodes):
                return
            time.sleep(0.1)

    s3.before = meet
    words = [f"executor.address=127.0.0.1:{PORT}", "executor.slots=2", "executor.cohort=1"]
    with sweeps.start(there.url, "ray", f"store.url={store_url}", *words, *SAVED) as process:
        said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert weights(there, store_url) == plain_saved
    for machine in (driver, *nodes):  # each has the shards in a folder of its own
        assert len(list(machine.glob("*/activations/*/train-00000.safetensors"))) == 1
        assert list(machine.glob("*/trials/*/claim-*")) == []
    assert sum(asked == "GET" and of.endswith(shard) for asked, of in s3.asked) == len(nodes)
