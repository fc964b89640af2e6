import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sweeps import Load, grid

from analysis.findings.fronts import fronts
from analysis.findings.ranking import balanced, leaders, lowest, picks
from analysis.study.table import Study
from analysis.study.table import load as to_study
from sae_sweep.records import TrialRecord
from sae_sweep.records.store import Member, Run, Sweep


def study(finals: list[tuple[float | None, ...]]) -> Study:
    """A study of trials with these (fvu, dead_features, l0), all of one width."""
    members = [
        Member(
            {"train.lr": float(i)},
            TrialRecord(
                f"{i:012x}",
                f"t{i:03d}",
                "done",
                {"sae": {"n_latents": 100}},
                dict(zip(("fvu", "dead_features", "l0"), final, strict=True)),
            ),
        )
        for i, final in enumerate(finals)
    ]
    return to_study(Sweep(Run(1, "s", "", 0.0, 1.0, {}, "", None, {}, alive=False), members))


values = st.sampled_from([0.1, 0.2, 0.3, 0.5])
finals = st.lists(
    st.tuples(values, values, st.sampled_from([8.0, 16.0, 32.0])), min_size=1, max_size=12
)


@pytest.mark.slow
@given(finals)
def test_no_trial_beats_a_recommended_one_in_its_objectives(
    finals: list[tuple[float, float, float]],
) -> None:
    one = study(finals)
    for pick in picks(one):
        names = [part.split()[0] for part in pick.undominated_in.split(", ")]
        points = one.ranked[names].to_numpy()
        chosen = one.ranked.loc[pick.uid, names].to_numpy(dtype=float)
        beaten = (points <= chosen).all(axis=1) & (points < chosen).any(axis=1)
        assert not beaten.any(), pick


def test_the_sparsest_of_trials_whose_l0_differs_by_chance_is_that_with_the_best_fvu() -> None:
    one = study([(0.3, 0.1, 15.97), (0.2, 0.1, 15.98), (0.1, 0.1, 31.9)])
    sparsest = next(pick for pick in picks(one) if pick.title == "Extreme sparsity")
    assert sparsest.uid == one.trials.index[1]


def test_the_balanced_score_is_the_mean_of_both_ranks() -> None:
    one = study([(0.1, 0.3, 8.0), (0.2, 0.1, 8.0), (0.3, 0.2, 8.0), (0.3, 0.5, 8.0)])
    scores = balanced(one)["score"]
    np.testing.assert_allclose(scores.sort_index(), [2.0, 1.5, (3.5 + 2) / 2, (3.5 + 4) / 2])


def test_what_reconstructs_no_better_than_the_mean_is_neither_ranked_nor_on_a_front(
    load: Load,
) -> None:
    trials = grid()
    trials[5].final["dead_features"] = 0.0
    one = to_study(load(trials)[0])
    flagged = trials[5].record.uid
    on_fronts = set(itertools.chain.from_iterable(front.uids for front in fronts(one)))
    assert flagged in one.trials.index
    assert flagged not in {*on_fronts, *lowest(one, "dead_features").index, *leaders(one)}


@pytest.mark.parametrize(
    ("finals", "names"),
    [
        ([(0.1, 0.1, 8.0), (0.2, 0.2, 9.0)], ["fvu down, l0 down", "fvu down, dead_features down"]),
        ([(0.1, 0.1, 8.0), (0.2, 0.2, 8.0)], ["fvu down, dead_features down"]),
        ([(0.1, 0.1, 8.0), (0.2, 0.1, 9.0)], ["fvu down, l0 down"]),
        ([(0.1, 0.1, 8.0), (0.2, 0.1, 8.0)], []),
    ],
)
def test_the_objectives_are_those_that_vary(
    finals: list[tuple[float, float, float]], names: list[str]
) -> None:
    assert [front.name for front in fronts(study(finals))] == names


def test_a_trial_of_unknown_dead_features_is_still_ranked_by_fvu() -> None:
    one = study([(0.1, None, 8.0), (0.2, 0.2, 8.0)])
    assert len(lowest(one, "fvu")) == 2
    assert len(balanced(one)) == 1
