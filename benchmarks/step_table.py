"""The tables of the step benchmark: what the lines of its results say."""

from collections.abc import Sequence
from typing import Any

SHAPE = ("d", "n_latents", "k", "batch")
PEERS = ("sae-lens", "dictionary-learning", "eai-sparsify")
TARGETS = {
    "ours to best peer": 1.5,
    "bf16_select to best peer": 2.0,
    "ours to sae-lens": 4.0,
}
"""What each ratio should reach."""

Found = dict[str, dict[str, Any]]
"""The lines of one shape, by trainer."""


def render(lines: Sequence[dict[str, Any]]) -> str:
    """Write the section: how it was measured, speeds, ratios with their targets, quality."""
    shapes: dict[tuple[Any, ...], Found] = {}
    for line in lines:
        shapes.setdefault(tuple(line[name] for name in SHAPE), {})[line["trainer"]] = line
    some = lines[0]
    names = list(dict.fromkeys(line["trainer"] for line in lines))
    trainers = [name for name in names if not name.startswith("encoder ")]
    return "\n\n".join(
        [
            f"`python -m benchmarks.step`, {some['date']}: samples per second in full training "
            "steps (Adam, no auxiliary loss), one thread, medians; "
            f"{some['versions']}; {some['cpu']}. "
            "By CPU time and by wall time: other work on the machine lengthens the second. Rows: "
            "layer 3 of all-MiniLM-L6-v2 at d = 384, synthetic ones elsewhere.",
            _speeds(shapes, trainers),
            *_failures(lines),
            "What the speeds come to, by CPU time, beside the target. The floor is the encoder's "
            "product alone, without selection, decoder, gradients and optimiser, measured in the "
            "same run: no exact step can be faster.",
            _ratios(shapes),
            "FVU on unseen rows after equal tokens of the same batches (with L1: FVU at L0), each "
            "from its library's own start at lr 1e-3. A few thousand tokens are no training: they "
            "show that what was timed learns.",
            _quality(shapes, trainers),
        ]
    )


def _speeds(shapes: dict[tuple[Any, ...], Found], trainers: list[str]) -> str:
    rows = []
    for shape, found in shapes.items():
        for clock in ("cpu_ms", "wall_ms"):
            speeds = [_speed(shape, found.get(name, {}).get(clock)) for name in trainers]
            shown = [f"{speed:,.0f}" if speed else "" for speed in speeds]
            rows.append([_name(shape), *shown, clock.removesuffix("_ms")])
    return markdown(["d, n_latents, k, batch", *trainers, "by"], rows)


def _ratios(shapes: dict[tuple[Any, ...], Found]) -> str:
    header = [f"{name} (>= {target:g})" for name, target in TARGETS.items()]
    rows = []
    for shape, found in shapes.items():
        speed = {name: _speed(shape, line.get("cpu_ms")) or 0.0 for name, line in found.items()}
        ours, best = speed["sae-sweep"], max(speed[name] for name in PEERS if name in speed)
        select = speed.get("bf16_select")
        ratios = (ours / best, select / best if select else None, ours / speed["sae-lens"])
        verdicts = [
            "" if ratio is None else f"{ratio:.2f}" + ("" if ratio >= target else ", missed")
            for ratio, target in zip(ratios, TARGETS.values(), strict=True)
        ]
        eager, fused = speed["reference form"], speed.get("torch.compile")
        exact, rough = speed["encoder float32"], speed["encoder bfloat16"]
        rows.append(
            [
                _name(shape),
                *verdicts,
                f"{ours / eager:.2f}",
                f"{ours / fused:.2f}" if fused else "",
                f"{exact:,.0f} ({ours / exact:.0%})",
                f"{rough:,.0f} ({select / rough:.0%})" if select else "",
            ]
        )
    others = ["ours to reference form", "ours to torch.compile"]
    floors = ["floor in fp32 (ours at)", "floor in bf16 (bf16_select at)"]
    return markdown(["d, n_latents, k, batch", *header, *others, *floors], rows)


def _quality(shapes: dict[tuple[Any, ...], Found], trainers: list[str]) -> str:
    rows = []
    for shape, found in shapes.items():
        tokens = found["sae-sweep"]["tokens"]
        shown = []
        for name in trainers:
            line = found.get(name, {})
            at = f" at {line['l0']:.1f}" if shape[2] is None and "l0" in line else ""
            shown.append(f"{line['fvu']:.4f}{at}" if "fvu" in line else "")
        rows.append([_name(shape), f"{tokens:,}", *shown])
    return markdown(["d, n_latents, k, batch", "tokens", *trainers], rows)


def _failures(lines: Sequence[dict[str, Any]]) -> list[str]:
    told = [
        f"{line['trainer']} does not run at {_name(tuple(line[name] for name in SHAPE))}: "
        f"{line['error']}"
        for line in lines
        if "error" in line
    ]
    return ["\n".join(f"- {words}" for words in told)] if told else []


def _speed(shape: tuple[Any, ...], milliseconds: float | None) -> float | None:
    """Samples a second."""
    return None if milliseconds is None else 1e3 * shape[-1] / milliseconds


def _name(shape: tuple[Any, ...]) -> str:
    return ", ".join("L1" if size is None else str(size) for size in shape)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Write a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
