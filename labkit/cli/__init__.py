"""The command line: `labkit COMMAND`."""

from labkit.cli.main import main

__all__ = ["main"]
