"""The public page: `/` with everything in force, and `/emergency` with what to do now, in every language.

A board of static pages that need nothing but themselves: no script, no font, no cookie, one `<style>`. They can be
served from a folder, saved to a phone and printed for a notice board. `index.html` is Japanese,
`index.en.html` English.

Why it is so:

* The order of `/emergency` is that of the questions people ask: is it me, what do I do, where do I go, since when.
* A Level is told by word and numeral first and by the official colour second; the words are the message's own.
* The style is the same in every page, so that one hash in Content-Security-Policy allows it and nothing else.
* No time of composing: equal messages give equal bytes, and so one ETag in every process.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from broadcaster.channel import DRILL_MARK, Kit, Page, PermanentFailure, Receipt, TemporaryFailure
from broadcaster.message import LANGUAGES, Info, Message, Mode, by_gravity, lang_attribute
from broadcaster.text import Block, BlockKind, blocks
from broadcaster.words import Words

DEFAULT_LANGUAGE = LANGUAGES[0]
PAGES = ("emergency", "index")
COLOURS = {"黒": 5, "紫": 4, "赤": 3, "黄": 2, "白": 1}
"""The colour of an alert that has no level (earthquake, tsunami, missile), as the level of the same colour."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A message as the page of one language tells it."""

    message: Message
    language: str
    words: Words

    @property
    def info(self) -> Info:
        return self.message.in_language_or_first(self.language)

    @property
    def is_foreign(self) -> bool:
        """The words are in another language than the page."""
        return self.info.lang_attribute != lang_attribute(self.language)

    @property
    def is_missing(self) -> bool:
        """The page has to say that there is Japanese only."""
        return self.info.language != self.language and self.language != DEFAULT_LANGUAGE and self._is_japanese

    @property
    def names(self) -> tuple[str, ...]:
        """Japanese that stands inside the words of another language."""
        return () if self._is_japanese else self.message.untranslated + self._mark

    @property
    def frame_names(self) -> tuple[str, ...]:
        """The same for the sentences that the page itself makes."""
        return () if lang_attribute(self.language) == "ja" else self.message.untranslated + self._mark

    @property
    def ground(self) -> str:
        if self.message.is_ended:
            return "ended"
        return f"g{self.message.level or COLOURS.get(self.message.colour, 1)}"

    @property
    def level(self) -> str:
        """警戒レベル４, or nothing where there is no level."""
        if self.message.level is None:
            return ""
        words = self.words.phrase(f"level_{self.message.level}", self.info.language)
        return f"【{DRILL_MARK}】{words}" if self.message.is_drill else words

    @property
    def name(self) -> str:
        """The headline without the level, which stands above it."""
        headline = self.info.headline
        level = self.words.phrase(f"level_{self.message.level}", self.info.language) if self.message.level else ""
        at = headline.casefold().find(level.casefold()) if level else -1
        if at < 0:
            return headline
        rest = headline[:at].rstrip() + headline[at + len(level) :].lstrip()
        return rest.strip() or headline

    @property
    def situation(self) -> tuple[Block, ...]:
        """What comes before the acts, where there are acts."""
        return self._blocks[: self._acts_at] if self._acts_at is not None else ()

    @property
    def acts(self) -> tuple[Block, ...]:
        """What people are asked to do, and all that follows."""
        return self._blocks[self._acts_at or 0 :]

    @property
    def shelters(self) -> tuple[str, ...]:
        """Names of shelters where the words themselves do not list them."""
        text = self.message.slots.get("shelters", "")
        if self.message.is_ended or not text or text in self.info.description:
            return ()
        return self.listed(text)

    def listed(self, text: str) -> tuple[str, ...]:
        """The single names where a text is the list of shelters, else the text."""
        return tuple(text.split("、")) if text == self.message.slots.get("shelters") else (text,)

    @property
    def _is_japanese(self) -> bool:
        return self.info.lang_attribute == "ja"

    @property
    def _mark(self) -> tuple[str, ...]:
        return (f"【{DRILL_MARK}】",)

    @property
    def _blocks(self) -> tuple[Block, ...]:
        return blocks(self.info.description)

    @property
    def _acts_at(self) -> int | None:
        return next((at for at, block in enumerate(self._blocks) if block.kind is BlockKind.LIST), None)


@dataclass(frozen=True, kw_only=True)
class PublicPage:
    name: ClassVar[str] = "page"
    shows_all: ClassVar[bool] = True
    mode: Mode
    kit: Kit
    style: str

    @classmethod
    def built(cls, kit: Kit) -> PublicPage:
        return cls(mode=kit.mode, kit=kit, style=kit.render("page/style.css"))

    def missing(self) -> Sequence[str]:
        return []

    def compose(self, in_force: Sequence[Message], at: datetime) -> Sequence[Page]:
        """Both pages in every language, the emergencies first. `at` changes nothing."""
        settled = sorted(in_force, key=lambda message: message.identifier)
        alerts = [message for message in by_gravity(settled) if message.is_alert]
        notices = sorted(
            (message for message in settled if not message.is_alert), key=lambda message: message.began_at, reverse=True
        )
        return [self._page(page, language, alerts, notices) for page in PAGES for language in LANGUAGES]

    async def deliver(self, page: Page) -> Receipt:
        try:
            self.kit.publish(page)
        except PermissionError as error:
            raise PermanentFailure("公開ページの置き場に書けません。書き込みの権限を確かめてください。") from error
        except OSError as error:
            raise TemporaryFailure("公開ページの置き場に届きません。") from error
        return Receipt(evidence=page.etag)

    async def close(self) -> None:
        """Nothing was opened."""

    def _page(self, page: str, language: str, alerts: Sequence[Message], notices: Sequence[Message]) -> Page:
        shown = alerts if page == "emergency" else (*alerts, *notices)
        body = self.kit.render(
            f"page/{page}.html",
            language=language,
            languages=LANGUAGES,
            alerts=[self._told(message, language) for message in alerts],
            notices=[self._told(message, language) for message in notices],
            newest_at=max((message.began_at for message in shown), default=None),
            **self._frame(page, language),
        )
        return Page(
            path=page_path(page, language),
            content_type="text/html; charset=utf-8",
            body=body.encode("utf-8", "replace"),
            headers=(("Content-Security-Policy", policy(self.style)),),
        )

    def _told(self, message: Message, language: str) -> Told:
        return Told(message=message, language=language, words=self.kit.words)

    def _frame(self, page: str, language: str) -> dict[str, Any]:
        kit = self.kit
        return {
            "place": "" if page == "index" else page,
            "ward": kit.ward,
            "style": self.style,
            "is_drill": kit.mode is Mode.DRILL,
            "is_rehearsal": kit.is_rehearsal,
            "address": lambda path, language=language: public_address(kit, path, language),
            "feed_address": lambda ending: public_address(kit, f"feeds/all.{ending}", language),
            "picture_address": kit.picture_address,
        }


def page_path(page: str, language: str) -> str:
    """Where one page lies: `emergency.html`, and `emergency.en.html` in English."""
    return f"{page}.html" if language == DEFAULT_LANGUAGE else f"{page}.{language}.html"


def public_address(kit: Kit, path: str, language: str) -> str:
    """Whole, because a page may be read from a saved copy."""
    return kit.address(path) + ("" if language == DEFAULT_LANGUAGE else f"?lang={language}")


def style_hash(style: str) -> str:
    """CSP 3 §2.3.1: the hash of what stands between `<style>` and `</style>`."""
    return f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}"


def policy(style: str) -> str:
    return (
        f"default-src 'none'; style-src '{style_hash(style)}'; img-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
