"""How numbers are written in reports and on the terminal: three significant figures or so, no more than is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, groupby
from typing import Any

Format = Callable[[float], str]

# In place of a number that was not measured, or does not exist.
UNKNOWN = "–"


def decimals(values: Iterable[float | None]) -> int:
    """Decimal places for numbers of one kind, so that a column is written alike: 500.0, -83.3, 0.741, 1,950."""
    scale = max((abs(value) for value in values if value is not None), default=0.0)
    return 0 if scale >= 1000 else 1 if scale >= 10 else 2 if scale >= 2 else 3


def fixed(places: int) -> Format:
    """Numbers with so many decimal places."""
    # Adding zero turns the -0.0 that rounding leaves behind into 0.0.
    return lambda value: f"{round(value, places) + 0.0:,.{places}f}"


def compact(value: float) -> str:
    """Environment steps with three significant figures: 600, 10.2k, 1.25M."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,600 is 1M, not 1000k.
        if (value >= 0.9995 * unit and unit > 1e3) or value >= unit:
            return f"{float(f'{value / unit:.3g}'):g}{suffix}"
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """Seconds: 0.58, 5.8, 1,240."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def interval(estimate: Sequence[float | None], write: Format) -> str:
    """An estimate with its interval, `5.0 [4.0, 6.0]`; without, where it has none."""
    value, low, high = estimate
    if value is None:
        return UNKNOWN
    if low is None or high is None:
        return write(value)
    return f"{write(value)} [{write(low)}, {write(high)}]"


def time_to_threshold(entry: Mapping[str, Any] | None, write: Format) -> str:
    """A median of times that may be censored, with its interval; an upper end that the data do not bound is ∞."""
    if entry is None:
        return UNKNOWN
    value, low, high = entry["median"]
    if not entry["reached"]:
        return "never reached"
    bounds = "" if low is None else f" [{write(low)}, " + ("∞)" if high is None else f"{write(high)}]")
    return ("not reached by half" if value is None else write(value)) + bounds


def percent(share: float) -> str:
    """A share as `95 %`."""
    return f"{100 * share:g} %"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers, those in a row as a range: `0-9, 12`."""
    groups = groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A name for a file, a directory or an anchor for each name, no two alike, whatever the letters and their case."""
    taken: dict[str, str] = {}
    seen: set[str] = set()
    for name in names:
        stem = re.sub(r"[^\w.+=-]+", "-", name).strip("-.") or "unnamed"
        options = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        taken[name] = next(option for option in options if option.lower() not in seen)
        seen.add(taken[name].lower())
    return taken
