import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_sweep.activations import declare, describe, facts
from sae_sweep.config import ActivationsConfig, SyntheticConfig
from sae_sweep.errors import BadInput

Make = Callable[..., ActivationsConfig]


def fingerprint(config: ActivationsConfig, outputs: Path) -> str:
    return describe(config, outputs).fingerprint


def synthetic(**changes: Any) -> ActivationsConfig:
    return ActivationsConfig(**{"synthetic": SyntheticConfig(), "d": 8, **changes})


def test_a_moved_model_and_text_are_the_same_source(
    model_config: Make, models: dict[str, Path], story: Path, tmp_path: Path
) -> None:
    before = describe(model_config(), tmp_path)
    model, text = tmp_path / "moved", tmp_path / "renamed.txt"
    shutil.copytree(models["bert"], model)
    shutil.copy(story, text)
    after = describe(model_config(model=str(model), text=str(text)), tmp_path)
    assert after.fingerprint == before.fingerprint
    assert after.settings["model"] == str(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": 1},
        {"context": 9},
        {"pooling": "mean"},
        {"pooling": "position", "position": 0},
        {"train_tokens": 299},
        {"validation_tokens": 99},
        {"hook": "encoder.layer.{layer}"},
        {"text": "python-docs"},
    ],
)
def test_a_setting_that_acts_changes_the_fingerprint(
    model_config: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    before = fingerprint(model_config(), tmp_path)
    assert fingerprint(model_config(**changes), tmp_path) != before


@pytest.mark.parametrize("changes", [{"text_column": "body"}, {"text_split": "test"}, {"d": 16}])
def test_a_setting_without_effect_does_not(
    model_config: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    before = describe(model_config(), tmp_path)
    assert describe(model_config(**changes), tmp_path) == before


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "story.txt"])
def test_changed_content_changes_the_fingerprint(
    model_config: Make, models: dict[str, Path], story: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["bert"], folder)
    config = model_config(model=str(folder))
    before = fingerprint(config, tmp_path)
    path = story if name == "story.txt" else folder / name
    path.write_bytes(path.read_bytes() + b" ")
    assert fingerprint(config, tmp_path) != before


def test_synthetic_sources_differ_by_every_setting(tmp_path: Path) -> None:
    sources = [
        synthetic(),
        synthetic(d=9),
        synthetic(train_tokens=5),
        synthetic(synthetic=SyntheticConfig(seed=1)),
        synthetic(synthetic=SyntheticConfig(noise=0.1)),
    ]
    assert len({fingerprint(config, tmp_path) for config in sources}) == len(sources)


def test_a_source_says_width_training_rows_and_settings(tmp_path: Path) -> None:
    source = describe(synthetic(train_tokens=50), tmp_path)
    assert (source.d, source.train_tokens) == (8, 50)
    assert source.settings["synthetic"]["n_features"] == 64


def test_a_second_description_reads_no_large_file_again(
    model_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = describe(model_config(), tmp_path)

    def sha256(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(facts, "sha256", sha256)
    assert describe(model_config(), tmp_path) == before


def test_a_declared_width_that_disagrees_is_refused(model_config: Make, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((10, 3), np.float32))
    sizes = {"train_tokens": 6, "validation_tokens": 4}
    files = ActivationsConfig(files=str(tmp_path), d=5, **sizes)
    with pytest.raises(BadInput, match=r"activations\.d=5, but the source has 3: set activat"):
        describe(files, tmp_path)
    with pytest.raises(BadInput, match=r"activations\.d=5, but the source has 16: set activat"):
        describe(model_config(d=5), tmp_path)


def test_a_source_out_of_reach_can_be_declared() -> None:
    config = ActivationsConfig(model="owner/unreachable", layer=3, d=1024, train_tokens=7)
    source = declare(config)
    assert (source.d, source.train_tokens) == (1024, 7)
    assert source.settings["model"] == "owner/unreachable"


def test_a_declaration_needs_the_width() -> None:
    with pytest.raises(BadInput, match=r"activations\.d=null: .* has to be declared"):
        declare(ActivationsConfig(model="owner/unreachable", layer=3))


@pytest.mark.slow
def test_synthetic_activations_need_none_of_the_other_packages(tmp_path: Path) -> None:
    child = """
import sys
for name in ("transformers", "tokenizers", "huggingface_hub", "datasets", "ray", "hydra", "optuna",
             "sqlalchemy", "pyarrow", "pandas"):
    sys.modules[name] = None
from pathlib import Path
from sae_sweep.activations import Wanted, describe, open_activations, prepare, verify
from sae_sweep.config import ActivationsConfig
sizes = {"train_tokens": 20, "validation_tokens": 10}
config = ActivationsConfig(synthetic={}, d=4, **sizes)
outputs = Path(sys.argv[1])
source = describe(config, outputs)
list(prepare([Wanted(config, source)], outputs))
folder = outputs / "activations" / source.fingerprint
verify(folder, outputs)
assert open_activations(folder).n_train == 20
"""
    subprocess.run([sys.executable, "-c", child, str(tmp_path)], check=True, timeout=60)
