"""Every sentence prints the fields that it is made of, and no number that is not one of them."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from made_sweeps import Ran, grid, ground_truth, in_model, right_l0, write_store
from quality_sweeps import l1_sweep, layers, published_grid, two_kinds, write_tables
from test_claims import made
from test_claims_designs import categories, confounded, few, together
from test_claims_effects import trials
from test_claims_ranks import odd, seeded, uneven_noise
from test_claims_stopping import CONFIG
from test_claims_stopping import made as reporting

from analysis.contents import TOPICS
from analysis.context import ReportContext
from analysis.page.blocks import Claim
from analysis.study.table import load
from analysis.topics import summary
from sae_sweep.records.references import Reference
from sae_sweep.records.store import Reader

pytestmark = pytest.mark.slow

NUMBER = re.compile(r"(?<![\w.])[-+\N{MULTIPLICATION SIGN}]?\d[\d,.]*(?:e[-+]?\d+)?")
SILENT = {(kind, "uid") for kind in ("SpreadOverGroups", "SpecificLatents", "TrialGrades")}
"""Names a trial again, for who reads claims.json."""
CONSTANTS = {"95"}
"""What a sentence may print without a field: the level of every interval."""
LIMITS = {
    "BestAtEdge": {"5"},
    "Counts": {"1"},
    "NoWidthLaw": {"3"},
    "Outlying": {"3.5"},
    "ShortTraining": {"10,000,000"},
    "SpecificLatents": {"2"},
    "TooFewForImportance": {"5"},
    "TooFewPoints": {"3"},
}
"""Thresholds of this package that a kind of sentence names."""
ELSEWHERE = Reference(
    "theirs", "saelens", "topk", 64, "f" * 64, "a" * 12, metrics={"fvu": 0.21, "l0": 7.5}
)
SWEEPS: dict[str, tuple[list[Ran], dict[str, Any]]] = {
    "grid": (grid(), {}),
    "effects": (trials(), {}),
    "confounded": (confounded(), {}),
    "categories": (categories(), {}),
    "together": (together(), {}),
    "few": (few(), {}),
    "odd": (odd(), {}),
    "seeded": (seeded(), {}),
    "uneven": (uneven_noise(), {}),
    "random": (made(3), {}),
    "published": (published_grid(), {}),
    "kinds": (two_kinds(), {}),
    "layers": (layers(), {}),
    "l1": (l1_sweep(), {"config": {"search": {"kind": "target", "target": 0.05, "trials": 15}}}),
    "stopping": (reporting(), {"config": CONFIG}),
    "in model": (in_model(), {}),
    "truth": (ground_truth(), {}),
    "l0": (right_l0(), {}),
}


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> list[Claim]:
    """Of every sweep the first two sentences of each kind."""
    found: dict[tuple[str, str], list[Claim]] = {}
    for name, (ran, run) in SWEEPS.items():
        folder = tmp_path_factory.mktemp(name)
        write_tables(folder, ran)
        with Reader(write_store(folder, ran, **run)) as reader:
            study = dataclasses.replace(
                load(reader.sweep()),
                history=reader.history,
                trials_folder=folder / "trials",
                references=(ELSEWHERE,),
            )
            context = ReportContext(study)
            sections = [summary.summary, *(topic.section for topic in TOPICS)]
            for section in sections:
                for block in section(context):
                    if not isinstance(block, str):
                        found.setdefault((name, type(block).__name__), []).append(block)
    return [claim for of in found.values() for claim in of[:2]]


def others(value: Any) -> Iterator[Any]:
    """Values of the same type that print otherwise."""
    match value:
        case bool():
            yield not value
        case int():
            yield from (value + 1, value + 17)
        case float():
            yield from (value * 1.37, value * 137, -value, value + 0.51)
        case str():
            yield from (value + "x", "fvu", "l0", "dead_features", "lower", "smallest")
        case tuple():
            for i, one in enumerate(value):
                for other in others(one):
                    yield (*value[:i], other, *value[i + 1 :])


def changed(claim: Any, name: str) -> Iterator[str]:
    """The sentence with another value of one field, where such a sentence can be said.

    Fields that are equal (the fewest tokens and the most) are also changed together: they may
    be printed as one.
    """
    value = getattr(claim, name)
    fields = [one.name for one in dataclasses.fields(claim)]
    equal = [one for one in fields if one == name or getattr(claim, one) == value]
    for names, other in itertools.product([[name], equal], others(value)):
        try:
            words = dataclasses.replace(claim, **dict.fromkeys(names, other)).words
        except (KeyError, ValueError, OverflowError):
            continue
        if words != claim.words:
            yield words


def test_every_field_is_printed(claims: list[Claim]) -> None:
    unsaid: dict[tuple[str, str], str] = {}
    said = set(SILENT)
    for claim in claims:
        for field in dataclasses.fields(claim):
            key, value = (type(claim).__name__, field.name), getattr(claim, field.name)
            if key in said or value is None or value == ():
                continue
            if any(changed(claim, field.name)):
                said.add(key)
            else:
                unsaid[key] = claim.words
    assert {key: words for key, words in unsaid.items() if key not in said} == {}


def test_every_number_is_a_field(claims: list[Claim]) -> None:
    loose = {}
    for claim in claims:
        told = NUMBER.findall(claim.words)
        fixed = set(range(len(told)))
        for field in dataclasses.fields(claim):
            text = str(getattr(claim, field.name))
            fixed -= {i for i in fixed if told[i].rstrip(".,") in text}
            for words in changed(claim, field.name):
                other = NUMBER.findall(words)
                if len(other) == len(told):
                    fixed -= {i for i in fixed if other[i] != told[i]}
        if (
            left := {told[i].rstrip(".,") for i in fixed}
            - CONSTANTS
            - LIMITS.get(type(claim).__name__, set())
        ):
            loose[type(claim).__name__] = (left, claim.words)
    assert not loose, "\n".join(f"{kind}: {left}" for kind, left in loose.items())
