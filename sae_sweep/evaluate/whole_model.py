"""A whole model, run with the states at one place replaced."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_sweep.activations import pretrained
from sae_sweep.activations.collect import Inputs, points_of
from sae_sweep.activations.model_folder import model_folder
from sae_sweep.activations.partial import Point, blocks_of, module_at, text_part
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge


class Passed(NamedTuple):
    """What one pass over a batch of windows gives; what lies behind a window's end is padding."""

    read: Float[Tensor, "windows length d"]
    """States at the place that the SAE reads."""
    replaced: Float[Tensor, "windows length d"]
    """States at the place that it replaces, as they were."""
    final: Float[Tensor, "windows length d"]
    """The last states of the model, after its last norm."""


class WholeModel:
    """Runs a transformer over windows, as it is or with the states at one place replaced.

    A pass with replaced states does not need the blocks below the place: they are left out where
    that gives the same bits.
    """

    def __init__(self, whole: pretrained.Whole, points: Sequence[Point], inputs: Inputs) -> None:
        """Prepare a model, and run it over the shortest of some windows.

        Args:
            whole: a transformers model; it is changed, and used by nobody else.
            points: where states are read, then where they are replaced; one where both are equal.
            inputs: windows that it is to run over.

        Raises:
            BadInput: a hook names no module, or the model does not run through the places.
        """
        self.head = whole.head
        self._model: nn.Module = whole.model
        self._body: Any = whole.model.base_model if whole.head else text_part(whole.model)
        self._read, self._target = points[0], points[-1]
        self._blocks = blocks_of(self._body)
        self._calls = 0
        self._states: dict[Point, Tensor] = {}
        self._spliced: Tensor | None = None
        self._beside: dict[int, tuple[None, ...] | None] = {}
        """What a block gives beside its states, by number; None where it gives them alone."""
        self._leaves_out = self._target.hook is None and self._target.layer > 0
        self._output: Any = None
        for number, block in enumerate(self._blocks):
            block.register_forward_pre_hook(self._before_block, with_kwargs=True)
            block.register_forward_hook(self._after_block)
            if number < self._target.layer and self._leaves_out:
                block.forward = self._passing_by(number, block.forward)
        base = self._model if whole.head is None else self._body
        for point in dict.fromkeys(points):
            if point.hook is not None:
                module_at(base, point).register_forward_hook(self._at_hook(point))
        settings: Any = self._body.config
        if getattr(settings, "use_cache", False):
            settings.use_cache = False  # nothing goes on from these windows
        self.to("cpu")
        self._try_to_leave_out(torch.from_numpy(inputs.ids[-1])[None])

    def to(self, device: torch.device | str) -> None:
        """Move to a device."""
        self._device = torch.device(device)
        self._model.to(self._device)

    @torch.no_grad()
    def run(
        self,
        ids: Int64[Tensor, "windows length"],
        lengths: Int64[Tensor, " windows"],
        spliced: Float[Tensor, "windows length d"] | None = None,
    ) -> Passed:
        """Run windows of token ids.

        Args:
            ids: special tokens included, padded on the right.
            lengths: of the windows.
            spliced: what stands in place of the states at the replaced place.

        Raises:
            BadInput: the model does not run through the places.
        """
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        self._calls, self._states, self._spliced = 0, {}, spliced
        try:
            output = self._body(
                input_ids=ids.to(self._device), attention_mask=mask.to(self._device)
            )
        finally:
            states, self._states, self._spliced = self._states, {}, None
        self._output = output
        for point in (self._read, self._target):
            if point not in states and (spliced is None or point == self._target):
                raise BadInput(
                    f"evaluate.windows: {type(self._body).__name__} does not run through "
                    f"{point.hook or f'layer {point.layer}'}: set evaluate.windows=0"
                )
        replaced = states[self._target]
        return Passed(states.get(self._read, replaced), replaced, output.last_hidden_state)

    @torch.no_grad()
    def log_probabilities(
        self, final: Float[Tensor, "windows length d"]
    ) -> Float[Tensor, "windows length vocabulary"]:
        """What the language-model head makes of the model's last states; after any `run`."""
        assert self.head is not None
        output = copy.copy(self._output)
        output.last_hidden_state = final
        with self._body_giving(output):
            ids = torch.zeros(final.shape[:2], dtype=torch.int64, device=self._device)
            logits = self._model(input_ids=ids).logits
        return logits.float().log_softmax(dim=-1)

    def _try_to_leave_out(self, ids: Int64[Tensor, "1 length"]) -> None:
        """Find out whether the blocks below the place can be left out; later runs go by it."""
        lengths = torch.tensor([ids.shape[1]])
        clean = self.run(ids, lengths)
        if not self._leaves_out:
            return
        try:
            with edge("the upper blocks", "run the lower ones too"):
                again = self.run(ids, lengths, clean.replaced)
                self._leaves_out = bool(torch.equal(again.final, clean.final))
        except BadInput:
            self._leaves_out = False

    @contextmanager
    def _body_giving(self, output: Any) -> Iterator[None]:
        self._body.forward = lambda *_, **__: output
        try:
            yield
        finally:
            del self._body.forward

    def _passing_by(self, number: int, forward: Any) -> Any:
        """A block's forward that gives its input back where the block is left out."""

        def go(hidden: Any = None, *args: Any, **kwargs: Any) -> Any:
            hidden = kwargs.pop("hidden_states", hidden)
            if self._spliced is not None and self._leaves_out:
                beside = self._beside[number]
                return hidden if beside is None else (hidden, *beside)
            output = forward(hidden, *args, **kwargs)
            if isinstance(output, tuple) and any(one is not None for one in output[1:]):
                self._leaves_out = False  # upper blocks may need it
            self._beside[number] = output[1:] if isinstance(output, tuple) else None
            return output

        return go

    def _before_block(self, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._calls:
            return None
        named = "hidden_states" in kwargs
        states = self._passed(Point(0), kwargs["hidden_states"] if named else args[0])
        if named:
            return args, {**kwargs, "hidden_states": states}
        return (states, *args[1:]), kwargs

    def _after_block(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        self._calls += 1
        return self._with_states(output, Point(self._calls))

    def _at_hook(self, point: Point) -> Any:
        return lambda _module, _args, output: self._with_states(output, point)

    def _with_states(self, output: Any, point: Point) -> Any:
        if isinstance(output, tuple):
            return (self._passed(point, output[0]), *output[1:])
        return self._passed(point, output)

    def _passed(self, point: Point, states: Tensor) -> Tensor:
        """States that go by a place: remembered where they are read, replaced where asked for."""
        if point in (self._read, self._target) and point not in self._states:
            self._states[point] = states.clone()  # blocks above may add to them in place
            if self._spliced is not None and point == self._target:
                return self._spliced
        return states


def load(config: ActivationsConfig, inputs: Inputs) -> WholeModel:
    """Load the whole of the model that activations are read from.

    Raises:
        BadInput: for weights that are damaged or lack a part.
    """
    folder: Path = model_folder(config)
    checkpoint = pretrained.read_shape(folder / "config.json", config)[2]
    whole = pretrained.load_whole(folder, config, pretrained.model_dtype(config, checkpoint))
    return WholeModel(whole, points_of(config), inputs)
