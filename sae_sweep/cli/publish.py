"""`python -m sae_sweep publish TRIAL --hub org/name`: an SAE and a card from its records."""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_sweep.cli.export import folder_with_weights
from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput, CutShort, printable, without_passwords
from sae_sweep.inputs import edge, reason
from sae_sweep.records import METRICS, TrialRecord
from sae_sweep.records.store import Reader, add_options, chosen_url
from sae_sweep.records.store.reader import Sweep
from sae_sweep.sinks import flat

SHOWN = ("fvu", "l0", "l0_fraction", "dead_features", "always_on", "similarity")
"""Metrics in the card's table, where the trial has them; metrics.json has all."""

SEEDS = ("seed_init", "seed_data")


def publish(arguments: list[str]) -> int:
    """Write a trial's weights in SAELens' layout beside a card and its metrics, and upload them.

    Raises:
        BadInput: no such trial, no weights, no token, or a name that the hub does not take.
        CutShort: the upload failed on its way; the folder is there.
    """
    parser = argparse.ArgumentParser(prog="python -m sae_sweep publish")
    parser.add_argument("trial", help="label, folder name or beginning of a uid")
    parser.add_argument("--hub", metavar="ORG/NAME", required=True)
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--licence", default="other", help="of the card, e.g. mit; default: other")
    parser.add_argument("--dry-run", action="store_true", help="write the folder, upload nothing")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.hub.count("/") != 1 or not all(options.hub.split("/")):
        raise BadInput(f"--hub={options.hub}: write ORG/NAME, e.g. my-lab/my-sae")
    token = None if options.dry_run else _token()
    with Reader(chosen_url(options)) as reader:
        trial = reader.find(options.trial)
        sweep = _sweep_of(reader, trial)
        others = reader.all_trials()
    place = _write(options.outputs, trial, sweep, others, options.hub, options.licence)
    sys.stdout.write(f"wrote {place}: README.md, cfg.json, sae_weights.safetensors, metrics.json\n")
    if token is not None:
        sys.stdout.write(f"uploaded: {_upload(place, options.hub, token, options.private)}\n")
    return 0


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if token is None:
        raise BadInput(
            "publish: no token of the Hugging Face hub: run `hf auth login` or set HF_TOKEN, or "
            "use --dry-run to write the folder only"
        )
    return token


def _sweep_of(reader: Reader, trial: TrialRecord) -> Sweep | None:
    """The latest sweep that asked for the trial."""
    for run in reader.runs():
        sweep = reader.sweep(run.name)
        if any(one.uid == trial.uid for one in sweep.trials):
            return sweep
    return None


def _write(
    outputs: Path,
    trial: TrialRecord,
    sweep: Sweep | None,
    others: Sequence[TrialRecord],
    hub: str,
    licence: str,
) -> Path:
    from sae_sweep.sae import export

    folder = folder_with_weights(outputs, trial)
    place = folder / "publish"
    export(folder, place)
    shutil.copyfile(folder / "config.json", place / "config.json")
    metrics = {
        name: {
            "value": value,
            "unit": METRICS[name].unit,
            "definition": METRICS[name].definition,
        }
        for name, value in trial.final.items()
        if name in METRICS
    }
    _put(place / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _put(place / "README.md", card(trial, sweep, others, hub, licence))
    figures = outputs / (sweep.run.name if sweep else "") / "figures"
    if sweep is not None and figures.is_dir():
        shutil.copytree(figures, place / "figures", dirs_exist_ok=True)
    return place


def card(
    trial: TrialRecord,
    sweep: Sweep | None,
    others: Sequence[TrialRecord],
    hub: str,
    licence: str,
) -> str:
    """Write the model card; every statement in it is read from the records.

    Args:
        trial: what is published.
        sweep: the sweep it is from, where the store knows one.
        others: all trials of the store, among them the trial's other seeds.
        hub: ORG/NAME.
        licence: its identifier on the hub.
    """
    activations, sae = trial.config["activations"], trial.config["sae"]
    train = trial.config["train"]
    tokens = train["steps"] * train["batch_size"]
    seeds = [one for one in others if one.status == "done" and _unseeded(one) == _unseeded(trial)]
    lines = [
        "---",
        "library_name: saelens",
        f"license: {licence}",
        "tags: [sparse-autoencoder, interpretability, sae_sweep]",
        "---",
        "",
        f"# {hub.partition('/')[2]}",
        "",
        f"A {sae['kind']} sparse autoencoder with {sae['n_latents']:,} latents, trained on "
        f"{tokens:,} tokens of activations. Trial `{trial.folder}`"
        + (f" of the sweep `{sweep.run.name}`." if sweep else "."),
        "",
        "```python",
        "from huggingface_hub import snapshot_download",
        "from sae_lens import SAE",
        "",
        f'sae = SAE.load_from_disk(snapshot_download("{hub}"))  # takes raw activations',
        "```",
        "",
        "## Metrics",
        "",
        f"On held-out documents, one evaluation at the end; {_noise(seeds)}",
        "",
        "| metric | value | definition |",
        "| --- | ---: | --- |",
        *(
            f"| {name} | {trial.final[name]:.4g} | {_cell(METRICS[name].definition)} |"
            for name in SHOWN
            if trial.final.get(name) is not None
        ),
        "",
        "## Training data",
        "",
        *_settings(activations),
        "",
        "## Settings",
        "",
        *_settings({"sae": sae, "train": train}),
        "",
        "## Limits",
        "",
        *_limits(trial, seeds),
        "",
        "## Reproduce",
        "",
        *_reproduce(trial, sweep),
        "",
    ]
    return without_passwords("\n".join(lines))


def _noise(seeds: Sequence[TrialRecord]) -> str:
    values = [one.final["fvu"] for one in seeds if one.final.get("fvu") is not None]
    numbers = [value for value in values if value is not None]
    if len(numbers) < 2:
        return "one seed of this configuration was trained, so its noise is not known."
    spread = statistics.stdev(numbers)
    return (
        f"over {len(numbers)} seeds of this configuration fvu is {statistics.mean(numbers):.4g} "
        f"with a standard deviation of {spread:.2g}."
    )


def _limits(trial: TrialRecord, seeds: Sequence[TrialRecord]) -> list[str]:
    found = ["- fvu measures reconstruction; it does not say what a latent means."]
    if len(seeds) < 2:
        found.append("- One seed: differences from other configurations may be noise.")
    dead = trial.final.get("dead_features")
    if dead:
        found.append(f"- {dead:.1%} of the latents fired on no validation token.")
    always = trial.final.get("always_on")
    if always:
        ids = ", ".join(map(str, trial.always_on_ids[:20]))
        found.append(f"- {always:.0f} latents fire on more than 80 % of tokens: {ids}.")
    return found


def _reproduce(trial: TrialRecord, sweep: Sweep | None) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(trial.versions.items()))
    found = [f"uid `{trial.uid}`; {versions}; commit {trial.git or 'not known'}."]
    if sweep is not None:
        found += ["", "```bash", sweep.run.command, "```"]
    return found


def _settings(values: dict[str, Any]) -> list[str]:
    kept = {key: value for key, value in flat(values).items() if value is not None}
    rows = [f"| {key} | {_cell(value)} |" for key, value in kept.items()]
    return ["| setting | value |", "| --- | --- |", *rows]


def _cell(value: Any) -> str:
    """Text that neither ends a table's cell nor is read as HTML."""
    return printable(str(value)).replace("|", "\\|").replace("<", "&lt;")


def _unseeded(trial: TrialRecord) -> dict[str, Any]:
    train = {key: value for key, value in trial.config["train"].items() if key not in SEEDS}
    return {**trial.config, "train": train}


def _put(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _upload(place: Path, hub: str, token: str, private: bool) -> str:  # noqa: FBT001
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    way_out = f"the folder {place} is complete, and the same command tries again"
    with edge(f"the upload to {hub}", way_out, "failed", kind=CutShort):
        api = HfApi(token=token)
        try:
            api.create_repo(hub, private=private, exist_ok=True)
        except HFValidationError as error:
            raise BadInput(f"--hub={hub}: {reason(error)}: write ORG/NAME") from None
        done = api.upload_folder(repo_id=hub, folder_path=place, commit_message="Add the SAE")
        return str(done.commit_url)
