"""The updates of a pack, one after another without host synchronisation."""

import gc
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from sae_sweep.config import Trial
from sae_sweep.kernels.fused.ahead import Ahead, empty_ahead, stage
from sae_sweep.kernels.fused.counters import Control, empty_counters
from sae_sweep.kernels.fused.memory import RESIDENT_SHARE
from sae_sweep.kernels.fused.step import Kernels, Step
from sae_sweep.kernels.fused.table import DENSE, IDLE, MOST_STEPS, SPARSE, Table
from sae_sweep.train.chunk import Stream, TrainingRows, numbers
from sae_sweep.train.controller import LARGEST_ERROR, LEAD, PROPORTIONAL
from sae_sweep.train.device import is_out_of_memory
from sae_sweep.train.source import ActivationSource

CPU_BYTES = 2**62
"""The same where the kernels are interpreted: all of them stay."""

CONTROL = Control(LARGEST_ERROR, LEAD, PROPORTIONAL)

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """How one member takes part in the next updates."""

    trial: Trial
    step: int
    """Updates made so far."""
    form: int
    """`SPARSE` or `DENSE`."""
    room: int
    """sparse: the most latents that may be active in a token."""


class PackSteps:
    """Stages what the next updates need, then launches them; on a GPU as a recorded graph."""

    def __init__(
        self,
        table: Table,
        activations: ActivationSource,
        batch_size: int,
        *,
        exact: bool,
        spans: int = 1,
    ) -> None:
        self._device = table.silent_tokens.device
        self._batch_size = batch_size
        self._exact = exact
        self._spans = spans
        room = CPU_BYTES
        if self._device.type == "cuda":
            room = int(RESIDENT_SHARE * torch.cuda.get_device_properties(self._device).total_memory)
        self._rows = TrainingRows(activations, self._device, batch_size, room)
        self._unrecorded = False
        """Whether a recording has failed: updates are launched kernel by kernel from then on."""
        self.counters = empty_counters(0, self._device)
        self.move(table)

    def move(self, table: Table) -> None:
        """Switch to a table of another size; every slot that it has, too, keeps its counters."""
        before = self.counters
        self.counters = empty_counters(len(table.member_pages), self._device)
        for new, old in zip(self.counters, before, strict=True):
            n = min(len(new), len(old))
            new[:n] = old[:n]
        self._table = table
        self.release()

    def forget(self, slot: int) -> None:
        """Reset a slot's counters."""
        for tensor in self.counters:
            tensor[slot] = 0

    def company_changed(self) -> None:
        """A member has joined or left: library products are set up anew."""
        if not self._exact:
            self.release()

    def release(self) -> None:
        """Free the step buffers; the next step allocates them again."""
        self._step: Step | None = None
        self._ahead: Ahead | None = None
        self._launches: dict[Kernels, Callable[[], None]] = {}
        self._pool: Any = None
        """Memory that all recorded graphs share, one of which runs at a time."""

    def most(self, parts: Mapping[int, Part]) -> int:
        """Updates that can be staged at once."""
        return min(MOST_STEPS, self._rows.most(len(set(_streams(parts).values()))))

    def run(self, parts: Mapping[int, Part], count: int) -> dict[int, int]:
        """Make up to `count` <= `most(parts)` more updates of each member.

        Where it raises for want of memory, no update has been begun.

        Returns:
            The updates made, by slot: fewer where a token had more active latents than there is
            room for.
        """
        step, ahead = self._ready(max((part.room for part in parts.values()), default=1))
        launch = self._launch_of(step, ahead, _kernels(parts), alone=len(parts) == 1)
        self._stage(step, ahead, parts, count)
        for _ in range(count):
            launch()
        self._rows.launched()
        if not any(
            part.form == SPARSE and not part.trial.sae.fused.one_form for part in parts.values()
        ):
            # none can have stopped short: no need to wait for the device
            return dict.fromkeys(parts, count)
        done = ahead.views(len(self._table.member_pages))["done"].tolist()
        return {slot: done[slot] for slot in parts}

    def _ready(self, room: int) -> tuple[Step, Ahead]:
        """Step buffers for up to `room` active latents per token."""
        if self._step is None or self._ahead is None or room > self._step.room:
            self.release()  # first: there may not be memory for both
            slots = len(self._table.member_pages)
            self._rows.reserve(slots)
            self._ahead = empty_ahead(MOST_STEPS, slots, self._batch_size, self._device)
            self._step = Step(
                *(self._table, self._ahead, room), exact=self._exact, spans=self._spans
            )
        return self._step, self._ahead

    def _launch_of(
        self, step: Step, ahead: Ahead, kernels: Kernels, *, alone: bool
    ) -> Callable[[], None]:
        """The launch of one update; on a GPU the replay of a recorded graph.

        An update of nobody goes first. It compiles what a recording could not, allocates all that
        one of everybody takes, and changes nothing: where that fails, members are as they were.
        """
        if kernels in self._launches and not self._unrecorded:
            return self._launches[kernels]
        step.settings.form.fill_(IDLE)
        ahead.at.fill_(-1)
        step.clear()
        given = self._rows.rows, self.counters, kernels, CONTROL
        update = partial(torch.no_grad()(step.run), *given)
        update()
        self._launches[kernels] = (
            update if self._unrecorded else self._recorded(update, alone=alone)
        )
        return self._launches[kernels]

    def _recorded(self, update: Callable[[], None], *, alone: bool) -> Callable[[], None]:
        if self._device.type == "cuda" and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            return record(update, self._device, self._pool)
        except RuntimeError as error:
            if is_out_of_memory(error) and not alone:
                raise  # with a member less there is room for the graph
            logger.warning(
                "no CUDA graph can be recorded (%s: %s): training goes on without, slower",
                *(type(error).__name__, next(iter(str(error).splitlines()), "")),
            )
            self._unrecorded = True
            return update

    def _stage(self, step: Step, ahead: Ahead, parts: Mapping[int, Part], count: int) -> None:
        """Stage settings and batches of the next `count` updates."""
        wanted = _streams(parts)
        distinct = list(dict.fromkeys(wanted.values()))
        facts = {slot: _facts(part, distinct.index(wanted[slot])) for slot, part in parts.items()}
        told = {name: {slot: each[name] for slot, each in facts.items()} for name in _FACTS}
        told["seed"] = {place: stream.seed for place, stream in enumerate(distinct)}
        told["begins"] = {place: stream.step for place, stream in enumerate(distinct)}
        rows = {slot: numbers(part.trial, part.step, count) for slot, part in parts.items()}
        stage(ahead, told, rows)
        self._rows.stage(distinct, count, ahead)
        step.clear()


ABANDONED: list[torch.cuda.CUDAGraph] = []
"""Graphs whose recording has failed. Where CUDA could not end it, torch's allocator goes on asking
the graph what it records, and until the process ends gives no memory back to the device."""


def record(update: Callable[[], None], device: torch.device, pool: Any) -> Callable[[], None]:
    """Record an update as a CUDA graph; returns what replays it. Elsewhere: the update itself."""
    if device.type != "cuda":
        return update
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    collects = gc.isenabled()
    gc.disable()  # a graph that is collected during the recording would break it
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            update()
    except BaseException:
        ABANDONED.append(graph)
        graph.reset()  # its memory
        torch.cuda.set_stream(stream)  # torch leaves its own in place
        raise
    finally:
        if collects:
            gc.enable()
    return graph.replay


_FACTS = (
    *("form", "k", "batch_k", "room", "unit_rows", "stream"),
    *("dead_window", "first", "half", "n_latents"),
)


def _facts(part: Part, stream: int) -> dict[str, int]:
    """Per-member integers that a step reads."""
    train, sae = part.trial.train, part.trial.sae
    assert train.dead_window_tokens is not None
    return {
        "form": part.form,
        "k": sae.fused.k,
        "batch_k": sae.fused.batch_k,
        "room": part.room,
        "unit_rows": int(sae.unit_rows),
        "stream": stream,
        "dead_window": train.dead_window_tokens,
        "first": part.step + 1,
        "half": part.trial.steps // 2,
        "n_latents": part.trial.n_latents,
    }


def _kernels(parts: Mapping[int, Part]) -> Kernels:
    forms = {part.form for part in parts.values()}
    saes = [part.trial.sae.fused for part in parts.values()]
    return Kernels(
        sparse=SPARSE in forms,
        dense=DENSE in forms,
        aux=any(sae.aux_coeff > 0 for sae in saes),
        usage=any(sae.usage_coeff > 0 for sae in saes),
        often=any(sae.often_coeff > 0 for sae in saes),
        batch=any(sae.batch_k > 0 for sae in saes),
        jump=any(sae.bandwidth > 0 for sae in saes),
    )


def _streams(parts: Mapping[int, Part]) -> dict[int, Stream]:
    """Batch stream of each slot."""
    return {slot: Stream(part.trial.train.seed_data, part.step) for slot, part in parts.items()}
