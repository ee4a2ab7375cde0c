"""Time of a compiled detector by kind of operator, and each kind's share of the machine's peak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from labkit.core.shown import Sentences

LARGE, POINTWISE, PRODUCTS, ATTENTION, REST = KINDS = (
    "convolutions larger than 1x1",
    "convolutions 1x1",
    "matrix products",
    "attention",
    "everything else",
)
LEAST_LOSS = 0.005  # share of the time from which a loss is listed


@dataclass(frozen=True)
class Kind:
    """Time and arithmetic per frame of all operators of one kind.

    Attributes:
        name: one of KINDS.
        operators: how many the compiled graph holds.
        ms: time in them per frame, the median over the passes.
        gflop: their arithmetic per frame (2 per multiply-add); 0 where it is not counted.
    """

    name: str
    operators: int
    ms: float
    gflop: float

    @property
    def gflop_s(self) -> float:
        """Arithmetic per second while in these operators."""
        return 1e3 * self.gflop / self.ms if self.ms else 0.0


@dataclass(frozen=True)
class Operators:
    """A detector's time by kind of operator.

    Attributes:
        rung: whose detector.
        precision: in which the peak was measured.
        kinds: in the order of KINDS.
        frame_ms: median time of one pass from outside, counting switched on.
        peak_gflops: the machine's peak in that precision, in GFLOP/s, or None.
    """

    rung: str
    precision: str
    kinds: tuple[Kind, ...]
    frame_ms: float
    peak_gflops: float | None

    def rows(self) -> list[dict[str, Any]]:
        """One row per kind: its share of the time and of the arithmetic, its speed, its share of the peak."""
        time_ms, work = sum(k.ms for k in self.kinds), sum(k.gflop for k in self.kinds)
        return [
            {
                "operators": kind.name,
                "count": kind.operators,
                "ms": round(kind.ms, 2),
                "share of time": f"{100 * kind.ms / time_ms:.0f}%",
                "share of arithmetic": f"{100 * kind.gflop / work:.0f}%",
                "GFLOP/s": round(kind.gflop_s) or "",
                "of peak": self._of_peak(kind.gflop_s),
            }
            for kind in self.kinds
        ]

    def sentences(self) -> Sentences:
        """Losses against the peak in words, the largest first."""
        if not self.peak_gflops:
            return Sentences(
                ["This machine's peak in that precision is not known, so no share of it can be given."]
            )
        ideal_ms = {k.name: 1e3 * k.gflop / self.peak_gflops for k in self.kinds}
        lost_ms = {k.name: max(0.0, k.ms - ideal_ms[k.name]) for k in self.kinds}
        total_ms = sum(k.ms for k in self.kinds)
        reached = 100 * sum(ideal_ms.values()) / total_ms
        lines = Sentences()
        lines.append(
            f"At the peak of {self.peak_gflops:.0f} GFLOP/s the arithmetic of {self.rung} would take "
            f"{sum(ideal_ms.values()):.1f} of the {total_ms:.1f} ms in its operators: {reached:.0f}%."
        )
        for name in sorted(lost_ms, key=lambda name: -lost_ms[name]):
            if lost_ms[name] < LEAST_LOSS * total_ms:
                break
            kind = next(k for k in self.kinds if k.name == name)
            share = f"at {self._of_peak(kind.gflop_s)} of the peak" if kind.gflop else "no products at all"
            lines.append(
                f"{100 * lost_ms[name] / total_ms:.0f}% of the time is lost in {name} "
                f"({kind.operators} operators, {share})."
            )
        return lines

    def _of_peak(self, gflop_s: float) -> str:
        return f"{100 * gflop_s / self.peak_gflops:.0f}%" if self.peak_gflops and gflop_s else ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Operators:
        """Inverse of `to_json`."""
        return Operators(**{**values, "kinds": tuple(Kind(**kind) for kind in values["kinds"])})
