import itertools
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_sweep.config import SearchConfig, SweepConfig
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical
from sae_sweep.search import Point, expand

BASE = {
    "activations": {"synthetic": {"n_features": 64}, "d": 32},
    "sae": {"kind": "topk", "k": 8, "n_latents": 64},
    "train": {"lr": 1e-3},
    "store": {"url": "ignored"},
}
LEVELS = {
    "sae.k": st.integers(1, 64),
    "train.lr": st.floats(1e-6, 1, allow_subnormal=False),
    "sae.b_dec_init": st.sampled_from(["mean", "geometric_median"]),
    "activations.synthetic.seed": st.integers(0, 9),
}
GRIDS = st.fixed_dictionaries(
    {}, optional={key: st.lists(level, min_size=1, max_size=4, unique=True)
                  for key, level in LEVELS.items()}
)  # fmt: skip


def points(
    base: dict[str, Any] = BASE, samples: int = 0, seed: int = 0, **sweep: Any
) -> list[Point]:
    search = SearchConfig(kind="random", samples=samples, seed=seed) if samples else SearchConfig()
    return expand(base, SweepConfig(**sweep), search)


def assignments(*args: Any, **sweep: Any) -> list[dict[str, Any]]:
    return [point.assignment for point in points(*args, **sweep)]


def grid(axes: dict[str, list[Any]]) -> dict[str, Any]:
    return {key: {"grid": values} for key, values in axes.items()}


def names(found: list[dict[str, Any]]) -> set[str]:
    return {canonical(one) for one in found}


@given(GRIDS)
def test_a_grid_is_the_product_in_the_order_written(axes: dict[str, list[Any]]) -> None:
    expected = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    assert assignments(space=grid(axes)) == expected


@given(GRIDS, st.randoms())
def test_the_order_of_the_axes_changes_no_point(axes: dict[str, list[Any]], random: Any) -> None:
    shuffled = list(axes)
    random.shuffle(shuffled)
    drawn = {"train.beta1": {"uniform": [0, 0.9]}, "train.beta2": {"uniform": [0, 0.9]}}
    one = assignments(space=grid(axes) | drawn, samples=3)
    other = assignments(
        space={key: drawn[key] for key in reversed(drawn)}
        | grid({key: axes[key] for key in shuffled}),
        samples=3,
    )
    assert names(one) == names(other)


@given(GRIDS, st.integers(1, 4), st.integers(1, 4))
def test_more_samples_and_values_only_add_points(
    axes: dict[str, list[Any]], samples: int, more: int
) -> None:
    drawn = {"train.beta1": {"uniform": [0, 0.9]}}
    few = assignments(space=grid(axes) | drawn, samples=samples)
    more_values = axes | {key: [*axes[key], 65] for key in axes if key == "sae.k"}
    many = assignments(space=grid(more_values) | drawn, samples=samples + more)
    assert len(few) == samples * math.prod(map(len, axes.values()))
    assert names(few) <= names(many)


def test_draws_follow_the_seed_and_differ_between_cells_and_settings() -> None:
    space = {
        "sae.k": {"grid": [8, 16]},
        "train.beta1": {"uniform": [0, 0.9]},
        "train.beta2": {"uniform": [0, 0.9]},
    }
    found = assignments(space=space, samples=8)
    assert found == assignments(space=space, samples=8)
    assert names(found).isdisjoint(names(assignments(space=space, samples=8, seed=1)))
    drawn = [value for one in found for key, value in one.items() if key != "sae.k"]
    assert len(set(drawn)) == len(drawn) == 32


def test_many_draws_cover_an_axis_evenly() -> None:
    found = assignments(space={"train.beta1": {"uniform": [0, 0.8]}}, samples=2000)
    mean = sum(one["train.beta1"] for one in found) / len(found)
    standard_error = 0.8 / math.sqrt(12 * len(found))
    assert abs(mean - 0.4) < 4 * standard_error


def test_tied_settings_vary_together_after_the_other_axes() -> None:
    zipped = [{"keys": ["sae.aux_coeff", "sae.aux_target"], "values": [[0, None], [1, 0.02]]}]
    assert assignments(space={"sae.k": {"grid": [8, 16]}}, zip=zipped) == [
        {"sae.k": 8, "sae.aux_coeff": 0, "sae.aux_target": None},
        {"sae.k": 8, "sae.aux_coeff": 1, "sae.aux_target": 0.02},
        {"sae.k": 16, "sae.aux_coeff": 0, "sae.aux_target": None},
        {"sae.k": 16, "sae.aux_coeff": 1, "sae.aux_target": 0.02},
    ]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
       st.lists(st.integers(1, 9), min_size=1, max_size=4))  # fmt: skip
def test_when_splits_exactly_the_points_whose_condition_holds(
    ks: list[int], wanted: list[int]
) -> None:
    found = assignments(
        space={"sae.k": {"grid": ks}},
        when=[{"if": {"sae.k": wanted}, "space": {"train.lr": {"grid": [1e-4, 1e-3]}}}],
    )
    expected = []
    for k in ks:
        split = [{"train.lr": 1e-4}, {"train.lr": 1e-3}] if k in wanted else [{}]
        expected += [{"sae.k": k, **one} for one in split]
    assert found == expected


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([1e-4, 1e-3])), max_size=5))
def test_exclude_drops_exactly_the_points_that_match_a_line(drop: list[tuple[int, float]]) -> None:
    found = assignments(
        space=grid({"sae.k": [1, 2, 3, 4, 5, 6], "train.lr": [1e-4, 1e-3]}),
        exclude=[{"sae.k": float(k), "train.lr": [lr, 7]} for k, lr in drop],
    )
    pairs = itertools.product([1, 2, 3, 4, 5, 6], [1e-4, 1e-3])
    assert found == [{"sae.k": k, "train.lr": lr} for k, lr in pairs if (k, lr) not in drop]


def test_conditions_read_the_base_where_no_axis_speaks() -> None:
    when = [{"if": {"train.lr": 0.001}, "space": {"sae.k": {"grid": [1, 2]}}}]
    assert assignments(when=when) == [{"sae.k": 1}, {"sae.k": 2}]
    assert assignments(space={"train.lr": {"grid": [0.1]}}, when=when) == [{"train.lr": 0.1}]


def test_a_condition_on_true_does_not_hold_for_1() -> None:
    base = BASE | {"train": {"reproducible": True}}
    when = [{"if": {"train.reproducible": 1}, "space": {"sae.k": {"grid": [1, 2]}}}]
    assert assignments(base, when=when) == [{}]


def test_conditions_may_share_a_setting_where_they_exclude_each_other() -> None:
    found = assignments(
        space={"sae.k": {"grid": [1, 2]}},
        when=[
            {"if": {"sae.k": 1}, "space": {"train.lr": {"grid": [0.1]}}},
            {"if": {"sae.k": 2}, "space": {"train.lr": {"grid": [0.2]}}},
        ],
    )
    assert found == [{"sae.k": 1, "train.lr": 0.1}, {"sae.k": 2, "train.lr": 0.2}]


def test_a_condition_may_hang_on_an_earlier_conditional_axis() -> None:
    found = assignments(
        when=[
            {"if": {"sae.kind": "topk"}, "space": {"sae.k": {"grid": [1, 2]}}},
            {"if": {"sae.k": 2}, "space": {"train.lr": {"grid": [0.2]}}},
        ]
    )
    assert found == [{"sae.k": 1}, {"sae.k": 2, "train.lr": 0.2}]


def test_a_drawn_axis_under_a_condition_is_drawn_only_there() -> None:
    found = assignments(
        space={"sae.kind": {"grid": ["topk", "l1"]}},
        when=[{"if": {"sae.kind": "l1"}, "space": {"sae.l1_alpha": {"loguniform": [1, 10]}}}],
        samples=5,
    )
    assert [one["sae.kind"] for one in found] == ["topk", *["l1"] * 5]
    assert len({one["sae.l1_alpha"] for one in found[1:]}) == 5


def test_a_conditional_draw_in_a_cell_of_draws_does_not_multiply_them() -> None:
    found = assignments(
        space={"train.lr": {"loguniform": [1e-4, 1e-2]}},
        when=[{"if": {"sae.kind": "topk"}, "space": {"train.beta1": {"uniform": [0, 0.9]}}}],
        samples=5,
    )
    assert len(found) == len({one["train.beta1"] for one in found}) == 5


def test_seeds_repeat_every_point_with_both_seeds_equal() -> None:
    found = points(space={"sae.k": {"grid": [1, 2]}}, seeds=3)
    assert [(p.settings["sae"]["k"], *seeds_of(p)) for p in found] == [
        (k, seed, seed) for k in (1, 2) for seed in (0, 1, 2)
    ]
    assert found[-1].assignment == {"sae.k": 2, "train.seed_init": 2, "train.seed_data": 2}


def seeds_of(point: Point) -> tuple[int, int]:
    return point.settings["train"]["seed_init"], point.settings["train"]["seed_data"]


def test_one_seed_leaves_the_base_alone() -> None:
    base = BASE | {"train": {"seed_init": 7}}
    assert points(base, seeds=1)[0].settings["train"] == {"seed_init": 7}


def test_settings_are_the_base_with_the_assignment_in_it() -> None:
    [point] = points(space=grid({"activations.synthetic.seed": [3], "sae.k": [4]}))
    assert point.settings == {
        "activations": {"synthetic": {"n_features": 64, "seed": 3}, "d": 32},
        "sae": {"kind": "topk", "k": 4, "n_latents": 64},
        "train": {"lr": 1e-3},
    }


def test_points_share_no_setting_that_an_axis_writes_and_the_base_stays() -> None:
    before = canonical(BASE)
    first, second = points(space=grid({"activations.synthetic.seed": [3, 4]}))
    assert first.settings["activations"]["synthetic"]["seed"] == 3
    assert second.settings["activations"]["synthetic"]["seed"] == 4
    assert canonical(BASE) == before


def test_another_kind_drops_the_base_settings_that_it_does_not_know() -> None:
    topk, l1 = points(space={"sae.kind": {"grid": ["topk", "l1"]}})
    assert topk.settings["sae"] == BASE["sae"]
    assert l1.settings["sae"] == {"kind": "l1", "n_latents": 64}


def test_an_exclusion_does_not_see_a_dropped_base_setting() -> None:
    found = assignments(space={"sae.kind": {"grid": ["topk", "l1"]}}, exclude=[{"sae.k": 8}])
    assert found == [{"sae.kind": "l1"}]


def test_without_axes_there_is_one_point() -> None:
    assert assignments() == [{}]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            {"space": {"sae.kk": {"grid": [1]}}},
            r"sae\.kk in the sweep: no such setting; did you mean sae\.k",
        ),
        (
            {"space": {"sweep.seeds": {"grid": [1]}}},
            r"sweep\.seeds in the sweep: no such setting",
        ),
        (
            {"exclude": [{"sae.kk": 1}]},
            r"sae\.kk in the sweep: no such setting; did you mean sae\.k",
        ),
        (
            {
                "space": {"sae.k": {"grid": [1]}},
                "zip": [{"keys": ["sae.k", "train.lr"], "values": [[1, 1]]}],
            },
            r"sae\.k: two axes set it in sweep\.space, sweep\.zip or sweep\.when; keep one",
        ),
        (
            {
                "space": {"sae.k": {"grid": [1]}},
                "when": [{"if": {"train.lr": 1e-3}, "space": {"sae.k": {"grid": [2]}}}],
            },
            r"sae\.k: two axes set it",
        ),
        (
            {
                "when": [
                    {"if": {"train.lr": 1e-3}, "space": {"sae.k": {"grid": [2]}}},
                    {"if": {"sae.kind": "topk"}, "space": {"sae.k": {"grid": [3]}}},
                ]
            },
            r"sae\.k: two conditions of sweep\.when hold at \{'sae\.k': 2\} and both set it",
        ),
        (
            {"zip": [{"keys": ["sae.k", "train.lr"], "values": [[1, 1], [2]]}]},
            r"sweep\.zip with keys sae\.k, train\.lr: \[2\] has 1 values for 2 keys",
        ),
        (
            {"when": [{"if": {"train.beta1": 0.9}, "space": {"sae.k": {"grid": [2]}}}]},
            r"sweep\.when asks for train\.beta1, which neither an axis before it nor the base sets",
        ),
        (
            {"space": {"sae.k": {"grid": [1]}}, "exclude": [{"train.beta1": 0.9}]},
            r"sweep\.exclude asks for train\.beta1, which neither",
        ),
        (
            {"space": {"sae.k": {"grid": [1, 2]}}, "exclude": [{"sae.k": [1, 2]}]},
            r"sweep\.exclude=\[\{'sae\.k': \[1, 2\]\}\] leaves none of 2 points: drop a line",
        ),
        (
            {"exclude": [{"train.lr": math.inf}]},
            r"\{'train\.lr': inf\} in sweep\.when or sweep\.exclude: ",
        ),
        (
            {"space": {"train.lr": {"loguniform": [1e-5, 1e-3]}}},
            r"train\.lr=\{loguniform: \[1e-05, 0\.001\]\} is drawn, and search\.kind=grid draws "
            r"nothing: use search=random, or list the values with grid",
        ),
        (
            {"seeds": 2, "space": {"train.seed_data": {"grid": [0, 1]}}},
            r"sweep\.seeds=2 sets train\.seed_data, and so does the base or an axis",
        ),
    ],
)
def test_senseless_sweeps_are_refused(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        points(**sweep)


def test_seeds_together_with_a_seed_of_the_base_are_refused() -> None:
    base = BASE | {"train": {"seed_init": 7}}
    with pytest.raises(BadInput, match=r"sweep\.seeds=2 sets train\.seed_init, and so does the"):
        points(base, seeds=2)


def test_ten_thousand_points_take_about_a_second() -> None:
    axes = {"sae.k": list(range(1, 26)), "train.lr": [1e-6 * n for n in range(1, 21)]}
    start = time.process_time()
    found = points(space=grid(axes) | {"train.beta1": {"uniform": [0, 0.9]}}, samples=20)
    assert len(found) == 10_000
    assert time.process_time() - start < 3
