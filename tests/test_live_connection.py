"""The protocol alone, on a clock that the test turns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.live.connection import ACK_TIMEOUT_S, MAX_IN_FLIGHT, SILENT_S, Connection


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def link(clock):
    link = Connection(clock)
    link.heard("page", visible=True)
    return link


def test_nobody_there_means_nothing_is_sent(clock):
    assert not Connection(clock).ready()


def test_two_frames_fly_and_an_acknowledgement_makes_room(link, clock):
    first = link.depart(captured_s=99.9)
    assert link.ready()
    link.depart(99.95)
    assert not link.ready()
    clock.now_s += 0.05
    assert link.acknowledge("page", first) == pytest.approx(0.15)
    assert link.ready()


def test_an_acknowledgement_counts_once(link):
    number = link.depart(99.0)
    assert link.acknowledge("page", number) is not None
    assert link.acknowledge("page", number) is None
    assert link.acknowledge("page", 4711) is None


def test_a_page_that_answers_pings_but_no_frames_loses_them_after_a_second(link, clock):
    number = link.depart(99.0)
    link.depart(99.0)
    clock.now_s += ACK_TIMEOUT_S + 0.01
    assert not link.ready()  # nothing says that they arrived
    link.heard("page", received=number + 1)
    assert link.ready()
    assert link.timed_out == 2


def test_ten_minutes_without_any_acknowledgement_owe_the_page_two_frames(link, clock):
    sent_before = 0
    for _ in range(6000):
        clock.now_s += 0.1
        link.excuse_silence()  # as while a cell keeps the kernel busy
        if link.ready():
            link.depart(clock.now_s)
        sent_before = max(sent_before, link.sent)
    assert link.sent == MAX_IN_FLIGHT
    assert link.in_flight == MAX_IN_FLIGHT


def test_a_silent_page_is_forgotten_and_may_come_back(link, clock):
    link.depart(99.0)
    clock.now_s += SILENT_S + 0.01
    link.forget_silent()
    assert link.pages == 0
    assert not link.ready()
    link.heard("page")
    assert link.pages == 1
    assert link.ready()


def test_every_page_that_looks_has_to_acknowledge(link):
    link.heard("other", visible=True)
    number = link.depart(99.0)
    link.depart(99.0)
    assert link.acknowledge("page", number) is not None
    assert not link.ready()  # the slower one still has two on their way
    assert link.acknowledge("other", number) is None
    assert link.ready()


def test_hidden_pages_are_not_waited_for(link):
    link.heard("other", visible=False)
    number = link.depart(99.0)
    link.acknowledge("page", number)
    assert link.in_flight == 0
    link.heard("page", visible=False)
    assert not link.ready()


def test_a_page_that_says_goodbye_owes_nothing(link):
    link.depart(99.0)
    link.left("page")
    assert link.in_flight == 0
    assert link.pages == 0


actions = st.lists(
    st.tuples(
        st.sampled_from(["send", "ack", "pong", "hide", "show", "bye", "wait", "excuse"]),
        st.sampled_from(["p", "q"]),
        st.integers(0, 40),
    ),
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(actions)
def test_whatever_pages_do_there_are_never_more_than_two_in_flight(steps):
    clock = Clock()
    link = Connection(clock)
    for what, page, number in steps:
        if what == "send" and link.ready():
            link.depart(clock.now_s)
        elif what == "ack":
            link.acknowledge(page, number)
        elif what == "pong":
            link.heard(page, received=number)
        elif what in ("hide", "show"):
            link.heard(page, visible=what == "show")
        elif what == "bye":
            link.left(page)
        elif what == "wait":
            clock.now_s += number / 20
            link.forget_silent()
        elif what == "excuse":
            link.excuse_silence()
        assert link.in_flight <= link.most_in_flight <= MAX_IN_FLIGHT
