"""One trial in training: its module, optimiser state and counters, and nothing shared."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sae_sweep.activations.order import batch_indices
from sae_sweep.config import L1Config, TopKConfig, Trial
from sae_sweep.kernels import Adam, Moments, adam_step
from sae_sweep.records import Outcome, Row
from sae_sweep.sae import Normalisation, SaeOutput, build, calibrate
from sae_sweep.train import results
from sae_sweep.train.checkpoint import State
from sae_sweep.train.evaluation import evaluate, report
from sae_sweep.train.resample import RESAMPLE_TOKENS, generator_at, resample
from sae_sweep.train.schedule import l1_scale, lr_scale
from sae_sweep.train.source import ActivationSource


class Member:
    """Trains one trial. Equal trials give equal bits, whatever else the process does."""

    def __init__(
        self, trial: Trial, activations: ActivationSource, trials: Path, device: torch.device
    ) -> None:
        """Start at step 0.

        Args:
            trial: resolved settings.
            activations: what it trains on.
            trials: folder below which every trial has its own.
            device: where the module lives.
        """
        self.trial = trial
        self.step = 0
        """Updates made."""
        self.seconds = 0.0
        """Wall time of training and evaluation, over all starts."""
        self._activations = activations
        self._folder = trials / trial.folder
        self._device = device
        sae = build(trial.sae, activations.d, trial.train.seed_init)
        # on the CPU, so that every device starts from the same bits
        calibrate(sae, self._batch(0).cpu(), trial.sae.b_dec_init)
        sae.normalisation = Normalisation(activations.mean.float(), activations.scale)
        self._sae = sae.to(device)
        self._moments = {
            name: Moments(torch.zeros_like(parameter), torch.zeros_like(parameter))
            for name, parameter in sae.named_parameters()
        }
        self._silent_tokens = torch.zeros(trial.n_latents, dtype=torch.int64, device=device)
        # mean of the batch's fvu; mean and summed squared deviation of its l0_fraction
        self._last_half = torch.zeros(3, dtype=torch.float64, device=device)
        self._diverged_at = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def state(self) -> State:
        """All that is needed to go on from here, copied to the CPU."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self._tensors.items()}
        return State(tensors, {"step": self.step, "seconds": self.seconds})

    @state.setter
    def state(self, state: State) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state.tensors[name])
        self.step = state.step
        self.seconds = float(state.numbers["seconds"])

    @property
    def _tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        return {
            **dict(self._sae.named_parameters()),
            **{f"first.{name}": both.first for name, both in self._moments.items()},
            **{f"second.{name}": both.second for name, both in self._moments.items()},
            "silent_tokens": self._silent_tokens,
            "last_half": self._last_half,
            "diverged_at": self._diverged_at,
        }

    def advance(self, steps: int) -> Iterator[Row | Outcome]:
        """Make up to `steps` updates; a row at every report, an outcome at the end."""
        began = time.perf_counter() - self.seconds
        for _ in range(min(steps, self.trial.steps - self.step)):
            out = self._update()
            self.seconds = time.perf_counter() - began
            last = self.step == self.trial.steps
            if not last and self.step % self.trial.report_every:
                continue
            if (diverged := self._divergence()) is not None:
                yield diverged
                return
            losses = _losses(out)
            values = losses | report(self._sae, self._activations)
            yield Row(self.trial.uid, self.step, values)
            if last:
                outcome = self._finish(losses)
                yield outcome._replace(seconds=time.perf_counter() - began)
            self.seconds = time.perf_counter() - began

    def _update(self) -> SaeOutput:
        """Make one step of training."""
        sae, settings = self._sae, self.trial.train
        x = self._batch(self.step)
        self.step += 1
        sparsity = l1_scale(self.step, self.trial.steps, settings.l1_warmup_fraction)
        out = sae.step_gradients(x, self._dead, sparsity)
        sae.project_gradient()
        self._adam()
        sae.renormalise()
        self._count(x, out)
        if self._resample_is_due:
            self._resample()
        return out

    @property
    def _dead(self) -> Bool[Tensor, " m"]:
        window = self.trial.train.dead_window_tokens
        assert window is not None
        return self._silent_tokens >= window

    def _batch(self, step: int) -> Float[Tensor, "n d"]:
        indices = batch_indices(
            self.trial.train.seed_data,
            step,
            self.trial.train.batch_size,
            self._activations.n_train,
        )
        return self._activations.train_rows(indices).to(self._device)

    def _adam(self) -> None:
        settings = self.trial.train
        scale = lr_scale(
            self.step,
            self.trial.steps,
            settings.lr_warmup_fraction,
            settings.lr_decay_fraction,
        )
        adam = Adam(settings.lr * scale, settings.beta1, settings.beta2)
        for name, parameter in self._sae.named_parameters():
            assert parameter.grad is not None
            adam_step(parameter, parameter.grad, self._moments[name], self.step, adam)

    @torch.no_grad()
    def _count(self, x: Float[Tensor, "n d"], out: SaeOutput) -> None:
        """Update the counters, in place and without waiting for the device."""
        self._silent_tokens.add_(len(x)).masked_fill_(out.fired, 0)
        bad = ~out.loss.isfinite() & (self._diverged_at == 0)
        self._diverged_at.masked_fill_(bad, self.step)
        number = self.step - self.trial.steps // 2
        if number > 0:
            error = (out.x_hat - x).double().square().sum()
            fvu = error / x.double().square().sum()
            density = out.l0.double() / self.trial.n_latents
            fvu_mean, density_mean, deviation = self._last_half
            step_away = density - density_mean  # Welford's update: exactly 0 where l0 is constant
            fvu_mean.add_((fvu - fvu_mean) / number)
            density_mean.add_(step_away / number)
            deviation.add_(step_away * (density - density_mean))

    @property
    def _resample_is_due(self) -> bool:
        every = self.trial.train.resample_every
        if every is None or not isinstance(self.trial.sae, L1Config):
            return False
        # after the last update nothing would train what was restarted
        return self.step % every == 0 and self.step < self.trial.steps

    def _resample(self) -> None:
        settings = self.trial.train
        assert settings.resample_after is not None
        silent = self._silent_tokens >= settings.resample_after * settings.batch_size
        generator = generator_at(settings.seed_init, self.step)
        n = self._activations.n_train
        indices = torch.randint(n, (min(n, RESAMPLE_TOKENS),), generator=generator)
        x = self._activations.train_rows(indices).to(self._device)
        resample(self._sae, self._moments, silent, x, generator)
        self._silent_tokens.masked_fill_(silent, 0)

    def _divergence(self) -> Outcome | None:
        """Look whether loss or parameters have become non-finite.

        The flag of the loss is set at the step itself; parameters are looked at here, that is at
        reports: they make the next loss non-finite, so the step recorded is right within one,
        and the report interval is what a diverged trial trains on in vain.
        """
        step = int(self._diverged_at)
        if step:
            reason = f"the loss became non-finite at step {step}"
        elif not all(bool(parameter.isfinite().all()) for parameter in self._sae.parameters()):
            step = self.step
            reason = f"parameters became non-finite at step {step}"
        else:
            return None
        error = f"{reason} with train.lr={self.trial.train.lr:g}: lower it"
        return Outcome(self.trial.uid, "diverged", step, {}, error, self.seconds)

    def _finish(self, losses: dict[str, float]) -> Outcome:
        """Evaluate on the whole validation split, and leave weights and tables in the folder."""
        trial = self.trial
        found = evaluate(self._sae, self._activations)
        results.write(self._folder, trial, self._sae, found, tuple(self._activations.group_names))
        fvu_mean, density_mean, deviation = self._last_half.tolist()
        final = losses | found.metrics
        final |= {
            "dead_train": self._dead.double().mean().item(),
            "fvu_last_half": fvu_mean,
            "l0_fraction_last_half": density_mean,
            "l0_fraction_last_half_sd": (deviation / (trial.steps - trial.steps // 2)) ** 0.5,
            "n_latents": float(trial.n_latents),
        }
        if isinstance(trial.sae, TopKConfig):
            final["k"] = float(trial.sae.k)
        return Outcome(trial.uid, "done", self.step, final, always_on_ids=found.always_on_ids)


def _losses(out: SaeOutput) -> dict[str, float]:
    return {
        name: getattr(out, name).item()
        for name in ("loss", "loss_reconstruction", "loss_sparsity", "loss_aux")
    }
