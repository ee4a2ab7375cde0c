"""Solutions of the exercises, one file each, named like the exercise.

`labkit.solution("box_mean")` shows them; the tests try each against its check.
"""
