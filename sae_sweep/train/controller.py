"""A controller that moves l1_alpha so that a trial ends at its target L0."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sae_sweep.config import Trial
from sae_sweep.train.schedule import l0_target, lr_scale

FAST, SLOW = 5, 40
"""Updates that the two running means of the error average over."""

LEAD = 1.0
"""How far the error is extrapolated, in differences of those means."""

PROPORTIONAL = 1.0
"""Change of log l1_alpha at once for an error of 1."""

INTEGRAL = 30.0
"""Change of log l1_alpha for an error of 1 and each unit of lr that an update is made with."""

LARGEST_GAIN = 0.1
"""The same for an update, at most: the running means could not follow."""

LARGEST_ERROR = 1.0
"""Errors are clipped at a factor of e: beyond it only their sign is informative."""

HOLD_FRACTION = 0.2
"""Share of the steps before the controller starts: until then L0 falls from its initial value."""


class L0Controller:
    """Holds L0 at its target by moving l1_alpha, from the trial's own batches alone.

    With l0_t the L0 of batch t, a share of the latents, and target_t what is to be held then:

        e_t = log(l0_t / target_t), within +-`LARGEST_ERROR`
        fast_t, slow_t = means of e, in which e_t weighs 1 / min(n, `FAST`) and 1 / min(n, `SLOW`)
        p_t = fast_t + LEAD (fast_t - slow_t), within +-`LARGEST_ERROR`
        I_t = I_(t-1) + min(INTEGRAL lr_t, LARGEST_GAIN) p_t, within +-log(l0_bound)
        l1_alpha_(t+1) = l1_alpha exp(PROPORTIONAL p_t + I_t), within the factor l0_bound

    n counts the updates since it began: after the warm-up of l1_alpha and `HOLD_FRACTION` of the
    steps. To push while L0 still falls from its start would kill latents that are wanted later.
    Weights answer a change at a rate that lr sets, so the integral goes by lr; its bound is what
    keeps it from winding up where the target cannot be reached. The constants are measured
    (benchmarks/README.md).
    """

    def __init__(
        self, trial: Trial, device: torch.device, state: Float64[Tensor, "5"] | None = None
    ) -> None:
        """Begin, or go on from a state that is kept elsewhere."""
        assert trial.sae.l0_setting.value is not None
        self._trial = trial
        self._weight = trial.sae.l0_setting.value
        self.tensor = torch.zeros(5, dtype=torch.float64, device=device) if state is None else state
        """fast, slow, I, log of the factor on l1_alpha, updates of the last half at a bound."""

    def factor(self) -> Float64[Tensor, ""]:
        """What l1_alpha is multiplied by at the next update."""
        return self.tensor[3].exp()

    @torch.no_grad()
    def observe(self, step: int, l0: Float[Tensor, ""]) -> None:
        """Update the controller with the L0 of a step, without host synchronisation.

        Args:
            step: 1 for the first update.
            l0: mean count of active latents per token of its batch.
        """
        fast, slow, integral, moved, saturated = self.tensor
        told = control_at(self._trial, step)
        if step > self._trial.steps // 2:
            saturated.add_(moved.abs() >= told.bound)
        if not told.target:
            return
        error = (l0.double() / told.target).log()
        error.clamp_(-LARGEST_ERROR, LARGEST_ERROR)
        fast.lerp_(error, told.fast)
        slow.lerp_(error, told.slow)
        ahead = (fast + LEAD * (fast - slow)).clamp_(-LARGEST_ERROR, LARGEST_ERROR)
        integral.add_(ahead, alpha=told.gain).clamp_(-told.bound, told.bound)
        torch.add(integral, ahead, alpha=PROPORTIONAL, out=moved)
        moved.clamp_(-told.bound, told.bound)

    def found(self) -> dict[str, float]:
        """The controller's final state, by metric name."""
        name = self._trial.sae.l0_setting.name
        updates = self._trial.steps - self._trial.steps // 2
        return {
            f"{name}_final": self._weight * self.factor().item(),
            f"{name}_saturated": self.tensor[4].item() / updates,
        }


class ControlStep(NamedTuple):
    """Inputs of the controller at one update."""

    target: float
    """Active latents per token to hold; 0 before it begins."""
    gain: float
    """Of the integral."""
    fast: float
    """Weight of the newest error in the fast mean."""
    slow: float
    """The same in the slow one."""
    bound: float
    """Of the factor's logarithm."""


def control_at(trial: Trial, step: int) -> ControlStep:
    """Inputs of a trial's controller at an update; the first is number 1."""
    settings = trial.train
    assert settings.l0_target is not None
    bound = math.log(settings.l0_bound)
    began = round(max(settings.l1_warmup_fraction, HOLD_FRACTION) * trial.steps)
    if step <= began:
        return ControlStep(0.0, 0.0, 0.0, 0.0, bound)
    ends = settings.l0_target_start, settings.l0_target
    target = l0_target(step, trial.steps, *ends, settings.l0_target_fraction)
    lr = settings.lr * lr_scale(
        step, trial.steps, settings.lr_warmup_fraction, settings.lr_decay_fraction
    )
    seen = step - began
    return ControlStep(
        target=trial.n_latents * target,
        gain=min(INTEGRAL * lr, LARGEST_GAIN),
        fast=max(1 / FAST, 1 / seen),
        slow=max(1 / SLOW, 1 / seen),
        bound=bound,
    )
