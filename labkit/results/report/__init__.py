"""HTML reports of stored results."""
