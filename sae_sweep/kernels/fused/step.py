"""One update of every member of a table: the order of the kernels, and the room they work in."""

from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from sae_sweep.kernels.fused import decode, dense
from sae_sweep.kernels.fused.ahead import Ahead, begin
from sae_sweep.kernels.fused.always_on import add_always_on
from sae_sweep.kernels.fused.auxiliary import add_aux_k
from sae_sweep.kernels.fused.batch_select import batch_select
from sae_sweep.kernels.fused.bias import update_biases
from sae_sweep.kernels.fused.by_latent import ByLatent, by_latent
from sae_sweep.kernels.fused.centre import centre
from sae_sweep.kernels.fused.columns import Columns, dense_columns
from sae_sweep.kernels.fused.counters import Batch, Control, Counters, count, retire
from sae_sweep.kernels.fused.dense_gradients import add_gradients
from sae_sweep.kernels.fused.encode import encode
from sae_sweep.kernels.fused.encode_by_library import encode_by_library, runs_of
from sae_sweep.kernels.fused.gradients import RowGradients, empty_gradients
from sae_sweep.kernels.fused.jump import ThresholdSums, update_thresholds
from sae_sweep.kernels.fused.select import select
from sae_sweep.kernels.fused.sums import count_active, member_penalties
from sae_sweep.kernels.fused.table import Table
from sae_sweep.kernels.fused.update import update_rows
from sae_sweep.kernels.fused.usage import add_usage


class Kernels(NamedTuple):
    """Which parts a step needs, for the members that take part in it."""

    sparse: bool
    dense: bool
    aux: bool
    usage: bool
    often: bool
    batch: bool
    """Whether a member selects from its batch as a whole."""
    jump: bool
    """Whether a member trains thresholds."""

    @property
    def whole_rows(self) -> bool:
        """Whether gradients of whole rows are left for the update."""
        return self.dense or self.aux or self.usage or self.often


class Step:
    """Room for a step of every member, at fixed addresses.

    Good until a member joins or leaves, where pre-activations are not exact.
    """

    def __init__(
        self, table: Table, ahead: Ahead, room: int, *, exact: bool, spans: int = 1
    ) -> None:
        """Allocate.

        Args:
            table: parameters and optimiser state.
            ahead: what members are told.
            room: the most active latents of a token of a sparse member.
            exact: whether pre-activations come from our own product, whose sums do not depend on
                who shares the table, or from the vendor's library.
            spans: nested dictionaries of every member.
        """
        members, pages = table.member_pages.shape
        r, d = table.weights.w_enc.shape
        batch = ahead.order.shape[2]
        device, operand = table.silent_tokens.device, table.operands.w_enc.dtype

        def real(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        self.room = room
        self.settings = ahead.settings(members)
        self._ahead = ahead
        self._stream = ahead.views(members)["stream"]
        self._table = table
        self._runs = None if exact else runs_of(table)
        self._centred = real(members, batch, d)
        same = operand == torch.float32
        self._operand = self._centred if same else self._centred.to(operand)
        self._pre, self._largest = real(batch, r), real(batch, pages)
        self._pre.fill_(-torch.inf)  # for rows that are no latents, where the library encodes
        self._rows, self._values = whole(members, batch, room), real(members, batch, room)
        self._threshold, self._last_tie = real(members, batch), whole(members, batch)
        self._overflow = whole(members)
        self._spans = spans
        self._g = torch.zeros(spans * members, batch, d, dtype=operand, device=device)
        self._gradients: RowGradients | None = None
        self._latents: tuple[Tensor, Tensor] | None = None
        active = torch.zeros(members, dtype=torch.int64, device=device)
        self._batch = Batch(
            *(real(spans * members, batch), real(members, batch), active),
            *(real(members), real(members), real(members)),
        )
        self._nothing = ByLatent(whole(0), real(0), whole(r + 1), whole(0))

    def clear(self) -> None:
        """Empty the lists of active latents: of members that are not sparse any more, too."""
        self._rows.fill_(len(self._table.silent_tokens))
        self._values.zero_()

    def run(
        self, x: Float32[Tensor, "rows d"], counters: Counters, kernels: Kernels, control: Control
    ) -> None:
        """Make the next of the steps ahead, of every member that is not idle, in place.

        A sparse member of which a token has more active latents than it has room for becomes idle,
        before anything of it has changed. All memory that a step takes is allocated whoever is
        idle: where a step of nobody has run, one of everybody has room.

        Args:
            x: training rows, of which the steps ahead say which are whose.
            counters: of every member.
            kernels: what the members need.
            control: of all controllers.
        """
        table, settings, batch = self._table, self.settings, self._batch
        begin(self._ahead, counters.control, batch.aux)
        given = x, self._ahead, self._stream
        centre(table, settings, given, self._centred, self._operand, batch.squares)
        if self._runs is None:
            encode(table, settings, self._operand, self._pre, self._largest)
        else:
            encode_by_library(table, self._runs, self._operand, self._pre, self._largest)
        if kernels.batch:
            batch_select(
                *(table, settings, self._pre, self._largest),
                *(self._threshold, self._last_tie, batch.smallest),
            )
        select(
            *(table, settings, self._pre, self._largest, self._rows, self._values),
            *(self._threshold, self._last_tie, self._overflow),
        )
        retire(self._overflow, settings, self._rows, self._values, len(table.silent_tokens))
        if kernels.whole_rows:
            self._gradients, self._latents = self._whole_rows()
            self._gradients.filled.zero_()
        lists = self._by_active_latents(kernels)
        columns = self._by_whole_rows() if kernels.dense else None
        self._join_spans()
        sums = None if columns is None else self._differentiate(kernels, columns)
        self._add_losses(kernels, lists)
        gradients = self._gradients if kernels.whole_rows else None
        counts = lists.start if gradients is None else gradients.active_tokens
        tokens = self._g.shape[1]
        count_active(table, settings, tokens, lists.start, counts, batch.active)
        if columns is not None and sums is not None:
            update_thresholds(table, columns, settings, sums, batch.active, tokens, batch.aux)
        shares = update_rows(table, settings, lists, self._operand, self._g, gradients)
        update_biases(table, settings, self._g[: len(self._centred)], shares.bias)
        member_penalties(table, settings, shares.penalty, batch.penalty)
        count(self._ahead, settings, batch, counters, control)

    def _add_losses(self, kernels: Kernels, lists: ByLatent) -> None:
        """Add the auxiliary losses, and their gradients to those of whole rows."""
        if not (kernels.aux or kernels.usage or kernels.often):
            return
        assert self._gradients is not None
        assert self._latents is not None
        table, settings, loss, into = self._table, self.settings, self._batch.aux, self._gradients
        if kernels.aux:
            whole = self._operand, self._g[-len(self._centred) :]
            given = self._latents, into, self._spans
            loss.copy_(add_aux_k(table, settings, self._pre, whole, *given))
        if kernels.usage:
            chosen = self._pre, self._threshold
            add_usage(table, settings, chosen, self._operand, self._latents[1], into, loss)
        if kernels.often:
            known = self._pre, self._threshold, self._last_tie
            add_always_on(table, settings, lists, known, self._operand, into, loss)

    def _by_active_latents(self, kernels: Kernels) -> ByLatent:
        """Decode sparse members, and order their active latents by row."""
        if not kernels.sparse:
            return self._nothing
        decode.decode_error(
            *(self._table, self.settings, self._rows, self._values),
            *(self._centred, self._g, self._batch.squared_error),
        )
        return by_latent(self._rows, self._values, len(self._table.silent_tokens))

    def _by_whole_rows(self) -> Columns:
        """Decode dense members, whose latents have columns."""
        assert self._latents is not None
        table, settings, latents = self._table, self.settings, self._latents
        columns = dense_columns(table, settings)
        dense.activate(table, columns, self._pre, self._threshold, self._last_tie, latents[0])
        dense.decode_error(
            table, columns, latents[0], self._centred, self._g, self._batch.squared_error
        )
        return columns

    def _join_spans(self) -> None:
        """Let each span's gradient be that of all dictionaries that hold it, not of its own."""
        planes = self._g.unflatten(0, (self._spans, -1))
        for span in reversed(range(self._spans - 1)):
            planes[span] += planes[span + 1]

    def _differentiate(self, kernels: Kernels, columns: Columns) -> ThresholdSums | None:
        """Leave dense members' gradients for the update.

        Returns:
            What the thresholds are updated from, where any are trained.
        """
        assert self._gradients is not None
        assert self._latents is not None
        batch = (self._operand, self._g)
        pre = self._pre if kernels.jump else None
        given = self._latents, batch, self._gradients, self.settings, pre
        return add_gradients(self._table, columns, *given)

    def _whole_rows(self) -> tuple[RowGradients, tuple[Tensor, Tensor]]:
        """Room that only dense members and auxiliary losses need."""
        if self._gradients is not None and self._latents is not None:
            return self._gradients, self._latents
        r, d = self._table.weights.w_enc.shape
        latents = torch.empty(2, *self._pre.shape, dtype=self._g.dtype, device=self._g.device)
        return empty_gradients(r, d, self._g.device), (latents[0], latents[1])
