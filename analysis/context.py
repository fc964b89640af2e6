"""Context of a report's topics: the study, the options and the figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from analysis.findings import fronts, thresholds
from analysis.findings.fronts import Front
from analysis.findings.thresholds import Thresholds
from analysis.study.table import Study

REPORT_VERSION = 3
"""Version of the report that the same records give."""


@dataclass(frozen=True, eq=False)
class ReportContext:
    """One report."""

    study: Study
    figures: Mapping[str, str] = field(default_factory=dict)
    """The caption of each figure that was drawn, by its name without folder and suffix."""
    objectives: tuple[tuple[str, ...], ...] = ()
    """Requested fronts, by their objectives' names."""
    bands: Thresholds | None = None
    """The scorecard's bands; None: the table that comes with this package."""

    @cached_property
    def fronts(self) -> list[Front]:
        """The default fronts, then the requested ones."""
        usual = fronts.fronts(self.study)
        known = {tuple(one.name for one in front.objectives) for front in usual}
        asked = [names for names in dict.fromkeys(self.objectives) if names not in known]
        if self.study.configurations.empty:
            return []
        return [*usual, *(fronts.front(self.study, list(names)) for names in asked)]

    @cached_property
    def thresholds(self) -> Thresholds:
        """The scorecard's bands."""
        return self.bands or thresholds.load()

    def picture(self, name: str, words: str) -> list[str]:
        """The line that shows a figure, where it was drawn."""
        return [f"![{words}](figures/{name}.png)"] if name in self.figures else []
