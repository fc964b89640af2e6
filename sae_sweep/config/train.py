"""How it is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sae_sweep.config.base import (
    LARGEST_FACTOR,
    Count,
    Factor,
    Fraction,
    Number,
    OpenFraction,
    Positive,
    Product,
    Seed,
    Strict,
)

Beta = Annotated[float, Field(ge=0, lt=1), Number]
Bound = Annotated[float, Field(gt=1, le=LARGEST_FACTOR), Number]


class TrainConfig(Strict):
    """Optimiser, schedules, length, seeds."""

    lr: Positive = 3e-4
    """Learning rate of Adam at its peak."""

    beta1: Beta = 0.9
    """Adam's decay of the first moment."""

    beta2: Beta = 0.999
    """Adam's decay of the second moment."""

    batch_size: Count = 256
    """Tokens per step."""

    steps: Product | None = None
    """Length of training in steps; or give epochs or tokens."""

    epochs: Factor | None = None
    """Length in passes over the training tokens; 1 where none of the three is given."""

    tokens: Count | None = None
    """Length in tokens."""

    lr_warmup_fraction: Fraction = 0.05
    """Share of the steps over which lr rises linearly from 0."""

    lr_decay_fraction: Fraction = 0.2
    """Share of the steps, the last ones, over which lr falls linearly to 0."""

    l1_warmup_fraction: Fraction = 0.05
    """Share of the steps over which the sparsity term's weight, e.g. l1_alpha, rises from 0."""

    l0_controller: bool = False
    """Whether a penalty's weight, e.g. sae.l1_alpha, is moved in training to hold l0_target."""

    l0_target: OpenFraction | None = None
    """Share of latents to be active in a token, which l0_controller holds, e.g. 0.05."""

    l0_target_start: OpenFraction | None = None
    """Target at the first step, where it moves, e.g. 0.10; l0_target from the start where null."""

    l0_target_fraction: Fraction = 0.5
    """Share of the steps over which the target moves from l0_target_start to l0_target."""

    l0_bound: Bound = 100.0
    """How many times above or below the weight that is set l0_controller can go."""

    resample_every: Count | None = None
    """Steps between resamplings of silent latents (l1, Bricken et al. 2023); null: never."""

    resample_after: Count | None = None
    """Steps of silence after which a latent is resampled; resample_every where null."""

    dead_window_tokens: Count | None = None
    """Tokens of silence after which a latent is dead; min(10 M, training tokens / 8) where null."""

    kernels: Literal["auto", "fused"] = "auto"
    """auto: the device's own operations; fused: many trials in one program (GPU, Triton)."""

    precision: Literal["auto", "fp32", "bf16", "bf16_select"] = "auto"
    """Arithmetic; auto: fp32, bf16 if fused; bf16_select (CPU): bf16 proposes the k, fp32 ranks."""

    latents: Literal["auto", "sparse", "dense"] = "auto"
    """Their form, for sparse sums or dense products; auto: what is faster at that shape."""

    reproducible: bool = True
    """Same settings, same bits, on one kind of device with the same number of threads."""

    seed_init: Seed = 0
    """Seed of the initial weights."""

    seed_data: Seed = 0
    """Seed of the data order."""

    report_every: Count | None = None
    """Steps between reports; a twentieth of the run where null. Not part of a trial's identity."""

    checkpoint_every: Count | None = None
    """Steps between checkpoints; null: every 15 s, or 5 % of the time. Not part of the identity."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {"steps": self.steps, "epochs": self.epochs, "tokens": self.tokens}
        set_ = [f"train.{name}={value:g}" for name, value in given.items() if value is not None]
        if len(set_) > 1:
            raise ValueError(f"{' and '.join(set_)} both set the length: give one of them")
        if self.lr_warmup_fraction + self.lr_decay_fraction > 1:
            raise ValueError(
                f"train.lr_warmup_fraction={self.lr_warmup_fraction:g} and "
                f"train.lr_decay_fraction={self.lr_decay_fraction:g} add to more than 1: "
                "shorten one of them"
            )
        if self.l0_controller and self.l0_target is None:
            raise ValueError(
                "train.l0_target=null with train.l0_controller=true: give a share of latents, "
                "e.g. 0.05"
            )
        if self.precision == "bf16" and self.kernels != "fused":
            raise ValueError(
                f"train.precision=bf16 with train.kernels={self.kernels}: only fused kernels have "
                "it; use train.kernels=fused or train.precision=fp32"
            )
        if self.precision == "bf16_select" and self.kernels == "fused":
            raise ValueError(
                "train.precision=bf16_select with train.kernels=fused: only CPUs have it; use "
                "train.precision=bf16 or train.kernels=auto"
            )
        if self.resample_after is not None and self.resample_every is None:
            raise ValueError(
                f"train.resample_after={self.resample_after} without train.resample_every: "
                "give both or neither"
            )
        return self
