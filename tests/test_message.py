"""The model: one type for a notice and for an evacuation order."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from broadcaster.lifecycle import ENDS, MOVES, Move, MoveNotAllowed, State, after
from broadcaster.message import (
    LANGUAGES,
    MessageType,
    Mode,
    Urgency,
    by_gravity,
    content_hash,
    from_document,
    lang_attribute,
    to_document,
)
from broadcaster.settings import Settings
from tests.makers import NOW, a_notice, an_alert


def test_a_message_survives_the_way_into_a_document_and_back(settings: Settings) -> None:
    for message in (a_notice(settings), an_alert(settings), an_alert(settings, "E12", mode=Mode.DRILL)):
        assert from_document(json.loads(json.dumps(to_document(message)))) == message


def test_an_alert_says_how_urgent_it_is_and_a_notice_does_not(settings: Settings) -> None:
    assert an_alert(settings).is_alert
    assert not a_notice(settings).is_alert
    assert a_notice(settings).urgency is Urgency.UNKNOWN
    assert a_notice(settings).message_type is MessageType.ALERT


def test_the_gravest_comes_first_and_a_notice_last(settings: Settings) -> None:
    sorted_ = by_gravity(
        [a_notice(settings), an_alert(settings, "E03"), an_alert(settings, "E05"), an_alert(settings, "E04")]
    )
    assert [message.preset for message in sorted_] == ["E05", "E04", "E03", None]


def test_any_change_of_a_word_changes_what_was_approved(settings: Settings) -> None:
    notice = a_notice(settings)
    assert content_hash(notice) == content_hash(replace(notice, sent_at=None))
    assert content_hash(notice) != content_hash(a_notice(settings, body="12月4日は、休館します。"))


def test_the_moment_of_sending_never_changes(settings: Settings) -> None:
    message = a_notice(settings)
    assert message.sent(NOW.replace(year=2030)).sent_at == NOW


def test_a_missing_language_is_missing(settings: Settings) -> None:
    assert a_notice(settings).in_language("ko") is None
    assert {info.language for info in an_alert(settings).infos} == set(LANGUAGES)
    assert lang_attribute("easy-ja") == "ja"


def test_the_table_of_moves_leads_from_draft_to_every_state() -> None:
    reached, edge = {State.DRAFT}, {State.DRAFT}
    while edge:
        edge = {to for (state, _), to in MOVES.items() if state in edge} - reached
        reached |= edge
    assert reached == set(State)
    assert {State.REJECTED, State.WITHDRAWN, State.SKIPPED, State.UPDATED, State.CANCELLED, State.EXPIRED} == ENDS


@pytest.mark.parametrize(("state", "move"), [(s, m) for s in State for m in Move if (s, m) not in MOVES])
def test_what_is_not_in_the_table_cannot_happen(state: State, move: Move) -> None:
    with pytest.raises(MoveNotAllowed):
        after(state, move)
