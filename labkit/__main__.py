"""`python -m labkit`: the same as `labkit`."""

from labkit.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
