"""A whole run: what every trial shares, what varies, and where it runs."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from sae_sweep.config.activations import ActivationsConfig
from sae_sweep.config.base import LARGEST, Count, NonNegative, Number, Strict
from sae_sweep.config.names import nearest
from sae_sweep.config.sae import SaeConfig, TopKConfig
from sae_sweep.config.search import SearchConfig
from sae_sweep.config.stop import StopConfig, refuse_impossible
from sae_sweep.config.train import TrainConfig
from sae_sweep.errors import without_passwords
from sae_sweep.records import METRICS
from sae_sweep.records.metrics import BY_PROBE, GROUND_TRUTH, IN_MODEL
from sae_sweep.records.names import checked_name
from sae_sweep.remote import is_remote, require_url

SinkName = Literal["tensorboard", "wandb", "trackio", "mlflow"]


class TrialConfig(Strict):
    """The settings of one trial."""

    activations: ActivationsConfig
    """Where activations come from."""

    sae: SaeConfig = TopKConfig()
    """What is trained."""

    train: TrainConfig = TrainConfig()
    """How it is trained."""


class Tied(Strict):
    """Settings that vary together."""

    keys: Annotated[list[str], Field(min_length=2)]
    """Dotted settings."""

    values: Annotated[list[list[Any]], Field(min_length=1)]
    """One list a point, one value a key."""


class When(Strict):
    """Axes that exist only where other settings have given values."""

    if_: Annotated[dict[str, Any], Field(alias="if", min_length=1)]
    """Settings and the value (or list of values) that each must have."""

    space: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Axes, as in sweep.space."""


class About(Strict):
    """The settings and metrics that the question is about: what the report's answer speaks of."""

    settings: list[str] = Field(default_factory=list)
    """Dotted keys, e.g. sae.k; empty: all that vary."""

    metrics: list[str] = Field(default_factory=list)
    """Names of metrics, the most important first; empty: fvu, dead_features and l0."""

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in METRICS:
                known = nearest(name, list(METRICS))
                raise ValueError(f"sweep.about.metrics={name}: no such metric; {known}")
        return names


class SweepConfig(Strict):
    """The question, and the axes that answer it."""

    name: str = "untitled"
    """Name of the sweep and of its folder in outputs."""

    question: str = ""
    """What the sweep asks, in one sentence; the report prints it."""

    about: About = About()
    """The settings and metrics that the question is about."""

    space: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Axes: a setting's dotted key and one of grid, choice, uniform, loguniform, int."""

    zip: list[Tied] = Field(default_factory=list)
    """Tied settings: {keys: [...], values: [[...], ...]}."""

    when: list[When] = Field(default_factory=list)
    """Conditional axes: {if: {key: value}, space: {...}}."""

    exclude: list[dict[str, Any]] = Field(default_factory=list)
    """Points to leave out: settings and the value (or list of values) that each has there."""

    seeds: Count = 1
    """Repeats of every configuration, with seed_init = seed_data = 0, 1, ..."""

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        return checked_name(name)


class ExecutorConfig(Strict):
    """Where trials run."""

    kind: Literal["ray", "inline"] = "ray"
    """ray: Ray Tune places slots on cores, GPUs or a cluster; inline: in this process."""

    slots: Count | None = None
    """Processes that train at once; one a GPU, else one a core, where null (inline has one)."""

    threads: Count = 1
    """Threads of a slot's arithmetic; results are bit-identical only for equal threads."""

    cohort: Count | None = None
    """Trials that a slot advances together; where null 1 on a CPU, what memory holds on a GPU."""

    address: str | None = None
    """Address of a running Ray cluster, or auto; a private local one where null."""

    extractors: Annotated[int, Field(ge=0), Number] = 0
    """Ray processes that only run the model, ahead of training; 0: whoever needs rows does."""

    extractor_gpus: NonNegative = 0.0
    """GPUs that each of them takes, in parts if need be; 0: a core each."""


class EvaluateConfig(Strict):
    """What a finished trial is measured by beside its reconstruction; it changes no result."""

    windows: Annotated[int, Field(ge=0, le=LARGEST), Number] = 64
    """Validation windows for what the model loses with the SAE in it (ce, kl, cosine); 0: none."""

    probe_documents: Annotated[int, Field(ge=0, le=LARGEST), Number] = 1024
    """Validation documents for probes that tell activations.group off the latents; 0: none."""


class StoreConfig(Strict):
    """Where results are kept."""

    url: str | None = None
    """SQLAlchemy URL, e.g. postgresql+psycopg://...; outputs/sae_sweep.db where null."""

    weights: Literal["all", "front", "none"] = "all"
    """Which trials keep their weights: all, those on the Pareto front (fvu, l0), or none."""

    optuna_mirror: bool | None = None
    """Copy the sweep to outputs/optuna.db, for optuna-dashboard; unset: searches, not grids."""


class RunConfig(TrialConfig):
    """Everything that `python -m sae_sweep` understands."""

    sweep: SweepConfig = SweepConfig()
    """The question, and the axes."""

    search: SearchConfig = SearchConfig()
    """How points are found."""

    stop: StopConfig = StopConfig()
    """Which trials end early."""

    executor: ExecutorConfig = ExecutorConfig()
    """Where trials run."""

    evaluate: EvaluateConfig = EvaluateConfig()
    """What a finished trial is measured by beside its reconstruction."""

    store: StoreConfig = StoreConfig()
    """Where results are kept."""

    sinks: list[SinkName] = Field(default_factory=list)
    """Trackers that every trial is copied to as a run, e.g. [tensorboard,wandb]."""

    dry_run: bool = False
    """Print trials, cohorts, memory, time, disk and risks, and start nothing."""

    rerun: Literal["failed", "diverged", "weights", "all"] | None = None
    """Train again: what failed (or was oom), diverged, lost its weights, or all trials."""

    outputs: str = "outputs"
    """Folder for everything that is written, or its URL: s3://..., gs://..., file:///..."""

    @field_validator("sinks", mode="before")
    @classmethod
    def _one_or_several(cls, sinks: Any) -> Any:
        names = [sinks] if isinstance(sinks, str) else sinks
        known = list(get_args(SinkName))
        for name in names if isinstance(names, list) else []:
            if name not in known:
                raise ValueError(
                    f"sinks={name}: there is no such sink; {nearest(str(name), known)} "
                    f"(there are {', '.join(known)})"
                )
        return names

    @model_validator(mode="after")
    def _reachable_outputs(self) -> Self:
        require_url(self.outputs)
        if not is_remote(self.outputs):
            return self
        if not (self.store.url or "").startswith("postgresql"):
            raise ValueError(
                f"store.url={without_passwords(self.store.url or 'null')} with "
                f"outputs={self.outputs}: SQLite is a file on one disk; remote outputs need "
                "PostgreSQL: store=postgres, or store.url=postgresql+psycopg://..."
            )
        if self.executor.extractors:
            raise ValueError(
                f"executor.extractors={self.executor.extractors} with outputs={self.outputs}: "
                "extractors hand rows over in a folder that every slot sees; use "
                "executor.extractors=0 or a shared folder"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.executor.extractors and self.executor.kind == "inline":
            raise ValueError(
                f"executor.extractors={self.executor.extractors} with executor.kind=inline: "
                "extractors are processes of Ray; use executor=ray or executor.extractors=0"
            )
        if self.executor.extractor_gpus and not self.executor.extractors:
            raise ValueError(
                f"executor.extractor_gpus={self.executor.extractor_gpus:g} with "
                "executor.extractors=0: say how many extractors there are"
            )
        if self.executor.kind == "inline" and self.executor.slots not in (None, 1):
            raise ValueError(
                f"executor.slots={self.executor.slots} with executor.kind=inline: "
                "inline has one slot; use executor=ray for more"
            )
        for warning in self.stop.warnings:
            refuse_impossible(warning, self.search.targets)
        return self

    @model_validator(mode="after")
    def _objectives_are_measured(self) -> Self:
        for name in self.search.objective or ():
            if name in GROUND_TRUTH and self.activations.kind != "synthetic":
                raise ValueError(
                    f"search.objective={name} compares with true features, which only "
                    "activations=synthetic has; use search.objective=fvu"
                )
            if name in BY_PROBE and self.evaluate.probe_documents == 0:
                raise ValueError(
                    f"search.objective={name} with evaluate.probe_documents=0: it is measured by "
                    "probes; set evaluate.probe_documents=1024"
                )
            if name not in IN_MODEL:
                continue
            if self.evaluate.windows == 0:
                raise ValueError(
                    f"search.objective={name} with evaluate.windows=0: it is measured in the "
                    "model; set evaluate.windows=64"
                )
            if self.activations.kind != "model" or self.activations.pooling != "token":
                raise ValueError(
                    f"search.objective={name} is measured in a model, token by token: it needs "
                    "activations.model and activations.pooling=token"
                )
        return self
