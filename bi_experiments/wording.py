"""How numbers are written in sentences, the same everywhere."""


def signed(per_cent: float) -> str:
    """A change in per cent with its sign: `+7.4 %`."""
    return f"{_rounded(per_cent):+.1f} %"


def unsigned(per_cent: float) -> str:
    """The size of a change in per cent: `7.4 %`."""
    return f"{abs(per_cent):.1f} %"


def band(low_pct: float, high_pct: float) -> str:
    """An interval in per cent: `[+6.1 %, +8.8 %]`."""
    return f"[{signed(low_pct)}, {signed(high_pct)}]"


def count(number: int, noun: str) -> str:
    """A number of things: `1 pair`, `3 pairs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _rounded(per_cent: float) -> float:
    return round(per_cent, 1) + 0.0  # plus zero: a rounded -0.04 is 0.0, not -0.0
