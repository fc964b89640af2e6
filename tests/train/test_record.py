"""Recording an update as a CUDA graph, with torch's part pretended."""

import gc

import pytest
import torch

from sae_sweep.train import pack_steps
from sae_sweep.train.device import is_out_of_memory

CUDA = torch.device("cuda", 0)


class Graph:
    def __init__(self) -> None:
        self.has_memory = True

    def reset(self) -> None:
        self.has_memory = False

    def replay(self) -> None:
        """Stands for what was recorded."""


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The current stream, last; torch leaves that of a recording in place where one fails."""
    found = ["ours"]

    class Recording:
        def __init__(self, _: Graph, *, pool: object, capture_error_mode: str) -> None:
            assert (pool, capture_error_mode) == ("pool", "thread_local")

        def __enter__(self) -> None:
            found.append("of the recording")

        def __exit__(self, kind: type | None, *_: object) -> None:
            if kind is not None:  # the end of such a recording fails, too
                raise RuntimeError("operation failed due to a previous error during capture")
            found.pop()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: found[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", found.append)
    monkeypatch.setattr(pack_steps, "ABANDONED", [])
    return found


def test_an_update_is_recorded_while_nothing_is_collected(streams: list[str]) -> None:
    collects = []
    replay = pack_steps.record(lambda: collects.append(gc.isenabled()), CUDA, "pool")
    assert replay.__name__ == "replay"
    assert (collects, gc.isenabled(), streams) == ([False], True, ["ours"])
    assert pack_steps.ABANDONED == []


def test_a_recording_that_fails_leaves_all_as_it_was(streams: list[str]) -> None:
    def short() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="previous error during capture") as caught:
        pack_steps.record(short, CUDA, "pool")
    assert is_out_of_memory(caught.value)
    assert (gc.isenabled(), streams[-1]) == (True, "ours")
    (graph,) = pack_steps.ABANDONED
    assert not graph.has_memory
