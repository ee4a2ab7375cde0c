"""Amdahl's law: the rest takes as long as before, the part takes its share over the factor."""


def speed_up(share, part_factor):
    return 1 / (1 - share + share / part_factor)
