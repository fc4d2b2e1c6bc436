"""The news feeds: RSS 2.0, Atom and JSON Feed 1.1, of everything and of each category, in every language.

A board: a feed holds what is in force, newest first. What was cancelled or has expired is gone, and an update is an
entry of its own that names the earlier one. `feeds/all.rss` is Japanese; `feeds/all.en.rss` is the same in English.

    [rss]
    entries = 50

Why it is so:

* One record, `Entry`, is written three ways, so the formats cannot disagree.
* An entry's id comes from the message's identifier and never changes. Not from the web address: two notices may share
  one, and readers that know an item by its id would drop the second. Other languages have ids of their own, because
  newsboat knows an item across all feeds.
* A feed's time is that of its newest entry and not that of composing: equal messages give equal bytes, and so one ETag
  in every process.
* An alert is never pushed out of a full feed by newer notices.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote

from feedgen.entry import FeedEntry
from feedgen.feed import FeedGenerator

from broadcaster.channel import DRILL_MARK, Kit, Page, PermanentFailure, Receipt, TemporaryFailure
from broadcaster.clock import JST, local, stamp
from broadcaster.message import LANGUAGES, Image, Info, Message, Mode, by_gravity, lang_attribute

DEFAULT_LANGUAGE = LANGUAGES[0]
DEFAULT_ENTRIES = 50
EVERYTHING = "all"
NEVER = datetime(2026, 1, 1, tzinfo=JST)
"""The time of a feed that holds nothing: RSS and Atom want one, and the present would change the bytes."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    address: str
    media_type: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message in one language, as all three formats tell it. Only what stands here can leave by a feed."""

    id: str
    language: str  # BCP 47, of the words: not the feed's where the message lacks that language
    title: str
    summary: str  # plain text
    content: str  # HTML
    address: str
    published_at: datetime
    updated_at: datetime
    category: str
    category_name: str
    picture: Picture | None
    earlier: tuple[str, ...]  # ids of the entries that this one takes the place of
    cap: Mapping[str, Any]  # what CAP says of it, for machines


@dataclass(frozen=True, kw_only=True)
class Feed:
    id: str
    language: str
    title: str
    subtitle: str
    author: str
    home: str
    updated_at: datetime
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Format:
    ending: str
    content_type: str
    write: Callable[[Feed, str], bytes]  # the feed, and the address at which it will be found


@dataclass(frozen=True, kw_only=True)
class Rss:
    name: ClassVar[str] = "rss"
    shows_all: ClassVar[bool] = False
    mode: Mode
    kit: Kit

    @classmethod
    def built(cls, kit: Kit) -> Rss:
        return cls(mode=kit.mode, kit=kit)

    def missing(self) -> Sequence[str]:
        entries = self.kit.options.get("entries", DEFAULT_ENTRIES)
        if not isinstance(entries, int) or entries < 1:
            return ["channels.toml の [rss] の entries に、1以上の数を書いてください。"]
        return []

    def compose(self, in_force: Sequence[Message], at: datetime) -> Sequence[Page]:
        """Every feed in every format, `all` and the emergencies first. `at` changes nothing."""
        topics = {topic: self._shown(topic, in_force) for topic in self._topics()}
        told = {message.identifier: message for shown in topics.values() for message in shown}
        entries = {
            (identifier, language): self._entry(message, language)
            for identifier, message in told.items()
            for language in LANGUAGES
        }
        return [
            page
            for topic, shown in topics.items()
            for language in LANGUAGES
            for page in self._pages(topic, language, [entries[message.identifier, language] for message in shown])
        ]

    async def deliver(self, page: Page) -> Receipt:
        try:
            self.kit.publish(page)
        except PermissionError as error:
            raise PermanentFailure("フィードの置き場に書けません。書き込みの権限を確かめてください。") from error
        except OSError as error:
            raise TemporaryFailure("フィードの置き場に届きません。") from error
        return Receipt(evidence=page.etag)

    async def close(self) -> None:
        """Nothing was opened."""

    @property
    def _most(self) -> int:
        return int(self.kit.options.get("entries", DEFAULT_ENTRIES))

    def _topics(self) -> list[str]:
        categories = [category.id for category in self.kit.ward.categories]
        first = self.kit.ward.emergency_category
        return [EVERYTHING, *sorted(categories, key=lambda category: category != first)]

    def _shown(self, topic: str, in_force: Iterable[Message]) -> list[Message]:
        """At most so many, gravest kept; newest first. The identifier settles what is equal."""
        about = sorted(
            (message for message in in_force if topic in (EVERYTHING, message.category)),
            key=lambda message: message.identifier,
        )
        return sorted(by_gravity(about)[: self._most], key=lambda message: message.began_at, reverse=True)

    def _pages(self, topic: str, language: str, entries: Sequence[Entry]) -> list[Page]:
        feed = self._feed(topic, language, entries)
        return [
            Page(
                path=feed_path(topic, language, format.ending),
                content_type=format.content_type,
                body=format.write(feed, self._public(f"feeds/{topic}.{format.ending}", language)),
            )
            for format in FORMATS
        ]

    def _feed(self, topic: str, language: str, entries: Sequence[Entry]) -> Feed:
        kit = self.kit
        title = kit.render(
            "rss/title.txt",
            language=language,
            ward=kit.ward,
            category="" if topic == EVERYTHING else self._category_name(topic, language),
            is_drill=kit.mode is Mode.DRILL,
        )
        place = "drill/" if kit.mode is Mode.DRILL else ""
        return Feed(
            id=self._tag(f"{place}feeds/{topic}", language),
            language=lang_attribute(language),
            title=title.strip(),
            subtitle=kit.words.page("public.home", language),
            author=kit.ward.name if lang_attribute(language) == "ja" else kit.ward.english_name,
            home=self._public("emergency" if topic == kit.ward.emergency_category else "", language),
            updated_at=max((entry.updated_at for entry in entries), default=NEVER),
            entries=tuple(entries),
        )

    def _entry(self, message: Message, language: str) -> Entry:
        info = message.in_language_or_first(language)
        note = self._not_translated(info, language)
        sent_at = local(message.began_at).replace(microsecond=0)
        return Entry(
            id=self._tag(message.identifier, language),
            language=info.lang_attribute,
            title=_line(info.headline) or message.identifier,  # feedgen gives up a whole feed for one empty title
            summary=_line(f"{note}\n{info.summary or _first_paragraph(info.description)}"),
            content=_legal(self._content(message, info, language, note)),
            address=message.web or self._public("emergency" if message.is_alert else "", language, message.identifier),
            published_at=sent_at,
            updated_at=sent_at,  # a sent message never changes: an update is a message of its own
            category=message.category,
            category_name=self._category_name(message.category, language),
            picture=self._picture(message.images[0]) if message.images else None,
            earlier=tuple(self._tag(reference.identifier, language) for reference in message.references),
            cap=_cap(message),
        )

    def _not_translated(self, info: Info, language: str) -> str:
        is_missing = info.language != language and info.lang_attribute == "ja" and language != DEFAULT_LANGUAGE
        return self.kit.words.phrase("not_translated", language) if is_missing else ""

    def _content(self, message: Message, info: Info, language: str, note: str) -> str:
        return self.kit.render(
            "rss/entry.html",
            language=language,
            message=message,
            info=info,
            note=note,
            names=(*message.untranslated, f"【{DRILL_MARK}】"),
            picture_address=self.kit.picture_address,
        )

    def _picture(self, image: Image) -> Picture:
        return Picture(address=self.kit.picture_address(image), media_type=image.media_type, alt=_line(image.alt))

    def _category_name(self, id: str, language: str) -> str:
        category = self.kit.ward.category(id)
        if category is None:  # a message may outlive its category in the configuration
            return id
        return category.name if lang_attribute(language) == "ja" else category.english

    def _public(self, path: str, language: str, fragment: str = "") -> str:
        query = "" if language == DEFAULT_LANGUAGE else f"?lang={language}"
        return self.kit.address(path) + query + (f"#{quote(fragment)}" if fragment else "")

    def _tag(self, name: str, language: str) -> str:
        """RFC 4151. The authority is the sender's domain and a year: both outlive any web address."""
        domain = self.kit.ward.sender.rpartition("@")[2]
        tag = f"tag:{domain},2026:{quote(name)}"
        return tag if language == DEFAULT_LANGUAGE else f"{tag}#{language}"


def feed_path(topic: str, language: str, ending: str) -> str:
    """Where one feed lies: `feeds/all.rss`, and `feeds/all.en.rss` in English."""
    middle = "" if language == DEFAULT_LANGUAGE else f".{language}"
    return f"feeds/{topic}{middle}.{ending}"


def _cap(message: Message) -> dict[str, Any]:
    """CAP's own names and values, for programs that decide by them."""
    facts: dict[str, Any] = {
        "identifier": message.identifier,
        "status": "Exercise" if message.is_drill else "Actual",
        "msgType": message.message_type.value,
        "expires": stamp(message.expires_at),
        "geocodes": list(message.geocodes),
    }
    if message.references:
        facts["references"] = [reference.identifier for reference in message.references]
    if message.is_alert:
        facts |= {
            "urgency": message.urgency.value,
            "severity": message.severity.value,
            "certainty": message.certainty.value,
            "responseType": message.response_type.value,
        }
    if message.level is not None:
        facts["level"] = message.level
    return facts


def _first_paragraph(text: str) -> str:
    return text.partition("\n\n")[0]


_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _legal(text: str) -> str:
    """The text without what XML 1.0 §2.2 cannot hold, each such character shown as U+FFFD.

    Messages are refused with them at the door; should one slip in, it must not take every alert off the feed.
    """
    return _ILLEGAL.sub("\ufffd", text)


def _line(text: str) -> str:
    """One line, its full-width blanks kept: 警戒レベル４　避難指示."""
    return _legal(" ".join(filter(None, map(str.strip, text.splitlines()))))


# RSS 2.0 and Atom, by feedgen


def rss(feed: Feed, address: str) -> bytes:
    return bytes(_generator(feed, address, "application/rss+xml").rss_str())


def atom(feed: Feed, address: str) -> bytes:
    return bytes(_generator(feed, address, "application/atom+xml").atom_str())


def _generator(feed: Feed, address: str, media_type: str) -> FeedGenerator:
    generator = FeedGenerator()
    generator.id(feed.id)
    generator.title(feed.title)
    generator.subtitle(feed.subtitle)
    generator.description(feed.subtitle)
    generator.language(feed.language)
    generator.author(name=feed.author, uri=feed.home)
    generator.generator("")
    generator.updated(feed.updated_at)  # also RSS's lastBuildDate; both are the present unless told
    generator.link(href=address, rel="self", type=media_type)
    generator.link(href=feed.home, rel="alternate", type="text/html")  # last: RSS takes the last one for its own
    for entry in feed.entries:
        _write(entry, generator.add_entry(order="append"))  # by default it turns the order round
    return generator


def _write(entry: Entry, item: FeedEntry) -> None:
    item.id(entry.id)
    item.title(entry.title)
    item.link(href=entry.address, rel="alternate")
    # RSS readers take a description for HTML and Atom's summary is text. In this order feedgen keeps them apart.
    item.description(html.escape(entry.summary, quote=False))
    item.summary(entry.summary)
    item.content(entry.content, type="html")
    item.category(term=entry.category, label=entry.category_name)
    item.published(entry.published_at)
    item.updated(entry.updated_at)
    if entry.picture:
        # RSS demands a length. Zero is the convention for one that is not known (RSS Best Practices Profile).
        item.enclosure(entry.picture.address, 0, entry.picture.media_type)
    item.register_extension("more", partial(_More, entry), atom=True, rss=True)


_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_ATOM_LINK = "{http://www.w3.org/2005/Atom}link"


@dataclass(frozen=True)
class _More:
    """What feedgen 1.0.0 cannot say of an entry: it loses the rel and type of Atom links, so an enclosure becomes a
    second address, and it knows neither an entry's language nor what came before it (RFC 5829)."""

    entry: Entry

    def extend_atom(self, element: Any) -> Any:
        for link in element.findall("link"):
            element.remove(link)
        element.set(_XML_LANG, self.entry.language)
        self._link(element, "link", rel="alternate", href=self.entry.address, type="text/html")
        if picture := self.entry.picture:
            self._link(element, "link", rel="enclosure", href=picture.address, type=picture.media_type)
        self._earlier(element, "link")
        return element

    def extend_rss(self, element: Any) -> Any:
        self._earlier(element, _ATOM_LINK)
        return element

    def _earlier(self, element: Any, name: str) -> None:
        for id in self.entry.earlier:
            self._link(element, name, rel="predecessor-version", href=id)

    @staticmethod
    def _link(element: Any, name: str, **attributes: str) -> None:
        element.append(element.makeelement(name, attributes))


# JSON Feed 1.1


def json_feed(feed: Feed, address: str) -> bytes:
    document = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": feed.title,
        "home_page_url": feed.home,
        "feed_url": address,
        "description": feed.subtitle,
        "language": feed.language,
        "authors": [{"name": feed.author, "url": feed.home}],
        "items": [_item(entry) for entry in feed.entries],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _item(entry: Entry) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": entry.id,
        "url": entry.address,
        "title": entry.title,
        "summary": entry.summary,
        "content_html": entry.content,
        "date_published": entry.published_at.isoformat(),
        "date_modified": entry.updated_at.isoformat(),
        "language": entry.language,
        "tags": [entry.category_name],
        "_cap": entry.cap,
    }
    if picture := entry.picture:
        item["image"] = picture.address
        item["attachments"] = [{"url": picture.address, "mime_type": picture.media_type, "title": picture.alt}]
    return item


FORMATS = (
    Format(ending="rss", content_type="application/rss+xml; charset=utf-8", write=rss),
    Format(ending="atom", content_type="application/atom+xml; charset=utf-8", write=atom),
    Format(ending="json", content_type="application/feed+json", write=json_feed),
)
