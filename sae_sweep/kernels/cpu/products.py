"""The dense product behind every dense operation."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def linear(
    x: Float[Tensor, "rows inner"],
    weight: Float[Tensor, "columns inner"],
    bias: Float[Tensor, " columns"] | None = None,
) -> Float[Tensor, "rows columns"]:
    """Compute x weight^T + bias in full precision; either may be a transposed view.

    In float32 by oneDNN, where the build has it: F.linear calls MKL, which takes twice as long on
    processors that are not Intel's.
    """
    if x.dtype == torch.float32 and HAS_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
