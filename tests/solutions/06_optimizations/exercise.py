def speed_up(share, part_factor):
    return 1 / (1 - share + share / part_factor)


print(lesson.check_speed_up(speed_up))
