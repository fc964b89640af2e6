"""Where activations come from."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sae_sweep.config.base import Count, NonNegative, OpenFraction, Positive, Strict

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class SyntheticConfig(Strict):
    """Activations with a known dictionary: sums of a few random unit directions, plus noise.

    By default every token sums n_active directions, all equally often. With `zipf` features fire
    by chance instead, as in SynthSAEBench (arXiv:2602.14687); `SyntheticReader` has the formulas.
    """

    n_features: Count = 64
    """Directions in the ground-truth dictionary."""

    n_active: Count = 4
    """Directions that are summed in one token; with zipf their mean."""

    noise: NonNegative = 0.0
    """Standard deviation of Gaussian noise, per dimension."""

    seed: int = 0
    """Seed of dictionary and tokens."""

    zipf: NonNegative | None = None
    """Feature i fires by chance, with frequency min(c / i^zipf, max_frequency); 0: all alike."""

    max_frequency: OpenFraction = 0.5
    """zipf: frequency that no feature exceeds."""

    correlation: OpenFraction | None = None
    """zipf: share of what decides a firing that features have in common, by random factors."""

    correlation_rank: Count = 16
    """correlation: number of those factors; with fewer, pairs of features are more correlated."""

    roots: Count | None = None
    """zipf: features without a parent; every other fires only where its parent does."""

    children: Count = 4
    """roots: children of a feature, as long as there are features."""

    options: ClassVar[frozenset[str]] = frozenset(
        {"zipf", "max_frequency", "correlation", "correlation_rank", "roots", "children"}
    )
    """Settings that are left out of the activations' identity where they have no effect."""

    @model_validator(mode="after")
    def _by_chance(self) -> Self:
        if self.zipf is None:
            for name in ("correlation", "roots"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(
                        f"activations.synthetic.{name}={value:g} with zipf=null, where every token "
                        "has n_active features: give a decay of their frequencies, e.g. "
                        "activations.synthetic.zipf=1"
                    )
            return self
        if self.roots is not None and self.zipf == 0:
            raise ValueError(
                f"activations.synthetic.roots={self.roots} with zipf=0: a child as frequent as its "
                "parent fires whenever it does; use e.g. activations.synthetic.zipf=1"
            )
        if self.n_active >= self.max_frequency * self.n_features:
            raise ValueError(
                f"activations.synthetic.n_active={self.n_active} with n_features="
                f"{self.n_features}, none more frequent than max_frequency="
                f"{self.max_frequency:g}: fewer than {self.max_frequency * self.n_features:g} are "
                "active on average; lower n_active"
            )
        return self

    def active(self) -> dict[str, Any]:
        """The settings that act: what the identity of the activations is made of."""
        idle = set() if self.zipf is not None else {*self.options}
        idle |= set() if self.correlation is not None else {"correlation", "correlation_rank"}
        idle |= set() if self.roots is not None else {"roots", "children"}
        return self.model_dump(exclude=idle)


class ActivationsConfig(Strict):
    """One source: `synthetic`, else `files`, else `model` with `layer` over `text`."""

    model: str | None = None
    """A folder, `package:NAME` (a model inside an installed package) or a Hugging Face name."""

    revision: str | None = None
    """Revision of a Hugging Face model: a commit, tag or branch."""

    layer: Annotated[int, Field(ge=0)] | None = None
    """Layer whose output is read; 0 is the embeddings, 1 the first block."""

    hook: str | None = None
    """A module's path with {layer}, e.g. `encoder.layer.{layer}.output`; default: the residual."""

    target_layer: Annotated[int, Field(ge=0)] | None = None
    """Layer of a transcoder's target; `activations.layer` where only target_hook is given."""

    target_hook: str | None = None
    """What a transcoder reconstructs from a row: another module's output, named as `hook`."""

    text: str = "python-docs"
    """`python-docs`, a .txt/.md/.jsonl/.parquet file (or .gz, .zst), a folder, or a data set."""

    text_column: str = "text"
    """Column of .jsonl, .parquet and `datasets` that holds the text."""

    text_split: str = "train"
    """Split of a `datasets` name."""

    text_split_by: Literal["paragraph", "line", "file"] | None = None
    """A document of a .txt or .md; where null a paragraph, in a folder of files each file."""

    text_streaming: bool = False
    """Read a `datasets` name over the network as it goes, without a copy on the disk."""

    shuffle_buffer: Count | None = None
    """Documents held for a running shuffle; null: 10,000 of a stream, else all, on disk."""

    files: str | None = None
    """Folder of .safetensors or .npy [tokens, d] to use instead of running a model."""

    tensor: str | None = None
    """Which tensor of the files holds the activations, where there are several."""

    synthetic: SyntheticConfig | None = None
    """Settings of synthetic activations, used instead of a model."""

    d: Count | None = None
    """Width of the activations; declared, it lets `dry_run` work offline, and is checked."""

    context: Count = 128
    """Tokens in a window, special tokens included; documents are cut, none dropped."""

    packing: Literal["cut", "packed"] = "cut"
    """cut: a window holds one document; packed: the next document follows in the same window."""

    pooling: Literal["token", "mean", "position"] = "token"
    """token: one row per token; mean: a window's masked mean; position: one position of it."""

    position: int | None = None
    """Which token a window gives with pooling=position; negative counts from the end."""

    train_tokens: Count = 262_144
    """Rows for training."""

    validation_tokens: Count = 32_768
    """Rows for validation, from other documents."""

    model_dtype: Dtype = "auto"
    """What the model runs in; auto: its checkpoint's precision on a GPU, float32 on a CPU."""

    dtype: Dtype = "auto"
    """What shards are stored in; auto: what the model runs in, float32 without a model."""

    window_rows: Count | None = 2**20
    """Rows that are shuffled among each other, where the set is larger; null: always all."""

    cache_gb: Positive | None = None
    """Disk for the training shards of each source, in GB; what it cannot hold is computed again."""

    max_norm: Annotated[float, Field(ge=1)] | None = None
    """Leave out rows whose norm is over so many times the median: attention sinks and the like."""

    group: str | None = None
    """Column that names a row's group (language, domain), for metrics by group."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.kind == "model" and self.layer is None:
            raise ValueError(f"activations.layer=null with model={self.model}: choose a layer")
        if (self.pooling == "position") != (self.position is not None):
            raise ValueError(
                f"activations.position={self.position} with pooling={self.pooling}: "
                "position goes with pooling=position, and only with it"
            )
        if self.has_target and self.kind != "model":
            raise ValueError(
                f"activations.target_hook={self.target_hook} with {self.kind} activations: only a "
                "model has hooks; files bring a tensor `target`"
            )
        return self

    @model_validator(mode="after")
    def _rows_of_one_document(self) -> Self:
        if self.packing == "packed" and self.pooling != "token":
            raise ValueError(
                f"activations.packing=packed with pooling={self.pooling}: a row would be of "
                "several documents; use packing=cut or pooling=token"
            )
        return self

    @model_validator(mode="after")
    def _one_window(self) -> Self:
        if self.max_norm is not None and self.windowed:
            raise ValueError(
                f"activations.max_norm={self.max_norm:g} needs all rows in one window: set "
                f"activations.window_rows={self.train_tokens} or null"
            )
        return self

    @property
    def windowed(self) -> bool:
        """Whether training takes one window after the other, not all rows at once."""
        return self.window_rows is not None and self.train_tokens > self.window_rows

    @property
    def buffer(self) -> int | None:
        """Documents held for a running shuffle; None: all of them, in memory."""
        if self.text_streaming and self.shuffle_buffer is None:
            return 10_000
        return self.shuffle_buffer

    @property
    def has_target(self) -> bool:
        """Whether a second place of the model is read, which a transcoder reconstructs."""
        return self.target_hook is not None or self.target_layer is not None

    @property
    def kind(self) -> Literal["synthetic", "files", "model"]:
        """Which source the settings name."""
        if self.synthetic is not None:
            return "synthetic"
        if self.files is not None:
            return "files"
        if self.model is not None:
            return "model"
        raise ValueError(
            "activations.model=null: give activations.model, activations.files or "
            "activations=synthetic"
        )
