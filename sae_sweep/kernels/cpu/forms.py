"""Whether the sparse or the dense form of decoding and its gradients is taken.

Where settings leave it open, the one that was measured to be faster. The times stand in forms.csv;
`python -m benchmarks.forms` measures them. Nothing is tuned while training: equal settings take the
same form everywhere, and give the same bits.
"""

import csv
import math
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

TABLE = "forms.csv"

Form = Literal["auto", "sparse", "dense"]
"""How latents are kept from the encoder on; auto: as measured."""


class StepOptions(NamedTuple):
    """How a step is computed where several forms exist."""

    latents: Form = "auto"
    """The form of the latents; those of AuxK, far denser, always take the measured one."""
    bf16_select: bool = False
    """Whether a product in bfloat16 proposes what exact products then rank."""


AS_MEASURED = StepOptions()


class Timing(NamedTuple):
    """Milliseconds of one shape: decoding, and the gradients of the weights."""

    d: int
    n_latents: int
    k: int
    batch: int
    sparse: float
    dense: float


def is_sparse(form: Form, d: int, n_latents: int, k: int, batch: int) -> bool:
    """Settle a form for a shape."""
    return is_sparse_faster(d, n_latents, k, batch) if form == "auto" else form == "sparse"


@cache
def is_sparse_faster(d: int, n_latents: int, k: int, batch: int) -> bool:
    """Look up the shape that was measured nearest to this one, in ratios of its sizes."""
    asked = _position(d, n_latents, k, batch)
    nearest = min(timings(), key=lambda timing: math.dist(asked, _position(*timing[:4])))
    return nearest.sparse < nearest.dense


def _position(d: int, n_latents: int, k: int, batch: int) -> tuple[float, ...]:
    return tuple(math.log2(size) for size in (d, n_latents, k / n_latents, batch))


@cache
def timings() -> tuple[Timing, ...]:
    """Read the table."""
    text = resources.files(__package__).joinpath(TABLE).read_text(encoding="utf-8")
    return tuple(
        Timing(
            d=int(row["d"]),
            n_latents=int(row["n_latents"]),
            k=int(row["k"]),
            batch=int(row["batch"]),
            sparse=float(row["sparse_ms"]),
            dense=float(row["dense_ms"]),
        )
        for row in csv.DictReader(text.splitlines())
    )
