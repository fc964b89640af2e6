import pytest

from sae_sweep.activations import groups
from sae_sweep.activations.groups import number_groups
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput

CONFIG = ActivationsConfig(files="x", group="language")


@pytest.mark.parametrize("labels", [["en", "de", "en", "fr"], [12, 3, 12, 700]])
def test_numbers_lead_back_to_the_labels(labels: list[object]) -> None:
    numbers, names = number_groups(labels, CONFIG)
    assert [names[number] for number in numbers] == [str(label) for label in labels]
    assert len(names) == 3


def test_more_groups_than_a_shard_can_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_GROUPS", 1)
    message = r"activations\.group=language names 2 groups, over 1: choose a column with fewer"
    with pytest.raises(BadInput, match=message):
        number_groups(["a", "b"], CONFIG)
