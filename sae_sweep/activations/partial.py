"""A model that is run only as far as one of its modules."""

from typing import Any, NoReturn

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from sae_sweep.errors import BadInput


class PartialModel:
    """Runs a transformer up to one layer and gives the states there.

    Blocks above the layer are dropped, and a hook ends the forward pass where the states appear.
    """

    def __init__(self, model: nn.Module, layer: int, hook: str | None) -> None:
        """Prepare a model for reading.

        Args:
            model: a transformers model, called with input_ids and attention_mask.
            layer: 0 for the embeddings, i for the output of block i.
            hook: path of a module whose output is read instead, with {layer} filled in as it is.

        Raises:
            BadInput: when `hook` names no module.
        """
        if hook is not None:
            _module(model, hook, layer).register_forward_hook(_end_with_output)
        else:
            blocks = _blocks(model)
            if layer == 0:
                blocks[0].register_forward_pre_hook(_end_with_input, with_kwargs=True)
            else:
                blocks[layer - 1].register_forward_hook(_end_with_output)
            del blocks[max(layer, 1) :]
        self._hook = hook
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)

    @torch.no_grad()
    def __call__(
        self, windows: list[list[int]], pad_id: int
    ) -> Float32[Tensor, "windows length d"]:
        """Run windows of token ids, padded on the right, and give their states on the CPU."""
        longest = max(map(len, windows))
        ids = torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids in windows])
        lengths = torch.tensor([[len(ids)] for ids in windows])
        mask = (torch.arange(longest) < lengths).long()
        try:
            self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        except _Reached as reached:
            return self._checked(reached.states, ids).float().cpu()
        raise BadInput(
            f"activations.hook={self._hook}: the model never runs this module: choose another"
        )

    def _checked(self, states: Any, ids: Tensor) -> Tensor:
        shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        if not isinstance(states, Tensor) or states.ndim != 3 or states.shape[:2] != ids.shape:
            raise BadInput(
                f"activations.hook={self._hook} gives {shape} for {tuple(ids.shape)} tokens: "
                "choose a module whose output is [windows, tokens, d]"
            )
        return states


class _Reached(Exception):  # noqa: N818  (no error: it ends a forward pass that went far enough)
    """Carries the states out of a forward pass."""

    def __init__(self, states: Any) -> None:
        self.states = states


def _end_with_output(_module: nn.Module, _args: Any, output: Any) -> NoReturn:
    raise _Reached(output[0] if isinstance(output, tuple) else output)


def _end_with_input(_module: nn.Module, args: Any, kwargs: Any) -> NoReturn:
    raise _Reached(args[0] if args else kwargs["hidden_states"])


def _module(model: nn.Module, hook: str, layer: int) -> nn.Module:
    path = hook.replace("{layer}", str(layer))  # noqa: RUF027  (the user's own braces)
    modules = dict(model.named_modules())
    if path not in modules:
        some = [name for name in modules if name.count(".") <= path.count(".") and "0" in name]
        raise BadInput(
            f"activations.hook={hook}: {type(model).__name__} has no module {path}; "
            f"it has, for example, {', '.join(some[:4])}"
        )
    return modules[path]


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The model's blocks: its longest list of modules that is not inside another (as experts are).

    An encoder comes before its decoder.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(module) for one in lists for module in one.modules() if module is not one}
    return max((one for one in lists if id(one) not in inner), key=len)
