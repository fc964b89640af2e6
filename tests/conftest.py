"""What every test shares: stores on both databases, quiet caches, one thread."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sae_sweep.process import collect_rarely

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLCONFIGDIR", tempfile.mkdtemp(prefix="matplotlib-"))
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TRITON_INTERPRET", "1")  # before a module with kernels is imported

collect_rarely()  # as commands do

# a busy machine makes single examples slow, which says nothing of the code
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

POSTGRES = "SAE_SWEEP_TEST_POSTGRES"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out, with the reason, what needs a GPU where there is none."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="module", autouse=True)
def _without_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the figures of reports out, which take seconds, but in modules marked `figures`."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("figures") is None:
            patch.setattr("analysis.contents.draw", lambda *_: {})
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_interpreter() -> None:
    """Let Triton's interpreter patch its language once, not at every call of a function.

    It undoes the patch after every launch for those who also compile in this process: nobody does
    here, and that takes two fifths of a kernel's time. Another fifth goes into looking for integers
    that overflow, which tests are too small for, a tenth into the same table of types at every use.
    """
    if os.environ["TRITON_INTERPRET"] != "1":
        return
    from triton.runtime import interpreter

    patch, patched = interpreter._patch_lang, set[str]()

    def once(function: Any) -> interpreter._LangPatchScope:
        if function.__module__ not in patched:
            patch(function)
            patched.add(function.__module__)
        return interpreter._LangPatchScope()  # nothing to undo

    find, known = interpreter._get_np_dtype, dict[str, Any]()

    def np_dtype(dtype: Any) -> Any:
        name = str(dtype.scalar)
        if name not in known:
            known[name] = find(dtype)
        return known[name]

    interpreter._patch_lang = once
    interpreter._get_np_dtype = np_dtype
    options = interpreter.InterpreterOptions(sanitize_overflow=False)
    interpreter.interpreter_builder.options = options


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL database that only this process uses."""
    url = os.environ.get(POSTGRES)
    if url is None:
        assert not os.environ.get("CI"), f"{POSTGRES} must be set in CI"
        pytest.skip(f"{POSTGRES} is not set: no PostgreSQL server to test against")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        yield url
        return
    from sqlalchemy import create_engine, make_url, text

    own = make_url(url).set(database=f"{make_url(url).database}_{worker}")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"drop database if exists {own.database}"))
        connection.execute(text(f"create database {own.database}"))
        yield own.render_as_string(hide_password=False)
        connection.execute(text(f"drop database {own.database} with (force)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store, once a database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    url = request.getfixturevalue("postgres_url")
    empty(url)
    yield url
    empty(url)


def empty(url: str) -> None:
    from sqlalchemy import create_engine

    from sae_sweep.records.store.tables import METADATA

    engine = create_engine(url)
    METADATA.drop_all(engine)
    engine.dispose()
