"""A model that is run only as far as the modules that are read."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_sweep.errors import BadInput


class Point(NamedTuple):
    """A place in a model where states are read."""

    layer: int
    """0 for the embeddings, i for the output of block i."""
    hook: str | None = None
    """Path of a module whose output is read instead, with {layer} filled in as it is."""


class PartialModel:
    """Runs a transformer as far as the deepest of some points and gives the states at each.

    Blocks that no point needs are dropped, and the forward pass ends where the last states appear.
    """

    def __init__(self, model: nn.Module, points: Sequence[Point]) -> None:
        """Prepare a model for reading.

        Args:
            model: a transformers model, called with input_ids and attention_mask.
            points: where to read.

        Raises:
            BadInput: when a hook names no module.
        """
        self._points = points
        self._wanted: Collection[int] = ()
        self._found: dict[int, Any] = {}
        # all are found before any block is dropped
        modules = [_module(model, point) for point in points]
        for number, (point, module) in enumerate(zip(points, modules, strict=True)):
            if point.hook is None and point.layer == 0:
                module.register_forward_pre_hook(self._input_taker(number), with_kwargs=True)
            else:
                module.register_forward_hook(self._output_taker(number))
        if all(point.hook is None for point in points):
            del _blocks(model)[max(1, *(point.layer for point in points)) :]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)

    @torch.no_grad()
    def __call__(
        self,
        windows: Sequence[Sequence[int] | np.ndarray],
        pad_id: int,
        wanted: Collection[int] = (0,),
    ) -> dict[int, Float[Tensor, "windows length d"]]:
        """Run windows of token ids, padded on the right, and give the states on the device.

        Args:
            windows: token ids, special ones included.
            pad_id: fills the shorter ones up.
            wanted: numbers of the points; the pass ends when all of them have been reached.
        """
        lengths = np.array([[len(window)] for window in windows])
        padded = np.full((len(windows), int(lengths.max())), pad_id, dtype=np.int64)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window)] = window
        ids = torch.from_numpy(padded)
        mask = torch.from_numpy((np.arange(padded.shape[1]) < lengths).astype(np.int64))
        self._wanted, self._found = wanted, {}
        try:
            self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        except _ReachedAll:
            return {number: self._checked(number, ids) for number in wanted}
        finally:
            found, self._found = self._found, {}
        missing = next(self._points[number] for number in wanted if number not in found)
        raise BadInput(
            f"activations.hook={missing.hook}: the model never runs this module: choose another"
        )

    def _checked(self, number: int, ids: Tensor) -> Tensor:
        states = self._found[number]
        shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        if not isinstance(states, Tensor) or states.ndim != 3 or states.shape[:2] != ids.shape:
            raise BadInput(
                f"activations.hook={self._points[number].hook} gives {shape} for "
                f"{tuple(ids.shape)} tokens: choose a module whose output is [windows, tokens, d]"
            )
        return states

    def _output_taker(self, number: int) -> Callable[..., None]:
        def take(_module: nn.Module, _args: Any, output: Any) -> None:
            self._take(number, output[0] if isinstance(output, tuple) else output)

        return take

    def _input_taker(self, number: int) -> Callable[..., None]:
        def take(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._take(number, args[0] if args else kwargs["hidden_states"])

        return take

    def _take(self, number: int, states: Any) -> None:
        if number not in self._wanted or number in self._found:
            return
        self._found[number] = states
        if len(self._found) == len(self._wanted):
            raise _ReachedAll
        if isinstance(states, Tensor):  # blocks above may add to it in place
            self._found[number] = states.clone()


class _ReachedAll(Exception):  # noqa: N818  (no error: it ends a forward pass that went far enough)
    """Every wanted point has been reached."""


def _module(model: nn.Module, point: Point) -> nn.Module:
    if point.hook is None:
        return _blocks(model)[max(point.layer, 1) - 1]
    path = point.hook.replace("{layer}", str(point.layer))
    modules = dict(model.named_modules())
    if path not in modules:
        some = [name for name in modules if name.count(".") <= path.count(".") and "0" in name]
        raise BadInput(
            f"activations.hook={point.hook}: {type(model).__name__} has no module {path}; "
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
