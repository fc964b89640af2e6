"""A trained module on disk: sae.safetensors and config.json in the trial's folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from sae_sweep.config import AnySae, SaeConfig
from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge, sha256
from sae_sweep.sae.base import AbstractSae, Normalisation
from sae_sweep.sae.factory import build

WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "config.json"
CHECKSUM = "weights_sha256"
"""In config.json; trials of earlier versions have none."""
NORMALISATION = ("mean", "scale")
TARGET_NORMALISATION = ("target_mean", "target_scale")

AGAIN = "run its sweep with rerun=weights, which trains it again"

_SETTINGS: TypeAdapter[AnySae] = TypeAdapter(SaeConfig)


def save(folder: Path, sae: AbstractSae, config: dict[str, Any]) -> None:
    """Write parameters and buffers with their normalisation, then settings and checksum.

    Args:
        folder: the trial's; made where it is missing.
        sae: its `normalisation` is stored beside the parameters as `mean` [d] and `scale`.
        config: plain settings of the trial; `config["sae"]` is what `load` builds from.

    Example:
        >>> import tempfile
        >>> from sae_sweep.config import TopKConfig
        >>> sae = build(TopKConfig(n_latents=8, k=2), 4, seed=0)
        >>> sae.normalisation = Normalisation(torch.zeros(4), 1.0)
        >>> with tempfile.TemporaryDirectory() as name:
        ...     save(Path(name), sae, {"sae": {"kind": "topk", "n_latents": 8, "k": 2}})
        ...     print(*sorted(path.name for path in Path(name).iterdir()))
        config.json sae.safetensors
    """
    outputs = sae.target_normalisation
    tensors = {
        **{name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()},
        **_stored(NORMALISATION, sae.normalisation),
        **({} if outputs is None else _stored(TARGET_NORMALISATION, outputs)),
    }
    content = serialise(tensors)
    with replacing(folder / WEIGHTS_FILE) as path:
        path.write_bytes(content)
    told = {**config, CHECKSUM: hashlib.sha256(content).hexdigest()}
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _stored(names: tuple[str, str], normalisation: Normalisation) -> dict[str, Tensor]:
    mean = normalisation.mean.detach().cpu().contiguous()
    scale = torch.tensor(normalisation.scale, dtype=torch.float64)
    return dict(zip(names, (mean, scale), strict=True))


def load(path: str | Path) -> AbstractSae:
    """Read a trial's folder back as a module in eval mode, on the CPU.

    Its inputs are normalised activations: `sae.normalisation.apply` makes them from raw ones, and
    `sae.normalisation.invert` brings a reconstruction back, `sae.target_normalisation.invert` a
    transcoder's.

    Raises:
        BadInput: where the folder holds no weights, they are not those that were written, or do
            not fit its settings.

    Example:
        >>> import tempfile
        >>> from sae_sweep.config import TopKConfig
        >>> sae = build(TopKConfig(n_latents=8, k=2), 4, seed=0)
        >>> sae.normalisation = Normalisation(torch.zeros(4), 1.0)
        >>> with tempfile.TemporaryDirectory() as name:
        ...     save(Path(name), sae, {"sae": {"kind": "topk", "n_latents": 8, "k": 2}})
        ...     load(name).w_dec.equal(sae.w_dec)
        True
    """
    folder = Path(path)
    config = read_config(folder)
    settings = _SETTINGS.validate_python(config["sae"])
    tensors = _read_weights(folder, config)
    mean, scale = (tensors.pop(name) for name in NORMALISATION)
    outputs = [tensors.pop(name) for name in TARGET_NORMALISATION if name in tensors]
    sae = build(settings, len(mean), seed=0)
    with edge(str(folder / WEIGHTS_FILE), AGAIN, f"does not fit {CONFIG_FILE} beside it"):
        sae.load_state_dict(tensors)
    sae.normalisation = Normalisation(mean, scale.item())
    if outputs:
        sae.target_normalisation = Normalisation(outputs[0], outputs[1].item())
    return sae.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Read the settings in a trial's folder.

    Raises:
        BadInput: where there are none that can be read.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise BadInput(
            f"{path} does not exist: give the folder of a finished trial, outputs/trials/..."
        )
    with edge(str(path), AGAIN, "is not the settings of a trial"):
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _SETTINGS.validate_python(config["sae"])
    return config


def wrong_with(folder: Path, *, every_byte: bool = False) -> str | None:
    """What is wrong with a finished trial's weights: `gone`, `damaged`, or nothing.

    Args:
        folder: the trial's.
        every_byte: compare the checksum too, not only header and size of the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     wrong_with(Path(name))
        'gone'
    """
    path = folder / WEIGHTS_FILE
    if not path.exists():
        return "gone"
    try:
        with edge(str(path), AGAIN), safe_open(path, "pt") as file:
            whole = bool(file.keys())
        if every_byte:
            _require_checksum(path, read_config(folder))
    except BadInput:
        return "damaged"
    return None if whole else "damaged"


def _read_weights(folder: Path, config: dict[str, Any]) -> dict[str, Float[Tensor, "..."]]:
    path = folder / WEIGHTS_FILE
    if not path.exists():
        raise BadInput(
            f"{path} does not exist: the trial is not done, or store.weights deleted it; "
            "run its sweep with store.weights=all and rerun=all"
        )
    with edge(str(path), AGAIN):
        tensors = load_file(path)
    _require_checksum(path, config)
    missing = {*NORMALISATION} - tensors.keys()
    if missing:
        raise BadInput(
            f"{path} lacks {' and '.join(sorted(missing))}: give the folder of a finished trial"
        )
    return tensors


def _require_checksum(path: Path, config: dict[str, Any]) -> None:
    with edge(str(path), AGAIN):
        found = sha256(path)
    if config.get(CHECKSUM, found) != found:
        raise BadInput(f"{path} is damaged (its checksum is not that in {CONFIG_FILE}): {AGAIN}")
