"""Former names of rungs, under which older results are stored."""

from __future__ import annotations

import re

FORMER_NAMES = {
    "origin_combined_cpu": "baseline_combined_cpu",
    "origin_combined_cuda": "baseline_combined_cuda",
    "origin_streams_cuda": "baseline_streams_cuda",
    "filter_origin_cuda": "filter_baseline_cuda",
}
_FORMER = re.compile(rf"\b({'|'.join(FORMER_NAMES)})\b")


def with_current_names(text: str) -> str:
    """The text (a name, a sentence, JSON) with every former name of a rung replaced by today's."""
    return _FORMER.sub(lambda match: FORMER_NAMES[match[0]], text)
