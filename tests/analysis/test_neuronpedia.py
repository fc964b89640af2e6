"""The layout that Neuronpedia imports, against the fields of SAEDashboard's exporter."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from test_latents import make

from analysis.latents import write_neuronpedia
from analysis.latents.data import contexts, table
from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord

MODEL = {"activations": {"model": "org/small-model", "layer": 3, "text": "docs", "context": 64}}
FEATURE = [
    "modelId",
    "layer",
    "index",
    "creatorId",
    "createdAt",
    "maxActApprox",
    "hasVector",
    "vector",
    "vectorLabel",
    "vectorDefaultSteerStrength",
    "hookName",
    "topkCosSimIndices",
    "topkCosSimValues",
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_pearson",
    "correlated_neurons_l1",
    "correlated_features_indices",
    "correlated_features_pearson",
    "correlated_features_l1",
    "neg_str",
    "neg_values",
    "pos_str",
    "pos_values",
    "frac_nonzero",
    "freq_hist_data_bar_heights",
    "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
]
REQUIRED = [
    "id",
    "tokens",
    "index",
    "layer",
    "modelId",
    "maxValue",
    "maxValueTokenIndex",
    "minValue",
    "values",
    "creatorId",
]
HEADS = {
    "release": {"name", "description", "creatorName", "creatorId"},
    "model": {"id", "instruct", "creatorId"},
    "sourceset": {"modelId", "name", "creatorId", "releaseName"},
    "source": {"id", "modelId", "setName", "creatorId"},
}


def lines(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return [json.loads(line) for line in text.splitlines()]


def test_features_and_contexts_have_every_field_and_our_figures(tmp_path: Path) -> None:
    folder = make(tmp_path / "exp2_k8-abcdef012345", 1500)
    trial = TrialRecord("abcdef012345", "exp2_k8", "done", MODEL)
    target = write_neuronpedia(trial, folder)
    assert target.relative_to(folder).as_posix() == (
        "neuronpedia/small-model/2-sae_sweep-abcdef012345"
    )
    for name, fields in HEADS.items():
        (row,) = lines(target / f"{name}.jsonl")
        assert fields <= set(row)
    assert sorted(one.name for one in (target / "features").iterdir()) == [
        "batch-0.jsonl.gz",
        "batch-1.jsonl.gz",
    ]
    features = [one for i in (0, 1) for one in lines(target / "features" / f"batch-{i}.jsonl.gz")]
    assert [one["index"] for one in features] == [str(i) for i in range(1500)]
    assert all(set(one) == set(FEATURE) for one in features)
    told, found = table(folder), contexts(folder, 1500)
    for one in (features[0], features[7], features[-1]):
        latent = int(one["index"])
        assert one["frac_nonzero"] == told["frequency"][latent]
        assert one["maxActApprox"] == told["max_activation"][latent]
        assert one["freq_hist_data_bar_heights"] == found["latents"][latent]["histogram"]
        assert len(one["freq_hist_data_bar_values"]) == len(one["freq_hist_data_bar_heights"])
        assert one["layer"] == "2-sae_sweep-abcdef012345"
    words = [found["pieces"][one] for one in found["tokens"]]
    activations = lines(target / "activations" / "batch-0.jsonl.gz")
    assert len({one["id"] for one in activations}) == len(activations)
    last = int(activations[-1]["index"])
    ours = [one for one in activations if int(one["index"]) == last]
    for one, (_, start, stop, shown) in zip(ours, found["latents"][last]["contexts"], strict=True):
        assert set(REQUIRED) <= set(one)
        assert one["tokens"] == words[start:stop]
        fired = {start + i: value for i, value in enumerate(one["values"]) if value}
        assert fired == {row: value for row, value in shown if value}
        assert one["values"][one["maxValueTokenIndex"]] == one["maxValue"] == max(one["values"])


def test_a_trial_of_no_model_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "exp2_k8-abcdef012345", 12)
    with pytest.raises(BadInput, match=r"exp2_k8-abcdef012345 was trained on activations of no kn"):
        write_neuronpedia(TrialRecord("abcdef012345", "exp2_k8", "done", {}), folder)
