"""Writing a notice: a form with gaps, saved as it is, seen as residents will see it, handed over for approval.

A draft is a manuscript (`manuscript.py`) that need not be whole. It is saved by whoever writes and by itself; two people
never overwrite each other. It becomes a message when approval is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

from starlette.responses import Response

from broadcaster import images, manuscript
from broadcaster.clock import local
from broadcaster.dates import read_typed, typed
from broadcaster.differences import differences
from broadcaster.lifecycle import State
from broadcaster.message import LANGUAGES, Image, Message
from broadcaster.problems import Problem, Refused
from broadcaster.proofreading import Remark, remarks
from broadcaster.roles import Right
from broadcaster.store import audit, drafts, notes
from broadcaster.store.database import Connection
from broadcaster.store.drafts import Draft
from broadcaster.store.messages import ChangedMeanwhile, Kept
from broadcaster.web.desk.previews import previews_of
from broadcaster.web.desk.visit import PATH, Desk, NotThere, Visit

TEXTS = ("title", "body", "summary", "speech", "category", "link")
OTHER_LANGUAGES = LANGUAGES[1:]
KEPT_AFTER_DISCARDING = timedelta(days=30)
MOST_IMAGES = 4
REVISES = "revises"
"""In a manuscript: the message whose words it was made of when that was taken from its hour. It is no part of the text."""


def register(desk: Desk) -> None:
    pages = Compose(desk)
    desk.get("/messages/new", Right.WRITE, pages.new)
    desk.post("/drafts", Right.WRITE, pages.create)
    desk.get("/drafts", Right.WRITE, pages.show_list)
    desk.post("/previews", Right.WRITE, pages.preview)
    desk.get("/drafts/{id}", Right.WRITE, pages.edit)
    desk.post("/drafts/{id}", Right.WRITE, pages.save)
    desk.post("/drafts/{id}/autosave", Right.WRITE, pages.autosave)
    desk.get("/drafts/{id}/history", Right.WRITE, pages.history)
    desk.post("/drafts/{id}/back", Right.WRITE, pages.go_back)
    desk.post("/drafts/{id}/discard", Right.WRITE, pages.discard)
    desk.post("/messages/{identifier}/edit", Right.WRITE, pages.edit_message)


class Compose:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app

    # Pages

    def new(self, visit: Visit) -> Response:
        """An empty form, or one filled from an earlier notice; nothing is kept before it is saved."""
        written: dict[str, Any] = {"channels": list(self.app.settings.enabled), "area": ["whole"], "category": "notice"}
        if source := visit.query("from"):
            written = self._copied(visit.kept(source))
        if at := visit.query("at"):
            written["issued_at"] = at
        return self._page(visit, written)

    def _copied(self, kept: Kept) -> dict[str, Any]:
        """An earlier notice without its dates: they belong to that time."""
        written = manuscript_of(kept.message)
        return {name: value for name, value in written.items() if name not in ("issued_at", "expires_at")}

    def _page(
        self,
        visit: Visit,
        written: Mapping[str, Any],
        *,
        draft: Draft | None = None,
        status: int = 200,
        problems: Sequence[Problem] = (),
        said: str = "",
        theirs: Draft | None = None,
    ) -> Response:
        remarked = remarks(written, visit.now)
        others: Sequence[Any] = ()
        returned = None
        if draft is not None:
            with self.app.database.write() as connection:
                drafts.opened(connection, f"draft/{draft.id}", visit.person.name, visit.now)
                others = drafts.others_at(connection, f"draft/{draft.id}", visit.person.name, visit.now)
                if draft.identifier:
                    said_before = notes.of(connection, draft.identifier)
                    returned = next((n for n in reversed(said_before) if n.kind == notes.RETURNED), None)
        return visit.page(
            "desk/compose.html",
            status=status,
            problems=problems,
            written=written,
            draft=draft,
            version=(theirs or draft).version if draft else 0,
            said=said,
            remarks=remarked,
            others=others,
            returned=returned,
            theirs=theirs,
            changed=differences(theirs.manuscript, written) if theirs else (),
            languages=OTHER_LANGUAGES,
            ward=self.app.settings.ward,
            media=self.app.settings.enabled,
            read=partial(self._read_back, visit),
            completeness=completeness,
            lowest=lambda dots: int(max(y for points in dots.values() for _, y in points)) + 17,
            **self._seen(visit, written),
        )

    def _seen(self, visit: Visit, written: Mapping[str, Any]) -> dict[str, Any]:
        """Previews of what is there so far; gaps are filled for the preview only, and named."""
        filled, missing = _for_preview(written, visit.now)
        try:
            message = self._read(filled, visit)
        except Refused as refused:
            return {"previews": (), "missing": missing, "unshown": refused.problems}
        return {"previews": previews_of(visit, message), "missing": missing, "unshown": ()}

    def _read_back(self, visit: Visit, text: str) -> str:
        """How a date that was typed is understood."""
        at = read_typed(text, visit.now) or manuscript.read_instant(text)
        return "" if at is None else _in_full(at)

    def _read(self, written: Mapping[str, Any], visit: Visit) -> Message:
        """Raises Refused with the fields' own names."""
        source = {name: value for name, value in written.items() if value not in ("", [], {}, None) and name != REVISES}
        if written.get("images"):
            source["images"] = [{"file": entry["file"], "alt": entry["alt"]} for entry in written["images"]]
        for name in ("issued_at", "expires_at"):
            if isinstance(source.get(name), str) and (at := read_typed(source[name], visit.now)) is not None:
                source[name] = at.isoformat()
        return manuscript.read(
            source,
            ward=self.app.settings.ward,
            media=self.app.settings.enabled,
            now=visit.now,
            fetch=partial(_stored, written),
        )

    def preview(self, visit: Visit) -> Response:
        written = self._written(visit)
        return visit.page(
            "desk/compose-fragment.html",
            remarks=remarks(written, visit.now),
            is_fragment=True,
            **self._seen(visit, written),
        )

    def edit(self, visit: Visit) -> Response:
        draft = self._draft(visit)
        return self._page(visit, draft.manuscript, draft=draft)

    def show_list(self, visit: Visit) -> Response:
        with self.app.database.read() as connection:
            return visit.page(
                "desk/drafts.html",
                mine=drafts.open_of(connection, visit.person.name),
                all=[d for d in drafts.all_open(connection) if d.created_by != visit.person.name],
                discarded=drafts.discarded(connection, visit.now - KEPT_AFTER_DISCARDING),
            )

    def _draft(self, visit: Visit) -> Draft:
        number = visit.path("id")
        with self.app.database.read() as connection:
            draft = (
                drafts.get(connection, int(number))
                if number.isascii() and number.isdigit() and len(number) < 12
                else None
            )
        if draft is None:
            raise NotThere
        return draft

    # What was typed

    def _written(self, visit: Visit, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        written: dict[str, Any] = {name: visit.field(name) for name in (*TEXTS, "issued_at", "expires_at")}
        written["channels"] = [name for name in visit.fields("channels") if name in self.app.settings.enabled]
        written["channels"] += [
            name for name in (before or {}).get("channels", ()) if name in self.app.settings.ward.by_hand
        ]
        written["area"] = self._area(visit)
        section = {"name": visit.field("section.name").strip(), "phone": visit.field("section.phone").strip()}
        written["section"] = section if any(section.values()) else None
        languages = {
            language: words
            for language in OTHER_LANGUAGES
            if any(
                (words := {part: visit.field(f"languages.{language}.{part}") for part in ("title", "body")}).values()
            )
        }
        written["languages"] = languages
        written["images"] = self._images(visit, before)
        written[REVISES] = (before or {}).get(REVISES)
        if not written["summary"]:
            written["summary"] = written["title"]
        return {name: value for name, value in written.items() if value not in ("", None, {}, [])}

    def _area(self, visit: Visit) -> list[str]:
        """Nothing chosen stays nothing: it is never the whole ward by itself."""
        where = visit.field("where")
        if where == "whole":
            return ["whole"]
        if where == "towns":
            return [visit.field("towns").strip()] if visit.field("towns").strip() else []
        return [name for name in visit.fields("district") if self.app.settings.ward.district(name)]

    def _images(self, visit: Visit, before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Those that are kept, with their words as typed, and a new one. Raises Refused for one that cannot be used."""
        kept = []
        for entry in list((before or {}).get("images", ())):
            name = f"image.{entry['digest']}"
            if not visit.field(f"{name}.drop"):
                kept.append({**entry, "alt": visit.field(f"{name}.alt") or entry.get("alt", "")})
        sent = visit.file("image")
        if sent is not None:
            if len(kept) >= MOST_IMAGES:
                raise Refused([visit.problem("image", "compose.too_many_images")])
            alt = visit.field("image.alt").strip()
            kept.append(_image(images.image(images.keep(sent, self.app.media_folder), alt)))
        return kept

    # Saving

    def create(self, visit: Visit) -> Response:
        try:
            written = self._written(visit)
        except Refused as refused:
            return self._page(visit, self._without_image(visit), status=422, problems=refused.problems)
        if visit.field("act") == "preview":
            return self._page(visit, written)
        with self.app.database.write() as connection:
            draft = drafts.add(connection, written, by=visit.person.name, at=visit.now)
        return self._after_saving(visit, draft)

    def _without_image(self, visit: Visit) -> dict[str, Any]:
        return {name: visit.field(name) for name in (*TEXTS, "issued_at", "expires_at")} | {
            "channels": visit.fields("channels"),
            "area": self._area(visit),
        }

    def save(self, visit: Visit) -> Response:
        draft = self._draft(visit)
        try:
            written = self._written(visit, draft.manuscript)
        except Refused as refused:
            return self._page(visit, draft.manuscript, draft=draft, status=422, problems=refused.problems)
        if visit.field("act") == "preview":
            return self._page(visit, written, draft=draft)
        try:
            draft = self._saved(visit, draft, written)
        except ChangedMeanwhile:
            return self._page(visit, written, draft=draft, status=409, theirs=self._draft(visit))
        return self._after_saving(visit, draft)

    def _saved(self, visit: Visit, draft: Draft, written: Mapping[str, Any]) -> Draft:
        version = visit.field("version")
        number = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else 0
        with self.app.database.write() as connection:
            return drafts.save(connection, draft, written, by=visit.person.name, at=visit.now, version=number)

    def _after_saving(self, visit: Visit, draft: Draft) -> Response:
        if visit.field("act") == "ask":
            return self._ask(visit, draft)
        return visit.go(f"{PATH}/drafts/{draft.id}?saved=1")

    def autosave(self, visit: Visit) -> Response:
        draft = self._draft(visit)
        try:
            draft = self._saved(visit, draft, self._written(visit, draft.manuscript))
        except ChangedMeanwhile:
            return visit.page("desk/compose-saved.html", draft=self._draft(visit), is_conflict=True)
        return visit.page("desk/compose-saved.html", draft=draft, is_conflict=False)

    # Asking for approval

    def _ask(self, visit: Visit, draft: Draft) -> Response:
        found = remarks(draft.manuscript, visit.now)
        if found and not visit.field("read_remarks"):
            unread = visit.problem("read_remarks", "compose.remarks_unread", n=len(found))
            return self._page(visit, draft.manuscript, draft=draft, status=422, problems=[unread])
        try:
            message = self._read(draft.manuscript, visit)
            identifier = self._propose(visit, draft, message, found)
        except Refused as refused:
            return self._page(visit, draft.manuscript, draft=draft, status=422, problems=refused.problems)
        return visit.go(f"{PATH}/approvals/{identifier}")

    def _propose(self, visit: Visit, draft: Draft, message: Message, found: Sequence[Remark]) -> str:
        def also(connection: Connection, identifier: str) -> None:
            drafts.asked(connection, draft, identifier)
            if found:
                audit.write(
                    connection,
                    visit.actor,
                    "message.remarks_read",
                    identifier,
                    at=visit.now,
                    remarks=[remark.key for remark in found],
                )
            visit.desk.staffmail.ask_approval(
                connection,
                message,
                asked_by=visit.person,
                now=visit.now,
            )

        if draft.identifier is not None:
            kept = self.app.pipeline.propose_again(draft.identifier, message, visit.actor, also=also)
        else:
            kept = self.app.pipeline.propose(message, visit.actor, also=also)
        return kept.message.identifier

    def edit_message(self, visit: Visit) -> Response:
        """A message that waits, was returned or is planned, back in its draft. Planned ones are withdrawn from their
        hour first, and need approval again."""
        kept = visit.kept()
        identifier = kept.message.identifier
        with self.app.database.read() as connection:
            draft = drafts.of_message(connection, identifier)
        self._refuse_strangers(visit, kept)
        if kept.state is State.SCHEDULED:
            self.app.pipeline.withdraw(identifier, visit.actor, also=partial(self._keep_words, visit, kept))
            return visit.go(f"{PATH}/drafts")
        if kept.state is State.WITHDRAWN:
            with self.app.database.write() as connection:
                fresh = self._draft_of(visit, kept, connection, identifier)
            return visit.go(f"{PATH}/drafts/{fresh.id}")
        if kept.state not in (State.SUBMITTED, State.RETURNED):
            return visit.go(f"{PATH}/messages/new?from={identifier}")
        if draft is None:
            with self.app.database.write() as connection:
                draft = self._draft_of(visit, kept, connection, identifier, linked=True)
        return visit.go(f"{PATH}/drafts/{draft.id}")

    def _refuse_strangers(self, visit: Visit, kept: Kept) -> None:
        """Another's notice is changed by whoever may approve, and by nobody else."""
        with self.app.database.read() as connection:
            authors = self.app.pipeline.authors_of(connection, kept)
        if visit.person.name not in authors and not visit.may(Right.APPROVE):
            visit.stop("desk/says.html", status=403, what="no_right", slots={"role": visit.w("roles.approver")})

    def _keep_words(self, visit: Visit, kept: Kept, connection: Connection, identifier: str) -> None:
        """In the transaction that takes it from its hour: its words are a draft again."""
        self._draft_of(visit, kept, connection, identifier)

    def _draft_of(
        self, visit: Visit, kept: Kept, connection: Connection, identifier: str, *, linked: bool = False
    ) -> Draft:
        return drafts.add(
            connection,
            manuscript_of(kept.message) if linked else {**manuscript_of(kept.message), REVISES: identifier},
            by=visit.person.name,
            at=visit.now,
            identifier=identifier if linked else None,
        )

    # History

    def history(self, visit: Visit) -> Response:
        draft = self._draft(visit)
        with self.app.database.read() as connection:
            versions = drafts.versions(connection, draft.id)
        pairs = [
            (version, differences(before.manuscript, version.manuscript)) for version, before in pairwise(versions)
        ]
        return visit.page("desk/history.html", draft=draft, pairs=pairs, first=versions[-1])

    def go_back(self, visit: Visit) -> Response:
        draft = self._draft(visit)
        wanted = visit.field("to")
        with self.app.database.write() as connection:
            version = next((v for v in drafts.versions(connection, draft.id) if str(v.version) == wanted), None)
            if version is None:
                raise NotThere
            drafts.save(
                connection, draft, version.manuscript, by=visit.person.name, at=visit.now, version=draft.version
            )
        return visit.go(f"{PATH}/drafts/{draft.id}?saved=1")

    def discard(self, visit: Visit) -> Response:
        draft = self._draft(visit)
        with self.app.database.write() as connection:
            drafts.discard(connection, draft, None if visit.field("restore") else visit.now)
        return visit.go(f"{PATH}/drafts/{draft.id}" if visit.field("restore") else f"{PATH}/drafts")


def manuscript_of(message: Message) -> dict[str, Any]:
    """The manuscript that makes this message again."""
    info = message.info
    written: dict[str, Any] = {
        "title": info.headline,
        "body": info.description,
        "summary": info.summary,
        "speech": info.spoken,
        "category": message.category,
        "area": ["whole"] if message.is_for_whole_ward else [area.description for area in message.areas],
        "issued_at": typed(message.effective_at),
        "expires_at": typed(message.expires_at),
        "channels": list(message.channels),
        "section": {"name": message.section.name, "phone": message.section.phone} if message.section else None,
        "link": message.web or "",
        "languages": {
            other.language: {"title": other.headline, "body": other.description} for other in message.infos[1:]
        },
        "images": [_image(image) for image in message.images],
    }
    return {name: value for name, value in written.items() if value not in ("", None, {}, [])}


def _image(image: Image) -> dict[str, Any]:
    return {
        "digest": image.digest,
        "alt": image.alt,
        "media_type": image.media_type,
        "width": image.width,
        "height": image.height,
        "file": image.digest,
    }


def _stored(written: Mapping[str, Any], file: str, alt: str) -> Image:
    """A picture that was uploaded before, by its digest."""
    for entry in written.get("images", ()):
        if entry.get("digest") == file:
            return Image(
                digest=file,
                alt=alt,
                media_type=entry["media_type"],
                width=entry["width"],
                height=entry["height"],
            )
    return manuscript.no_pictures(file, alt)


def _for_preview(written: Mapping[str, Any], now: datetime) -> tuple[dict[str, Any], list[str]]:
    """With neutral words in the gaps, and which they are."""
    missing = [name for name in ("title", "body", "area", "expires_at") if not written.get(name)]
    filled = dict(written)
    filled["images"] = [entry for entry in written.get("images", ()) if entry.get("alt")]
    filled.setdefault("title", "（題）")
    filled.setdefault("body", "（本文）")
    filled.setdefault("summary", filled["title"])
    filled.setdefault("area", ["whole"])
    filled.setdefault("category", "notice")
    for name, hours in (("issued_at", 0), ("expires_at", 24 * 7)):
        at = read_typed(str(filled.get(name, "")), now)
        if at is None or (name == "expires_at" and at <= now):
            filled[name] = (now + timedelta(hours=hours)).isoformat()
    if not filled.get("channels"):
        filled["channels"] = ["email"]
        missing.append("channels")
    return filled, missing


def completeness(written: Mapping[str, Any], language: str) -> str:
    """✓ both parts are there, … one of them, — none."""
    words = written.get("languages", {}).get(language, {})
    filled = sum(bool(words.get(part)) for part in ("title", "body"))
    return ("—", "…", "✓")[filled]


def _in_full(at: datetime) -> str:
    here = local(at)
    return f"{here.year}年{here.month}月{here.day}日（{'月火水木金土日'[here.weekday()]}）{here.hour}:{here:%M}"
