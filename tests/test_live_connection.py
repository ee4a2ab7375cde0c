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
def connection(clock):
    connection = Connection(clock)
    connection.heard("page", visible=True)
    return connection


def test_nobody_there_means_nothing_is_sent(clock):
    assert not Connection(clock).ready()


def test_two_frames_fly_and_an_acknowledgement_makes_room(connection, clock):
    first = connection.depart(captured_s=99.9)
    assert connection.ready()
    connection.depart(99.95)
    assert not connection.ready()
    clock.now_s += 0.05
    assert connection.acknowledge("page", first) == pytest.approx(0.15)
    assert connection.ready()


def test_an_acknowledgement_counts_once(connection):
    number = connection.depart(99.0)
    assert connection.acknowledge("page", number) is not None
    assert connection.acknowledge("page", number) is None
    assert connection.acknowledge("page", 4711) is None


def test_a_page_that_answers_pings_but_no_frames_loses_them_after_a_second(connection, clock):
    number = connection.depart(99.0)
    connection.depart(99.0)
    clock.now_s += ACK_TIMEOUT_S + 0.01
    assert not connection.ready()  # nothing says that they arrived
    connection.heard("page", received=number + 1)
    assert connection.ready()
    assert connection.timed_out == 2


def test_ten_minutes_without_any_acknowledgement_owe_the_page_two_frames(connection, clock):
    sent_before = 0
    for _ in range(6000):
        clock.now_s += 0.1
        connection.excuse_silence()  # as while a cell keeps the kernel busy
        if connection.ready():
            connection.depart(clock.now_s)
        sent_before = max(sent_before, connection.sent)
    assert connection.sent == MAX_IN_FLIGHT
    assert connection.in_flight == MAX_IN_FLIGHT


def test_a_silent_page_is_forgotten_and_may_come_back(connection, clock):
    connection.depart(99.0)
    clock.now_s += SILENT_S + 0.01
    connection.forget_silent()
    assert connection.pages == 0
    assert not connection.ready()
    connection.heard("page")
    assert connection.pages == 1
    assert connection.ready()


def test_every_page_that_looks_has_to_acknowledge(connection):
    connection.heard("other", visible=True)
    number = connection.depart(99.0)
    connection.depart(99.0)
    assert connection.acknowledge("page", number) is not None
    assert not connection.ready()  # the slower one still has two on their way
    assert connection.acknowledge("other", number) is None
    assert connection.ready()


def test_hidden_pages_are_not_waited_for(connection):
    connection.heard("other", visible=False)
    number = connection.depart(99.0)
    connection.acknowledge("page", number)
    assert connection.in_flight == 0
    connection.heard("page", visible=False)
    assert not connection.ready()


def test_a_page_that_says_goodbye_owes_nothing(connection):
    connection.depart(99.0)
    connection.left("page")
    assert connection.in_flight == 0
    assert connection.pages == 0


actions = st.lists(
    st.tuples(
        st.sampled_from(["send", "ack", "pong", "hide", "show", "bye", "wait", "excuse"]),
        st.sampled_from(["p", "q"]),
        st.integers(0, 40),
    ),
    max_size=120,
)


@settings(max_examples=60)
@given(actions)
def test_whatever_pages_do_there_are_never_more_than_two_in_flight(steps):
    clock = Clock()
    connection = Connection(clock)
    for what, page, number in steps:
        if what == "send" and connection.ready():
            connection.depart(clock.now_s)
        elif what == "ack":
            connection.acknowledge(page, number)
        elif what == "pong":
            connection.heard(page, received=number)
        elif what in ("hide", "show"):
            connection.heard(page, visible=what == "show")
        elif what == "bye":
            connection.left(page)
        elif what == "wait":
            clock.now_s += number / 20
            connection.forget_silent()
        elif what == "excuse":
            connection.excuse_silence()
        assert connection.in_flight <= connection.most_in_flight <= MAX_IN_FLIGHT
