"""The dense product behind every dense operation."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
HAS_BF16 = HAS_ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether oneDNN multiplies in bfloat16 here; torch itself does anywhere, more slowly."""


def linear(
    x: Float[Tensor, "rows inner"],
    weight: Float[Tensor, "columns inner"],
    bias: Float[Tensor, " columns"] | None = None,
) -> Float[Tensor, "rows columns"]:
    """Compute x weight^T + bias in the precision of x; either may be a transposed view.

    By oneDNN, where the build has it: in float32 F.linear calls MKL, which takes twice as long on
    processors that are not Intel's.
    """
    if (x.dtype == torch.float32 and HAS_ONEDNN) or (x.dtype == torch.bfloat16 and HAS_BF16):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
