"""`python -m labkit.results.readme_main`, see there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from labkit.core.errors import LabError, ResultsError, UsageError
from labkit.core.files import write_whole
from labkit.results.readme import block, insert, pictures


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes pictures and, where a README is named, its block."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not 1 <= len(given) <= 2:
        print("usage: python -m labkit.results.readme_main FOLDER [README.md]", file=sys.stderr)
        return UsageError.exit_code
    folder = Path(given[0])
    try:
        if len(given) == 2:
            readme = Path(given[1])
            write_whole(readme, insert(readme.read_text(), block(folder)))
        for path in pictures(folder):
            print(path)
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return ResultsError.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
