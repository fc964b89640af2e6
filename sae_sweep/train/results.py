"""What a finished trial leaves in its folder."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sae_sweep.activations.disk import replacing
from sae_sweep.config import Trial
from sae_sweep.sae import AbstractSae, save
from sae_sweep.train.evaluation import Evaluation

LATENTS_FILE = "latents.parquet"


def write(
    folder: Path, trial: Trial, sae: AbstractSae, found: Evaluation, groups: tuple[str, ...]
) -> None:
    """Write sae.safetensors, config.json and latents.parquet, each whole or not at all.

    The table has a row a latent: `id`, `frequency` and `max_activation` on validation tokens, and
    `frequency_<group>` where tokens have groups.
    """
    save(folder, sae, {"uid": trial.uid, "label": trial.label, **trial.record})
    columns = {
        "id": pa.array(range(len(found.frequency)), pa.int32()),
        "frequency": pa.array(found.frequency.tolist(), pa.float64()),
        "max_activation": pa.array(found.max_activation.tolist(), pa.float32()),
    }
    for name, frequency in zip(groups, found.group_frequency, strict=True):
        columns[f"frequency_{name}"] = pa.array(frequency.tolist(), pa.float64())
    with replacing(folder / LATENTS_FILE) as path:
        pq.write_table(pa.table(columns), path)
