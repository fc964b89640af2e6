"""What each hyperparameter goes with, by itself and with the others held."""

from collections.abc import Iterator

from analysis import scales, verdicts, wording
from analysis.adjusted import FEWEST_RESIDUAL
from analysis.blocks import Block
from analysis.effects import PERMUTED_UP_TO, Correlation
from analysis.markdown import MISSING, counted, escaped, listed, table
from analysis.resampling import FEWEST, RESAMPLES
from analysis.sections import effect_claims
from analysis.sections.pictures import picture
from analysis.study import Study
from analysis.verdicts import Effect, Effects


def effects(study: Study) -> list[Block]:
    """Two tables a main metric, alone and with the others held, and what they allow to say."""
    title = "## Effects of the hyperparameters"
    if not study.hyperparameters:
        return [f"{title}\n\nNo setting varies in this sweep."]
    if study.ranked.empty:
        return [f"{title}\n\nNo trial is ranked yet."]
    judged = verdicts.judge(study)
    parts: list[Block] = [title, _note(study, judged), *effect_claims.general(judged)]
    for metric in verdicts.outcomes(study):
        better = "higher" if metric.direction == "up" else "lower"
        found = judged.of(metric)
        parts += [
            f"### {metric.name} ({better} is better)",
            *effect_claims.of_metric(metric, found),
            *_tables(found),
            *picture(study, f"effects_{metric.name}", f"{metric.name} by hyperparameter"),
            *picture(study, f"forest_{metric.name}", f"{metric.name}: raw and adjusted changes"),
        ]
    return parts


def _note(study: Study, judged: Effects) -> str:
    logs = [one.name for one in study.hyperparameters if one.is_log]
    scale = f", of {escaped(listed(logs))} the logarithm" if logs else ""
    lines = [
        "An observation is a configuration: the mean of its ranked seeds on the metric's scale"
        f"{scale}. In brackets: 95 % intervals by bootstrap over configurations ({RESAMPLES} draws"
        f"; none below {FEWEST} or where too many draws lack a level). Each q is a p-value adjusted"
        f" for all of its column (Benjamini-Yekutieli; {judged.raw_tests} correlations, "
        f"{judged.tests} effects): where no setting matters, the chance that this page claims any "
        "effect is at most 5 %.",
    ]
    if len(study.hyperparameters) > 1:
        lines.append(
            "**Alone:** plain correlations; other settings may differ between the levels. "
            "p by permutation of the ranks (by the t distribution above "
            f"{PERMUTED_UP_TO} configurations), Kruskal-Wallis for categories. **Others held:** "
            "an additive model of all hyperparameters' levels; the change from the first level to "
            "the last, raw and adjusted; q of the type-II F-test. It needs "
            f"{FEWEST_RESIDUAL} configurations more than parameters. An effect is claimed at "
            "q < 0.05, a direction where raw and adjusted agree on it. Words go by the size of "
            "Spearman's correlation: strongly from 0.5, moderately from 0.3, weakly from 0.1, "
            "faintly below."
        )
    return "\n\n".join(lines)


def _tables(found: list[Effect]) -> Iterator[str]:
    rows = [_alone(one) for one in found]
    single = len(found) == 1
    title = [] if single else ["**Alone**"]
    yield from title
    yield table(["hyperparameter", "n", "Pearson", "Spearman", "q", "note"], rows)
    if any(one.adjusted is not None for one in found):
        yield from [] if single else ["**Others held**"]
        header = ["hyperparameter", "from, to", "raw", "adjusted", "F", "partial η²", "q", "note"]
        yield table(header, [_held(one) for one in found])


def _alone(one: Effect) -> list[str]:
    found = one.correlation
    return [
        escaped(one.hyperparameter.name),
        f"{found.n:,}",
        wording.correlation(found.pearson) + wording.bracketed(found.pearson_interval),
        wording.correlation(found.spearman) + wording.bracketed(found.spearman_interval),
        wording.probability(one.raw_q),
        "; ".join(_remarks(one, found)),
    ]


def _remarks(one: Effect, found: Correlation) -> Iterator[str]:
    if found.remark:
        yield found.remark
    if found.epsilon_squared == found.epsilon_squared:
        yield f"categories: ε² = {found.epsilon_squared:.2f}"
    if one.hyperparameter.kind == "conditional" and not found.remark:
        yield "where active"
    if found.disagree:
        yield "the two disagree: outliers or shape, trust Spearman"


def _held(one: Effect) -> list[str]:
    held = one.adjusted
    name = escaped(one.hyperparameter.name)
    if held is None:
        return [name, *[MISSING] * 6, one.reason]
    test = [
        f"{held.f:.3g} ({held.df}, {held.residual_df})",
        f"{held.partial_eta_squared:.2f}",
        wording.probability(one.q),
        _held_remark(one),
    ]
    if held.change is None:
        return [
            name,
            counted(len(held.means), "category").replace("ys", "ies"),
            *[MISSING] * 2,
            *test,
        ]
    move = held.change
    return [
        name,
        f"{escaped(move.first)}, {escaped(move.last)}",
        scales.change(one.metric, move.raw)
        + wording.change_interval(one.metric, move.raw_interval),
        scales.change(one.metric, move.adjusted)
        + wording.change_interval(one.metric, move.adjusted_interval),
        *test,
    ]


def _held_remark(one: Effect) -> str:
    shown = {"opposed": "**sign change**", "bent": "not monotone", "unheld": "not when held"}
    return one.reason or shown.get(one.verdict, "")
