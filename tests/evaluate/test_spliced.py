"""A model with an SAE in it, against hooks written by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sae_sweep import evaluate
from sae_sweep.activations import Wanted
from sae_sweep.cli.main import main
from sae_sweep.config import RunConfig, TopKConfig
from sae_sweep.errors import BadInput
from sae_sweep.evaluate import Evaluator, Source, spliced
from sae_sweep.inputs import notes
from sae_sweep.records.metrics import BY_HEAD, IN_MODEL
from sae_sweep.records.store import Reader
from sae_sweep.sae import Normalisation, build

HEADS = {"gpt2": "causal", "llama": "causal", "masked": "masked", "bert": None}
CAUSAL = ["gpt2", "llama"]


def changed(states: Tensor) -> Tensor:
    """What an SAE might make of some states."""
    return 0.5 * states + 0.1 * states.roll(1, dims=-1) + 0.2


class ByHand:
    """The same figures from transformers and one hook, window by window."""

    def __init__(self, kind: str, folder: str) -> None:
        from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

        head = HEADS[kind]
        chosen = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, None: AutoModel}
        self.model = chosen[head].from_pretrained(folder).eval()
        self.body = self.model if head is None else self.model.base_model

    @torch.no_grad()
    def run(self, ids: Tensor, module: torch.nn.Module, change: Callable[[Tensor], Tensor]) -> Any:
        def replace(_module: Any, _args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            states = change(states)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        handle = module.register_forward_hook(replace)
        try:
            out = self.model(input_ids=ids[None], output_hidden_states=True)
        finally:
            handle.remove()
        return out

    def block(self, layer: int) -> torch.nn.Module:
        base = self.body
        blocks = getattr(base, "h", None) or getattr(base, "layers", None) or base.encoder.layer
        return blocks[layer - 1]


def windows(evaluator: Evaluator, text: str, head: str | None) -> list[tuple[Tensor, ...]]:
    """Each window alone: ids, which are text, which are predicted, what they are to be."""
    found = []
    for batch in spliced.batches(evaluator._inputs, text, head):
        for row, length in enumerate(batch.lengths.tolist()):
            parts = (batch.ids, batch.is_text, batch.predicted, batch.truth)
            found.append(tuple(part[row, :length] for part in parts))
    return found


def text_changed(is_text: Tensor, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda states: torch.where(is_text[None, :, None], change(states), states)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "masked"])
@pytest.mark.parametrize("change", [changed, torch.zeros_like])
def test_losses_are_those_of_a_hook_written_by_hand(
    source: Callable[..., Source], kind: str, change: Callable[[Tensor], Tensor]
) -> None:
    made = source(kind)
    evaluate.prepare(made)
    evaluator = Evaluator(made)
    found = evaluator.measure(lambda clean: change(clean.read), HEADS[kind])
    by_hand = ByHand(kind, made.wanted.config.model)
    ce, kl = [], []
    text = "masked" if kind == "masked" else "plain"
    for ids, is_text, predicted, truth in windows(evaluator, text, HEADS[kind]):
        block = by_hand.block(2)
        ours = by_hand.run(ids, block, text_changed(is_text, change)).logits[0]
        clean = by_hand.run(ids, block, lambda states: states).logits[0]
        places = predicted.nonzero()[:, 0]
        ce.append(functional.cross_entropy(ours[places], truth[places], reduction="none"))
        each = functional.kl_div(
            ours[places].log_softmax(-1), clean[places].softmax(-1), reduction="none"
        )
        kl.append(each.sum(-1))
    assert found.ce == pytest.approx(torch.cat(ce).mean().item(), abs=1e-5)
    assert found.kl == pytest.approx(torch.cat(kl).mean().item(), abs=1e-5)
    figures = spliced._metadata(evaluator._file)["figures"]
    if change is torch.zeros_like:
        assert figures["ce_zero"] == found.ce, "the ablated pass itself"


def test_causal_models_predict_the_text_tokens_and_no_special_one(
    source: Callable[..., Source],
) -> None:
    evaluator = Evaluator(source("llama"))
    for ids, is_text, predicted, truth in windows(evaluator, "plain", "causal"):
        assert predicted.tolist() == [*is_text[1:].tolist(), False]
        assert truth[:-1].tolist() == ids[1:].tolist()
        assert not is_text[0], "the first token is the tokeniser's own"


def test_damaged_passes_of_an_earlier_run_are_one_message(source: Callable[..., Source]) -> None:
    made = source("gpt2")
    evaluate.prepare(made)
    file = spliced._file(made)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"\.safetensors cannot be read .*: delete it and run again"):
        evaluate.prepare(made)


@pytest.mark.parametrize("kind", [*HEADS, "t5"])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_exact_activations_give_exactly_the_clean_model(
    source: Callable[..., Source], kind: str, layer: int
) -> None:
    made = source(kind, layer=layer)
    evaluate.prepare(made)
    evaluator, head = Evaluator(made), HEADS.get(kind)
    found = evaluator.measure(lambda clean: clean.read, head)
    assert found.cosine == pytest.approx(1, abs=1e-6)
    if head is not None:
        assert found.ce == spliced._metadata(evaluator._file)["figures"]["ce_clean"]
        assert found.kl == 0


def test_leaving_out_lower_blocks_changes_no_bit(source: Callable[..., Source]) -> None:
    made = source("gpt2")
    evaluate.prepare(made)
    evaluator = Evaluator(made)
    found = evaluator.measure(lambda clean: changed(clean.read), "causal")
    assert evaluator._model._leaves_out
    evaluator._model._leaves_out = False
    assert evaluator.measure(lambda clean: changed(clean.read), "causal") == found


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_output_cosine_is_the_arithmetic_of_sentence_transformers(
    source: Callable[..., Source], model: Callable[[str], Path], tmp_path: Path, pooling: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model("bert"), folder)
    (folder / "1_Pooling").mkdir()
    told = {
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling != "cls",
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))
    made = source("bert", model=str(folder))
    evaluate.prepare(made)
    evaluator = Evaluator(made)
    found = evaluator.measure(lambda clean: changed(clean.read), None)
    by_hand, cosines = ByHand("bert", str(folder)), []
    for ids, is_text, *_ in windows(evaluator, "plain", None):
        block = by_hand.block(2)
        both = []
        for change in (text_changed(is_text, changed), lambda states: states):
            tokens = by_hand.run(ids, block, change).last_hidden_state
            mask = torch.ones(1, len(ids), 1)  # of a window alone: no padding
            mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            vector = tokens[:, 0] if pooling == "cls" else mean
            both.append(functional.normalize(vector, dim=1))
        cosines.append((both[0] * both[1]).sum().item())
    assert found.cosine == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)


def test_a_transcoder_is_spliced_at_its_target(source: Callable[..., Source]) -> None:
    made = source("gpt2", hook="h.{layer}.ln_2", target_hook="h.{layer}.mlp")
    evaluate.prepare(made)
    evaluator = Evaluator(made)
    found = evaluator.measure(lambda clean: changed(clean.read), "causal")
    by_hand, ce = ByHand("gpt2", made.wanted.config.model), []
    for ids, is_text, predicted, truth in windows(evaluator, "plain", "causal"):
        read: list[Tensor] = []
        block = by_hand.body.h[2]
        keep = block.ln_2.register_forward_hook(lambda *args, read=read: read.append(args[2]))
        ours = by_hand.run(
            ids,
            block.mlp,
            lambda states, read=read, is_text=is_text: torch.where(
                is_text[None, :, None], changed(read[-1]), states
            ),
        ).logits[0]
        keep.remove()
        places = predicted.nonzero()[:, 0]
        ce.append(functional.cross_entropy(ours[places], truth[places], reduction="none"))
    assert found.ce == pytest.approx(torch.cat(ce).mean().item(), abs=1e-5)


def test_the_metrics_of_an_sae_undo_its_normalisation(source: Callable[..., Source]) -> None:
    made = source("gpt2")
    evaluate.prepare(made)
    evaluator = Evaluator(made)
    sae = build(TopKConfig(n_latents=32, k=4), 16, seed=0)
    sae.normalisation = Normalisation(torch.linspace(-1, 1, 16), 0.7)
    metrics = evaluator.metrics(sae)

    def by_hand(clean: spliced.Clean) -> Tensor:
        x = (clean.read - torch.linspace(-1, 1, 16)) * 0.7
        return sae.decode(sae.encode(x)) / 0.7 + torch.linspace(-1, 1, 16)

    found = evaluator.measure(by_hand, "causal")
    zero, clean, mean = (metrics[f"ce_{name}"] for name in ("zero", "clean", "mean"))
    assert metrics["ce_loss_increase"] == pytest.approx(found.ce - clean, abs=1e-5)
    assert metrics["ce_recovered"] == pytest.approx((zero - found.ce) / (zero - clean), abs=1e-4)
    assert metrics["ce_recovered_mean"] == pytest.approx(
        (mean - found.ce) / (mean - clean), abs=1e-4
    )
    assert metrics["kl"] == pytest.approx(found.kl, abs=1e-5)
    assert set(IN_MODEL) < set(metrics)


def sweep(outputs: Path, model: Path, story: Path, *more: str) -> dict[str, tuple[Any, bytes]]:
    """Final metrics and weights of two small trials, by uid."""
    words = [f"activations.model={model}", "activations.layer=[1,2]", f"activations.text={story}"]
    words += ["activations.context=8", "activations.train_tokens=300", "sae.n_latents=32"]
    words += ["activations.validation_tokens=100", "train.batch_size=64", "sae.k=4"]
    words += ["sweep.name=small", "executor=inline", f"outputs={outputs}", "sae.aux_coeff=0"]
    assert main([*words, *more]) == 0
    with Reader(f"sqlite:///{outputs / 'sae_sweep.db'}") as reader:
        trials = [member.trial for member in reader.sweep("small").members]
    folders = {one.uid: outputs / "trials" / one.folder for one in trials}
    return {
        one.uid: (one.final, (folders[one.uid] / "sae.safetensors").read_bytes()) for one in trials
    }


@pytest.mark.slow
def test_measuring_changes_neither_uids_nor_weights_nor_other_metrics(
    model: Callable[[str], Path], story: Path, tmp_path: Path
) -> None:
    off = sweep(tmp_path / "off", model("gpt2"), story, "evaluate.windows=0")
    on = sweep(tmp_path / "on", model("gpt2"), story, "evaluate.windows=4")
    assert off.keys() == on.keys()
    for uid, (final, weights) in off.items():
        measured, same = on[uid]
        assert same == weights
        assert {name: measured[name] for name in final} == final
        assert set(measured) - set(final) > set(IN_MODEL)
        assert measured["ce_loss_increase"] != 0


def test_a_model_without_a_head_is_measured_by_its_output(
    model: Callable[[str], Path], story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes._SAID.clear()  # a note is given once in a process
    (final, _), *_ = sweep(tmp_path, model("bert"), story, "evaluate.windows=4").values()
    assert "output_cosine" in final
    assert not set(BY_HEAD) & set(final)
    assert (
        "was saved without a language-model head: with an SAE in it, output_cosine is measured, "
        "and ce_loss_increase, ce_recovered, ce_recovered_mean, kl are not"
        in capsys.readouterr().err
    )


def test_an_objective_needs_the_head_that_it_is_measured_by(
    model: Callable[[str], Path], story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"activations.model={model('bert')}", "activations.layer=1", f"outputs={tmp_path}"]
    words += ["search=random", "search.objective=kl", "sae.k={int:[2,4]}", "search.trials=2"]
    assert main([*words, f"activations.text={story}", "executor=inline"]) == 2
    said = capsys.readouterr().err
    assert "search.objective=kl: activations.model=" in said
    assert "without a language-model head; use search.objective=output_cosine or fvu" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluate": {"windows": 0}}, r"objective=kl with evaluate\.windows=0: .*windows=64"),
        ({"activations": {"synthetic": {}, "d": 8}}, r"objective=kl is measured in a model"),
        (
            {"activations": {"model": "x", "layer": 1, "pooling": "mean"}},
            r"needs activations\.model and activations\.pooling=token",
        ),
    ],
)
def test_an_objective_that_nothing_measures_is_refused(changes: Any, words: str) -> None:
    settings = {"activations": {"model": "x", "layer": 1}, "search": {"objective": "kl"}}
    with pytest.raises(ValueError, match=words):
        RunConfig(**{**settings, **changes})


def test_a_masked_model_needs_a_mask_token(source: Callable[..., Source], tmp_path: Path) -> None:
    made = source("masked")
    folder = tmp_path / "without"
    shutil.copytree(made.wanted.config.model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["mask_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = made.wanted.config.model_copy(update={"model": str(folder)})
    with pytest.raises(BadInput, match=r"has no mask token: set evaluate\.windows=0"):
        evaluate.prepare(made._replace(wanted=Wanted(config, made.wanted.source)))


def test_what_cannot_be_put_back_is_not_measured(source: Callable[..., Source]) -> None:
    made = source("bert", pooling="mean", train_tokens=20, validation_tokens=5)
    assert not evaluate.can_evaluate(made.wanted)
