"""Round numbers for the ticks of a chart's axis, linear and logarithmic."""

from __future__ import annotations

import math


def round_ticks(low: float, high: float) -> list[float]:
    """Return 4 to 7 round values that span ``low`` to ``high``."""
    rough = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return up to about 8 values that span ``low`` to ``high``, both above 0.

    Powers of ten where they are many, else also 2 and 5 times these.
    """
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last - first > 3:
        step = -(-(last - first) // 7)
        return [10.0**power for power in range(first, last + step, step)]
    steps = [m * 10.0**power for power in range(first, last + 1) for m in (1, 2, 5)]
    # One tick beyond each end, so that what lies between ticks is enclosed.
    below = [tick for tick in steps if tick <= low * (1 + 1e-9)][-1:]
    above = [tick for tick in steps if tick >= high * (1 - 1e-9)][:1]
    inner = [tick for tick in steps if low * (1 + 1e-9) < tick < high * (1 - 1e-9)]
    return list(dict.fromkeys([*below, *inner, *above]))


def whole_ticks(first: int, last: int) -> list[int]:
    """Return ``first`` and about 6 round whole numbers after it, none beyond ``last``."""
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100) if (last - first) / s <= 6), 0)
    step = step or (last - first) // 6
    inner = range(first - first % step + step, last + 1, step)
    # The first is always named; its neighbour only where the two do not touch.
    return [first, *(value for value in inner if step == 1 or value - first >= step / 2)]
