"""Training of one trial with plain PyTorch operations."""

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from sae_sweep.config import Trial
from sae_sweep.kernels import Adam, Moments, adam_step, cpu
from sae_sweep.sae import AbstractSae, Normalisation, SaeOutput, build, calibrate
from sae_sweep.sae.start import started
from sae_sweep.train.checkpoint import State
from sae_sweep.train.controller import L0Controller
from sae_sweep.train.resample import is_due, resample_silent
from sae_sweep.train.schedule import lr_scale, sparsity_scale
from sae_sweep.train.source import ActivationSource, TargetSource, batch, targets
from sae_sweep.train.training import LOSSES


def initial_sae(
    trial: Trial, activations: ActivationSource, device: torch.device, *, resumes: bool = False
) -> AbstractSae:
    """Build what a trial starts from: drawn on the CPU, calibrated on the device, or given.

    One that `resumes` is not fitted to the first batch, which may lie far behind: a checkpoint's
    parameters take the place of its own.
    """
    inputs = Normalisation(activations.mean.float(), activations.scale)
    outputs = _target_normalisation(activations) if trial.sae.transcoder else None
    if trial.sae.init_from is not None and not resumes:
        sae = started(trial, inputs, outputs).to(device)
    else:
        sae = build(trial.sae, activations.d, trial.train.seed_init).to(device)
        if not resumes:
            x = batch(activations, trial.train, 0).to(device)
            target = None if outputs is None else targets(activations, trial.train, 0).to(device)
            calibrate(sae, x, trial.sae.b_dec_init, target)
    sae.normalisation, sae.target_normalisation = inputs, outputs
    return sae


def _target_normalisation(activations: ActivationSource) -> Normalisation:
    assert isinstance(activations, TargetSource)
    mean, scale = activations.target_mean, activations.target_scale
    assert mean is not None
    assert scale is not None
    return Normalisation(mean.float(), scale)


class Solo:
    """The training of one trial, which shares nothing with any other."""

    def __init__(
        self,
        trial: Trial,
        activations: ActivationSource,
        device: torch.device,
        *,
        resumes: bool = False,
    ) -> None:
        """Start training, or prepare to load a state."""
        self._trial = trial
        self._activations = activations
        self._device = device
        self._options = cpu.StepOptions(trial.train.latents, trial.train.precision == "bf16_select")
        self._sae = initial_sae(trial, activations, device, resumes=resumes)
        self._moments = {
            name: Moments(torch.zeros_like(parameter), torch.zeros_like(parameter))
            for name, parameter in self._sae.named_parameters()
        }
        self._silent_tokens = torch.zeros(trial.n_latents, dtype=torch.int64, device=device)
        self._last_half = torch.zeros(3, dtype=torch.float64, device=device)
        self._diverged_at = torch.zeros((), dtype=torch.int64, device=device)
        self._controller = L0Controller(trial, device) if trial.controlled else None
        self._out: SaeOutput | None = None

    def module(self) -> AbstractSae:
        """The autoencoder as it is now."""
        return self._sae

    def losses(self) -> dict[str, float]:
        """The last update's loss and its parts."""
        assert self._out is not None
        return {name: getattr(self._out, name).item() for name in LOSSES}

    def dead(self) -> Bool[Tensor, " m"]:
        """Latents that have been silent for the trial's window."""
        window = self._trial.train.dead_window_tokens
        assert window is not None
        return self._silent_tokens >= window

    def diverged_at(self) -> int:
        """The first update whose loss was not finite; 0 while there is none."""
        return int(self._diverged_at)

    def last_half(self) -> Float64[Tensor, "3"]:
        """Mean of the batch's fvu and l0_fraction, and summed squared deviation of the latter."""
        return self._last_half

    def controlled(self) -> dict[str, float]:
        """The controller's final state, by metric name; empty without one."""
        return {} if self._controller is None else self._controller.found()

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        """All tensors by name, not copied."""
        return {
            **self._sae.state_dict(keep_vars=True),
            **{f"first.{name}": both.first for name, both in self._moments.items()},
            **{f"second.{name}": both.second for name, both in self._moments.items()},
            "silent_tokens": self._silent_tokens,
            "last_half": self._last_half,
            "diverged_at": self._diverged_at,
            **({"l0_controller": self._controller.tensor} if self._controller else {}),
        }

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Load a checkpoint's tensors."""
        for name, tensor in self.tensors().items():
            tensor.copy_(state.tensors[name])

    def update(self, step: int) -> None:
        """Make one update; the first is number 1."""
        sae, settings = self._sae, self._trial.train
        x = batch(self._activations, settings, step - 1).to(self._device)
        target = x
        if self._trial.sae.transcoder:
            target = targets(self._activations, settings, step - 1).to(self._device)
        sparsity: float | Tensor = sparsity_scale(
            step, self._trial.steps, settings.l1_warmup_fraction
        )
        if self._controller is not None:
            sparsity = sparsity * self._controller.factor().to(x)
        out = sae.step_gradients(x, self.dead(), sparsity, self._options, target)
        sae.project_gradient()
        self._adam(step)
        sae.renormalise()
        sae.observe(out)
        self._count(step, target, out)
        if self._controller is not None:
            self._controller.observe(step, out.l0)
        if is_due(self._trial, step):
            resample_silent(
                self._trial, step, sae, self._moments, self._silent_tokens, self._activations
            )
        self._out = out

    def _adam(self, step: int) -> None:
        settings = self._trial.train
        scale = lr_scale(
            step, self._trial.steps, settings.lr_warmup_fraction, settings.lr_decay_fraction
        )
        lr = settings.lr * scale
        for name, parameter in self._sae.named_parameters():
            if not parameter.requires_grad:
                continue
            assert parameter.grad is not None
            adam = Adam(lr * self._sae.rate(name), settings.beta1, settings.beta2)
            adam_step(parameter, parameter.grad, self._moments[name], step, adam)

    @torch.no_grad()
    def _count(self, step: int, x: Float[Tensor, "n d"], out: SaeOutput) -> None:
        """Update the counters, in place and without waiting for the device; x was wanted."""
        self._silent_tokens.add_(len(x)).masked_fill_(out.fired, 0)
        bad = ~out.loss.isfinite() & (self._diverged_at == 0)
        self._diverged_at.masked_fill_(bad, step)
        number = step - self._trial.steps // 2
        if number > 0:
            error = (out.x_hat - x).double().square().sum()
            fvu = error / x.double().square().sum()
            density = out.l0.double() / self._trial.n_latents
            fvu_mean, density_mean, deviation = self._last_half
            step_away = density - density_mean  # Welford's update: exactly 0 where l0 is constant
            fvu_mean.add_((fvu - fvu_mean) / number)
            density_mean.add_(step_away / number)
            deviation.add_(step_away * (density - density_mean))
