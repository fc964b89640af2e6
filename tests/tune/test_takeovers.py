"""Two real drivers on one sweep: frozen, cut off, with clocks that differ, in other namespaces."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import fault_cases as cases
from benchmarks import fault_sweep as sweeps
from benchmarks import fault_takeovers as takeovers
from benchmarks.fault_takeovers import PATIENT_SECONDS, STALE_SECONDS, host

FEW = ("search=random", "search.samples=4")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> sweeps.Course:
    """An undisturbed sweep."""
    with sweeps.Sweep(tmp_path_factory.mktemp("whole") / "outputs", "inline", *FEW) as sweep:
        cases.undisturbed(sweep)
        return sweep.course()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    """The words that name a store which two drivers share."""
    if request.param == "sqlite":
        yield ()
        return
    try:
        server = cases.Postgres()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    yield (f"store.url={server.url}",)
    server.close()


def pair(folder: Path, words: tuple[str, ...], names: tuple[str, str], **second: float):
    """The same sweep for drivers on two hosts."""
    stale = second.pop("stale", STALE_SECONDS)
    environments = host(names[0], stale=stale), host(names[1], stale=stale, **second)
    return [sweeps.Sweep(folder, "inline", *FEW, *words, **one) for one in environments]


@pytest.mark.parametrize("until_done", [None, 2])
def test_a_frozen_driver_that_wakes_has_lost_its_trials_and_says_so(
    tmp_path, whole, store, until_done
) -> None:
    one, other = pair(tmp_path, store, ("a", "b"))
    with one, other:
        struck = takeovers.frozen(one, other, until_done=until_done)
        assert sweeps.problems(struck, one.course(), whole) == []
        assert "lost: another driver has taken this one for dead" in struck.said
        assert ("to continue: python -m sae_sweep" in struck.said) == (until_done is not None)


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_a_clock_that_differs_does_not_make_a_driver_dead(tmp_path, whole, skew) -> None:
    one, other = pair(tmp_path, (), ("a", "b"), skew=skew, stale=PATIENT_SECONDS)
    with one, other:
        struck = takeovers.not_dead(one, other, "its clock")
        assert sweeps.problems(struck, one.course(), whole) == []


def test_a_driver_in_another_pid_namespace_is_not_dead(tmp_path, whole) -> None:
    if not takeovers.namespaces_allowed():
        pytest.skip("no PID namespace can be made here")
    name = socket.gethostname()
    one, other = pair(tmp_path, (), (name, name), stale=PATIENT_SECONDS)
    other.within = takeovers.IN_A_NAMESPACE
    with one, other:
        struck = takeovers.not_dead(one, other, "its namespace")
        assert sweeps.problems(struck, one.course(), whole) == []
