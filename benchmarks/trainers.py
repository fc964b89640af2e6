"""Ways to train one autoencoder, ours and peers': on the same rows, in the same batches and order.

None uses an auxiliary loss, and each keeps the initialisation, loss and gradient treatment of its
own library. A peer is imported when it is first called for.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_sweep.activations import Activations, batch_indices
from sae_sweep.config import L1Config, TopKConfig, Trial
from sae_sweep.sae import AbstractSae, build, load
from sae_sweep.train import Engine
from sae_sweep.train.schedule import lr_scale


class Reconstruction(NamedTuple):
    """What a trained autoencoder makes of some rows."""

    x_hat: Tensor
    """Reconstruction, [n d]."""
    latents: Tensor
    """Activations, zeros included, [n m]."""


Autoencoder = Callable[[Tensor], Reconstruction]
"""Takes normalised rows, [n d]."""


Watch = Callable[[int, Autoencoder], None]
"""Is told of the autoencoder after so many steps, and leaves it as it is."""

WATCHED = 20
"""Steps from one telling to the next."""


class Ramps(NamedTuple):
    """Lengths in steps of linear rises and falls: of the learning rate, and of the penalty."""

    warmup: int
    decay: int
    l1_warmup: int


def batches(trial: Trial, activations: Activations) -> Iterator[Tensor]:
    """Yield every training batch, as our engine takes them."""
    seed, size = trial.train.seed_data, trial.train.batch_size
    for step in range(trial.steps):
        yield activations.train_rows(
            batch_indices(seed, step, size, activations.n_train, activations.window_rows)
        )


def reading(sae: Any) -> Autoencoder:
    """Let a module read rows."""

    def reconstruct(x: Tensor) -> Reconstruction:
        latents = sae.encode(x)
        return Reconstruction(sae.decode(latents), latents)

    return reconstruct


def ours(trial: Trial, activations: Activations, watch: Watch | None = None) -> Autoencoder:
    """Train in our engine, and read the weights that it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(activations, Path(folder), threads=torch.get_num_threads())
        engine.add(trial)
        for step in range(WATCHED, trial.steps if watch else 0, WATCHED):
            engine.advance(WATCHED)
            watch(step, reading(as_it_is(engine, trial)))
        *_, outcome = engine.advance(trial.steps)
        assert outcome.status == "done", outcome.error
        sae = load(Path(folder) / trial.folder)

    return reading(sae)


@torch.no_grad()
def as_it_is(engine: Engine, trial: Trial) -> AbstractSae:
    """A trial's autoencoder in the midst of its training."""
    sae, tensors = build(trial.sae, trial.source.d, 0), engine.state(trial.uid).tensors
    for name, parameter in sae.named_parameters():
        parameter.copy_(tensors[name])
    return sae


def saelens(trial: Trial, activations: Activations, watch: Watch | None = None) -> Autoencoder:
    """SAELens: SAETrainer.step, which clips the gradient's norm at 1.

    Decoder rows start at norm 0.1 and are free; both biases start at 0. With L1 each activation is
    weighted by its decoder row's norm, as in ours.
    """
    from sae_lens import (
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(trial.train.seed_init)
    ramps, rows = _ramps(trial), batches(trial, activations)
    sizes = {"d_in": activations.d, "d_sae": trial.n_latents}
    if isinstance(trial.sae, L1Config):
        sae = StandardTrainingSAE(
            StandardTrainingSAEConfig(
                **sizes, l1_coefficient=trial.sae.l1_alpha, l1_warm_up_steps=ramps.l1_warmup
            )
        )
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes, k=_k(trial), aux_loss_coefficient=0.0))
    training = SAETrainerConfig(
        total_training_samples=trial.steps * trial.train.batch_size,
        train_batch_size_samples=trial.train.batch_size,
        lr=trial.train.lr,
        lr_end=trial.train.lr,
        lr_warm_up_steps=ramps.warmup,
        lr_decay_steps=ramps.decay,
    )
    trainer = SAETrainer(training, sae, rows)
    for step, x in enumerate(rows, start=1):
        trainer.step(x)
        trainer.n_training_steps += 1
        if watch and step % WATCHED == 0:
            watch(step, reading(sae))

    return reading(sae)


def dictionary_learning(
    trial: Trial, activations: Activations, watch: Watch | None = None
) -> Autoencoder:
    """dictionary_learning: TopKTrainer.update, which clips the gradient's norm at 1.

    Decoder rows have unit norm, b_dec starts at the geometric median of the first batch. Its
    warm-up starts at 0, so the first step moves nothing. With L1 it is StandardTrainer.update:
    plain activations are paid for, biases start at 0, nothing is clipped.
    """
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    ramps = _ramps(trial)
    common = {
        **{"steps": trial.steps, "activation_dim": activations.d, "dict_size": trial.n_latents},
        **{"layer": 0, "lm_name": "", "lr": trial.train.lr, "warmup_steps": ramps.warmup},
        **{"decay_start": trial.steps - ramps.decay, "seed": trial.train.seed_init},
        "device": "cpu",
    }
    if isinstance(trial.sae, L1Config):
        trainer = StandardTrainer(
            **common, l1_penalty=trial.sae.l1_alpha, sparsity_warmup_steps=ramps.l1_warmup
        )
    else:
        trainer = TopKTrainer(**common, k=_k(trial), auxk_alpha=0)
    for step, x in enumerate(batches(trial, activations)):
        trainer.update(step, x)
        if watch and (step + 1) % WATCHED == 0:
            watch(step + 1, reading(trainer.ae))

    return reading(trainer.ae)


def sparsify(trial: Trial, activations: Activations) -> Autoencoder:
    """Sparsify: its SparseCoder and FVU loss, in the order of its trainer, with torch's Adam.

    That trainer runs a language model itself, so the loop around the coder is written out here.
    Decoder rows have unit norm, b_dec starts at the mean of the first batch; nothing is clipped.
    """
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(trial.train.seed_init)
    settings = SparseCoderConfig(num_latents=trial.n_latents, k=_k(trial))
    coder = SparseCoder(activations.d, settings, dtype=torch.float32)
    adam = torch.optim.Adam(coder.parameters(), lr=trial.train.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: lr_share(trial, step))
    for step, x in enumerate(batches(trial, activations)):
        if step == 0:
            coder.b_dec.data = x.mean(0)
        coder.set_decoder_norm_to_unit_norm()
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        schedule.step()
    coder.set_decoder_norm_to_unit_norm()

    def reconstruct(x: Tensor) -> Reconstruction:
        active = coder.encode(x)
        latents = x.new_zeros(len(x), trial.n_latents)
        latents.scatter_(1, active.top_indices, active.top_acts)
        return Reconstruction(coder.decode(active.top_acts, active.top_indices), latents)

    return reconstruct


TRAINERS: dict[str, Callable[[Trial, Activations], Autoencoder]] = {
    "sae-sweep": ours,
    "sae-lens": saelens,
    "dictionary-learning": dictionary_learning,
    "eai-sparsify": sparsify,
}
"""By the name of the distribution, ours first."""


def _k(trial: Trial) -> int:
    assert isinstance(trial.sae, TopKConfig)
    return trial.sae.k


def _ramps(trial: Trial) -> Ramps:
    settings = trial.train
    return Ramps(
        round(settings.lr_warmup_fraction * trial.steps),
        round(settings.lr_decay_fraction * trial.steps),
        round(settings.l1_warmup_fraction * trial.steps),
    )


def lr_share(trial: Trial, step: int) -> float:
    """Share of the peak learning rate at a step counted from 0."""
    settings = trial.train
    return lr_scale(step + 1, trial.steps, settings.lr_warmup_fraction, settings.lr_decay_fraction)
