"""A trained module on disk: sae.safetensors and config.json in the trial's folder."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from sae_sweep.activations.disk import replacing
from sae_sweep.config import AnySae, SaeConfig
from sae_sweep.errors import BadInput
from sae_sweep.sae.base import AbstractSae, Normalisation
from sae_sweep.sae.factory import build

WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "config.json"
NORMALISATION = ("mean", "scale")
TARGET_NORMALISATION = ("target_mean", "target_scale")

_SETTINGS: TypeAdapter[AnySae] = TypeAdapter(SaeConfig)


def save(folder: Path, sae: AbstractSae, config: dict[str, Any]) -> None:
    """Write parameters and buffers with their normalisation, then the settings.

    Args:
        folder: the trial's; made where it is missing.
        sae: its `normalisation` is stored beside the parameters as `mean` [d] and `scale`.
        config: plain settings of the trial; `config["sae"]` is what `load` builds from.
    """
    outputs = sae.target_normalisation
    tensors = {
        **{name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()},
        **_stored(NORMALISATION, sae.normalisation),
        **({} if outputs is None else _stored(TARGET_NORMALISATION, outputs)),
    }
    with replacing(folder / WEIGHTS_FILE) as path:
        path.write_bytes(serialise(tensors))
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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
        BadInput: where the folder holds no weights, or they do not fit its settings.
    """
    folder = Path(path)
    settings = _SETTINGS.validate_python(read_config(folder)["sae"])
    tensors = _read_weights(folder)
    mean, scale = (tensors.pop(name) for name in NORMALISATION)
    outputs = [tensors.pop(name) for name in TARGET_NORMALISATION if name in tensors]
    sae = build(settings, len(mean), seed=0)
    try:
        sae.load_state_dict(tensors)
    except RuntimeError:
        raise BadInput(
            f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE} beside it: "
            "forget the trial and run its sweep again"
        ) from None
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
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _SETTINGS.validate_python(config["sae"])
    except FileNotFoundError:
        raise BadInput(
            f"{path} does not exist: give the folder of a finished trial, outputs/trials/..."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is not the settings of a trial ({type(error).__name__}): "
            "forget the trial and run its sweep again"
        ) from None
    return config


def _read_weights(folder: Path) -> dict[str, Float[Tensor, "..."]]:
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise BadInput(
            f"{path} does not exist: the trial is not done, or store.weights let it go; "
            "run its sweep with store.weights=all and rerun=all"
        ) from None
    except SafetensorError as error:
        raise BadInput(
            f"{path} cannot be read ({error}): forget the trial and run its sweep again"
        ) from None
    missing = {*NORMALISATION} - tensors.keys()
    if missing:
        raise BadInput(
            f"{path} lacks {' and '.join(sorted(missing))}: give the folder of a finished trial"
        )
    return tensors
