"""Ways to train one autoencoder, ours and peers': on the same rows, in the same batches and order.

None uses an auxiliary loss on dead latents where k sets L0, and each keeps the initialisation, loss
and gradient treatment of its own library. A peer is imported when it is first called for.
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, assert_never

import torch
from torch import Tensor

from sae_sweep.activations import Activations, batch_indices
from sae_sweep.config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReluConfig,
    L1Config,
    MatryoshkaConfig,
    TopKConfig,
    Trial,
)
from sae_sweep.sae import AbstractSae, build, load
from sae_sweep.train import Engine
from sae_sweep.train.schedule import lr_scale

SAELENS_JUMPRELU = {
    **{"jumprelu_init_threshold": 0.1, "jumprelu_bandwidth": 2.0, "jumprelu_ste_to_input": True},
    **{"pre_act_loss_coefficient": 3e-6, "l0_coefficient": 1.0},
}


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
    """Train in SAELens, and read what it leaves."""
    return reading(saelens_module(trial, activations, watch))


def saelens_module(trial: Trial, activations: Activations, watch: Watch | None = None) -> Any:
    """SAELens: SAETrainer.step, which clips the gradient's norm at 1, read as it saves it for use.

    Decoder rows start at norm 0.1 and are free; both biases start at 0. With L1 each activation is
    weighted by its decoder row's norm, as in ours. JumpReLU has the quadratic penalty around the
    target and gradients to the pre-activations too, with the window and first threshold that its
    documentation takes from Anthropic.
    """
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(trial.train.seed_init)
    ramps, rows = _ramps(trial), batches(trial, activations)
    sizes = {"d_in": activations.d, "d_sae": trial.n_latents}
    match trial.sae:
        case TopKConfig(k=k):
            sae = sae_lens.TopKTrainingSAE(
                sae_lens.TopKTrainingSAEConfig(**sizes, k=k, aux_loss_coefficient=0.0)
            )
        case BatchTopKConfig(k=k):
            sae = sae_lens.BatchTopKTrainingSAE(
                sae_lens.BatchTopKTrainingSAEConfig(**sizes, k=k, aux_loss_coefficient=0.0)
            )
        case MatryoshkaConfig(k=k):
            sae = sae_lens.MatryoshkaBatchTopKTrainingSAE(
                sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
                    **sizes, k=k, aux_loss_coefficient=0.0, matryoshka_widths=trial.sae.sizes
                )
            )
        case JumpReluConfig(target_l0=target):
            sae = sae_lens.JumpReLUTrainingSAE(
                sae_lens.JumpReLUTrainingSAEConfig(
                    **sizes,
                    jumprelu_sparsity_loss_mode="quadratic",
                    target_l0=target,
                    l0_warm_up_steps=ramps.l1_warmup,
                    **SAELENS_JUMPRELU,
                )
            )
        case L1Config(l1_alpha=weight):
            sae = sae_lens.StandardTrainingSAE(
                sae_lens.StandardTrainingSAEConfig(
                    **sizes, l1_coefficient=weight, l1_warm_up_steps=ramps.l1_warmup
                )
            )
        case GatedConfig(l1_alpha=weight):
            sae = sae_lens.GatedTrainingSAE(
                sae_lens.GatedTrainingSAEConfig(
                    **sizes, l1_coefficient=weight, l1_warm_up_steps=ramps.l1_warmup
                )
            )
        case other:
            assert_never(other)
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
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return sae_lens.SAE.load_from_disk(folder)


def dictionary_learning(
    trial: Trial, activations: Activations, watch: Watch | None = None
) -> Autoencoder:
    """dictionary_learning: the trainer of the architecture, `update` for each batch.

    Decoder rows have unit norm, b_dec starts at the geometric median of the first batch (L1, Gated
    and JumpReLU: at 0). The gradient's norm is clipped at 1, but not with L1 and Gated. Its warm-up
    starts at 0, so the first step moves nothing. L1 pays for plain activations. JumpReLU's window
    and first threshold, 0.001, are meant for rows of norm 1 on average: it gets them divided by
    sqrt(d). The thresholds for use of BatchTopK and Matryoshka begin at step 1,000 of the trainer,
    after these trainings' end: here at the decay, with a mean over about a hundred batches.
    """
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.gdm import GatedSAETrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    ramps = _ramps(trial)
    decay_start = trial.steps - ramps.decay
    common = {
        **{"steps": trial.steps, "activation_dim": activations.d, "dict_size": trial.n_latents},
        **{"layer": 0, "lm_name": "", "lr": trial.train.lr, "warmup_steps": ramps.warmup},
        **{"decay_start": decay_start, "seed": trial.train.seed_init, "device": "cpu"},
    }
    in_use = {"auxk_alpha": 0, "threshold_start_step": decay_start, "threshold_beta": 0.99}
    rises = {"sparsity_warmup_steps": ramps.l1_warmup}
    scale = 1.0
    match trial.sae:
        case TopKConfig(k=k):
            trainer = TopKTrainer(**common, k=k, auxk_alpha=0)
        case BatchTopKConfig(k=k):
            trainer = BatchTopKTrainer(**common, **in_use, k=k)
        case MatryoshkaConfig(k=k):
            sizes = trial.sae.sizes
            shares = [(b - a) / trial.n_latents for a, b in pairwise([0, *sizes])]
            trainer = MatryoshkaBatchTopKTrainer(**common, **in_use, k=k, group_fractions=shares)
        case JumpReluConfig(target_l0=target):
            scale = activations.d**-0.5
            torch.manual_seed(trial.train.seed_init)  # it leaves its own seed unused
            trainer = JumpReluTrainer(**common, **rises, target_l0=target)
        case L1Config(l1_alpha=weight):
            trainer = StandardTrainer(**common, **rises, l1_penalty=weight)
        case GatedConfig(l1_alpha=weight):
            trainer = GatedSAETrainer(**common, **rises, l1_penalty=weight)
        case other:
            assert_never(other)
    for step, x in enumerate(batches(trial, activations)):
        trainer.update(step, x * scale)
        if watch and (step + 1) % WATCHED == 0:
            watch(step + 1, reading(trainer.ae))
    found = reading(trainer.ae)

    def reconstruct(x: Tensor) -> Reconstruction:
        x_hat, latents = found(x * scale)
        return Reconstruction(x_hat / scale, latents / scale)

    return found if scale == 1 else reconstruct


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
