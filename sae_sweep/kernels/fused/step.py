"""One update of every member of a table: the order of the kernels, and the room they work in."""

from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from sae_sweep.kernels.fused import decode, dense
from sae_sweep.kernels.fused.auxiliary import add_aux_k
from sae_sweep.kernels.fused.bias import update_biases
from sae_sweep.kernels.fused.by_latent import ByLatent, by_latent
from sae_sweep.kernels.fused.centre import centre
from sae_sweep.kernels.fused.columns import dense_columns
from sae_sweep.kernels.fused.dense_gradients import add_gradients
from sae_sweep.kernels.fused.encode import encode
from sae_sweep.kernels.fused.encode_by_library import encode_by_library, runs_of
from sae_sweep.kernels.fused.gradients import RowGradients, empty_gradients
from sae_sweep.kernels.fused.select import select
from sae_sweep.kernels.fused.sums import count_active, member_penalties, member_sums
from sae_sweep.kernels.fused.table import IDLE, Settings, Table
from sae_sweep.kernels.fused.update import update_rows

NUMBERS = (
    *("step_size", "correction", "beta1", "beta2"),
    *("complement1", "complement2", "price", "aux_coeff"),
)
"""The fields of `Settings` that change from step to step, in the order of `Step.numbers`."""


class Kernels(NamedTuple):
    """Which parts a step needs, for the members that take part in it."""

    sparse: bool
    dense: bool
    aux: bool


class Sums(NamedTuple):
    """Of each member's batch; undefined for idle ones."""

    squared_error: Float64[Tensor, " members"]
    """Sum over tokens and dimensions of (x_hat - x)^2."""
    x_square: Float64[Tensor, " members"]
    """Sum over tokens and dimensions of x^2."""
    active: Int64[Tensor, " members"]
    """Active latents of all tokens."""
    penalty: Float32[Tensor, " members"]
    """The sparsity term, coefficient included."""
    aux: Float32[Tensor, " members"]
    """AuxK, coefficient included."""


class Step:
    """Room for a step of every member, and the settings it reads; all at fixed addresses.

    Good until a member joins or leaves, where pre-activations are not exact.
    """

    def __init__(self, table: Table, batch: int, room: int, *, exact: bool) -> None:
        """Allocate.

        Args:
            table: parameters and optimiser state.
            batch: tokens of each member's batch.
            room: the most active latents of a token of a sparse member.
            exact: whether pre-activations come from our own product, whose sums do not depend on
                who shares the table, or from the vendor's library.
        """
        members, pages = table.member_pages.shape
        r, d = table.weights.w_enc.shape
        device, operand = table.silent_tokens.device, table.operands.w_enc.dtype

        def real(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        self.room = room
        self.numbers = real(1, len(NUMBERS), members)
        """The settings that change, of the step to make; written before it."""
        self.stream = whole(members)
        """Which of the batches given is each member's."""
        self.settings = Settings(
            form=whole(members),
            k=whole(members),
            room=whole(members),
            unit_rows=whole(members),
            dead_window=torch.zeros(members, dtype=torch.int64, device=device),
            **dict(zip(NUMBERS, self.numbers[0], strict=True)),
        )
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
        self._g = torch.zeros(members, batch, d, dtype=operand, device=device)
        self._squared_error = real(members, batch)
        self._gradients: RowGradients | None = None
        self._latents: tuple[Tensor, Tensor] | None = None
        exact_sums = torch.zeros(2, members, dtype=torch.float64, device=device)
        active = torch.zeros(members, dtype=torch.int64, device=device)
        self._sums = Sums(exact_sums[0], exact_sums[1], active, real(members), real(members))

    def run(
        self,
        x: Float32[Tensor, "steps streams b d"],
        at: Int64[Tensor, "1"],
        kernels: Kernels,
    ) -> Sums:
        """Make one update of every member that is not idle, in place.

        A sparse member of which a token has more active latents than it has room for becomes idle,
        before anything of it has changed.

        Args:
            x: batches of several steps, of which `stream` says whose is which.
            at: the step to make.
            kernels: what the members need.
        """
        table, settings = self._table, self.settings
        centre(table, settings, (x, at, self.stream), self._centred, self._operand)
        if self._runs is None:
            encode(table, settings, self._operand, self._pre, self._largest)
        else:
            encode_by_library(table, self._runs, self._operand, self._pre, self._largest)
        # members that are not sparse any more must not be found in the lists
        self._rows.fill_(len(table.silent_tokens))
        self._values.zero_()
        select(
            *(table, settings, self._pre, self._largest, self._rows, self._values),
            *(self._threshold, self._last_tie, self._overflow),
        )
        settings.form.masked_fill_(self._overflow > 0, IDLE)
        if kernels.dense or kernels.aux:
            self._gradients, self._latents = self._whole_rows()
            self._gradients.filled.zero_()
        lists = self._by_active_latents(kernels)
        if kernels.dense:
            self._by_whole_rows()
        self._sums.aux.zero_()
        if kernels.aux:
            assert self._gradients is not None
            assert self._latents is not None
            batch = (self._operand, self._g)
            self._sums.aux.copy_(
                add_aux_k(table, settings, self._pre, batch, self._latents, self._gradients)
            )
        member_sums(
            *(table, settings, self._centred, self._squared_error),
            *(self._sums.squared_error, self._sums.x_square),
        )
        dense = lists.start if self._gradients is None else self._gradients.count
        count_active(table, settings, self._g.shape[1], lists.start, dense, self._sums.active)
        given = self._gradients if kernels.dense or kernels.aux else None
        shares = update_rows(table, settings, lists, self._operand, self._g, given)
        update_biases(table, settings, self._g, shares.bias)
        member_penalties(table, settings, shares.penalty, self._sums.penalty)
        return self._sums

    def _by_active_latents(self, kernels: Kernels) -> ByLatent:
        """Decode sparse members, and order their active latents by row."""
        r = len(self._table.silent_tokens)
        if not kernels.sparse:
            nothing = self._rows.new_zeros(0)
            start = self._rows.new_zeros(r + 1)
            return ByLatent(nothing, self._values.new_zeros(0), start, nothing)
        decode.decode_error(
            *(self._table, self.settings, self._rows, self._values),
            *(self._centred, self._g, self._squared_error),
        )
        return by_latent(self._rows, self._values, r)

    def _by_whole_rows(self) -> None:
        """Decode dense members, and leave their gradients for the update."""
        assert self._gradients is not None
        assert self._latents is not None
        table, settings, latents = self._table, self.settings, self._latents
        columns = dense_columns(table, settings)
        dense.activate(columns, self._pre, self._threshold, self._last_tie, latents[0])
        dense.decode_error(table, columns, latents[0], self._centred, self._g, self._squared_error)
        batch = (self._operand, self._g)
        add_gradients(table, columns, latents, batch, self._gradients, settings)

    def _whole_rows(self) -> tuple[RowGradients, tuple[Tensor, Tensor]]:
        """Room that only dense members and AuxK need."""
        if self._gradients is not None and self._latents is not None:
            return self._gradients, self._latents
        r, d = self._table.weights.w_enc.shape
        latents = torch.empty(2, *self._pre.shape, dtype=self._g.dtype, device=self._g.device)
        return empty_gradients(r, d, self._g.device), (latents[0], latents[1])
