"""Every metric, once: name, unit, direction, scale, definition.

Trainer, store, report and search read this table. A metric that is not here does not exist.
"""

from typing import Literal, NamedTuple

from sae_sweep.records.sparsity import PENALTIES

MOST_PREFIXES = 10
"""Of a matryoshka dictionary; each but the last has a metric of its own."""


class Metric(NamedTuple):
    """What a metric is and how to read it; `METRICS` holds them by name.

    Example:
        >>> fvu = METRICS["fvu"]
        >>> fvu.unit, fvu.direction, fvu.scale
        ('ratio', 'down', 'log')
    """

    name: str
    unit: str
    direction: Literal["down", "up", "none"]
    """Which way is better; "none" where neither is."""
    scale: Literal["log", "linear"]
    """The scale on which averages and plots make sense."""
    definition: str
    kind: Literal["quality", "cost", "diagnostic"] = "quality"
    """quality: an outcome to rank by; cost: a setting that is paid for; diagnostic: only shown."""


SPLICED = (
    "ce_spliced the mean cross-entropy of the model with the SAE's reconstruction in place of the "
    "activations of text tokens (of a transcoder's target), over the text tokens that a causal "
    "model predicts or, of a masked one, the 15 % of text tokens that are masked"
)
PROBED_LATENTS = (1, 5)
"""Latents that a sparse probe sees, in one after the other."""
PROBE = (
    "balanced accuracy (mean of the shares of a label's examples and of all others that are told "
    "rightly; guessing gives 0.5), mean over labels, of a logistic regression that tells one label "
    "of activations.group from the others, on validation documents that it has not learnt from; an "
    "example is the mean over a document's rows of one label; it sees"
)
ABLATIONS = {
    "clean": "as it is",
    "zero": "with zeros in place of the activations of text tokens",
    "mean": "with the mean of the training rows in place of the activations of text tokens",
}

TRUTH = (
    "over the features that synthetic activations are sums of (SynthSAEBench, arXiv:2602.14687, as "
    "SAELens evaluates it); absent where the features are not known"
)
DETECTOR = (
    "each latent taken as a detector of the feature whose direction has the largest absolute "
    "cosine with its decoder row: tp, fp and fn count validation tokens by whether the latent is "
    f"not 0 and whether the token sums the feature; 0 where nothing is divided; {TRUTH}"
)

_TABLE = (
    Metric(
        "fvu",
        "ratio",
        "down",
        "log",
        "sum ||x - x_hat||^2 / sum ||x - x_mean||^2 over validation tokens, x_mean their mean: "
        "0 is perfect, predicting the mean scores 1",
    ),
    Metric("explained_variance", "ratio", "up", "linear", "1 - fvu"),
    Metric(
        "fvu_ordinary",
        "ratio",
        "down",
        "log",
        "fvu over the validation rows whose norms, raw and centred, are at most 10 times the "
        "median: without massive activations such as attention sinks; only where there are some",
        "diagnostic",
    ),
    Metric(
        "massive_rows",
        "share",
        "none",
        "linear",
        "share of validation rows whose norm, raw or centred, is over 10 times the median; only "
        "where there are some",
        "diagnostic",
    ),
    Metric(
        "massive_variance",
        "share",
        "none",
        "linear",
        "share of the validation variance that these rows carry",
        "diagnostic",
    ),
    Metric(
        "mse",
        "squared units",
        "down",
        "log",
        "mean of (x - x_hat)^2 over validation tokens and dimensions, after normalisation",
    ),
    Metric(
        "l0",
        "latents/token",
        "down",
        "log",
        "mean count of latents that are not 0, per validation token",
    ),
    Metric("l0_fraction", "share", "down", "log", "l0 / n_latents"),
    Metric(
        "dead_features",
        "share",
        "down",
        "linear",
        "share of latents that fire on no validation token",
    ),
    Metric(
        "rare_features",
        "share",
        "down",
        "linear",
        "share of latents that fire on fewer than 0.05 % of validation tokens",
    ),
    Metric(
        "always_on",
        "latents",
        "down",
        "linear",
        "count of latents that fire on more than 80 % of validation tokens",
    ),
    Metric(
        "mean_activation",
        "activation",
        "none",
        "linear",
        "mean of the non-zero activations on validation tokens",
        "diagnostic",
    ),
    Metric(
        "max_activation",
        "activation",
        "none",
        "linear",
        "largest activation on validation tokens",
        "diagnostic",
    ),
    Metric(
        "diversity",
        "latents",
        "up",
        "linear",
        "distinct latents among the ten largest activations on validation tokens, one a token",
    ),
    Metric(
        "similarity",
        "cosine",
        "down",
        "linear",
        "mean over alive latents of the largest cosine between its decoder row and another's",
    ),
    Metric(
        "decoder_cosine",
        "cosine",
        "none",
        "log",
        "mean over pairs of alive latents of the absolute cosine between their decoder rows "
        "(c_dec of arXiv:2508.16560): at one width it is lowest "
        "where L0 is right",
        "diagnostic",
    ),
    Metric(
        "dead_train",
        "share",
        "down",
        "linear",
        "share of latents silent for the last dead_window_tokens of training",
    ),
    Metric(
        "output_cosine",
        "cosine",
        "up",
        "linear",
        "mean over validation windows of the cosine between the model's pooled last states with "
        "the SAE's reconstruction in place of the activations of text tokens, and without; pooled "
        "as sentence-transformers does it (by 1_Pooling, else the mean over a window's tokens)",
    ),
    Metric(
        "ce_loss_increase",
        "nats/token",
        "down",
        "linear",
        f"ce_spliced - ce_clean, {SPLICED}",
    ),
    Metric(
        "ce_recovered",
        "share",
        "up",
        "linear",
        f"(ce_zero - ce_spliced) / (ce_zero - ce_clean): 1 is the clean model, 0 what zeros in "
        f"place of the activations leave (zero ablation, as SAEBench's core); {SPLICED}",
    ),
    Metric(
        "ce_recovered_mean",
        "share",
        "up",
        "linear",
        f"(ce_mean - ce_spliced) / (ce_mean - ce_clean): as ce_recovered, against the mean of the "
        f"training rows in place of the activations (mean ablation); {SPLICED}",
    ),
    Metric(
        "kl",
        "nats/token",
        "down",
        "log",
        "mean over predicted tokens of KL(clean || spliced) between the distributions that the "
        f"model predicts; {SPLICED}",
    ),
    *(
        Metric(
            f"ce_{name}",
            "nats/token",
            "none",
            "linear",
            f"cross-entropy of the model {words}, on the windows of ce_loss_increase; the same for "
            "all trials of a source",
            "diagnostic",
        )
        for name, words in ABLATIONS.items()
    ),
    *(
        Metric(
            f"output_cosine_{name}",
            "cosine",
            "none",
            "linear",
            f"output_cosine of the model {ABLATIONS[name]}; the same for all trials of a source",
            "diagnostic",
        )
        for name in ("zero", "mean")
    ),
    *(
        Metric(
            f"probe_accuracy_{n}",
            "share",
            "up",
            "linear",
            f"{PROBE} the {n} {'latent' if n == 1 else 'latents'} whose means over the label's "
            "examples and the others differ most, of those to learn from (as SAEBench's sparse "
            "probing, arXiv:2503.09532)",
        )
        for n in PROBED_LATENTS
    ),
    Metric("probe_accuracy_all", "share", "up", "linear", f"{PROBE} all latents"),
    Metric(
        "probe_accuracy_raw",
        "share",
        "none",
        "linear",
        f"{PROBE} the activations in place of latents; the same for all trials of a source",
        "diagnostic",
    ),
    Metric(
        "probe_chance",
        "share",
        "none",
        "linear",
        "probe_accuracy_raw with the labels dealt out to the examples at random: what chance "
        "reaches; the same for all trials of a source",
        "diagnostic",
    ),
    Metric(
        "mcc",
        "cosine",
        "up",
        "linear",
        "mean correlation coefficient: decoder rows and true directions matched one to one so that "
        "the sum of their absolute cosines is largest, the mean of these over the pairs, as many "
        f"as the fewer of both; exact, and left out where that takes too long; {TRUTH}",
    ),
    Metric(
        "f1", "share", "up", "linear", f"mean over latents of 2 tp / (2 tp + fp + fn), {DETECTOR}"
    ),
    Metric(
        "precision", "share", "up", "linear", f"mean over latents of tp / (tp + fp), {DETECTOR}"
    ),
    Metric("recall", "share", "up", "linear", f"mean over latents of tp / (tp + fn), {DETECTOR}"),
    Metric(
        "uniqueness",
        "share",
        "up",
        "linear",
        "count of different features that are nearest to some decoder row, by absolute cosine, "
        f"over n_latents: 1 where no two latents have the same; {TRUTH}",
    ),
    Metric(
        "true_l0",
        "features/token",
        "none",
        "linear",
        f"mean count of features that a validation token sums, {TRUTH}; the same for all trials of "
        "a source",
        "diagnostic",
    ),
    Metric(
        "loss",
        "objective",
        "down",
        "log",
        "the optimised objective: reconstruction plus sparsity plus aux, on a training batch; "
        "not comparable between different coefficients",
        "diagnostic",
    ),
    Metric(
        "loss_reconstruction",
        "objective",
        "down",
        "log",
        "batch mean of sum over dimensions of (x_hat - x)^2, on a training batch; of matryoshka "
        "the mean over its prefixes",
        "diagnostic",
    ),
    Metric(
        "loss_sparsity",
        "objective",
        "none",
        "log",
        "the sparsity term of the loss, coefficient included",
        "diagnostic",
    ),
    Metric(
        "loss_aux",
        "objective",
        "none",
        "log",
        "the auxiliary term of the loss, coefficient included",
        "diagnostic",
    ),
    Metric(
        "fvu_last_half",
        "ratio",
        "down",
        "log",
        "mean over the last half of training of a batch's sum ||x - x_hat||^2 / sum ||x||^2 "
        "(x is centred on the training mean)",
        "diagnostic",
    ),
    Metric(
        "l0_fraction_last_half",
        "share",
        "down",
        "log",
        "mean over the last half of training of a batch's l0 / n_latents",
        "diagnostic",
    ),
    Metric(
        "l0_fraction_last_half_sd",
        "share",
        "none",
        "linear",
        "standard deviation of a batch's l0 / n_latents over the last half of training",
        "diagnostic",
    ),
    *(
        metric
        for weight in PENALTIES
        for metric in (
            Metric(
                f"{weight}_final",
                "weight",
                "none",
                "log",
                f"{weight} where the L0 controller left it",
                "diagnostic",
            ),
            Metric(
                f"{weight}_saturated",
                "share",
                "down",
                "linear",
                f"share of the updates of the last half of training whose {weight} stood at its "
                "bound: above 0 the L0 controller could not go as far as it wanted",
                "diagnostic",
            ),
        )
    ),
    Metric(
        "l0_target_error",
        "share",
        "down",
        "linear",
        "|l0_fraction / l0_target - 1| on validation tokens, of a trial with an L0 controller",
        "diagnostic",
    ),
    *(
        Metric(
            f"fvu_prefix_{i}",
            "ratio",
            "down",
            "log",
            f"fvu of the reconstruction by prefix {i} of a matryoshka dictionary alone, the "
            "shortest first; the whole dictionary's is fvu",
            "diagnostic",
        )
        for i in range(1, MOST_PREFIXES)
    ),
    Metric("k", "latents/token", "down", "log", "active latents per token, as set", "cost"),
    Metric("n_latents", "latents", "down", "log", "dictionary size, as set", "cost"),
)

BY_HEAD = ("ce_loss_increase", "ce_recovered", "ce_recovered_mean", "kl")
"""Metrics of a model with an SAE in it that a language-model head defines."""
IN_MODEL = ("output_cosine", *BY_HEAD)
"""All metrics of a model with an SAE in it."""
BY_PROBE = (*(f"probe_accuracy_{n}" for n in PROBED_LATENTS), "probe_accuracy_all")
"""All metrics of how well labels are read off latents."""

GROUND_TRUTH = ("f1", "mcc", "precision", "recall", "uniqueness")
"""All metrics of a dictionary against the true one."""

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
