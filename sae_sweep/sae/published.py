"""Autoencoders of other libraries, read from their own layouts: the inverse of `exports`.

Safetensors and JSON only. A pickle is refused: reading one can run code.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from sae_sweep.config import (
    AnySae,
    BatchTopKConfig,
    GatedConfig,
    JumpReluConfig,
    L1Config,
    TopKConfig,
)
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge, sha256
from sae_sweep.sae.base import AbstractSae, Normalisation
from sae_sweep.sae.factory import build
from sae_sweep.sae.weights import WEIGHTS_FILE, load, read_config

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
FOLDED = ("none", "expected_average_only_in")
"""SAELens' normalisations that its weights contain when they are saved."""
EQUAL_NORMS = 1e-3
"""Relative difference up to which decoder rows count as equally long."""
ROUNDING = 1e-5
"""How far the norm of a row that is kept at 1 may be from it."""
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file({{n: t.contiguous() for n, t in torch.load('{old}', weights_only=True).items()}}, "
    "'{new}')\""
)


class Published(NamedTuple):
    """An autoencoder that was trained elsewhere, or a trial of ours."""

    layout: str
    """A name of `LAYOUTS`."""
    sae: AbstractSae
    """In eval mode on the CPU; without a normalisation it takes raw rows."""
    place: str | None
    """Where in a model its rows are from, as it says itself."""
    layer: int | None
    """The layer whose output that is, by our count; None where it is another place, or unknown."""
    model: str | None
    """The model, as it says itself."""
    checksum: str
    """Sha256 of the weights."""

    @property
    def d(self) -> int:
        """Width of its rows."""
        return self.sae.w_enc.shape[1]


class _Told(NamedTuple):
    """An autoencoder on raw rows, as read from a layout."""

    config: AnySae
    tensors: dict[str, Tensor]
    """By the names of our parameters and buffers."""
    subtracts_bias: bool
    """Whether b_dec is subtracted from a row before it is encoded."""
    place: str | None = None
    model: str | None = None


def find(name: str) -> Path:
    """A folder, or a download of ORG/NAME or ORG/NAME/FOLDER from the Hugging Face hub.

    Raises:
        BadInput: there is no such folder, and it cannot be downloaded.
    """
    if Path(name).is_dir():
        return Path(name)
    org, _, rest = name.partition("/")
    repository, _, inside = rest.partition("/")
    if not org or not repository or name.startswith((".", "~")) or Path(name).exists():
        raise BadInput(
            f"{name} is no folder with an autoencoder's weights: give one, or ORG/NAME[/FOLDER] of "
            "the Hugging Face hub"
        )
    from huggingface_hub import snapshot_download

    prefix = f"{inside}/" if inside else ""
    with edge(
        name,
        "check the name and the network, or give a local folder",
        "is neither a folder nor a repository that is cached or can be downloaded",
    ):
        found = snapshot_download(
            f"{org}/{repository}",
            allow_patterns=[f"{prefix}*.safetensors", f"{prefix}*.json"],
            ignore_patterns=[f"{prefix}*/*"] if prefix else ["*/*"],
        )
    return Path(found) / inside


def layout_of(folder: Path) -> str:
    """The layout that a folder's files are in.

    Raises:
        BadInput: none that is known, or its weights are a pickle.
    """
    for name, (settings, weights, _) in LAYOUTS.items():
        if not (folder / settings).exists():
            continue
        if (folder / weights).exists():
            return name
    if _is_trial(folder):  # its weights were not kept: `load` says so
        return "sae_sweep"
    pickled = sorted(one.name for one in folder.iterdir() if one.suffix in PICKLES)
    if pickled:
        old = folder / pickled[0]
        raise BadInput(
            f"{old} is a pickle, which is not read (it could run code): convert it once, "
            f"{CONVERT.format(old=old, new=old.with_suffix('.safetensors'))}"
        )
    files = ", ".join(f"{one}: {a} and {b}" for one, (a, b, _) in LAYOUTS.items())
    raise BadInput(f"{folder} holds no autoencoder that can be read ({files}); pickles are not")


def _is_trial(folder: Path) -> bool:
    try:
        return bool(read_config(folder))
    except BadInput:
        return False


def read(folder: Path, layout: str | None = None) -> Published:
    """Read an autoencoder.

    Args:
        folder: with its settings and weights.
        layout: a name of `LAYOUTS`; what its files say where None.

    Raises:
        BadInput: it is not in that layout, is of an architecture that there is none of here, is
            normalised row by row, or its weights do not fit together.

    Example:
        >>> import tempfile
        >>> from sae_sweep.sae import export, save
        >>> with tempfile.TemporaryDirectory() as name:
        ...     sae = build(TopKConfig(n_latents=8, k=2), 4, seed=0)
        ...     save(Path(name), sae, {"sae": {"kind": "topk", "n_latents": 8, "k": 2}})
        ...     _ = export(name, Path(name) / "theirs", "sparsify")
        ...     found = read(Path(name) / "theirs")
        >>> found.layout, found.sae.config.kind, found.d
        ('sparsify', 'topk', 4)
    """
    there = layout_of(folder)
    if layout is not None and there != layout:
        raise BadInput(f"--format {layout}: {folder} is in the layout of {there}")
    settings_file, weights_file, reader = LAYOUTS[there]
    if reader is None:
        sae, config = load(folder), read_config(folder)
        checksum = sha256(folder / weights_file)
        activations = config.get("activations", {})
        layer = None if "hook" in activations else activations.get("layer")
        return Published(
            there, sae, place_of(activations), layer, activations.get("model"), checksum
        )
    checksum = sha256(folder / weights_file)
    with edge(str(folder / settings_file), "give a folder as the library writes it"):
        settings = json.loads((folder / settings_file).read_text(encoding="utf-8"))
        assert isinstance(settings, dict), "not an object"
    with (
        edge(str(folder / weights_file), "download or save it again"),
        safe_open(folder / weights_file, framework="pt") as file,
    ):
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    with edge(str(folder), f"it is no {there} autoencoder as that library saves it"):
        told = reader(settings, tensors)
        sae = _built(told)
    layer = None if told.place is None else _layer(told.place)
    return Published(there, sae, told.place, layer, told.model, checksum)


def _built(told: _Told) -> AbstractSae:
    """A module of weights that take raw rows."""
    tensors = dict(told.tensors)
    d = tensors["w_enc"].shape[1]
    if not told.subtracts_bias and not told.config.transcoder:
        # W x + b = W (x - b_dec) + (b + W b_dec)
        _shift(tensors, tensors["w_enc"].double() @ tensors["b_dec"].double())
    sae = build(told.config, d, seed=0)
    state = sae.state_dict()
    for name, mine in state.items():
        if tensors[name].shape != mine.shape:
            raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(mine.shape)}")
        mine.copy_(tensors[name])
    return sae.eval()


def _shift(tensors: Mapping[str, Tensor], by: Float[Tensor, " m"]) -> None:
    """Add to the pre-activations of all latents, in place."""
    for name, scale in (("b_enc", None), ("b_gate", None), ("b_mag", "r_mag")):
        if name in tensors:
            factor = 1.0 if scale is None else tensors[scale].double().exp()
            tensors[name].copy_(tensors[name].double() + factor * by)


@torch.no_grad()
def renormalised(
    sae: AbstractSae, inputs: Normalisation, outputs: Normalisation | None = None
) -> AbstractSae:
    """Change, in place, what rows go through before a module: equal latents of equal raw rows.

    With x = a x' + c for rows x and x' of the two normalisations, W (x - b) = a W (x' - (b - c) /
    a), and a reconstruction (b included) becomes (x_hat - c) / a. A transcoder takes nothing off,
    so W c goes into its biases, and its outputs change by their own a and c.

    Args:
        sae: a module and its normalisation.
        inputs: the other normalisation.
        outputs: that of a transcoder's targets.

    Example:
        >>> sae = build(TopKConfig(n_latents=8, k=2), 4, seed=0)
        >>> rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
        >>> before = sae.read(rows).latents
        >>> other = Normalisation(torch.ones(4), 2.0)
        >>> torch.allclose(renormalised(sae, other).read(other.apply(rows)).latents, before)
        True
    """
    a, c = _change(sae.normalisation, inputs)
    w_enc, b_dec = sae.w_enc.double(), sae.b_dec.double()
    sae.w_enc.copy_(a * w_enc)
    if sae.config.transcoder:
        assert outputs is not None
        after, d = _change(
            sae.target_normalisation or Normalisation(torch.zeros_like(c), 1.0), outputs
        )
        _shift(dict(sae.named_parameters()), w_enc @ c)
        if sae.w_skip is not None:
            skip = sae.w_skip.double()
            b_dec = b_dec + skip @ c
            sae.w_skip.copy_(skip * (a / after))
        sae.target_normalisation = outputs
    else:
        after, d = a, c
    sae.w_dec.copy_(sae.w_dec.double() / after)
    sae.b_dec.copy_((b_dec - d) / after)
    sae.normalisation = inputs
    return sae


def _change(before: Normalisation, after: Normalisation) -> tuple[float, Float[Tensor, " d"]]:
    """A and c of x = a x' + c, x normalised as before and x' as after."""
    a = before.scale / after.scale
    return a, (after.mean.double() - before.mean.double()) * before.scale


@torch.no_grad()
def to_unit_rows(sae: AbstractSae) -> None:
    """Bring decoder rows to unit norm, in place, where the architecture keeps them there.

    The latents grow by what the rows shrink. A selection of the largest latents stays the same
    only where all rows are equally long.

    Raises:
        BadInput: another selection would follow.
    """
    if not sae.config.unit_rows:
        return
    norm = sae.w_dec.double().norm(dim=1)
    low, high = norm.min().item(), norm.max().item()
    if max(1 - low, high - 1) < ROUNDING:
        return
    selects = sae.config.l0_setting.name == "k"
    if selects and (low <= 0 or high / low - 1 > EQUAL_NORMS):
        raise BadInput(
            f"decoder rows have norms from {low:.3g} to {high:.3g}, and sae.kind={sae.config.kind} "
            "selects latents of rows with norm 1: rescale each row and its encoder row and bias "
            "first"
        )
    norm = norm.clamp(min=1e-12)
    parameters = {**dict(sae.named_parameters()), **dict(sae.named_buffers())}
    parameters["w_dec"].copy_(sae.w_dec.double() / norm[:, None])
    if "r_mag" in parameters:  # the gate decides alone what fires
        parameters["r_mag"].copy_(parameters["r_mag"].double() + norm.log())
        parameters["b_mag"].copy_(parameters["b_mag"].double() * norm)
        return
    parameters["w_enc"].copy_(sae.w_enc.double() * norm[:, None])
    for name in ("b_enc", "threshold"):
        if name in parameters:
            mine = parameters[name]
            mine.copy_(mine.double() * (norm if mine.ndim else norm.mean()))


def _saelens(settings: dict[str, Any], raw: dict[str, Tensor]) -> _Told:
    """SAELens: cfg.json of version 6, and of earlier ones where they say the same."""
    for name, fine in (("normalize_activations", FOLDED), ("reshape_activations", ("none",))):
        if settings.get(name, "none") not in fine:
            raise BadInput(
                f"{name}={settings[name]}: rows would go through what weights do not contain; "
                f"only {' and '.join(fine)} can be compared on raw rows"
            )
    m = len(raw["W_dec"])
    architecture = settings.get("architecture", "standard")
    k = settings.get("k") or (settings.get("activation_fn_kwargs") or {}).get("k")
    if architecture == "standard" and settings.get("activation_fn_str") == "topk":
        architecture = "topk"
    whole = architecture.replace("skip_transcoder", "transcoder")
    transcoder = (
        {"transcoder": True, "skip": whole != architecture} if "transcoder" in whole else {}
    )
    config: AnySae
    match whole:
        case "standard" | "transcoder":
            config = L1Config(n_latents=m, **transcoder)
        case "jumprelu" | "jumprelu_transcoder":
            config = JumpReluConfig(n_latents=m, **transcoder)
        case "topk" | "abstopk":
            select = "magnitude" if whole == "abstopk" else "largest"
            config = TopKConfig(n_latents=m, k=k, select=select)
        case "gated":
            config = GatedConfig(n_latents=m)
        case _:
            raise _unknown("architecture", architecture)
    tensors = _renamed(raw, {"W_skip": "w_skip"})
    tensors["w_enc"] = raw["W_enc"].T.clone()
    if "scaling_factor" in raw and not torch.allclose(raw["scaling_factor"], torch.ones(())):
        tensors["w_dec"] = raw["W_dec"] * raw["scaling_factor"][:, None]
    if isinstance(config, TopKConfig) and settings.get("rescale_acts_by_decoder_norm"):
        # selected by what a latent adds to the reconstruction: as with rows of norm 1
        norm = raw["W_dec"].norm(dim=1)
        tensors["w_enc"] *= norm[:, None]
        tensors["b_enc"] = raw["b_enc"] * norm
        tensors["w_dec"] = raw["W_dec"] / norm[:, None]
    told = {**settings, **(settings.get("metadata") or {})}
    return _Told(
        config,
        tensors,
        bool(settings.get("apply_b_dec_to_input", True)),
        told.get("hook_name"),
        told.get("model_name"),
    )


def _sparsify(settings: dict[str, Any], raw: dict[str, Tensor]) -> _Told:
    if settings.get("activation", "topk") != "topk" or settings.get("signed"):
        shown = "signed" if settings.get("signed") else settings["activation"]
        raise _unknown("activation", shown)
    transcoder = bool(settings.get("transcode"))
    skip = bool(settings.get("skip_connection"))
    config = TopKConfig(
        n_latents=len(raw["W_dec"]), k=settings["k"], transcoder=transcoder, skip=skip
    )
    names = {"encoder.weight": "w_enc", "encoder.bias": "b_enc", "W_skip": "w_skip"}
    return _Told(config, _renamed(raw, names), subtracts_bias=True)


def _dictionary_learning(settings: dict[str, Any], raw: dict[str, Tensor]) -> _Told:
    trainer = settings["trainer"]
    name = trainer["dict_class"]
    names = {"encoder.weight": "w_enc", "encoder.bias": "b_enc", "decoder.weight": "decoder"}
    names |= {"bias": "b_dec", "decoder.bias": "b_dec", "decoder_bias": "b_dec"}
    names |= {"gate_bias": "b_gate", "mag_bias": "b_mag"}
    tensors = _renamed(raw, names)
    if "decoder" in tensors:
        tensors["w_dec"] = tensors.pop("decoder").T.clone()
    m = len(tensors["w_dec"])
    config: AnySae
    match name:
        case "AutoEncoder" | "AutoEncoderNew":
            config = L1Config(n_latents=m)
        case "AutoEncoderTopK":
            config = TopKConfig(n_latents=m, k=int(raw["k"]))
        case "BatchTopKSAE":
            config = BatchTopKConfig(n_latents=m, k=int(raw["k"]))
            tensors["batches"] = torch.ones(())
            tensors["threshold"] = raw["threshold"].clamp(min=0)  # -1 where there is none yet
        case "JumpReluAutoEncoder":
            config = JumpReluConfig(n_latents=m)
            tensors["w_enc"] = raw["W_enc"].T.clone()
        case "GatedAutoEncoder":
            config = GatedConfig(n_latents=m)
        case _:
            raise _unknown("trainer.dict_class", name)
    subtracts = name not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    return _Told(config, tensors, subtracts, trainer.get("submodule_name"), trainer.get("lm_name"))


def _renamed(raw: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    known = {"W_dec": "w_dec", **names}
    return {known.get(name, name): tensor.clone() for name, tensor in raw.items()}


def _unknown(setting: str, value: Any) -> BadInput:
    return BadInput(
        f"{setting}={value}: there is no such autoencoder here; TopK, BatchTopK, ReLU, JumpReLU "
        "and gated ones can be read"
    )


def place_of(activations: Mapping[str, Any]) -> str | None:
    """Where a model is read, by the settings of activations; None where no model is."""
    number, hook = activations.get("layer"), activations.get("hook")
    if hook is not None:
        return str(hook).replace("{layer}", str(number))
    return None if number is None else f"layer {number}"


RESIDUAL = (
    (re.compile(r"blocks\.(\d+)\.hook_resid_pre"), 0),
    (re.compile(r"blocks\.(\d+)\.hook_resid_post"), 1),
    (re.compile(r"resid_post_layer_(\d+)"), 1),
    (re.compile(r"(?:\w+\.)*(?:layers|layer|h|blocks)\.(\d+)"), 1),
)
"""Names of the residual stream, and what is added to their number for the layer by our count."""


def _layer(place: str) -> int | None:
    """The layer whose output a place is; None for another place, as inside a block."""
    for pattern, more in RESIDUAL:
        if found := pattern.fullmatch(place):
            return int(found[1]) + more
    return None


LAYOUTS: dict[str, tuple[str, str, Callable[[dict[str, Any], dict[str, Tensor]], _Told] | None]] = {
    "saelens": ("cfg.json", "sae_weights.safetensors", _saelens),
    "sparsify": ("cfg.json", "sae.safetensors", _sparsify),
    "dictionary_learning": ("config.json", "ae.safetensors", _dictionary_learning),
    "sae_sweep": ("config.json", WEIGHTS_FILE, None),
}
"""By name the file of settings, the file of weights, and what reads them; a trial of ours last."""
