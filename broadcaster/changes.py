"""The four changes to something that has been sent: 続報 訂正 取消 解除.

Each is a message of its own with a reference to the first, goes to the same audience by the same channels in the same
mode, and ahead of all other traffic. A cancel and an all-clear speak in reviewed phrases, so that they stand in every
language at once.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta

from broadcaster.manuscript import text_problems
from broadcaster.message import Change, Info, Message, MessageType, Reference, ResponseType, Severity, new_identifier
from broadcaster.problems import Refused, refuse
from broadcaster.text import one_line
from broadcaster.words import Words

ENDED_FOR = timedelta(hours=24)
"""How long boards show that something was cancelled or is over."""

_TAG = {
    Change.UPDATE: "tag_update",
    Change.CORRECTION: "tag_correction",
    Change.CANCEL: "tag_cancel",
    Change.ALL_CLEAR: "tag_all_clear",
}
_SAID = {Change.CORRECTION: "correction", Change.CANCEL: "cancel_message", Change.ALL_CLEAR: "all_clear"}


def changed(
    original: Message,
    change: Change,
    *,
    words: Words,
    now: datetime,
    renewed: Message | None = None,
    line: str = "",
) -> Message:
    """The message that changes `original`.

    `renewed` brings new words for an update or a correction; `line` is one more sentence, in the language that the
    original was written in. Raises Refused when it has not been sent, when the line cannot be sent, or when `renewed`
    belongs to the other mode.
    """
    if original.sent_at is None:
        raise refuse("id", ja="まだ出していないものです。", en="It has not been sent yet.")
    if renewed is not None and renewed.mode is not original.mode:
        raise refuse(
            "mode",
            ja="本番と訓練は入れ替えられません。同じ場所で作り直してください。",
            en="Live and drill cannot be exchanged; make it again in the same place.",
        )
    if problems := text_problems("text", line, most=2_000):
        raise Refused(problems)
    speaks = _Speaks(change, words, line=line, line_language=original.info.language)
    base = _linked(renewed or original, original, change, now)
    if change in (Change.CANCEL, Change.ALL_CLEAR):
        return replace(
            base,
            message_type=MessageType.CANCEL if change is Change.CANCEL else MessageType.UPDATE,
            infos=tuple(speaks.ended(info) for info in original.infos),
            severity=Severity.MINOR if original.is_alert else original.severity,
            response_type=ResponseType.ALL_CLEAR,
            level=None,
            colour="白" if original.is_alert else "",
            expires_at=now + ENDED_FOR,
            images=(),
        )
    return replace(
        base,
        message_type=MessageType.UPDATE,
        infos=tuple(speaks.renewed(info) for info in base.infos),
        expires_at=max(base.expires_at, now + timedelta(hours=1)),
    )


def _linked(base: Message, original: Message, change: Change, now: datetime) -> Message:
    """A message of its own that refers to the original, for the same readers in the same place."""
    assert original.sent_at is not None
    return replace(
        base,
        identifier=new_identifier(now),
        mode=original.mode,
        category=original.category,
        channels=original.channels,
        change=change,
        references=(*original.references, Reference(identifier=original.identifier, sent_at=original.sent_at)),
        effective_at=now,
        expires_text="",
        sent_at=None,
    )


class _Speaks:
    """The words of one change in each language."""

    def __init__(self, change: Change, words: Words, *, line: str, line_language: str) -> None:
        self.change, self.words = change, words
        self.line, self.line_language = line, line_language

    def ended(self, info: Info) -> Info:
        before = bare(info.headline)
        text = "\n".join(filter(None, (self._said(info), self._line(info))))
        return replace(
            info,
            headline=self._headline(before, info),
            summary=self._tag(info) + one_line(f"{before} {text}"),
            description=f"{text}\n\n{before}",
            spoken=f"{text}".replace("\n", ""),
            display=(self._tag(info).strip("【】[]"), before, self._said(info)),
        )

    def renewed(self, info: Info) -> Info:
        lead = "\n".join(filter(None, (self._said(info), self._line(info))))
        return replace(
            info,
            headline=self._headline(bare(info.headline), info),
            summary=self._tag(info) + one_line(f"{self._line(info)} {bare(info.summary or info.headline)}"),
            description=f"{lead}\n\n{info.description}" if lead else info.description,
            spoken=self._run_on(lead.replace("\n", ""), info.spoken) if info.spoken else "",
            display=(self._tag(info).strip("【】[]"), *info.display) if info.display else (),
        )

    @staticmethod
    def _run_on(lead: str, rest: str) -> str:
        """Japanese sentences follow each other without a blank, those of other scripts do not."""
        return f"{lead} {rest}" if lead[-1:] in (".", "!", "?") else lead + rest

    def _headline(self, before: str, info: Info) -> str:
        tag = self._tag(info)
        between = "" if tag.endswith("】") else " "
        return f"{tag}{between}{before}"[:100]

    def _tag(self, info: Info) -> str:
        return self.words.phrase(_TAG[self.change], info.language)

    def _said(self, info: Info) -> str:
        return self.words.phrase(_SAID[self.change], info.language) if self.change in _SAID else ""

    def _line(self, info: Info) -> str:
        return self.line if info.language == self.line_language else ""


_TAGS = re.compile(r"^(?:【[^】]{1,12}】\s*|\[[^\]]{1,12}\]\s*)+")


def bare(headline: str) -> str:
    """The headline without the tags of earlier changes."""
    return _TAGS.sub("", headline)
