"""One trial in training: its progress, reports and outcome."""

import time
from collections.abc import Iterator
from pathlib import Path

from sae_sweep.config import Trial
from sae_sweep.records import Outcome, Row
from sae_sweep.train import results
from sae_sweep.train.checkpoint import State
from sae_sweep.train.evaluation import evaluate, report
from sae_sweep.train.source import ActivationSource
from sae_sweep.train.training import Training


class Member:
    """Tracks one trial. Reporting does not affect its training."""

    def __init__(
        self,
        trial: Trial,
        training: Training,
        activations: ActivationSource,
        trials: Path,
        folder: Path | None = None,
    ) -> None:
        """Start at step 0.

        Args:
            trial: resolved settings.
            training: its tensors.
            activations: what it trains on and is evaluated on.
            trials: folder below which every trial has its own.
            folder: where its results are written instead; it must be there.
        """
        self.trial = trial
        self.step = 0
        """Updates made."""
        self.seconds = 0.0
        """Wall time of training and evaluation, over all starts; of a pack's, its share."""
        self._training = training
        self._activations = activations
        self._own_folder = trials / trial.folder
        self._folder = folder

    @property
    def state(self) -> State:
        """Everything needed to resume from here, copied to the CPU."""
        tensors = {
            name: tensor.detach().cpu().clone() for name, tensor in self._training.tensors().items()
        }
        return State(tensors, {"step": self.step, "seconds": self.seconds})

    @state.setter
    def state(self, state: State) -> None:
        self._training.load(state)
        self.step = state.step
        self.seconds = float(state.numbers["seconds"])

    @property
    def steps_to_look(self) -> int:
        """Steps until the next report."""
        every = self.trial.report_every
        return min(every - self.step % every, self.trial.steps - self.step)

    def look(self) -> Iterator[Row | Outcome]:
        """Report at this step: a row where a report is due, an outcome at the end."""
        last = self.step == self.trial.steps
        if not last and self.step % self.trial.report_every:
            return
        began = time.perf_counter() - self.seconds
        if (diverged := self._divergence()) is not None:
            yield diverged
            return
        losses = self._training.losses()
        yield Row(
            self.trial.uid, self.step, losses | report(self._training.module(), self._activations)
        )
        if last:
            outcome = self._finish(losses)
            yield outcome._replace(seconds=time.perf_counter() - began)
        self.seconds = time.perf_counter() - began

    def _divergence(self) -> Outcome | None:
        """Check whether loss or parameters have become non-finite.

        The flag of the loss is set at the step itself; parameters are looked at here, that is at
        reports, as a latent that is not a number is never active and need not move the loss: the
        step recorded is then the report's, the last step of what was trained in vain.
        """
        step = self._training.diverged_at()
        if step:
            reason = f"the loss became non-finite at step {step}"
        elif not all(bool(each.isfinite().all()) for each in self._training.module().parameters()):
            step = self.step
            reason = f"parameters became non-finite at step {step}"
        else:
            return None
        error = f"{reason} with train.lr={self.trial.train.lr:g}: lower it"
        return Outcome(self.trial.uid, "diverged", step, {}, error, self.seconds)

    def _finish(self, losses: dict[str, float]) -> Outcome:
        """Evaluate on the whole validation split, and leave weights and tables in the folder."""
        trial, sae = self.trial, self._training.module()
        found = evaluate(sae, self._activations)
        folder = self._folder
        if folder is None:
            folder = self._own_folder
            folder.mkdir(parents=True, exist_ok=True)
        results.write(folder, trial, sae, found, tuple(self._activations.group_names))
        fvu_mean, density_mean, deviation = self._training.last_half().tolist()
        final = losses | found.metrics
        final |= {
            "dead_train": self._training.dead().double().mean().item(),
            "fvu_last_half": fvu_mean,
            "l0_fraction_last_half": density_mean,
            "l0_fraction_last_half_sd": (deviation / (trial.steps - trial.steps // 2)) ** 0.5,
            "n_latents": float(trial.n_latents),
        }
        name, value = trial.sae.l0_setting
        if name == "k" and value is not None:
            final["k"] = float(value)
        if trial.controlled:
            assert trial.train.l0_target is not None
            final |= self._training.controlled()
            final["l0_target_error"] = abs(final["l0_fraction"] / trial.train.l0_target - 1)
        return Outcome(trial.uid, "done", self.step, final, always_on_ids=found.always_on_ids)
