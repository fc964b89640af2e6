"""The store, on SQLite and on PostgreSQL."""

import math
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from sae_sweep.errors import BadInput, CutShort, without_passwords
from sae_sweep.records import Outcome, Place, Row, TrialRecord
from sae_sweep.records.store import ClaimLost, Reader, Store, locks
from sae_sweep.records.store import owner as owners
from sae_sweep.records.store.tables import METADATA

CONFIG = {"activations": {}, "sae": {"k": 4}, "train": {}}
HERE = Place("host", "cpu (x)", 1, "abc", {"torch": "2"})
RUN = {"question": "?", "config": {"sweep": {}}, "command": "c", "git": None, "versions": {}}


def trial(uid: str, label: str = "exp2_k4") -> TrialRecord:
    return TrialRecord(uid, label, "queued", CONFIG)


def start(store: Store, *uids: str, name: str = "s") -> int:
    run = store.start_run(name, **RUN)
    store.enlist(run, [(trial(uid), {"sae.k": i}) for i, uid in enumerate(uids)])
    return run


def test_a_trial_from_claim_to_outcome(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12, "b" * 12)
        assert set(store.claim(run, ["a" * 12])) == {"a" * 12}
        store.running(run, "a" * 12, HERE)
        store.rows(
            run, [Row("a" * 12, 10, {"fvu": 0.5, "l0": 4.0}), Row("a" * 12, 20, {"fvu": 0.25})]
        )
        store.outcome(
            run, Outcome("a" * 12, "done", 20, {"fvu": 0.25}, seconds=1.5, always_on_ids=(3, 7))
        )
        store.finish_run(run)
    with Reader(store_url) as reader:
        sweep = reader.sweep("s")
        done, other = (member.trial for member in sweep.members)
        assert (done.status, done.final, done.seconds) == ("done", {"fvu": 0.25}, 1.5)
        assert (done.always_on_ids, done.host, done.threads) == ((3, 7), "host", 1)
        assert (other.status, other.error) == ("queued", None)
        assert [member.assignment for member in sweep.members] == [{"sae.k": 0}, {"sae.k": 1}]
        steps, values = reader.history(["a" * 12], "fvu")["a" * 12]
        assert (steps.tolist(), values.tolist()) == ([10, 20], [0.5, 0.25])


def test_a_repeated_report_replaces_itself(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        store.claim(run, ["a" * 12])
        store.rows(run, [Row("a" * 12, 10, {"fvu": 0.5})])
        store.rows(run, [Row("a" * 12, 10, {"fvu": 0.4})])
    with Reader(store_url) as reader:
        assert reader.history(["a" * 12], "fvu")["a" * 12][1].tolist() == [0.4]


def test_what_is_not_finite_is_kept_as_a_gap(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        store.claim(run, ["a" * 12])
        store.rows(run, [Row("a" * 12, 1, {"fvu": math.nan, "loss": math.inf, "l0": 2.0})])
        store.outcome(run, Outcome("a" * 12, "diverged", 1, {"fvu": math.nan}, "loss is nan"))
    with Reader(store_url) as reader:
        assert math.isnan(reader.history(["a" * 12], "fvu")["a" * 12][1][0])
        assert reader.sweep().members[0].trial.final == {"fvu": None}
    engine = create_engine(store_url)
    with engine.connect() as connection:
        flags = connection.execute(text("SELECT flag FROM sweep_metric WHERE value IS NULL"))
        assert {row[0] for row in flags} == {"nan", "inf"}
    engine.dispose()


def test_a_second_driver_on_the_same_sweep_is_refused(store_url) -> None:
    with Store(store_url) as one, Store(store_url) as two:
        start(one, "a" * 12)
        with pytest.raises(BadInput, match=rf"sweep.name=s is being run by process {os.getpid()}"):
            two.start_run("s", **RUN)
        start(two, "a" * 12, name="other")


def test_a_trial_is_held_by_one_driver_only(store_url) -> None:
    with Store(store_url) as one, Store(store_url) as two:
        first, second = start(one, "a" * 12), start(two, "a" * 12, name="other")
        assert set(one.claim(first, ["a" * 12])) == {"a" * 12}
        assert two.claim(second, ["a" * 12]) == {}
        one.outcome(first, Outcome("a" * 12, "interrupted", 1, {}, "left"))
        assert set(two.claim(second, ["a" * 12])) == {"a" * 12}


@pytest.fixture
def elsewhere(monkeypatch) -> Callable[[], None]:
    """Lets the drivers of before count as those of another host whose heartbeats have stopped."""

    def leave() -> None:
        host = f"host-{time.monotonic_ns()}"
        monkeypatch.setattr(owners.socket, "gethostname", lambda: host)
        monkeypatch.setattr(owners, "STALE_SECONDS", -60.0)

    return leave


WRITES = {
    "running": lambda store, run: store.running(run, "a" * 12, HERE),
    "rows": lambda store, run: store.rows(run, [Row("a" * 12, 10, {"fvu": 0.5})]),
    "outcome": lambda store, run: store.outcome(run, Outcome("a" * 12, "done", 1, {"fvu": 9.0})),
    "event": lambda store, run: store.event(run, "search", "boo"),
    "keep": lambda store, run: store.keep(run, "search", {}),
    "enlist": lambda store, run: store.enlist(run, [(trial("c" * 12), {})]),
    "claim": lambda store, run: store.claim(run, ["a" * 12]),
    "reset": lambda store, run: store.reset(run, ["a" * 12]),
    "confirm": lambda store, run: store.confirm(run),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("after", ["claim", "done", "interrupted"])
def test_a_driver_that_wakes_after_another_has_taken_over_writes_nothing(
    store_url, elsewhere, write, after
) -> None:
    with Store(store_url) as one, Store(store_url) as two:
        first = start(one, "a" * 12)
        one.claim(first, ["a" * 12])
        elsewhere()
        second = start(two, "a" * 12)
        assert set(two.claim(second, ["a" * 12])) == {"a" * 12}
        if after != "claim":
            two.outcome(second, Outcome("a" * 12, after, 1, {}, "why"))
        before = dump(store_url)
        with pytest.raises(ClaimLost):
            WRITES[write](one, first)
        one.finish_run(first)
        assert dump(store_url) == before


def dump(url: str) -> dict[str, list[tuple]]:
    """All that a store holds, but for heartbeats."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            name: sorted(
                repr({key: value for key, value in row.items() if key != "heartbeat"})
                for row in connection.execute(table.select()).mappings()
            )
            for name, table in METADATA.tables.items()
        }
    engine.dispose()
    return found


def test_numbers_of_claims_grow_even_where_a_trial_was_forgotten(store_url) -> None:
    with Store(store_url) as store:
        numbers = []
        for _ in range(3):
            run = start(store, "a" * 12)
            numbers += [store.claim(run, ["a" * 12])["a" * 12] for _ in range(2)]
            numbers.append(store.outcome(run, Outcome("a" * 12, "failed", 1, {}, "boom")))
            store.finish_run(run)
            with store.forgetting(["failed"], None):
                pass
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 6  # an outcome is accepted under the latest
    assert abs(numbers[0] / 1000 - time.time()) < 60


def test_what_a_slot_writes_under_an_earlier_claim_of_the_same_driver_is_refused(store_url) -> None:
    with Store(store_url) as store, Store(store_url) as cut_off:
        run = start(store, "a" * 12)
        cut_off._numbers = store.claim(run, ["a" * 12])
        store.claim(run, ["a" * 12])
        with pytest.raises(
            ClaimLost, match=r"the claim to trial a{12} is not this driver's any more"
        ):
            cut_off.rows(run, [Row("a" * 12, 10, {"fvu": 0.5})])
        store.rows(run, [Row("a" * 12, 10, {"fvu": 0.5})])


def test_what_was_never_claimed_is_not_written(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        for write in ("running", "rows", "outcome"):
            with pytest.raises(ClaimLost):
                WRITES[write](store, run)


def test_a_driver_that_was_frozen_asks_before_it_goes_on(store_url, elsewhere) -> None:
    with Store(store_url) as one, Store(store_url) as two:
        first = start(one, "a" * 12)
        one.confirm(first)
        elsewhere()
        start(two, "a" * 12)
        one._last_beat -= 3600  # its own thread has not beaten either
        with pytest.raises(ClaimLost, match="has taken this one for dead and closed its run"):
            one.confirm(first)


def test_a_silent_driver_whose_trials_nobody_needs_goes_on(store_url, elsewhere) -> None:
    with Store(store_url) as one, Store(store_url) as two:
        first = start(one, "a" * 12)
        one.claim(first, ["a" * 12])
        elsewhere()
        second = start(two, "b" * 12, name="other")
        two.claim(second, ["b" * 12])
        one.rows(first, [Row("a" * 12, 10, {"fvu": 0.5})])
        one.outcome(first, Outcome("a" * 12, "done", 1, {"fvu": 0.5}))


@pytest.mark.parametrize("skew", [-7200, -120, 120, 7200])
def test_clocks_that_differ_do_not_make_a_driver_dead(store_url, monkeypatch, skew) -> None:
    with Store(store_url) as one, Store(store_url) as two:
        first = start(one, "a" * 12)
        one.claim(first, ["a" * 12])
        monkeypatch.setattr(owners.socket, "gethostname", lambda: "elsewhere")
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + skew)
        with pytest.raises(BadInput, match=r"sweep.name=s is being run by process"):
            start(two, "a" * 12)
        second = start(two, "a" * 12, name="other")
        assert two.claim(second, ["a" * 12]) == {}
        with Reader(store_url) as reader:
            assert reader.sweep("s").run.alive
            assert abs(reader.sweep("other").run.started - real()) < 60


def test_a_trial_that_has_ended_is_not_claimed_again(store_url) -> None:
    with Store(store_url) as one, Store(store_url) as two:
        first, second = start(one, "a" * 12), start(two, "a" * 12, name="other")
        one.claim(first, ["a" * 12])
        one.outcome(first, Outcome("a" * 12, "done", 1, {"fvu": 0.5}))
        assert two.claim(second, ["a" * 12]) == {}


def _claim_all(url: str, name: str, uids: list[str]) -> None:
    with Store(url) as store:
        run = start(store, *uids, name=name)
        for _ in range(20):
            store.claim(run, uids)


def test_sweeps_that_share_trials_do_not_block_each_other(store_url) -> None:
    uids = [f"{i:012}" for i in range(300)]
    spawn = multiprocessing.get_context("spawn").Process
    children = [
        spawn(target=_claim_all, args=(store_url, "one", uids)),
        spawn(target=_claim_all, args=(store_url, "two", uids[::-1])),
    ]
    for child in children:  # both also find an empty database, and make its tables
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]


def _die_holding(url: str) -> None:
    store = Store(url)
    run = start(store, "a" * 12, "b" * 12)
    store.claim(run, ["a" * 12, "b" * 12])
    store.running(run, "a" * 12, HERE)
    os._exit(9)


def test_trials_of_a_dead_driver_become_interrupted_at_once(store_url) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_die_holding, args=(store_url,))
    child.start()
    child.join()
    with Store(store_url) as store:
        run = store.start_run("s", **RUN)
        found = store.trials(["a" * 12, "b" * 12])
        assert {one.status for one in found.values()} == {"interrupted"}
        assert set(store.claim(run, list(found))) == set(found)


@pytest.mark.parametrize("differs", ["host", "boot", "namespace"])
def test_where_a_process_cannot_be_looked_at_its_heartbeat_counts(differs) -> None:
    elsewhere = {**owners.current_owner(), differs: "elsewhere", "pid_started": -1}
    assert owners.state(elsewhere, owners.STALE_SECONDS - 1) == "alive"
    assert owners.state(elsewhere, owners.STALE_SECONDS + 1) == "silent"
    del elsewhere[differs]  # as an earlier version wrote it
    assert owners.state(elsewhere, 0.0) == "alive"


def test_a_later_process_with_the_same_number_is_another() -> None:
    me = owners.current_owner()
    assert owners.state(me, 9e9) == "alive"
    assert owners.state({**me, "pid_started": me["pid_started"] - 1}, 0.0) == "dead"


@pytest.mark.parametrize("pid", ["1", None, [], -1, 10**30])
def test_an_owner_that_nobody_wrote_harms_nobody(pid) -> None:
    assert owners.state({**owners.current_owner(), "pid": pid}, 9e9) in {"silent", "dead"}


def test_reset_removes_how_it_ended_and_its_metrics_and_claims_it(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        first = store.claim(run, ["a" * 12])
        store.rows(run, [Row("a" * 12, 1, {"fvu": 1.0})])
        store.outcome(run, Outcome("a" * 12, "failed", 1, {}, "boom"))
        assert store.trials(["a" * 12])["a" * 12].error == "boom"
        assert store.reset(run, ["a" * 12])["a" * 12] > first["a" * 12]
        assert store.trials(["a" * 12])["a" * 12].error is None
    with Reader(store_url) as reader:
        assert reader.history(["a" * 12], "fvu") == {}


def test_what_another_driver_trains_is_not_reset(store_url) -> None:
    with Store(store_url) as one, Store(store_url) as two:
        first, second = start(one, "a" * 12), start(two, "a" * 12, name="other")
        one.claim(first, ["a" * 12])
        one.rows(first, [Row("a" * 12, 1, {"fvu": 1.0})])
        assert two.reset(second, ["a" * 12]) == {}
        assert one.history(["a" * 12], "fvu").keys() == {"a" * 12}


def test_forget_removes_by_status_and_sweep(store_url) -> None:
    with Store(store_url) as store:
        for name, uid in (("s", "a" * 12), ("t", "b" * 12)):
            run = start(store, uid, name=name)
            store.claim(run, [uid])
            store.rows(run, [Row(uid, 1, {"fvu": 1.0})])
            store.outcome(run, Outcome(uid, "failed", 1, {}, "boom"))
            store.finish_run(run)
        with store.forgetting(["failed"], "s") as found:
            assert [one.uid for one in found] == ["a" * 12]
        assert list(store.trials(["a" * 12, "b" * 12])) == ["b" * 12]


def test_forget_is_refused_while_a_sweep_counts_on_the_trial(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        store.claim(run, ["a" * 12])
        store.outcome(run, Outcome("a" * 12, "failed", 1, {}, "boom"))
        refused = pytest.raises(BadInput, match="belong to a running sweep")
        with refused, store.forgetting(["failed"], None):
            pass
        store.finish_run(run)
        with store.forgetting(["failed"], None) as found:
            assert len(found) == 1


def test_events_are_kept_in_order(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        store.claim(run, ["a" * 12])
        store.outcome(run, Outcome("a" * 12, "failed", 1, {}, "boom"))
        store.event(run, "slot_died", "killed")
    with Reader(store_url) as reader:
        kinds = [(event.kind, event.uid) for event in reader.events(run)]
    assert kinds == [("failed", "a" * 12), ("slot_died", None)]


def test_the_digest_changes_with_the_records_only(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        store.finish_run(run)
        with Reader(store_url) as reader:
            before = reader.sweep("s").digest
        run = start(store, "a" * 12)
        store.claim(run, ["a" * 12])
        store.outcome(run, Outcome("a" * 12, "interrupted", 1, {}, "left"))
        with Reader(store_url) as reader:
            between = reader.sweep("s").digest
        store.claim(run, ["a" * 12])
        store.outcome(run, Outcome("a" * 12, "done", 1, {"fvu": 0.5}))
        assert between != before
        with Reader(store_url) as reader:
            assert reader.sweep("s").digest != before


def test_a_reader_cannot_write(store_url) -> None:
    Store(store_url).close()
    deletion = text("DELETE FROM sweep_meta")
    refused = pytest.raises(DBAPIError, match=r"read-?only")
    with Reader(store_url) as reader, reader._engine.connect() as connection, refused:
        connection.execute(deletion)


def test_a_trial_is_found_by_label_folder_or_beginning(store_url) -> None:
    with Store(store_url) as store:
        run = store.start_run("s", **RUN)
        store.enlist(
            run, [(trial("abc" + "0" * 9, "one"), {}), (trial("abd" + "0" * 9, "two"), {})]
        )
    with Reader(store_url) as reader:
        for name in ("one", "abc", "one-abc000000000"):
            assert reader.find(name).label == "one"
        with pytest.raises(BadInput, match="ab names 2 trials"):
            reader.find("ab")
        with pytest.raises(BadInput, match="no trial is called x_y"):
            reader.find("x_y")


def test_an_unknown_sweep_is_named_with_those_that_exist(store_url) -> None:
    with Store(store_url) as store, Reader(store_url) as reader:
        with pytest.raises(BadInput, match="holds no sweep yet"):
            reader.sweep()
        store.start_run("s", **RUN)
        with pytest.raises(BadInput, match="no sweep is called t: there are s"):
            reader.sweep("t")


def test_no_store_is_said(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"no store at .*nothing\.db: run a sweep first"):
        Reader(f"sqlite:///{tmp_path / 'nothing.db'}")


def test_a_file_that_is_no_database_is_refused(tmp_path) -> None:
    (tmp_path / "x.db").write_text("hello " * 1000)
    for opened in (Store, Reader):
        with pytest.raises(BadInput, match=r"cannot be used .*not a database"):
            opened(f"sqlite:///{tmp_path / 'x.db'}")


def test_a_database_of_somebody_else_is_refused(tmp_path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE trials (x)")
    connection.close()
    for opened in (Store, Reader):
        with pytest.raises(BadInput, match="is not a store of sae_sweep"):
            opened(f"sqlite:///{tmp_path / 'x.db'}")


def test_a_newer_schema_is_refused(store_url) -> None:
    Store(store_url).close()
    engine = create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE sweep_meta SET value = '99'"))
    engine.dispose()
    for opened in (Store, Reader):
        with pytest.raises(BadInput, match="has schema 99, this version reads 2: update"):
            opened(store_url)


def test_a_store_of_the_first_schema_is_read_as_it_is_and_brought_up_to_date(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        store.claim(run, ["a" * 12])
        store.outcome(run, Outcome("a" * 12, "done", 1, {"fvu": 0.5}))
        store.finish_run(run)
    engine = create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE sweep_trial DROP COLUMN claim"))
        connection.execute(text("DELETE FROM sweep_meta WHERE key = 'claim'"))
        connection.execute(text("UPDATE sweep_meta SET value = '1' WHERE key = 'schema'"))
        connection.execute(text("UPDATE sweep_run SET owner = '{}'"))
    engine.dispose()
    with Reader(store_url) as reader:
        before = reader.sweep("s")
        assert before.members[0].trial.final == {"fvu": 0.5}
    for _ in range(2):
        with Store(store_url) as store:
            run = start(store, "a" * 12, "b" * 12)
            assert store.claim(run, ["a" * 12, "b" * 12]).keys() == {"b" * 12}
            store.finish_run(run)
    with Reader(store_url) as reader:
        assert reader.sweep("s").members[0] == before.members[0]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://u:secret@h/d", "names mysql: only sqlite and postgresql"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/d", "cannot be reached"),
        ("postgresql+nodriver://u:secret@127.0.0.1:1/d", "needs a driver that is not installed"),
    ],
)
def test_an_unusable_url_is_explained_without_its_password(url, message) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        Store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://u:secret@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgresql://h/d?user=u&password=secret&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("sqlite:///out/sae_sweep.db", "sqlite:///out/sae_sweep.db"),
    ],
)
def test_passwords_are_masked_wherever_they_stand(url, shown) -> None:
    assert without_passwords(url) == shown
    assert str(BadInput(f"store.url={url} is bad")) == f"store.url={shown} is bad"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused(url) -> None:
    with pytest.raises(BadInput, match="names no file: use sqlite:///FILE"):
        Store(url)


def test_a_store_below_a_file_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="its folder cannot be made"):
        Store(f"sqlite:///{tmp_path / 'file' / 'x.db'}")


def test_a_database_that_fails_on_the_way_is_said_in_words(tmp_path) -> None:
    refused = pytest.raises(BadInput, match=r"cannot be (used|reached) \(no such table.*continues")
    with refused, Store(f"sqlite:///{tmp_path / 'x.db'}") as store:
        run = start(store, "a" * 12)
        connection = sqlite3.connect(tmp_path / "x.db")
        connection.execute("DROP TABLE sweep_event")
        connection.close()
        store.event(run, "failed", "boom")


def test_an_end_is_recorded_with_its_event_or_not_at_all(tmp_path) -> None:
    failed = pytest.raises(CutShort, match="no such table")
    with failed, Store(f"sqlite:///{tmp_path / 'x.db'}") as store:
        run = start(store, "a" * 12)
        store.claim(run, ["a" * 12])
        connection = sqlite3.connect(tmp_path / "x.db")
        connection.execute("DROP TABLE sweep_event")
        connection.close()
        store.outcome(run, Outcome("a" * 12, "done", 1, {"fvu": 0.5}))
    with Reader(f"sqlite:///{tmp_path / 'x.db'}") as reader:
        assert reader.find("a" * 12).status == "queued"


def test_an_end_that_is_recorded_again_stays_one_end(store_url) -> None:
    with Store(store_url) as store:
        run = start(store, "a" * 12)
        store.claim(run, ["a" * 12])
        for _ in range(2):
            store.outcome(run, Outcome("a" * 12, "done", 1, {"fvu": 0.5}))
    with Reader(store_url) as reader:
        assert [event.kind for event in reader.events(run)] == ["done"]


def test_records_load_no_database_until_a_store_is_opened() -> None:
    code = (
        "import sys, sae_sweep.records; "
        "print({'sqlalchemy', 'torch', 'ray', 'hydra'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_who_holds_the_lock_of_a_file_is_named_and_not_waited_for_without_end(
    tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(locks, "SAID_SECONDS", 0.1)
    file = tmp_path / "s.db"
    with Store(f"sqlite:///{file}") as store:
        run = start(store, "a" * 12)
        frozen = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert frozen.stdout is not None
            assert frozen.stdout.readline() == b"held\n"
            frozen.send_signal(signal.SIGSTOP)
            monkeypatch.setattr(locks, "WAIT_SECONDS", 0.5)
            with pytest.raises(
                CutShort, match=rf"s\.db is locked by process {frozen.pid} \(stopped\) for more .*"
            ):
                store.event(run, "search", "x")
            waiting = f"waiting for the lock of {file}, which process {frozen.pid} (stopped) holds"
            assert waiting in caplog.messages
        finally:
            frozen.kill()
            frozen.communicate()
        own = sqlite3.connect(file, isolation_level=None)
        own.execute("BEGIN IMMEDIATE")
        with pytest.raises(CutShort, match=r"is locked by another thread of this process for more"):
            store.event(run, "search", "x")
        own.close()
        store.event(run, "search", "y")
        store.finish_run(run)
