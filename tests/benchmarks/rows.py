"""One measured figure beside its yardstick."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A figure, the yardstick measured in the same run, their ratio, and the bar it must clear.

    If it could not be measured, `value` is None and `why` says why. `ok` is None if no bar is set
    or nothing was measured.
    """

    name: str
    value: float | None
    unit: str
    yardstick: float | None = None
    ratio: float | None = None
    bar: float | None = None
    ok: bool | None = None
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def row(
    name: str,
    value: float,
    unit: str,
    *,
    yardstick: float | None = None,
    bar: float | None = None,
    higher_is_better: bool = True,
) -> Row:
    """A row; the bar holds for value / yardstick, or for the value if there is no yardstick."""
    ratio = None if yardstick is None else value / yardstick
    judged = value if ratio is None else ratio
    ok = None if bar is None else (judged >= bar if higher_is_better else judged <= bar)
    return Row(name, value, unit, yardstick, ratio, bar, ok)


def not_measured(name: str, why: str, *, unit: str = "", bar: float | None = None) -> Row:
    """A row for what this machine cannot measure, so that it does not look forgotten."""
    return Row(name, None, unit, bar=bar, why=why)


def exp_yardstick(cores: int = 2, elements: int = 65_536, repeats: int = 200) -> float:
    """numpy's float32 exp per second over `elements` values, times the cores."""
    import time

    import numpy as np

    values = np.linspace(-4, 0, elements, dtype=np.float32)
    out = np.empty_like(values)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.exp(values, out=out)
        times.append(time.perf_counter() - start)
    return cores * elements / float(np.median(times))


def cores_at_hand(cores: int = 2, elements: int = 65_536, repeats: int = 1000) -> float:
    """How many times the work of one thread `cores` threads do; fewer on a shared host."""
    import time
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    def work(_: int) -> None:
        values = np.linspace(-4, 0, elements, dtype=np.float32)
        out = np.empty_like(values)
        for _ in range(repeats):
            np.exp(values, out=out)

    def spent(threads: int) -> float:
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            list(pool.map(work, range(threads)))
            return time.perf_counter() - began

    return cores * spent(1) / spent(cores)
