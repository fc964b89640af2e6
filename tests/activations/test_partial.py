from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from sae_sweep.activations.partial import PartialModel, Point
from sae_sweep.errors import BadInput

WINDOWS = [[4, 5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15]]


def load(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder).eval()


def read(
    model: Any, layer: int, hook: str | None = None, windows: list[list[int]] = WINDOWS
) -> torch.Tensor:
    return PartialModel(model, [Point(layer, hook)])(windows, pad_id=0)[0]


def hidden_states(model: Any, ids: list[int]) -> tuple[torch.Tensor, ...]:
    """What transformers gives for one window alone, without padding."""
    with torch.no_grad():
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_states_equal_the_hidden_states_of_transformers(
    models: dict[str, Path], kind: str, layer: int
) -> None:
    partial = read(load(models[kind]), layer)
    for states, ids in zip(partial, WINDOWS, strict=True):
        expected = hidden_states(load(models[kind]), ids)[layer][0]
        torch.testing.assert_close(states[: len(ids)], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_the_last_layer_is_the_block_before_the_final_norm(
    models: dict[str, Path], kind: str
) -> None:
    model = load(models[kind])
    norm = {"bert": torch.nn.Identity(), "llama": getattr(model, "norm", None)}.get(kind)
    norm = model.ln_f if norm is None else norm
    expected = hidden_states(model, WINDOWS[0])[-1]
    states = read(model, 3, windows=WINDOWS[:1])
    with torch.no_grad():
        torch.testing.assert_close(norm(states), expected, atol=1e-6, rtol=0)


def test_blocks_above_the_layer_are_dropped_and_not_run(models: dict[str, Path]) -> None:
    model = load(models["bert"])
    PartialModel(model, [Point(2)])
    assert len(model.encoder.layer) == 2
    model = load(models["bert"])
    partial = PartialModel(model, [Point(0)])
    ran = []
    model.encoder.layer[0].attention.register_forward_hook(lambda *_: ran.append(1))
    partial(WINDOWS, pad_id=0)
    assert not ran


def test_a_hook_reads_the_output_of_any_module(models: dict[str, Path]) -> None:
    seen = {}
    model = load(models["bert"])
    module = model.encoder.layer[1].intermediate
    module.register_forward_hook(lambda _module, _args, output: seen.update(output=output))
    hidden_states(model, WINDOWS[0])
    hook = "encoder.layer.{layer}.intermediate"
    states = read(load(models["bert"]), 1, hook, windows=WINDOWS[:1])
    assert states.shape == (1, 6, 32)
    torch.testing.assert_close(states, seen["output"], atol=1e-6, rtol=0)


def test_the_longest_list_of_modules_that_is_in_no_other_holds_the_blocks() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Identity() for _ in range(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    class Mixture(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = torch.nn.ModuleList([torch.nn.Identity()])
            self.blocks = torch.nn.ModuleList(Block() for _ in range(4))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
            x = input_ids[..., None].float()
            for block in self.blocks:
                x = block(x)

    assert read(Mixture(), 3, windows=[[5]]).item() == 8.0


def test_a_hook_that_names_no_module_is_refused(models: dict[str, Path]) -> None:
    message = (
        r"activations\.hook=encoder\.block\.\{layer\}: BertModel has no module encoder\.block\.1; "
        r"it has, for example, encoder\.layer\.0"
    )
    with pytest.raises(BadInput, match=message):
        PartialModel(load(models["bert"]), [Point(1, "encoder.block.{layer}")])


def test_a_hook_whose_output_is_no_row_a_token_is_refused(models: dict[str, Path]) -> None:
    message = r"activations\.hook=pooler gives \(3, 16\) for \(3, 6\) tokens: choose a module"
    with pytest.raises(BadInput, match=message):
        read(load(models["bert"]), 1, "pooler")


def test_a_hook_that_is_never_run_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match=r"hook=encoder\.layer: the model never runs this module"):
        read(load(models["bert"]), 1, "encoder.layer")
