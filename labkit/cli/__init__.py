"""The command line: `labkit COMMAND`."""
