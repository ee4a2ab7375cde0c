"""`labkit weights`: what is cached, and fetching the rest."""

from __future__ import annotations

from labkit.bench.progress import err, print_lines
from labkit.core.errors import WeightsError
from labkit.models.networks import MODELS, lab_weights
from labkit.models.weights import cached, fetch


def show_weights(fetching: bool) -> int:
    """Prints a line per model; with `fetching` downloads what is missing. Returns the exit code."""
    code = 0
    for model in MODELS["full"]:
        try:
            found = cached(model)
            if found is None and fetching:
                found = fetch(model, progress=True)
        except WeightsError as error:
            print_lines([f"{model}: {error}"], console=err)
            code = error.exit_code
            continue
        if found is None:
            print_lines([f"{model}: not on this machine; to fetch it: labkit weights --fetch"])
        else:
            print_lines([f"{model}: {found.kind}, {found.revision[:12]}, {found.path}"])
    for model in MODELS["lab"]:
        try:
            print_lines([f"{model}: shipped with labkit, {lab_weights(model).path}"])
        except WeightsError as error:
            print_lines([f"{model}: {error}"], console=err)
            code = error.exit_code
    return code
