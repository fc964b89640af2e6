"""Learning rate, sparsity weight and target L0 as functions of the step, nothing else.

Steps count updates from 1. A ramp of r steps has the value t / r at its t-th step, so the first
update moves, and the mirrored decay's last one does.
"""


def lr_scale(step: int, steps: int, warmup_fraction: float, decay_fraction: float) -> float:
    """Share of the peak learning rate: linear rise, plateau, linear fall to 0 after the end."""
    return min(
        _ramp(step, warmup_fraction * steps),
        _ramp(steps - step + 1, decay_fraction * steps),
    )


def sparsity_scale(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the sparsity term's weight that acts: linear rise, then 1."""
    return _ramp(step, warmup_fraction * steps)


def l0_target(
    step: int, steps: int, start: float | None, target: float, moving_fraction: float
) -> float:
    """Share of active latents to hold: from `start` to `target`, linear in its logarithm."""
    if start is None:
        return target
    left = 1 - _ramp(step, moving_fraction * steps)
    return float(target * (start / target) ** left)


def _ramp(step: int, length: float) -> float:
    whole = round(length)
    return min(1.0, step / whole) if whole else 1.0
