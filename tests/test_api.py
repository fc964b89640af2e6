"""A sweep from Python."""

import doctest

import pytest

import sae_sweep
from sae_sweep import api
from sae_sweep.errors import BadInput

pytestmark = pytest.mark.figures

SMALL = {
    "sae.k": [4, 8],
    "train.lr": 1e-3,
    "executor": "inline",
    "activations.train_tokens": 1024,
    "activations.validation_tokens": 256,
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("api") / "my outputs"
    return sae_sweep.run("smoke", {**SMALL, "outputs": outputs})


def test_trials_are_a_table(sweep) -> None:
    table = sweep.trials()
    assert list(table["status"]) == ["done", "done"]
    assert list(table["sae.k"]) == [4, 8]


def test_best_is_by_the_metrics_own_direction_and_at_an_l0(sweep) -> None:
    table = sweep.trials().set_index("uid")
    assert sweep.best("fvu").uid == table["fvu"].idxmin()
    assert sweep.best("explained_variance").uid == table["fvu"].idxmin()
    assert sweep.best("fvu", l0=4).final["l0"] == pytest.approx(4, rel=0.1)
    with pytest.raises(BadInput, match="no finished trial with fvu with l0 within 10% of 99"):
        sweep.best(l0=99)
    with pytest.raises(BadInput, match=r"best\('nothing'\): there is no such metric"):
        sweep.best("nothing")


def test_weights_load_by_record_and_by_name(sweep) -> None:
    best = sweep.best()
    assert sweep.load(best).w_dec.equal(sweep.load(best.uid).w_dec)


def test_a_notebook_shows_the_report(sweep) -> None:
    assert sweep.report().startswith("# smoke")
    shown = sweep._repr_markdown_()
    assert "](figures/" not in shown
    assert shown.count("](data:image/png;base64,iVBOR") == sweep.report().count("](figures/") > 0


def test_the_same_call_trains_nothing_again(sweep, capsys) -> None:
    again = sae_sweep.run("smoke", {**SMALL, "outputs": sweep.outputs})
    assert "nothing to train" in capsys.readouterr().err
    assert again.trials().equals(sweep.trials())


def test_axes_of_every_form_are_understood() -> None:
    assert api._hydra({"loguniform": [1e-4, 1e-2]}) == "{loguniform:[0.0001,0.01]}"
    assert api._hydra([None, True, "a"]) == "[null,true,a]"


def test_bad_input_is_raised_before_any_work(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"sae\.k=0"):
        sae_sweep.run("smoke", {**SMALL, "sae.k": 0, "outputs": tmp_path})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_example_of_run_works(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(api)
    assert (failed, tried) == (0, 3)
