"""The reference operations under autograd: what our step is measured against, and what it means."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import trainers
from sae_sweep.activations import Activations
from sae_sweep.config import Trial
from sae_sweep.kernels import Moments, reference
from sae_sweep.sae import build, calibrate
from sae_sweep.train.schedule import sparsity_scale


def _autograd(trial: Trial, activations: Activations) -> Iterator[tuple[Any, Tensor, float]]:
    """Yield a new module, each batch, and its learning rate."""
    sae = build(trial.sae, activations.d, trial.train.seed_init)
    for step, x in enumerate(trainers.batches(trial, activations)):
        if step == 0:
            calibrate(sae, x, trial.sae.b_dec_init)
        yield sae, x, trial.train.lr * trainers.lr_share(trial, step)


def eager(trial: Trial, activations: Activations) -> trainers.Autoencoder:
    """Train with the reference operations and autograd, as elsewhere than on a CPU."""
    dead = torch.zeros(trial.n_latents, dtype=torch.bool)
    moments: dict[str, Moments] = {}
    for step, (sae, x, lr) in enumerate(_autograd(trial, activations), start=1):
        sae.zero_grad(set_to_none=True)
        sae(x, dead, _l1_share(trial, step)).loss.backward()
        if trial.sae.kind == "topk":
            reference.remove_parallel(sae.w_dec.grad, sae.w_dec)
        settings = reference.Adam(lr, trial.train.beta1, trial.train.beta2)
        for name, parameter in sae.named_parameters():
            if name not in moments:
                moments[name] = Moments(torch.zeros_like(parameter), torch.zeros_like(parameter))
            reference.adam_step(parameter, parameter.grad, moments[name], step, settings)
        sae.renormalise()
    return trainers.reading(sae)


def compiled(trial: Trial, activations: Activations) -> trainers.Autoencoder:
    """Train with the reference's forward and backward pass and torch's Adam, both compiled."""
    torch._dynamo.reset()
    dead = torch.zeros(trial.n_latents, dtype=torch.bool)
    loss: Callable[..., Tensor] | None = None
    for step, (sae, x, lr) in enumerate(_autograd(trial, activations), start=1):
        if loss is None:
            rate = torch.tensor(lr)  # a number would be compiled in
            loss = torch.compile(lambda sae, x, scale: sae(x, dead, scale).loss)
            adam = torch.optim.Adam(sae.parameters(), lr=rate)
            update = torch.compile(adam.step)
            project = torch.compile(reference.remove_parallel)
            normalise = torch.compile(reference.normalise_rows)
        rate.fill_(lr)
        sae.zero_grad(set_to_none=True)
        loss(sae, x, torch.tensor(_l1_share(trial, step))).backward()
        if trial.sae.kind == "topk":
            project(sae.w_dec.grad, sae.w_dec)
        update()
        if trial.sae.kind == "topk":
            normalise(sae.w_dec)
    return trainers.reading(sae)


def _l1_share(trial: Trial, step: int) -> float:
    return sparsity_scale(step, trial.steps, trial.train.l1_warmup_fraction)
