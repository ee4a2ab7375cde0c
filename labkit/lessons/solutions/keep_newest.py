"""The newest frames stay, in their order; what is too old by now is dropped."""


def keep_newest(waiting, frame, most):
    waiting = [*waiting, frame]
    too_many = max(len(waiting) - most, 0)
    return waiting[too_many:], waiting[:too_many]
