"""Compile the kernels of further losses for an H200; print what each of them takes.

Run by test_compile.py in a process of its own: there the kernels are compiled, not interpreted.
"""

import sys

import triton
from sm90 import WIDTHS, Compiled, report

from sae_sweep.kernels.fused import always_on, jump, usage
from sae_sweep.kernels.fused.table import PAGE

TYPES = {
    **dict.fromkeys(("start", "tokens", "last_tie", "filled", "tile_member", "counts"), "*i32"),
    **dict.fromkeys(("form", "k_of", "unit_rows", "rows"), "*i32"),
    **dict.fromkeys(("page_member", "page_latents", "member_pages"), "*i32"),
    **dict.fromkeys(("b", "r", "d", "pages", "blocks"), "i32"),
    **dict.fromkeys(("silent_tokens", "dead_window", "active"), "*i64"),
    "eps": "fp32",
    "sums": "*fp64",
    "share": "fp32",
}
SIZES = {"PAGE": PAGE, "TOKENS": usage.TOKENS}


def cases() -> dict[str, Compiled]:
    """List the kernels that do not depend on the width, and those that do at each of `WIDTHS`."""
    wide = {"types": TYPES, "aligned": ("d",)}
    found = {
        "moments": Compiled(usage.moments_kernel, SIZES, usage.WARPS, types=TYPES),
        "width": Compiled(usage.width_kernel, {"CHUNK": usage.PAGES}, types=TYPES),
        "middle": Compiled(usage.middle_kernel, {"PAGE": PAGE}, warps=1, types=TYPES),
        "usage": Compiled(usage.usage_kernel, SIZES, usage.WARPS, bfloat16=("dz",), types=TYPES),
        "fill": Compiled(usage.fill_kernel, {"PAGE": PAGE, "COLUMNS": usage.COLUMNS}, **wide),
        "add_shares": Compiled(always_on.add_shares_kernel, {"CHUNK": 512}, types=TYPES),
    }
    for side, bfloat16 in ((64, ()), (128, ("dz",))):
        found[f"straight through {side}"] = Compiled(
            jump.straight_through_kernel,
            {"PAGE": PAGE, "BLOCK": side, "TOKENS": jump.TOKENS},
            bfloat16=bfloat16,
            aligned=("r",),
            types=TYPES,
        )
    found["thresholds"] = Compiled(
        jump.threshold_kernel, {"PAGE": PAGE}, aligned=("r",), types=TYPES
    )
    for d in WIDTHS:
        sizes = {**SIZES, "WIDTH": triton.next_power_of_2(d)}
        found[f"often {d}"] = Compiled(
            *(always_on.often_kernel, sizes, always_on.WARPS),
            bfloat16=("centred",),
            registers=always_on.REGISTERS,
            **wide,
        )
    return found


if __name__ == "__main__":
    report(cases(), sys.argv[1:])
