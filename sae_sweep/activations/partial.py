"""A model that runs only up to the modules that are read.

A layer is the output of a call of one of the model's blocks: of a model that calls one block many
times, as ALBERT does, the layer's number counts the calls.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge


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

    def __init__(
        self, model: nn.Module, points: Sequence[Point], trial: Sequence[int] | None = None
    ) -> None:
        """Prepare a model for reading.

        Args:
            model: a transformers model, called with input_ids and attention_mask.
            points: where to read.
            trial: token ids of a window of full length, over which the model is run once on the
                CPU: what it cannot do is found before anything is extracted.

        Raises:
            BadInput: when a hook names no module, or the trial finds a fault.
        """
        self._points = points
        self._wanted: Collection[int] = ()
        self._found: dict[int, Any] = {}
        self._calls = 0
        part = text_part(model)
        plain = any(point.hook is None for point in points)
        blocks = blocks_of(part) if plain else nn.ModuleList()
        hooked = [module_at(model, point) for point in points if point.hook is not None]
        inside = {id(module) for module in part.modules()}
        self._model = part if all(id(module) in inside for module in hooked) else model
        for block in blocks:
            block.register_forward_pre_hook(self._before_block, with_kwargs=True)
            block.register_forward_hook(self._after_block)
        for number, point in enumerate(points):
            if point.hook is not None:
                module_at(model, point).register_forward_hook(self._output_taker(number))
        self._device = torch.device("cpu")
        if trial is not None:
            self._try(trial, len(blocks))
        if not hooked and len(blocks) == _n_layers(part):
            del blocks[max(1, *(point.layer for point in points)) :]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = self._model.eval().to(self._device)

    def _try(self, window: Sequence[int], n_blocks: int) -> None:
        """Run one window and compare with transformers' `hidden_states`."""
        name = type(self._model).__name__
        self._model.eval()
        place = f"{_given(self._model)}: {name} on a window of {len(window)} tokens"
        with edge(place, "choose another model, layer or hook", "cannot run"):
            try:
                states = self._states(window)
            except BadInput:
                raise
            except Exception:
                if (most := self._longest(window)) is None:
                    raise
                raise BadInput(
                    f"activations.context={len(window)}: {name} takes windows of at most {most} "
                    "tokens: lower it"
                ) from None
            found = self([list(window)], 0, range(len(self._points)))  # before blocks are dropped
            for number, point in enumerate(self._points):
                # decoders apply their last norm to the last of the states
                inner = point.hook is None and point.layer < len(states) - 1
                if inner and not any(_alike(found[number], one) for one in states):
                    raise BadInput(
                        f"activations.layer={point.layer}: the outputs of {name}'s {n_blocks} "
                        "blocks are not the states of its layers: name the module whose output "
                        "you want with activations.hook"
                    )

    @torch.no_grad()
    def _states(self, window: Sequence[int]) -> Sequence[Tensor]:
        """`hidden_states` of a text-only model, if it returns them."""
        ids = torch.tensor([list(window)])
        self._wanted = ()
        out = self._model(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
        )
        return getattr(out, "hidden_states", None) or ()

    def _longest(self, window: Sequence[int]) -> int | None:
        """The longest beginning of a window that the model can run."""
        works, fails = 0, len(window)
        while fails - works > 1:
            middle = (works + fails) // 2
            try:
                with edge("a shorter window", "try another length"):
                    self._states(window[:middle])
                works = middle
            except BadInput:
                fails = middle
        return works or None

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
        self._wanted, self._found, self._calls = wanted, {}, 0
        try:
            self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        except _ReachedAll:
            return {number: self._checked(number, ids) for number in wanted}
        finally:
            found, self._found = self._found, {}
        missing = next(self._points[number] for number in wanted if number not in found)
        if missing.hook is None:
            raise BadInput(
                f"activations.layer={missing.layer}: {type(self._model).__name__} does not run its "
                "blocks one after another: name a module with activations.hook"
            )
        raise BadInput(
            f"activations.hook={missing.hook}: the model never runs this module: choose another"
        )

    def _checked(self, number: int, ids: Tensor) -> Tensor:
        states, point = self._found[number], self._points[number]
        shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        if point.hook is None and isinstance(states, Tensor) and states.ndim == 3:
            # Longformer fills windows up to a multiple of its own; the trial pass has compared them
            states = states[:, : ids.shape[1]]
        if not isinstance(states, Tensor) or states.ndim != 3 or states.shape[:2] != ids.shape:
            where = (
                f"activations.layer={point.layer} of {type(self._model).__name__}"
                if point.hook is None
                else f"activations.hook={point.hook}"
            )
            raise BadInput(
                f"{where} gives {shape} for {tuple(ids.shape)} tokens: choose a module whose "
                "output is [windows, tokens, d] with activations.hook"
            )
        return states

    def _before_block(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._calls == 0:
            self._take_layer(0, args[0] if args else kwargs.get("hidden_states"))

    def _after_block(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._calls += 1
        self._take_layer(self._calls, output[0] if isinstance(output, tuple) else output)

    def _take_layer(self, layer: int, states: Any) -> None:
        for number, point in enumerate(self._points):
            if point.hook is None and point.layer == layer:
                self._take(number, states)

    def _output_taker(self, number: int) -> Callable[..., None]:
        def take(_module: nn.Module, _args: Any, output: Any) -> None:
            self._take(number, output[0] if isinstance(output, tuple) else output)

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


def text_part(model: nn.Module) -> nn.Module:
    """The part of a model that reads text alone.

    Of an encoder-decoder its encoder, of a model of text and pictures its text model.

    Raises:
        BadInput: the model reads no text.
    """
    config = getattr(model, "config", None)
    part = model
    if getattr(config, "is_encoder_decoder", False):
        part = cast(Any, model).get_encoder()
    elif (text := getattr(config, "get_text_config", lambda: config)()) is not config:
        parts = [one for one in model.modules() if type(getattr(one, "config", None)) is type(text)]
        part = parts[0] if parts else model
    if (name := getattr(part, "main_input_name", "input_ids")) != "input_ids":
        raise BadInput(
            f"{_given(model)}: {type(part).__name__} takes {name}, not text: choose a model that "
            "reads text"
        )
    return part


def _given(model: nn.Module) -> str:
    return f"activations.model={getattr(model, 'name_or_path', '')}"


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    return torch.allclose(ours.float(), theirs.float(), rtol=1e-2, atol=1e-3, equal_nan=True)


def module_at(model: nn.Module, point: Point) -> nn.Module:
    """The module that a point's hook names.

    Raises:
        BadInput: there is none.
    """
    assert point.hook is not None
    path = point.hook.replace("{layer}", str(point.layer))
    modules = dict(model.named_modules())
    if path not in modules:
        some = [name for name in modules if name.count(".") <= path.count(".") and "0" in name]
        raise BadInput(
            f"activations.hook={point.hook}: {type(model).__name__} has no module {path}; "
            f"it has, for example, {', '.join(some[:4])}"
        )
    return modules[path]


def _n_layers(part: nn.Module) -> int | None:
    return getattr(getattr(part, "config", None), "num_hidden_layers", None)


def blocks_of(part: nn.Module) -> nn.ModuleList:
    """The first list of modules, not inside another, that is as long as the model has layers.

    Where none is, the longest. Lists inside others are experts and the like.
    """
    lists = [module for module in part.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(module) for one in lists for module in one.modules() if module is not one}
    outer = [one for one in lists if id(one) not in inner]
    if not outer:
        raise BadInput(
            f"{_given(part)}: {type(part).__name__} has no list of blocks: choose a transformer"
        )
    fitting = [one for one in outer if len(one) == _n_layers(part)]
    return fitting[0] if fitting else max(outer, key=len)
