"""Compile the kernels for an H200 on a machine without one; print what each of them takes.

For another device: its compute capability, as 89, in the environment variable SM. Run by
test_compile.py in a process of its own: there the kernels are compiled, not interpreted.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sae_sweep.kernels.fused import (
    ahead,
    batch_select,
    by_latent,
    candidates,
    centre,
    counters,
    decode,
    encode,
    encode_by_library,
    order,
    select,
    sums,
)
from sae_sweep.kernels.fused.table import PAGE

WIDTHS = (16, 384, 768, 2048, 4096, 5120)
"""Of rows. Kernels are compiled for the next power of two: 5120 stands for all up to 8192."""
TILE = select.TILE_PAGES * PAGE
TABLE = {
    "form": "*i32",
    "k_of": "*i32",
    "batch_k_of": "*i32",
    "batch_k": "*i32",
    "room_of": "*i32",
    "member_pages": "*i32",
    "page_member": "*i32",
    "page_latents": "*i32",
    "page_span": "*i32",
}
INTEGERS = dict.fromkeys(
    (
        *("members", "tokens", "pages", "capacity", "d", "n_rows", "entries", "n_streams", "batch"),
        *("no_row", "plane"),
    ),
    "i32",
)
LISTS = {"candidate_pages": "*i32", "n_candidates": "*i32", "bounds": "*i32", "rows": "*i32"}
EXTENTS = {"n_pages": "*i32", "n_pages_of": "*i32", "first_page": "*i32", "first_page_of": "*i32"}
CHOICE = {"scratch": "*i32", "last_row": "*i32", "overflow": "*i32"}
SUMS = {"error": "*fp64", "energy": "*fp64", "scale": "fp32", "sorted_tokens": "*i32"}
COUNTS = {
    "start": "*i32",
    "last_tie": "*i32",
    "dense_count": "*i32",
    "silent_tokens": "*i64",
    "active": "*i64",
    "order": "*i64",
    "at": "*i64",
    "stream": "*i32",
}
TYPES = TABLE | INTEGERS | LISTS | EXTENTS | CHOICE | COUNTS | SUMS
"""Types of arguments, by name; float32 tensors are not named."""


WIDE = ("firsts", "halves", "n_latents", "done", "diverged_at", "active", "at")
BOOKKEEPING = {
    **dict.fromkeys(WIDE, "*i64"),
    **dict.fromkeys(("last_half", "control"), "*fp64"),
    **dict.fromkeys(("slowest", "error_bound", "lead", "proportional"), "fp32"),
    "width": "i32",
}
ORDER = {
    **dict.fromkeys(("width", "n", "rows", "columns"), "i32"),
    **dict.fromkeys(("seeds", "begins"), "*i64"),
    "order": "*i32",
}


DIGITS = dict.fromkeys(("prefix", "rest", "counts", "ties", "last_tie"), "*i32")


class Compiled(NamedTuple):
    """One way in which a kernel is compiled."""

    kernel: Any
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3
    bfloat16: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    """Integers that are multiples of 16, as Triton finds at a launch."""
    types: Mapping[str, str] = MappingProxyType({})
    """Types of arguments that are not those in `TYPES`."""
    registers: int | None = None
    """Most that the launch allows."""


def cases() -> dict[str, Compiled]:
    """List the kernels that do not depend on the width, and those that do at each of `WIDTHS`."""

    def product(tile: encode.Tile, *bfloat16: str) -> Compiled:
        sizes = {"PAGE": PAGE, "TOKENS": tile.tokens, "DEPTH": tile.depth, "GROUP": encode.GROUP}
        return Compiled(
            encode.multiply_pages, sizes | {"EVEN": True}, tile.warps, tile.stages, bfloat16, ("d",)
        )

    found = {
        "encode bfloat16": product(encode.BFLOAT16, "centred", "w_enc"),
        "encode bfloat16, few": product(encode.BFLOAT16_FEW, "centred", "w_enc"),
        "encode bfloat16, bulk copies": Compiled(
            encode.multiply_by_bulk_copies,
            {
                "PAGE": PAGE,
                "TOKENS": encode.BFLOAT16.tokens,
                "DEPTH": encode.BFLOAT16.depth,
                "GROUP": encode.GROUP,
                "PROGRAMS": 132,
            },
            encode.BFLOAT16.warps,
            encode.BFLOAT16.stages,
            aligned=("d",),
            types={
                "x_blocks": f"tensordesc<bf16[{encode.BFLOAT16.tokens}, {encode.BFLOAT16.depth}]>",
                "w_blocks": f"tensordesc<bf16[{PAGE}, {encode.BFLOAT16.depth}]>",
            },
        ),
        "encode float32": product(encode.FLOAT32),
        "finish_pages": Compiled(
            encode_by_library.finish_pages, {"PAGE": PAGE, "TOKENS": encode_by_library.TOKENS}
        ),
        "find_extents": Compiled(candidates.find_extents, {"CHUNK": candidates.PAGES}),
        "list_pages": Compiled(candidates.list_pages, {"CHUNK": candidates.PAGES}, warps=1),
        "choose": Compiled(select.choose, {"PAGE": PAGE, "TILE": TILE}, select.WARPS),
        "gather_entries": Compiled(by_latent.gather_entries, {"BLOCK": by_latent.BLOCK}),
        "add_pages": Compiled(sums.add_pages, {"GROUPS": 16, "PAGES": sums.PAGES}),
        "begin": Compiled(ahead.begin_kernel, ahead.CONSTANTS, warps=1, types=BOOKKEEPING),
        "count": Compiled(
            counters.count_kernel, {"CHUNK": counters.CHUNK, "SPANS": 5}, types=BOOKKEEPING
        ),
        "retire": Compiled(
            counters.retire_kernel, {"BLOCK": counters.BLOCK}, types={"rows": "*i32"}
        ),
        "order": Compiled(order.order_kernel, {"BLOCK": order.BLOCK}, types=ORDER),
        "count_page": Compiled(sums.count_page, {"PAGE": PAGE}),
    }
    pages = {"PAGE": PAGE, "PAGES": batch_select.PAGES}
    found["ties"] = Compiled(batch_select.ties_kernel, pages, types=DIGITS)
    found["place"] = Compiled(
        batch_select.place_kernel, pages | {"CHUNK": batch_select.CHUNK}, types=DIGITS
    )
    for shift, bits in batch_select.DIGITS:
        digit = {"BITS": bits, "BINS": 1 << bits}
        read = {"TOKENS": batch_select.TOKENS, "TURNS": batch_select.TURNS, "SHIFT": shift}
        found[f"histogram {shift}"] = Compiled(
            batch_select.histogram_kernel, {"PAGE": PAGE} | read | digit, types=DIGITS
        )
        found[f"digit {shift}"] = Compiled(batch_select.digit_kernel, digit, types=DIGITS)
    for d in WIDTHS:
        width = triton.next_power_of_2(d)
        lists = {"PAGE": PAGE, "AT_ONCE": decode.AT_ONCE, "LISTED": decode.LISTED}
        warps = decode.warps_for(width)
        found[f"centre {d}"] = Compiled(
            centre.centre_kernel,
            {"WIDTH": width, "COPY": True},
            bfloat16=("operand",),
            types={"rows": "*fp32", "order": "*i32"},
        )
        for name, bfloat16 in (("bfloat16", ("w_dec", "g")), ("float32", ())):
            for nested in (False, True):
                constants = lists | {"WIDTH": width, "NESTED": nested}
                found[f"decode {name} {d}{' nested' * nested}"] = Compiled(
                    decode.decode_token, constants, warps, bfloat16=bfloat16, aligned=("d",)
                )
    return found


def resources(case: Compiled) -> dict[str, int]:
    """Compile one case and read what a thread of it takes."""
    names = case.kernel.arg_names
    bfloat16 = dict.fromkeys(case.bfloat16, "*bf16")
    types = TYPES | dict(case.types) | bfloat16 | dict.fromkeys(case.constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in names}
    multiples = [
        i for i, name in enumerate(names) if signature[name][0] == "*" or name in case.aligned
    ]
    source = ASTSource(
        fn=case.kernel,
        signature=signature,
        constexprs=case.constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in multiples},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", int(os.environ.get("SM", "90")), 32),
        options={
            "num_warps": case.warps,
            "num_stages": case.stages,
            "maxnreg": case.registers,
        },
    )
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        command = [tool, "--dump-resource-usage", binary.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in text.splitlines() if "REG:" in line]
    usage = {key: int(value) for key, value in (word.split(":")[:2] for word in line.split())}
    shared = compiled.metadata.shared
    on_tensor_cores = compiled.asm["ptx"].count("wgmma.mma_async")
    return {
        "registers": usage["REG"],
        "threads": 32 * case.warps,
        "stack": usage["STACK"] + usage["LOCAL"],
        "shared": shared,
        "wgmma": on_tensor_cores,
        "bulk copies": compiled.asm["ptx"].count("cp.async.bulk.tensor"),
    }


def report(named: Mapping[str, Compiled], chosen: list[str]) -> None:
    """Print what the chosen cases take; all, if none is chosen."""
    found = {name: resources(case) for name, case in named.items() if not chosen or name in chosen}
    print(json.dumps({"triton": triton.__version__, **found}, indent=1))


if __name__ == "__main__":
    report(cases(), sys.argv[1:])
