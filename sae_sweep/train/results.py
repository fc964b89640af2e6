"""Files of a finished trial."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sae_sweep.config import Trial
from sae_sweep.disk import replacing
from sae_sweep.sae import AbstractSae, save
from sae_sweep.train.by_group import Groups
from sae_sweep.train.evaluation import Evaluation

LATENTS_FILE = "latents.parquet"
GROUPS_FILE = "groups.parquet"


def write(
    folder: Path, trial: Trial, sae: AbstractSae, found: Evaluation, groups: tuple[str, ...]
) -> None:
    """Write sae.safetensors, config.json and the tables, each whole or not at all.

    latents.parquet has one row per latent: `id`, `frequency` and `max_activation` on validation
    tokens, and `frequency_<group>` where tokens have groups. groups.parquet, where there are two
    groups or more, has one row per group: `group`, `tokens`, `fvu`, `l0`, `dead_features` on its
    validation tokens (`by_group.Groups` defines them).

    Raises:
        FileNotFoundError: the folder is gone: another driver has taken the trial over.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is gone")
    save(folder, sae, {"uid": trial.uid, "label": trial.label, **trial.record})
    columns = {
        "id": pa.array(range(len(found.frequency)), pa.int32()),
        "frequency": pa.array(found.frequency.tolist(), pa.float64()),
        "max_activation": pa.array(found.max_activation.tolist(), pa.float32()),
    }
    for name, frequency in zip(groups, found.groups.frequency, strict=True):
        columns[f"frequency_{name}"] = pa.array(frequency.tolist(), pa.float64())
    with replacing(folder / LATENTS_FILE) as path:
        pq.write_table(pa.table(columns), path)
    if len(groups) > 1:
        with replacing(folder / GROUPS_FILE) as path:
            pq.write_table(_group_table(groups, found.groups), path)


def _group_table(names: tuple[str, ...], groups: Groups) -> pa.Table:
    metrics = {"fvu": groups.fvu, "l0": groups.l0, "dead_features": groups.dead_features}
    return pa.table(
        {
            "group": pa.array(names, pa.string()),
            "tokens": pa.array(groups.tokens.tolist(), pa.int64()),
            **{name: pa.array(each.tolist(), pa.float64()) for name, each in metrics.items()},
        }
    )
