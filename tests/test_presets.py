"""Prepared emergency texts, their slots, and what is said afterwards."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broadcaster import presets
from broadcaster.changes import changed
from broadcaster.drill import PREFIX, watermarked
from broadcaster.message import LANGUAGES, Change, Message, MessageType, Mode, ResponseType
from broadcaster.problems import Refused
from broadcaster.settings import Settings
from tests.makers import MEDIA, NOW, an_alert


def compose(settings: Settings, id: str, *, mode: Mode = Mode.LIVE, examples: bool = True, **values: str) -> Message:
    return presets.compose_alert(
        settings.presets[id],
        ward=settings.ward,
        now=NOW,
        mode=mode,
        channels=MEDIA,
        values=values,
        use_examples=examples,
    )


def test_every_preset_stands_in_seven_languages_with_every_slot_filled(settings: Settings) -> None:
    assert sorted(settings.presets) == [f"E{n:02}" for n in range(1, 13)]
    for id, preset in settings.presets.items():
        message = compose(settings, id, mode=Mode.DRILL if preset.is_drill_only else Mode.LIVE)
        assert message.languages == LANGUAGES, id
        assert message.expires_at == NOW + timedelta(hours=preset.cap["expires_hours"])
        assert message.geocodes


def test_an_open_slot_is_named_and_refused(settings: Settings) -> None:
    with pytest.raises(Refused) as refused:
        compose(settings, "E04", examples=False)
    assert {problem.where for problem in refused.value.problems} >= {"river", "area", "shelters"}
    assert "time" not in {problem.where for problem in refused.value.problems}, "the clock fills it"


def test_a_filled_slot_stands_in_every_language(settings: Settings) -> None:
    message = compose(settings, "E04", river="立会川", area="東大井一丁目")
    assert all("立会川" in info.description for info in message.infos)
    assert message.geocodes == ("D05",)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"colour": "red"}, "colour"),
        ({"area": "Atlantis"}, "area"),
        ({"river": "{x}"}, "river"),
        ({"river": "a\nb"}, "river"),
    ],
)
def test_a_wrong_value_is_refused(settings: Settings, values: dict[str, str], where: str) -> None:
    with pytest.raises(Refused) as refused:
        compose(settings, "E04", **values)
    assert where in {problem.where for problem in refused.value.problems}


@pytest.mark.parametrize("value", ["{time.__class__}", "{{7*7}}", "{% for x in y %}", "{0}"])
def test_a_slot_runs_nothing(settings: Settings, value: str) -> None:
    with pytest.raises(Refused):
        compose(settings, "E04", river=value)


def test_a_drill_text_is_refused_in_live(settings: Settings) -> None:
    with pytest.raises(Refused, match="drill"):
        compose(settings, "E12")


def test_a_live_alert_may_not_speak_of_a_drill(settings: Settings) -> None:
    with pytest.raises(Refused, match="drill"):
        compose(settings, "E04", river="訓練川")


def test_a_drill_carries_its_mark_in_every_text_of_every_language(settings: Settings) -> None:
    marked = watermarked(compose(settings, "E04", mode=Mode.DRILL), settings.words)
    for info in marked.infos:
        assert info.headline.startswith(PREFIX)
        assert "訓練" in info.summary
        assert info.description.count("訓練") >= 2
        assert info.spoken.startswith("訓練、訓練。")
        assert all(line.startswith(PREFIX) for line in info.display)
    assert watermarked(marked, settings.words) == marked


@pytest.mark.parametrize("change", list(Change))
def test_a_change_refers_to_the_first_and_keeps_its_place(settings: Settings, change: Change) -> None:
    original = an_alert(settings)
    after = changed(original, change, words=settings.words, now=NOW, line="もう一文。")
    assert after.references[-1].identifier == original.identifier
    assert (after.mode, after.channels, after.geocodes) == (original.mode, original.channels, original.geocodes)
    assert after.languages == LANGUAGES
    assert after.identifier != original.identifier
    assert after.sent_at is None
    assert "もう一文。" in after.info.description
    assert after.message_type is (MessageType.CANCEL if change is Change.CANCEL else MessageType.UPDATE)
    if change in (Change.CANCEL, Change.ALL_CLEAR):
        assert after.response_type is ResponseType.ALL_CLEAR
        assert after.level is None


def test_a_change_of_a_change_refers_to_all_and_wears_one_tag(settings: Settings) -> None:
    first = an_alert(settings)
    second = changed(first, Change.UPDATE, words=settings.words, now=NOW).sent(NOW)
    third = changed(second, Change.CANCEL, words=settings.words, now=NOW)
    assert [reference.identifier for reference in third.references] == [first.identifier, second.identifier]
    assert third.info.headline.count("【") == 1


def test_a_drill_and_the_real_thing_cannot_be_exchanged(settings: Settings) -> None:
    with pytest.raises(Refused, match="exchanged"):
        changed(
            an_alert(settings),
            Change.CORRECTION,
            words=settings.words,
            now=NOW,
            renewed=compose(settings, "E04", mode=Mode.DRILL),
        )
