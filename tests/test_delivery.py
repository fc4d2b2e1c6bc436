"""How often a delivery is tried, and when a medium is spared."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.clock import minutes, seconds
from broadcaster.delivery import RETRY, RETRY_BOARD, SETTLED, UNSETTLED, Breaker, Counts, Lane, State, Tried
from tests.makers import NOW

ATTEMPTS = st.integers(min_value=1, max_value=1_000_000)


# Waiting


def test_an_alert_is_tried_again_after_1_2_4_and_8_seconds_less_the_jitter() -> None:
    policy = RETRY[Lane.PRIORITY]
    longest = [policy.wait_after(attempt, _Most()) for attempt in (1, 2, 3, 4, 5, 6)]
    assert longest == [seconds(1), seconds(2), seconds(4), seconds(8), seconds(15), seconds(15)]
    assert [policy.wait_after(attempt, _Least()) for attempt in (1, 2)] == [seconds(0.5), seconds(1)]


def test_an_alert_is_never_given_up_and_a_routine_post_after_eight_tries() -> None:
    assert not RETRY[Lane.PRIORITY].is_spent(10**9)
    assert [RETRY[Lane.ROUTINE].is_spent(attempt) for attempt in (7, 8)] == [False, True]


def test_a_board_is_never_given_up() -> None:
    assert not any(RETRY_BOARD[lane].is_spent(10**9) for lane in Lane)


@given(ATTEMPTS, st.sampled_from([*RETRY.values(), *RETRY_BOARD.values()]), st.integers())
def test_a_wait_is_never_longer_than_promised_nor_shorter_than_half(attempt: int, policy, seed: int) -> None:  # type: ignore[no-untyped-def]
    wait = policy.wait_after(attempt, random.Random(seed))
    whole = min(policy.first_wait * 2 ** min(attempt - 1, 20), policy.longest_wait)
    assert whole / 2 <= wait <= whole <= policy.longest_wait


def test_two_waits_are_hardly_ever_the_same() -> None:
    waits = {RETRY[Lane.PRIORITY].wait_after(3) for _ in range(100)}
    assert len(waits) > 90, "media that came back are not asked by everybody at once"


class _Most(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


class _Least(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return a


# The breaker


def a_breaker() -> Breaker:
    return Breaker(patience=3, first_rest=seconds(5), longest_rest=minutes(1))


def test_a_breaker_opens_after_so_many_failures_in_a_row_and_rests_twice_as_long_each_time() -> None:
    breaker, now, rests = a_breaker(), NOW, []
    for _ in range(8):
        breaker.failed(now)
        rests.append((breaker.opens_until or now) - now)
        now += rests[-1]
        assert not breaker.is_open(now), "one try is let through after each rest"
    assert rests == [seconds(n) for n in (0, 0, 5, 10, 20, 40, 60, 60)]


def test_one_success_closes_it() -> None:
    breaker = a_breaker()
    for _ in range(3):
        breaker.failed(NOW)
    assert breaker.is_open(NOW)
    breaker.succeeded()
    assert not breaker.is_open(NOW)
    breaker.failed(NOW)
    assert not breaker.is_open(NOW), "the count begins anew"


def test_a_rest_that_was_told_opens_it_at_once() -> None:
    breaker = a_breaker()
    breaker.failed(NOW, rest=seconds(15))
    assert breaker.is_open(NOW + seconds(14))
    assert not breaker.is_open(NOW + seconds(15))


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=-3650)])
def test_a_jump_of_the_clock_closes_it(jump: timedelta) -> None:
    breaker = a_breaker()
    for _ in range(5):
        breaker.failed(NOW)
    assert not breaker.is_open(NOW + jump)


@given(st.lists(st.sampled_from(["works", "fails", "+1 s", "+1 h", "-1 h"]), max_size=60))
def test_whatever_happens_a_breaker_never_rests_longer_than_promised(steps: list[str]) -> None:
    breaker, now = a_breaker(), NOW
    moves = {"+1 s": seconds(1), "+1 h": timedelta(hours=1), "-1 h": timedelta(hours=-1)}
    in_a_row = 0
    for step in steps:
        if step == "works":
            breaker.succeeded()
            in_a_row = 0
        elif step == "fails":
            breaker.failed(now)
            in_a_row += 1
        else:
            now += moves[step]
        assert not breaker.is_open(now) or in_a_row >= breaker.patience
        assert not breaker.is_open(now + breaker.longest_rest)


# The record


def test_every_state_is_settled_or_not() -> None:
    assert set(State) == SETTLED | UNSETTLED
    assert not SETTLED & UNSETTLED


@given(st.text() | st.just("a\0b") | st.just("\ud800"))
def test_whatever_a_medium_answers_can_be_written_down(answer: str) -> None:
    tried = Tried(state=State.FAILED, detail=answer, evidence=answer * 3_000)
    for kept in (tried.detail, tried.evidence):
        assert "\0" not in kept
        assert len(kept.encode()) <= 8_000


@given(st.lists(st.tuples(*[st.integers(min_value=0, max_value=99)] * 6), max_size=5))
def test_counts_that_add_up_add_up_together(rows: list[tuple[int, ...]]) -> None:
    names = ("queued", "in_flight", "delivered", "failed", "unknown", "stopped")
    parts = [Counts(total=sum(row), **dict(zip(names, row, strict=True))) for row in rows]
    together = sum(parts, Counts())
    assert together.adds_up
    assert together.total == sum(map(sum, rows))
    assert not Counts(total=together.total + 1, queued=together.total).adds_up
