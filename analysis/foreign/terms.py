"""Names of our settings and metrics in other tools, and their forms of metrics.

Names are those of SAELens, dictionary_learning, sparsify, saev, W&B exports and published tables.
`sparsity` is not among them: it means active latents here, their share there, a penalty elsewhere.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from sae_sweep.records import METRICS, Status

IGNORE = "ignore"
SECTIONS = ("activations", "sae", "train")
RECORD = ("name", "id", "status", "error", "seconds", "score")
"""What a run has beside settings and metrics; the score is a published one, to be checked."""


class Form(NamedTuple):
    """One way to write a metric."""

    metric: str
    words: str
    """How it becomes ours, in the report's definition; `{column}` is the foreign name."""
    convert: Callable[[float, float], float]
    """From a cell and n_latents (NaN where unknown)."""


FORMS = {
    "dead_percent": Form("dead_features", "{column} / 100", lambda x, _: x / 100),
    "dead_count": Form("dead_features", "{column} / n_latents", lambda x, m: x / m),
    "alive_features": Form("dead_features", "1 - {column}", lambda x, _: 1 - x),
    "alive_percent": Form("dead_features", "1 - {column} / 100", lambda x, _: 1 - x / 100),
    "alive_count": Form("dead_features", "1 - {column} / n_latents", lambda x, m: 1 - x / m),
    "explained_variance_percent": Form(
        "explained_variance", "{column} / 100", lambda x, _: x / 100
    ),
    "fvu_percent": Form("fvu", "{column} / 100", lambda x, _: x / 100),
    "l0_percent": Form("l0_fraction", "{column} / 100", lambda x, _: x / 100),
} | {
    one.name: Form(one.name, "{column}", lambda x, _: x)
    for one in METRICS.values()
    if one.kind != "cost"
}

PERCENT = {
    "dead_features": "dead_percent",
    "alive_features": "alive_percent",
    "explained_variance": "explained_variance_percent",
    "fvu": "fvu_percent",
    "l0_fraction": "l0_percent",
    "l0": "l0_percent",
}
"""The form of a column whose name says that it is a percentage."""

_ALIASES = {
    "name": "run_name label display_name run folder",
    "id": "run_id train_id uid",
    "status": "state run_state",
    "seconds": "runtime duration wall_time run_time elapsed time_total_s",
    "score": "combined_score balanced_score",
    "sae.kind": "kind architecture arch sae_type trainer_class",
    "sae.k": "k top_k topk sparsity_k sae_k",
    "sae.l1_alpha": "l1_alpha l1_coefficient l1_coeff l1_penalty l1_lambda sparsity_penalty",
    "sae.expansion_factor": "expansion_factor expansion dict_mult",
    "sae.n_latents": "n_latents d_sae latent_dim dict_size dictionary_size num_latents n_features",
    "sae.aux_coeff": "aux_coeff aux_loss_coeff aux_loss_coefficient auxk_alpha auxk_coef aux_alpha",
    "sae.aux_target": "aux_target aux_loss_target",
    "train.lr": "lr learning_rate",
    "train.steps": "steps total_steps training_steps n_steps",
    "train.batch_size": "batch_size train_batch_size_tokens sae_batch_size",
    "train.seed": "seed random_seed",
    "train.seed_init": "seed_init",
    "train.seed_data": "seed_data",
    "activations.d": "d d_in d_model activation_dim input_dim",
    "activations.model": "model model_name lm_name",
    "activations.layer": "layer hook_layer",
    "activations.hook": "hook hook_name hook_point hookpoint submodule_name",
    "always_on": "always_on_count n_always_on num_always_on always_on_features",
    "fvu": "frac_variance_unexplained fraction_variance_unexplained normalized_mse nmse",
    "explained_variance": "ev variance_explained frac_variance_explained fve explained_var",
    "dead_features": "dead dead_fraction frac_dead death_rate dead_rate dead_latents dead_neurons "
    "dead_ratio dead_share death fraction_dead",
    "dead_count": "n_dead num_dead",
    "alive_features": "alive frac_alive alive_fraction alive_share",
    "alive_count": "n_alive num_alive",
    "l0": "mean_l0 avg_l0 l0_norm",
    "l0_fraction": "l0_frac l0_share",
    "mse": "mse_loss",
    "loss": "final_loss total_loss overall_loss train_loss",
    "loss_reconstruction": "reconstruction_loss recon_loss",
}
KNOWN = {alias: ours for ours, aliases in _ALIASES.items() for alias in aliases.split()} | {
    # elsewhere precision is that of the arithmetic
    name: name
    for name in (*FORMS, *RECORD)
    if name != "precision"
}

_STATUS_WORDS: dict[Status, str] = {
    "done": "done finished completed complete success succeeded ok terminated",
    "running": "running",
    "queued": "queued pending waiting scheduled",
    "failed": "failed fail failure crashed error errored",
    "diverged": "diverged nan",
    "oom": "oom out_of_memory",
    "stopped": "stopped early_stopped pruned",
    "interrupted": "interrupted killed preempted preempting paused canceled cancelled timeout",
}
STATUSES = {word: status for status, words in _STATUS_WORDS.items() for word in words.split()}


def guess(column: str) -> tuple[str, str] | None:
    """The meaning of a column and the rule behind it; None where its name is unknown."""
    if re.fullmatch(rf"({'|'.join(SECTIONS)})\.\w+", column):
        return column, "our own name"
    whole, last = _plain(column), _plain(re.split(r"[./]|^(?:params|user_attrs)_", column)[-1])
    for name, where in ((whole, "name"), (last, "last part of the name")):
        if name in KNOWN:
            return KNOWN[name], where
        share = re.sub(r"_?(percentage|percent|pct)_?", "", name)
        if share != name and KNOWN.get(share) in PERCENT:
            return PERCENT[KNOWN[share]], f"{where}, a percentage"
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("%", " percent ")).strip("_")
