"""What a hyperparameter improves at the cost of something else."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.findings.effect_tests import Effect
from analysis.page import wording
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import escaped, table

PRICES = {"sae.k": "l0", "sae.n_latents": "n_latents", "sae.expansion_factor": "n_latents"}
"""What grows with a setting by construction, and is paid for what it improves."""


@dataclass(frozen=True)
class TradeOff:
    """Larger is better for one metric and worse for another."""

    hyperparameter: str
    better: str
    worse: str
    q_better: float
    q_worse: float
    price: str | None
    """What a larger value costs by construction."""

    @property
    def words(self) -> str:
        """The sentence."""
        price = "" if self.price is None else f", and by construction with more {self.price}"
        return (
            f"**{escaped(self.hyperparameter)}, a trade-off:** larger goes with better "
            f"{self.better} (q {wording.equals(self.q_better)}) and with worse {self.worse} "
            f"(q {wording.equals(self.q_worse)}){price}."
        )


@dataclass(frozen=True)
class WinWin:
    """One direction is better for two metrics."""

    hyperparameter: str
    larger: bool
    """Whether larger is better, not smaller."""
    first: str
    second: str
    q_first: float
    q_second: float
    price: str | None
    """What a larger value costs by construction."""

    @property
    def words(self) -> str:
        """The sentence."""
        price = ""
        if self.price is not None:
            price = (
                f"; the price is more {self.price}" if self.larger else f", and less {self.price}"
            )
        return (
            f"**{escaped(self.hyperparameter)}:** {'larger' if self.larger else 'smaller'} goes "
            f"with better {self.first} (q {wording.equals(self.q_first)}) and with better "
            f"{self.second} (q {wording.equals(self.q_second)}){price}."
        )


def tradeoffs(context: ReportContext) -> list[Block]:
    """A row a hyperparameter with a claimed direction; sentences where two of them are claimed."""
    study = context.study
    if not study.hyperparameters or study.ranked.empty:
        return []
    estimates = effect_tests.estimate(study)
    signed = [one for one in estimates.found if _sign(one)]
    claims = [
        claim
        for one in study.hyperparameters
        for claim in _claims([effect for effect in signed if effect.hyperparameter is one])
    ]
    if not claims:
        return []
    metrics = [one.name for one in effect_tests.outcomes(study)]
    rows = []
    for one in study.hyperparameters:
        cells = {
            effect.metric.name: "better" if _sign(effect) > 0 else "worse"
            for effect in signed
            if effect.hyperparameter is one
        }
        rows.append([escaped(one.name), *(cells.get(name, "not claimed") for name in metrics)])
    note = "What a larger value goes with; only effects whose direction is claimed above."
    return ["## Trade-offs", note, *claims, table(["hyperparameter", *metrics], rows, left=9)]


def _sign(one: Effect) -> int:
    """1 where larger is better, -1 where worse, 0 where no direction is claimed."""
    if not one.sign or one.metric.direction == "none":
        return 0
    return 1 if (one.sign > 0) == (one.metric.direction == "up") else -1


def _claims(signed: list[Effect]) -> Iterator[Claim]:
    for a, b in combinations(signed, 2):
        name, price = a.hyperparameter.name, PRICES.get(a.hyperparameter.key)
        if _sign(a) == _sign(b):
            names = a.metric.name, b.metric.name
            yield WinWin(name, _sign(a) > 0, *names, a.q, b.q, price)
        else:
            better, worse = (a, b) if _sign(a) > 0 else (b, a)
            yield TradeOff(name, better.metric.name, worse.metric.name, better.q, worse.q, price)
