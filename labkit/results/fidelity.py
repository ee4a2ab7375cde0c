"""How far answers are those of a reference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fidelity:
    """How far a rung's answers are those of its reference, on the same hashed frames.

    Attributes:
        reference: name of the reference rung.
        n_frames: frames compared.
        agreement: share of the reference's detections that the rung also has (IoU >= 0.5
            and the same label), in [0, 1].
        same_name: share of matched boxes with the same fine name; None without a classifier.
        relative_error: largest ||out - ref|| / ||ref|| over the networks' raw outputs; None
            where the raw outputs are not comparable.
        nan_count: NaN or infinite values in the rung's raw outputs.
    """

    reference: str
    n_frames: int
    agreement: float
    same_name: float | None
    relative_error: float | None
    nan_count: int

    @property
    def agrees(self) -> bool:
        """Whether a speed-up may be claimed: at least 99% of boxes (and names), no NaN."""
        named = 1.0 if self.same_name is None else self.same_name
        return self.nan_count == 0 and self.agreement >= 0.99 and named >= 0.99
