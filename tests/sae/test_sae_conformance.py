"""What every architecture promises."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_sweep.config import ARCHITECTURES, Architecture, JumpReluConfig, L1Config, TopKConfig
from sae_sweep.records import L0_SETTINGS
from sae_sweep.sae import AbstractSae, build, calibrate, load, save

N, D, M, K = 32, 8, 20, 4
CONFIGS = {
    "topk": TopKConfig(n_latents=M, k=K),
    "topk without aux": TopKConfig(n_latents=M, k=K, aux_coeff=0),
    "topk usage": TopKConfig(n_latents=M, k=K, aux_kind="usage", aux_coeff=1, aux_target=0.2),
    "topk always on": TopKConfig(n_latents=M, k=K, always_on_coeff=0.5, always_on_threshold=0.1),
    "l1 always on": L1Config(
        n_latents=M, l1_alpha=0.5, always_on_coeff=0.5, always_on_threshold=0.1
    ),
    "l1": L1Config(n_latents=M, l1_alpha=0.5),
    "l1 unit": L1Config(n_latents=M, l1_alpha=0.5, l1_norm="unit"),
}
SMALL = {"n_latents": M, "k": K, "target_l0": 4.0, "prefixes": "5/10/20"}
OPTIONS = {
    "default": {},
    "without bias": {"decoder_bias": False},
    "parameter penalties": {"encoder_l2_coeff": 0.3, "diversity_coeff": 2.0, "encoder_scale": 0.7},
    "transcoder": {"transcoder": True},
    "skip": {"transcoder": True, "skip": True},
    "penalised": {"l1_coeff": 0.2, "always_on_coeff": 0.5, "always_on_threshold": 0.1},
}


def small(kind: str, **options: object) -> Architecture:
    """Settings of a kind, with those of the given values that it has."""
    one = ARCHITECTURES[kind]
    given = {**SMALL, **options}
    return one.model_validate({key: given[key] for key in given if key in one.model_fields})


CONFIGS |= {
    f"{kind} {name}": small(kind, **options)
    for kind in ARCHITECTURES
    for name, options in OPTIONS.items()
}
CONFIGS |= {
    "by magnitude": small("topk", select="magnitude", **OPTIONS["penalised"]),
    "L0 penalty": JumpReluConfig(n_latents=M, l0_coeff=0.5, bandwidth=0.5),
}


def batch() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1))


def dead() -> Tensor:
    return torch.arange(M) < 5


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sae(name: str) -> AbstractSae:
    built = build(CONFIGS[name], D, seed=0)
    calibrate(built, batch(), "mean")
    return built


def test_rows_of_encoder_and_decoder_belong_to_latents(sae: AbstractSae) -> None:
    assert (tuple(sae.w_enc.shape), tuple(sae.w_dec.shape)) == ((M, D), (M, D))
    assert tuple(sae.b_dec.shape) == (D,)


def test_every_settings_class_is_in_the_union() -> None:
    def leaves(one: type[Architecture]) -> list[type[Architecture]]:
        below = one.__subclasses__()
        return [leaf for each in below for leaf in leaves(each)] if below else [one]

    assert {one for one in leaves(Architecture) if one.__module__.startswith("sae_sweep")} == set(
        ARCHITECTURES.values()
    )


def test_search_and_report_know_what_moves_the_l0_of_every_kind() -> None:
    assert L0_SETTINGS.keys() == ARCHITECTURES.keys()
    for kind, names in L0_SETTINGS.items():
        assert set(names) <= ARCHITECTURES[kind].model_fields.keys(), kind


def test_every_kind_can_be_chosen_by_name() -> None:
    folder = Path(__file__).parents[2] / "conf" / "sae"
    written = {path.stem: path.read_text() for path in folder.glob("*.yaml")}
    assert written == {kind: f"kind: {kind}\n" for kind in ARCHITECTURES}


def test_gradients_by_hand_are_there_where_they_are_declared(sae: AbstractSae) -> None:
    has = type(sae).gradients_by_hand is not AbstractSae.gradients_by_hand
    assert has == ("by_hand" in sae.config.forms)
    assert has == (type(sae).read_by_hand is not AbstractSae.read_by_hand)


def test_every_tensor_comes_back_from_disk(tmp_path: Path, sae: AbstractSae) -> None:
    with torch.no_grad():
        for i, tensor in enumerate(sae.state_dict().values()):
            tensor.copy_(torch.full_like(tensor, i + 1.0))
    save(tmp_path, sae, {"sae": sae.config.active()})
    back = load(tmp_path)
    assert back.config == sae.config
    assert back.state_dict().keys() == sae.state_dict().keys()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, sae.state_dict()[name]), name


def test_encode_gives_latents_for_every_token_that_are_signed_only_if_declared(
    sae: AbstractSae,
) -> None:
    latents = sae.encode(batch())
    assert latents.shape == (N, M)
    assert bool((latents < 0).any()) == sae.config.signed


def test_reading_is_encoding_and_decoding_without_a_graph(sae: AbstractSae) -> None:
    latents, x_hat = sae.read(batch())
    expected = sae.encode(batch())
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(x_hat, sae.decode(expected))
    assert not latents.requires_grad
    assert not x_hat.requires_grad


def test_the_training_view_agrees_with_encode_and_decode(sae: AbstractSae) -> None:
    out = sae(batch(), dead(), 1.0)
    latents = sae.encode(batch())
    torch.testing.assert_close(out.x_hat, sae.decode(latents))
    torch.testing.assert_close(out.l0, (latents != 0).sum() / N)
    assert out.fired.tolist() == (latents != 0).any(dim=0).tolist()


def test_the_loss_is_the_sum_of_its_parts(sae: AbstractSae) -> None:
    out = sae(batch(), dead(), 1.0)
    torch.testing.assert_close(out.loss, out.loss_reconstruction + out.loss_sparsity + out.loss_aux)


def test_every_parameter_has_a_finite_gradient_that_is_not_all_zero(sae: AbstractSae) -> None:
    sae(batch(), dead(), 1.0).loss.backward()
    for name, parameter in sae.named_parameters():
        if name == "b_dec" and not sae.config.decoder_bias:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


def test_looking_changes_nothing(sae: AbstractSae) -> None:
    before = [parameter.clone() for parameter in sae.parameters()]
    random_state = torch.get_rng_state()
    sae.decode(sae.encode(batch()))
    sae(batch(), dead(), 1.0)
    assert all(torch.equal(*pair) for pair in zip(before, sae.parameters(), strict=True))
    assert torch.equal(random_state, torch.get_rng_state())


def test_equal_seeds_give_equal_bits_whatever_was_drawn_between(name: str) -> None:
    first = build(CONFIGS[name], D, seed=3)
    torch.randn(100)
    second = build(CONFIGS[name], D, seed=3)
    other = build(CONFIGS[name], D, seed=4)
    assert torch.equal(first.w_dec, second.w_dec)
    assert not torch.equal(first.w_dec, other.w_dec)


def test_a_descent_step_keeps_the_constraint(sae: AbstractSae) -> None:
    sae(batch(), dead(), 1.0).loss.backward()
    assert sae.w_dec.grad is not None
    free = sae.w_dec.grad.clone()
    sae.project_gradient()
    along = (sae.w_dec.grad * sae.w_dec).sum(dim=1)
    with torch.no_grad():
        sae.w_dec.sub_(0.5 * sae.w_dec.grad)
    moved = sae.w_dec.detach().clone()
    sae.renormalise()
    if sae.config.unit_rows:
        torch.testing.assert_close(along, torch.zeros(M), atol=1e-5, rtol=0)
        torch.testing.assert_close(sae.w_dec.norm(dim=1), torch.ones(M))
    else:
        assert torch.equal(sae.w_dec.grad, free)
        assert torch.equal(sae.w_dec, moved)


def test_calibration_finds_the_encoder_scale_of_least_error(name: str) -> None:
    x = batch()
    sae = build(CONFIGS[name], D, seed=0)
    calibrate(sae, x, "mean")
    with torch.no_grad():
        sae.w_enc.div_(sae.config.initial_scale)

    def error(factor: float) -> float:
        scaled = build(CONFIGS[name], D, seed=0)
        scaled.load_state_dict(sae.state_dict())
        with torch.no_grad():
            scaled.w_enc.mul_(factor)
            return (scaled.decode(scaled.encode(x)) - x).square().sum().item()

    if sae.config.kind != "jumprelu":  # its thresholds do not grow with the encoder
        assert error(1.0) < min(error(0.98), error(1.02))
    torch.testing.assert_close(torch.nn.functional.normalize(sae.w_enc, dim=1), sae.w_dec.detach())
