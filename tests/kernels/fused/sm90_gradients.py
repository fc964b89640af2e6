"""Compile the kernels of gradients and updates for an H200, as sm90.py does the others."""

import sys

import triton
from sm90 import WIDTHS, Compiled, report

from sae_sweep.kernels.fused import (
    auxiliary,
    bias,
    columns,
    dense,
    dense_gradients,
    gradients,
    update,
)
from sae_sweep.kernels.fused.table import PAGE

TYPES = (
    dict.fromkeys(("b", "r", "blocks", "k_most"), "i32")
    | dict.fromkeys(("eps", "target_factor", "to_residual"), "fp32")
    | dict.fromkeys(
        ("page_counts", "first", "counts", "tile_member", "tile_plane", "filled"), "*i32"
    )
    | {
        "unit_rows": "*i32",
        "row_of": "*i32",
        "active_sums": "*i32",
        "count": "*i32",
        "dead_window": "*i64",
        "tokens": "*i32",
        "error": "*fp32",
    }
)
"""Types of arguments, by name, that sm90.py does not know or knows otherwise."""

PER_BATCH = ("g", "centred", "copy_enc", "copy_dec")
PER_PRODUCT = ("latents", "dz", "g", "w_dec", "target", "error", "factors", "vectors")


def products(name: str, side: int, depth: int, bfloat16: tuple[str, ...]) -> dict[str, Compiled]:
    """List the products over whole tiles, in one type of operands."""
    page = {"PAGE": PAGE}

    def product(kernel, constants, types=TYPES):
        return Compiled(kernel, constants, 8, 3, bfloat16, ("d", "r"), types)

    decoded = {"TOKENS": side, "COLUMNS": side, "DEPTH": depth}
    differentiated = page | {"TOKENS": side, "DEPTH": depth, "PENALISED": True}
    factors = TYPES | {"factors": "*fp32"}
    return {
        f"decode {name}": product(dense.decode_kernel, decoded, factors)._replace(
            bfloat16=tuple(part for part in bfloat16 if part != "factors")
        ),
        f"dz {name}": product(dense_gradients.dz_kernel, differentiated),
        f"weights {name}": product(
            dense_gradients.weights_kernel, page | {"COLUMNS": side, "DEPTH": depth}
        ),
        f"activate {name}": Compiled(
            dense.activate_kernel,
            page | {"TOKENS": 32, "TURNS": dense.TURNS},
            bfloat16=bfloat16,
            aligned=("r",),
            types=TYPES,
        ),
    }


def narrow() -> dict[str, Compiled]:
    """List the kernels that do not depend on the width or on the operands."""
    listed = {"PAGE": PAGE, "DEAD": True}
    shares = {"GROUPS": PAGE // update.ROWS, "TOKENS": bias.TOKENS, "COLUMNS": bias.COLUMNS}
    last = {"COLUMNS": bias.LAST_COLUMNS, "TERMS": bias.LAST_TERMS}
    found = {
        "count dead": (columns.count_kernel, listed),
        "place dead": (columns.place_kernel, listed | {"PAGES": columns.PAGES}),
        "place all": (columns.place_kernel, listed | {"PAGES": columns.PAGES, "DEAD": False}),
        "sum squares": (dense.sum_squares_kernel, {"TOKENS": 128, "BLOCKS": 32}),
        "l1_weights": (
            dense_gradients.l1_weights_kernel,
            {"PAGE": PAGE, "COLUMNS": 16, "DEPTH": 128},
        ),
        "latent sums": (dense_gradients.latent_sums_kernel, {"PAGE": PAGE, "PENALISED": True}),
        "dead threshold": (
            auxiliary.dead_threshold_kernel,
            {"CANDIDATES": auxiliary.CANDIDATES},
        ),
        "moments": (auxiliary.moments_kernel, {"TOKENS": auxiliary.TOKENS, "COLUMNS": 64}),
        "loss": (auxiliary.loss_kernel, {"BLOCK": 1024}),
        "bias sums": (bias.sum_kernel, shares),
    }
    sizes = {"TOKENS": auxiliary.TOKENS, "COLUMNS": 1024}
    return {
        name: Compiled(kernel, constants, aligned=("d", "r"), types=TYPES)
        for name, (kernel, constants) in found.items()
    } | {
        "variance": Compiled(auxiliary.variance_kernel, sizes, 8, aligned=("d",), types=TYPES),
        # here `first` is one of Adam's moments
        "bias": Compiled(
            bias.update_bias_kernel, last, aligned=("d",), types=TYPES | {"first": "*fp32"}
        ),
    }


def cases() -> dict[str, Compiled]:
    """List all of them, those that hold whole rows at each of `WIDTHS`."""
    found = narrow()
    for kind in gradients.TOKENS:
        name = str(kind).removeprefix("torch.")
        copies = name == "bfloat16"
        side, depth = dense.tile_sides(kind)
        found |= products(name, side, depth, PER_PRODUCT if copies else ())
        for d in WIDTHS:
            width = triton.next_power_of_2(d)
            at_once = gradients.tokens_at_once(kind, width)
            sizes = {"PAGE": PAGE, "WIDTH": width, "TOKENS": at_once, "CHUNK": gradients.CHUNK}
            for nested in (False, True):
                name_of = f"{name} {d}{' nested' * nested}"
                sizes["NESTED"] = nested
                whole = Compiled(
                    gradients.split_kernel,
                    dict(sizes),
                    update.warps(width),
                    bfloat16=PER_BATCH if copies else (),
                    aligned=("d",),
                    types=TYPES | {"rows": "i32"},
                )
                found[f"split {name_of}"] = whole
                for further in (False, True):
                    constants = sizes | {"ROWS": update.ROWS, "COPIES": copies, "DENSE": further}
                    kernel = update.update_kernel
                    if width > gradients.NARROW[kind]:
                        kernel, constants["BLOCK"] = update.update_wide_kernel, update.BLOCK
                    found[f"update {name_of}{' further' * further}"] = whole._replace(
                        kernel=kernel,
                        constants=constants,
                        registers=update.registers(width, nested=nested),
                    )
    return found


if __name__ == "__main__":
    report(cases(), sys.argv[1:])
