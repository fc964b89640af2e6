"""Every public function has an example in its docstring, and every example runs."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sae_sweep import records, sae

ANALYSIS = (
    "analysis.foreign.import_sweep",
    "analysis.study.table.load",
    "analysis.data.runs",
    "analysis.findings.fronts.fronts",
    "analysis.report.render",
)
"""What `analysis/__init__.py` names as its functions."""


def exported(package: ModuleType) -> list[Any]:
    """The functions of a package's `__all__`, and its classes that a user makes or reads."""
    found = [getattr(package, name) for name in package.__all__]
    return [one for one in found if inspect.isfunction(one)]


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


PUBLIC = [
    *exported(records),
    records.Metric,
    records.TrialRecord,
    *exported(sae),
    sae.Normalisation,
    *map(named, ANALYSIS),
]


@pytest.mark.parametrize("one", PUBLIC, ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_an_example_runs(one: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = import_module(one.__module__)
    own = doctest.DocTestFinder(recurse=False).find(one, one.__name__, module, vars(module).copy())
    (example,) = own
    assert example.examples, f"{one.__name__} has no example"
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


def test_the_analysis_package_names_its_functions() -> None:
    text = " ".join((import_module("analysis").__doc__ or "").split())
    for path in ANALYSIS:
        assert f"`{path.removeprefix('analysis.')}`" in text, path
