"""One HTML page that shows a set of results, and machines side by side."""

from labkit.report.page import write_report

__all__ = ["write_report"]
