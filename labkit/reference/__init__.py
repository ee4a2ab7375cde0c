"""Recorded runs as Markdown, for the README: a table and sentences, both made from the records.

    python -m labkit.reference results/reference/MACHINE README.md

puts the block between the README's two marks, and draws the folder's pictures again; tests compare
both with the records. Without a README it only draws.
"""

from labkit.reference.block import BEGIN, END, block, insert, pictures

__all__ = ["BEGIN", "END", "block", "insert", "pictures"]
