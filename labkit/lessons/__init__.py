"""The steps of the notebooks, their exercises, checks and hints."""
