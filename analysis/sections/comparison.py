"""The recommended trials side by side."""

from analysis.blocks import Block
from analysis.compare import differences, differing
from analysis.markdown import code, escaped, number, table
from analysis.ranking import picks
from analysis.sections.pictures import picture
from analysis.study import Study


def side_by_side(study: Study) -> list[Block]:
    """Settings in which the recommended trials differ, their metrics, and their courses."""
    uids = list(dict.fromkeys(pick.uid for pick in picks(study)))
    if len(uids) < 2:
        return []
    trials = [study.member(uid).trial for uid in uids]
    settings = [[code(key), *map(escaped, values)] for key, *values in differing(trials)]
    metrics = [
        [one.name, *(number(study.value(uid, one.name)) for uid in uids)] for one in study.metrics
    ]
    header = ["", *(f"{code(one.label)} {one.uid}" for one in trials)]
    note = (
        "Settings in which they differ, then final metrics. The sentences put each trial beside "
        "the first. Chosen for a low value, a trial stands lower than it would on new seeds."
    )
    drawn = picture(study, "comparison", "The recommended trials over training tokens")
    return [
        "## The recommended trials side by side",
        note,
        table(header, [*settings, *metrics]),
        *differences(trials, study),
        *drawn,
    ]
