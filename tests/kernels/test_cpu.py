"""The CPU forms against the reference in float64: outputs, every gradient, optimiser state."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_sweep.kernels import Adam, Moments, SparseLatents, cpu, reference
from sae_sweep.kernels.cpu import latents as selection

SHAPES = [(1, 5, 7, 1), (1, 4, 6, 6), (9, 7, 13, 13), (33, 17, 65, 1), (40, 24, 96, 11)]
"""n, d, m, k."""
FORMS = ["sparse", "dense"]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill new memory with NaN, so that what is not written shows."""
    torch.use_deterministic_algorithms(mode=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the whole tensor's norm, or 1e-12 in float64."""
    assert found.shape == expected.shape
    tolerance = 1e-5 if found.dtype == torch.float32 else 1e-12
    assert (found.double() - expected).norm() <= tolerance * expected.norm()


def active_pairs(latents: SparseLatents) -> list[dict[int, float]]:
    """The positive activations of each token, by latent."""
    rows = zip(latents.indices.tolist(), latents.values.tolist(), strict=True)
    return [{j: f for j, f in zip(*row, strict=True) if f > 0} for row in rows]


def written_out(latents: SparseLatents, m: int) -> Tensor:
    zeros = latents.values.new_zeros(len(latents.values), m)
    return zeros.scatter(1, latents.indices, latents.values)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 3, 5), (7, 1, 4), (20, 33, 9)])
def test_linear_is_the_product_also_of_transposed_views(
    rows: int, inner: int, columns: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, inner), torch.randn(columns, inner), torch.randn(columns)
    expected = x.double() @ weight.double().T
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    assert_near(cpu.linear(x, weight), expected)
    assert_near(cpu.linear(x, weight, bias), expected + bias.double())
    stored_otherwise = x.T.contiguous().T, weight.T.contiguous().T
    assert_near(cpu.linear(*stored_otherwise), expected)


@pytest.mark.parametrize(
    ("n", "m", "k"), [(1, 5, 1), (1, 7, 7), (7, 33, 32), (64, 257, 16), (5, 1024, 3), (5, 1025, 3)]
)
@pytest.mark.parametrize("shift", [0.0, -2.0, -9.0])
def test_top_k_is_the_reference_where_latents_are_positive(
    n: int, m: int, k: int, shift: float
) -> None:
    torch.manual_seed(0)
    pre = torch.randn(n, m) + shift
    before = pre.clone()
    found = cpu.top_k(pre, k)
    assert torch.equal(pre, before)
    assert found.values.shape == (n, k)
    assert active_pairs(found) == active_pairs(reference.top_k(pre, k))
    assert (found.values >= 0).all()
    assert (found.indices.diff(dim=1) > 0).all()


@settings(max_examples=200)
@given(st.data())
def test_top_k_breaks_ties_to_the_lowest_index(data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, m))
    row = st.lists(st.sampled_from([-2.0, 0.0, 1.0, 2.0, 3.0]), min_size=m, max_size=m)
    pre = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=4)))
    assert active_pairs(cpu.top_k(pre, k)) == active_pairs(reference.top_k(pre, k))


def test_ties_between_groups_of_a_wide_row_go_to_the_lowest_index() -> None:
    torch.manual_seed(0)
    m, k = 1024, 5
    assert m >= selection.GROUPED_FROM * (k + 1)
    pre = torch.randint(-3, 4, (50, m)).float()
    assert active_pairs(cpu.top_k(pre, k)) == active_pairs(reference.top_k(pre, k))


def test_top_k_lets_nan_through() -> None:
    pre = torch.tensor([[1.0, 1.0, torch.nan, 1.0], [torch.nan] * 4])
    found = cpu.top_k(pre, 2)
    assert found.values[0].isnan().any()
    assert found.values[1].isnan().all()


def test_encoding_in_chunks_is_encoding_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    centred, w_enc, b_enc = torch.randn(23, 6), torch.randn(15, 6), torch.randn(15)
    expected = cpu.top_k(cpu.linear(centred, w_enc, b_enc), 4)
    monkeypatch.setattr(selection, "CHUNK_ENTRIES", 2 * 15)
    found = cpu.encode(centred, w_enc, b_enc, 4)
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.values, expected.values)


def test_count_active_counts_what_is_positive() -> None:
    latents = torch.tensor([[0.0, 2.0, 1e-30], [0.0, 0.0, torch.nan], [torch.inf, 1.0, 3.0]])
    assert cpu.count_active(latents).tolist() == [2, 0, 3]


def leaves(n: int, d: int, m: int) -> dict[str, Tensor]:
    """What gradients are taken of, in float64."""
    torch.manual_seed(n + d + m)
    shapes = {"centred": (n, d), "w_enc": (m, d), "b_enc": (m,), "w_dec": (m, d)}
    made = {name: torch.randn(shape).double() for name, shape in shapes.items()}
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def taken(values: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.detach().to(dtype) for name, tensor in values.items()}


def check_gradients(
    inputs: dict[str, Tensor],
    k: int,
    form: str,
    dtype: torch.dtype,
    l1_weight: Tensor | None = None,
) -> cpu.Gradients:
    """Decode and differentiate a loss whose gradient is `upstream` plus an L1 weight of latents."""
    n, d = inputs["centred"].shape
    m = len(inputs["b_enc"])
    upstream, b_dec = torch.randn(n, d).double(), torch.randn(d).double()

    pre = inputs["centred"] @ inputs["w_enc"].T + inputs["b_enc"]
    exact = reference.top_k(pre, k)
    decoded = reference.sparse_decode(exact, inputs["w_dec"], b_dec)
    penalty = 0.0 if l1_weight is None else (written_out(exact, m) @ l1_weight).sum()
    ((decoded * upstream).sum() + penalty).backward()

    given = taken(inputs, dtype)
    chosen = cpu.encode(given["centred"], given["w_enc"], given["b_enc"], k)
    latents = chosen if form == "sparse" else written_out(chosen, m)
    assert_near(cpu.decode(latents, given["w_dec"], b_dec.to(dtype)), decoded.detach())
    assert_near(cpu.decode(latents, given["w_dec"]), (decoded - b_dec).detach())
    found = cpu.gradients(
        latents,
        upstream.to(dtype),
        given["centred"],
        given["w_dec"],
        None if l1_weight is None else l1_weight.to(dtype),
    )
    for name, gradient in found._asdict().items():
        expected = inputs[name].grad
        assert expected is not None
        assert_near(gradient, expected)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "d", "m", "k"), SHAPES)
def test_decode_and_gradients_are_those_of_autograd(
    n: int, d: int, m: int, k: int, form: str, dtype: torch.dtype
) -> None:
    check_gradients(leaves(n, d, m), k, form, dtype)


@pytest.mark.parametrize("form", FORMS)
def test_a_price_of_activations_enters_the_encoders_gradients(
    form: str, dtype: torch.dtype
) -> None:
    check_gradients(leaves(40, 7, 30), 9, form, dtype, torch.rand(30).double())


@pytest.mark.parametrize("form", FORMS)
def test_latents_on_every_token_and_on_none(form: str, dtype: torch.dtype) -> None:
    inputs = leaves(40, 7, 30)
    with torch.no_grad():
        inputs["b_enc"][3] = 100.0
        inputs["b_enc"][[0, 12, 29]] = -100.0
    found = check_gradients(inputs, 9, form, dtype)
    for gradient in found:
        assert (gradient[[0, 12, 29]] == 0).all()
        assert (gradient[3] != 0).any()


@pytest.mark.parametrize("form", FORMS)
def test_tokens_with_fewer_than_k_positive_pre_activations(form: str, dtype: torch.dtype) -> None:
    inputs = leaves(40, 7, 30)
    with torch.no_grad():
        inputs["b_enc"] -= 4.0
    assert (inputs["centred"] @ inputs["w_enc"].T + inputs["b_enc"] > 0).sum(dim=1).min() < 9
    check_gradients(inputs, 9, form, dtype)


def test_more_latents_than_16_bits_count(dtype: torch.dtype) -> None:
    inputs = leaves(6, 2, 2**16 + 3)
    check_gradients(inputs, 5, "sparse", dtype)


def aux_inputs(n: int, d: int, m: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    inputs = leaves(n, d, m)
    return inputs, torch.randn(n, d).double(), torch.arange(m) % 3 == 1


def nothing_yet(inputs: dict[str, Tensor], dtype: torch.dtype) -> cpu.Gradients:
    names = cpu.Gradients._fields
    return cpu.Gradients(*(torch.zeros_like(inputs[name], dtype=dtype) for name in names))


def assert_added_twice(found: cpu.Gradients, inputs: dict[str, Tensor]) -> None:
    for name, gradient in found._asdict().items():
        expected = inputs[name].grad
        assert_near(gradient, torch.zeros_like(inputs[name]) if expected is None else 2 * expected)


@pytest.mark.parametrize(("n", "d", "m"), [(1, 5, 4), (20, 6, 31), (30, 4, 12), (25, 1, 9)])
def test_aux_k_is_the_reference(n: int, d: int, m: int, dtype: torch.dtype) -> None:
    inputs, residual, dead = aux_inputs(n, d, m)
    pre = inputs["centred"] @ inputs["w_enc"].T + inputs["b_enc"]
    expected = 0.3 * reference.aux_k_loss(residual, pre, dead, inputs["w_dec"])
    if expected.requires_grad:
        expected.backward()
    given = taken(inputs, dtype)
    weights = cpu.Gradients(given["w_enc"], given["b_enc"], given["w_dec"])
    into = nothing_yet(inputs, dtype)
    for _ in range(2):
        loss = cpu.aux_k_loss(residual.to(dtype), given["centred"], dead, weights, into, 0.3)
        assert_near(loss, expected.detach())
    assert_added_twice(into, inputs)


@pytest.mark.parametrize("case", ["none dead", "no variance"])
def test_aux_k_adds_nothing_where_there_is_nothing_to_explain(case: str) -> None:
    inputs, residual, dead = aux_inputs(8, 5, 9)
    given = taken(inputs, torch.float32)
    weights = cpu.Gradients(given["w_enc"], given["b_enc"], given["w_dec"])
    into = nothing_yet(inputs, torch.float32)
    residual = torch.ones(8, 5) if case == "no variance" else residual.float()
    dead = torch.zeros_like(dead) if case == "none dead" else dead
    loss = cpu.aux_k_loss(residual, given["centred"], dead, weights, into, 0.3)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in into)


@pytest.mark.parametrize(
    ("n", "m", "k", "shift"), [(1, 4, 2, 0.0), (20, 31, 5, 0.0), (9, 8, 8, -5.0)]
)
def test_usage_is_the_reference(n: int, m: int, k: int, shift: float, dtype: torch.dtype) -> None:
    inputs = leaves(n, 6, m)
    pre = inputs["centred"] @ inputs["w_enc"].T + inputs["b_enc"] + shift
    expected = 0.7 * reference.usage_loss(pre, k, 0.4)
    expected.backward()
    into = nothing_yet(inputs, dtype)
    centred = inputs["centred"].detach().to(dtype)
    for _ in range(2):
        loss = cpu.usage_loss(pre.detach().to(dtype), centred, k, 0.4, into, 0.7)
        assert_near(loss, expected.detach())
    assert_added_twice(into, inputs)


@pytest.mark.parametrize("shape", [(1,), (5, 3), (257, 12)])
@pytest.mark.parametrize(("lr", "beta1", "beta2"), [(1e-3, 0.9, 0.999), (0.1, 0.0, 0.5)])
def test_adam_step_is_the_reference(
    shape: tuple[int, ...], lr: float, beta1: float, beta2: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    exact = torch.randn(shape, dtype=torch.float64)
    ours = exact.to(dtype)
    exact_moments, moments = (
        Moments(torch.zeros_like(start), torch.zeros_like(start)) for start in (exact, ours)
    )
    for step in range(1, 51):
        gradient = torch.randn(shape, dtype=torch.float64)
        adam = Adam(lr * step / 50, beta1, beta2)
        given: Any = gradient.to(dtype)
        before = given.clone()
        reference.adam_step(exact, gradient, exact_moments, step, adam)
        cpu.adam_step(ours, given, moments, step, adam)
        assert torch.equal(given, before)
    assert_near(ours, exact)
    assert_near(moments.first, exact_moments.first)
    assert_near(moments.second, exact_moments.second)


@pytest.mark.parametrize("m", [1, 7, 600])
def test_remove_parallel_is_the_reference(m: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, gradient = torch.randn(m, 9).double(), torch.randn(m, 9).double()
    reference.normalise_rows(rows)
    ours = gradient.to(dtype)
    reference.remove_parallel(gradient, rows)
    cpu.remove_parallel(ours, rows.to(dtype))
    assert_near(ours, gradient)
