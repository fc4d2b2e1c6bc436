"""Posts on X.

A push: a notice is one post, a long alert a thread. X gets the words in which a message was written and no others: an
account that says everything seven times is not followed, and the link leads to all languages. The text is the summary;
the body is behind the link.

    [x]
    yen_per_post = 2.3
    posts_per_day = 100
    thread_parts = 4

    [x.live]
    account = "shinagawacity"          # its keys are the secrets x_consumer_key, x_consumer_secret,
                                       # x_access_token and x_access_token_secret

Why it is so:

* X has no idempotency key. A post whose outcome is unknown is looked for on our own timeline before it is repeated, and
  a post that X refuses as a duplicate is looked for too: it may be ours, from an attempt whose answer was lost.
* Every connection is a new one. One that was kept, and that the other side closes as we write, puts a post in doubt.
* An alert with a picture that cannot be uploaded goes out without it. A notice waits.
* tweepy's own `request` knows one host only, opens a pool for every call, waits for minutes and breaks on answers that
  are not JSON. Its `AsyncClient` is kept for everything above that; uploads of API v2, which it lacks, are made here.
* What is used up today is counted in the ledger, which all senders share, and corrected by what X says of its limits.
  Two senders that look in the same moment may both take the last post of the routine's share; the other share is wide
  enough for that.
"""

from __future__ import annotations

import asyncio
import html
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Self

import aiohttp
from oauthlib.oauth1 import Client as Signer
from tweepy.asynchronous import AsyncClient
from yarl import URL

from broadcaster.channel import (
    DRILL_MARK,
    Allowance,
    ChannelClosed,
    DeliveryFailure,
    Kit,
    OutcomeUnknown,
    Payload,
    PermanentFailure,
    Receipt,
    TemporaryFailure,
)
from broadcaster.clock import local, parse_instant
from broadcaster.message import Image, Message, MessageType, Mode, Urgency
from broadcaster.weighted import LIMIT, fits, head, links, weighted_length

BASE_URL = "https://api.x.com"
MOST_PICTURES = 4
MOST_ALT = 1000
MOST_PARTS = 9
LONGEST_LINK = 140
"""A link that X does not shorten (a host without a public domain) may take half a post and not more."""

KEPT_FOR_EMERGENCIES = 0.2
"""This share of a day's posts is not for routine: in 2023 X refused Kumamoto's evacuation orders after 50 in a day."""

LATEST = 20
EARLIER = timedelta(minutes=1)
"""X's clock may be behind ours by so much; the same words within it would have been refused as a duplicate anyway."""

KEYS = {
    "x_consumer_key": "APIキー",
    "x_consumer_secret": "APIキーのシークレット",
    "x_access_token": "アクセストークン",
    "x_access_token_secret": "アクセストークンのシークレット",
}

_MARKED = f"【{DRILL_MARK}】"


class X:
    name: ClassVar[str] = "x"

    def __init__(self, kit: Kit) -> None:
        self.mode = kit.mode
        self._kit = kit
        options = kit.options
        self._account = str(options.get("account", "")).removeprefix("@")
        self._thread_parts = min(max(int(options.get("thread_parts", 1)), 1), MOST_PARTS)
        self._yen = float(options.get("yen_per_post", 0))
        self._yen_with_link = float(options.get("yen_per_post_with_link", self._yen))
        self._budget = Budget(posts_per_day=int(options.get("posts_per_day", 0)))
        self._uploaded: dict[tuple[str, str], _Uploaded] = {}
        self._who: _Who | None = None
        self._api = Api(
            base_url=str(options.get("base_url") or BASE_URL).rstrip("/"),
            keys={name: kit.secret(name) or "" for name in KEYS},
            timeout_s=float(options.get("timeout_s", 10)),
            hear=self._budget.hear,
        )

    @classmethod
    def built(cls, kit: Kit) -> Self:
        return cls(kit)

    def missing(self) -> Sequence[str]:
        place = "drill" if self.mode is Mode.DRILL else "live"
        prefix = "drill_" if self.mode is Mode.DRILL else ""
        sentences = [
            f"Xの{meaning}がありません。秘密 {prefix}{name} を置いてください。"
            for name, meaning in KEYS.items()
            if not self._kit.secret(name)
        ]
        if not self._account:
            sentences.append(
                f"Xのアカウントが決まっていません。channels.toml の [x.{place}] に account を書いてください。"
            )
        return sentences

    # Compose

    def compose(self, message: Message) -> Sequence[Payload]:
        draft = self._draft(message)
        posts = draft.thread(self._thread_parts) if message.is_alert and not draft.fits else draft.single()
        pictures, picture_remarks = _pictures(message.images)
        return [
            Payload(
                part=str(n),
                content={
                    "text": text,
                    "images": pictures if n == 1 else [],
                    "weighted_length": weighted_length(text),
                    "cost_yen": self._yen_with_link if links(text) else self._yen,
                    "is_priority": message.is_alert or message.message_type is not MessageType.ALERT,
                    "issued_at": message.began_at.isoformat(),
                },
                omitted=(*(picture_remarks if n == 1 else ()), *(posts.omitted if n == len(posts.texts) else ())),
                after=str(n - 1) if n > 1 else None,
            )
            for n, text in enumerate(posts.texts, start=1)
        ]

    def _draft(self, message: Message) -> Draft:
        is_dated = message.is_alert or message.message_type is not MessageType.ALERT
        info = message.info
        return Draft(
            write=partial(self._kit.render, "x/alert.txt" if is_dated else "x/notice.txt", language=info.language),
            text=self._words(message),
            at=message.began_at if is_dated else None,
            link=message.web or "",
            spare_link=self._kit.address("emergency") if message.is_alert and not message.web else "",
            hashtags=tuple(f"#{tag.lstrip('#＃')}" for tag in message.hashtags),
            is_drill=message.is_drill,
            body=info.description,
        )

    def _words(self, message: Message) -> str:
        """The summary, with a tag before an urgent one that has none of its own."""
        text = (message.info.summary or message.info.headline).strip()
        if message.urgency not in (Urgency.IMMEDIATE, Urgency.EXPECTED):
            return text
        words = self._kit.words
        plain = text.removeprefix(_MARKED).removeprefix(words.phrase("drill", message.info.language))
        if plain.startswith(("【", "[")):
            return text
        tag = words.phrase("tag_emergency", message.info.language)
        return text.removesuffix(plain) + tag + ("" if tag.endswith("】") else " ") + plain

    # Deliver

    async def deliver(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt:
        self._refuse_incomplete()
        content = payload.content
        now = self._kit.clock.now()
        if not content["is_priority"]:
            await self._count_the_day(now)
            self._budget.refuse_routine(now)
        await self._confirm_account()
        media, remark = await self._media(content)
        try:
            posted = await self._api.create_tweet(
                text=content["text"],
                in_reply_to_tweet_id=(previous.evidence or None) if previous else None,
                media_ids=media or None,
            )
        except _Duplicate:
            return await self._found_or_refused(payload, key=key, previous=previous)
        return Receipt(evidence=_id_of(posted, is_post=True), detail=remark)

    async def _count_the_day(self, now: datetime) -> None:
        counted = await asyncio.to_thread(self.allowance, now)
        if counted is not None:
            self._budget.count(counted, _midnight(now) + timedelta(days=1))

    def allowance(self, now: datetime) -> Allowance | None:
        """What has gone out since midnight, whichever sender sent it."""
        most = self._budget.posts_per_day
        return _allowance(self._kit.went_out(_midnight(now)), most) if most else None

    def _refuse_incomplete(self) -> None:
        if missing := self.missing():
            raise ChannelClosed(missing[0])

    async def _confirm_account(self) -> None:
        """Keys of the live account in the drill's place would tell a drill to the whole town."""
        if self._kit.is_rehearsal:
            return  # the stand-in has one account for both places
        try:
            who = await self._me()
        except (TemporaryFailure, PermanentFailure):
            if self.mode is Mode.DRILL:
                raise
            return  # an alert does not wait for a look at its own name
        if who.name.lower() != self._account.lower():
            raise ChannelClosed(
                f"Xのキーは @{who.name} のもので、設定の @{self._account} と違います。投稿しませんでした。"
            )

    async def _me(self) -> _Who:
        if self._who is None:
            answer = await self._api.get_me()
            self._who = _Who(id=_id_of(answer), name=str(answer["data"].get("username", "")))
        return self._who

    async def _media(self, content: Mapping[str, Any]) -> tuple[list[str], str]:
        """The ids of the pictures, and a remark for the record when an alert goes without them."""
        try:
            return [await self._upload(picture) for picture in content["images"]], ""
        except DeliveryFailure as failure:
            if not content["is_priority"]:
                raise
            return [], f"画像を付けずに投稿しました：{failure}"

    async def _upload(self, picture: Mapping[str, str]) -> str:
        """Its id at X, remembered for the next attempt of the same post."""
        known = self._uploaded.get((picture["digest"], picture["alt"]))
        now = self._kit.clock.now()
        if known is not None and now < known.expires_at:
            return known.id
        try:
            data = await asyncio.to_thread(self._kit.picture, picture["digest"])
        except OSError as error:
            raise PermanentFailure("画像のファイルが見つかりません。登録し直してください。") from error
        uploaded = await self._api.upload(data, picture["media_type"], now)
        await self._api.describe(uploaded.id, picture["alt"])
        self._uploaded = {kept: value for kept, value in self._uploaded.items() if now < value.expires_at}
        self._uploaded[picture["digest"], picture["alt"]] = uploaded
        return uploaded.id

    async def _found_or_refused(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt:
        found = await self.find(payload, key=key, previous=previous)
        if found is None:
            raise PermanentFailure("Xが「前と同じ文」として受け付けませんでした。文を少し変えて、出し直してください。")
        return found

    # Find and retract

    async def find(self, payload: Payload, *, key: str, previous: Receipt | None) -> Receipt | None:
        """The same words on our own timeline, posted since the message was issued."""
        wanted = _bare(payload.content["text"])
        since = parse_instant(payload.content["issued_at"]) - EARLIER
        for post in await self._latest():
            if _bare(post.text) == wanted and post.created_at >= since:
                return Receipt(evidence=post.id, detail="投稿済みであることを確かめました。")
        return None

    async def _latest(self) -> Sequence[_Post]:
        """Our newest posts, newest first. Raises OutcomeUnknown when they cannot be seen."""
        try:
            who = await self._me()
            timeline = await self._api.get_users_tweets(
                who.id, max_results=LATEST, tweet_fields=["created_at"], user_auth=True
            )
            return [_Post.told(post) for post in timeline.get("data", ())]
        except DeliveryFailure as failure:
            raise OutcomeUnknown(f"投稿できたかどうかを確かめられません：{failure}") from failure
        except (KeyError, TypeError, ValueError) as error:
            raise OutcomeUnknown("投稿できたかどうかを確かめられません：Xの返事を読めません。") from error

    async def retract(self, receipt: Receipt) -> Receipt:
        if not receipt.evidence:
            raise PermanentFailure("投稿の番号がわからないので消せません。Xの画面で消してください。")
        self._refuse_incomplete()
        try:
            await self._api.delete_tweet(receipt.evidence)
        except _Gone:
            return Receipt(evidence=receipt.evidence, detail="もう消えていました。")
        return Receipt(evidence=receipt.evidence, detail="投稿を消しました。")

    async def close(self) -> None:
        await self._api.close()


# The words around the words


@dataclass(frozen=True, kw_only=True)
class Posts:
    texts: tuple[str, ...]
    omitted: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What is to be said, before it is known how much of it fits."""

    write: Callable[..., str]
    text: str
    at: datetime | None
    link: str  # belongs to the message: the words make room for it
    spare_link: str  # only where there is room
    hashtags: tuple[str, ...]  # only where there is room
    is_drill: bool
    body: str

    @property
    def fits(self) -> bool:
        return fits(self._post(self.text, hashtags=""))

    def single(self) -> Posts:
        """One post, cut at the end of a sentence or phrase where it must be."""
        draft, omitted = self._with_spare_link() if self.fits else (self, [])
        draft, link_remarks = draft._with_short_link()
        kept, lost = _shortened(draft.text, draft._room(draft.text))
        hashtags = draft._hashtags_beside(kept)
        return Posts(
            texts=(draft._post(kept, hashtags=" ".join(hashtags)),),
            omitted=(*_lost(lost), *link_remarks, *omitted, *draft._unsaid(hashtags)),
        )

    def thread(self, most: int) -> Posts:
        """Several posts, divided between sentences; the link stands in the last."""
        draft, omitted = replace(self, link=self.link or self.spare_link)._with_short_link()
        texts, lost = draft._divided(most)
        of = len(texts)
        return Posts(
            texts=tuple(draft._post(text, n=n, of=of) for n, text in enumerate(texts, start=1)),
            omitted=(*_lost(lost), *omitted, *draft._unsaid(())),
        )

    def _divided(self, most: int) -> tuple[list[str], str]:
        """The words of each part, and what was left over in the end."""
        texts: list[str] = []
        rest = self.text
        for n in range(1, most):
            if weighted_length(rest) <= self._room(rest, n=n, of=n):
                return [*texts, rest], ""
            room = min(self._room(rest, n=n, of=most), weighted_length(rest) - 1)
            end = head(rest, room)
            if not end:
                break
            texts.append(rest[:end].rstrip())
            rest = rest[end:].lstrip()
        last = len(texts) + 1
        kept, lost = _shortened(rest, self._room(rest, n=last, of=last))
        return [*texts, kept], lost

    def _post(self, text: str, *, hashtags: str = "", n: int = 1, of: int = 1) -> str:
        return self.write(
            text=text,
            mark=_MARKED if self.is_drill and not text.startswith(_MARKED) else "",
            at=self.at if n == 1 else None,
            link=self.link if n == of else "",
            hashtags=hashtags,
            n=n,
            of=of,
        ).strip()

    def _room(self, text: str, *, n: int = 1, of: int = 1) -> int:
        """How much is left for the words."""
        beginning = _MARKED if text.startswith(_MARKED) else "字"
        return LIMIT - weighted_length(self._post(beginning, n=n, of=of)) + weighted_length(beginning)

    def _with_spare_link(self) -> tuple[Draft, list[str]]:
        if not self.spare_link:
            return self, []
        linked = replace(self, link=self.spare_link)
        return (linked, []) if linked.fits else (self, ["緊急のページへのリンクは入りきりません。"])

    def _with_short_link(self) -> tuple[Draft, list[str]]:
        if weighted_length(self.link) <= LONGEST_LINK:
            return self, []
        return replace(self, link=""), [f"リンクが長すぎて入りません：{self.link}"]

    def _hashtags_beside(self, text: str) -> tuple[str, ...]:
        """As many as there is room for, in their order."""
        chosen: tuple[str, ...] = ()
        for hashtag in self.hashtags:
            if fits(self._post(text, hashtags=" ".join((*chosen, hashtag)))):
                chosen = (*chosen, hashtag)
        return chosen

    def _unsaid(self, hashtags: Sequence[str]) -> list[str]:
        remarks = []
        if left := [hashtag for hashtag in self.hashtags if hashtag not in hashtags]:
            remarks.append(f"ハッシュタグが入りきりません：{' '.join(left)}")
        if not self.link and self.body.strip() not in ("", self.text):
            remarks.append("リンクがないので、本文はXからは読めません（要約だけを投稿します）。")
        return remarks


def _shortened(text: str, room: int) -> tuple[str, str]:
    """The text as far as there is room, and what was cut off."""
    if weighted_length(text) <= room:
        return text, ""
    end = head(text, room - weighted_length("…"))
    return text[:end].rstrip(" 　、，,・\n") + "…", text[end:].strip()


def _lost(text: str) -> list[str]:
    return [f"長いので、終わりを省きました：「{text}」"] if text else []


def _pictures(images: Sequence[Image]) -> tuple[list[dict[str, str]], list[str]]:
    remarks = [f"画像は{MOST_PICTURES}枚までなので載りません：{image.alt}" for image in images[MOST_PICTURES:]]
    pictures = []
    for image in images[:MOST_PICTURES]:
        alt = image.alt
        if len(alt) > MOST_ALT:
            alt = alt[: MOST_ALT - 1] + "…"
            remarks.append(f"画像の説明は{MOST_ALT}字までなので、終わりを省きました：{image.alt[:20]}…")
        pictures.append({"digest": image.digest, "alt": alt, "media_type": image.media_type})
    return pictures, remarks


_LONG_LINK = re.compile(r"https?://[!-~]+")


def _bare(text: str) -> str:
    """For comparing: X shortens links, adds one for the pictures and may touch spaces."""
    text = unicodedata.normalize("NFC", text)
    for begin, end in reversed(links(text)):
        text = text[:begin] + text[end:]
    return " ".join(_LONG_LINK.sub("", text).split())


# How much of the day is used up


@dataclass(frozen=True, kw_only=True)
class Tally:
    of: Allowance
    ends_at: datetime


@dataclass(kw_only=True)
class Budget:
    """Posts of the day: against the contract, and as X tells of its own limits."""

    posts_per_day: int  # 0: the contract names no number
    _tallies: dict[str, Tally] = field(default_factory=dict)

    def refuse_routine(self, now: datetime) -> None:
        """Raises TemporaryFailure, until the day ends, once only the emergencies' share is left."""
        for tally in self._tallies.values():
            if now < tally.ends_at and not tally.of.for_routine:
                raise TemporaryFailure(
                    f"Xのきょうの投稿が{tally.of.used}件（上限{tally.of.most}件）になりました。残りは緊急のために取ってあります。",
                    retry_at=tally.ends_at,
                )

    def count(self, counted: Allowance, ends_at: datetime) -> None:
        self._tallies["own"] = Tally(of=counted, ends_at=ends_at)

    def hear(self, headers: Mapping[str, str]) -> None:
        for limit in DAY_LIMITS:
            most, left = (_number(headers.get(f"{limit}-{what}")) for what in ("limit", "remaining"))
            ends_at = _instant(headers.get(f"{limit}-reset"))
            if most and left is not None and ends_at:
                self._tallies[limit] = Tally(of=_allowance(most - left, most), ends_at=ends_at)


def _allowance(used: int, most: int) -> Allowance:
    return Allowance(used=used, most=most, kept=math.ceil(most * KEPT_FOR_EMERGENCIES))


def _midnight(now: datetime) -> datetime:
    return local(now).replace(hour=0, minute=0, second=0, microsecond=0)


DAY_LIMITS = ("x-user-limit-24hour", "x-app-limit-24hour")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) <= 10 else None


def _instant(seconds: str | None) -> datetime | None:
    """Seconds since 1970, as far as ten digits go: what is longer is no time of this world."""
    number = _number(seconds)
    return datetime.fromtimestamp(number, UTC) if number else None


# X's API


class _Duplicate(PermanentFailure):
    """X has the same words already."""


class _Gone(PermanentFailure):
    """There is nothing by that id."""


@dataclass(frozen=True, kw_only=True)
class _Uploaded:
    id: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class _Who:
    """The account that the keys belong to."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class _Post:
    """A post as X tells it, its escapes undone."""

    id: str
    text: str
    created_at: datetime

    @classmethod
    def told(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            id=str(document["id"]),
            text=html.unescape(document["text"]),
            created_at=parse_instant(document["created_at"]),
        )


POSTS = "/2/tweets"

CLOSED = {
    401: "Xがキーを受け付けません（401）。X の開発者画面でキーとトークンを確かめて、置き直してください。",
    402: "Xの残高か契約の枠を使い切りました（402）。Xの開発者画面で追加してください。",
    403: "Xがこのアカウントからの投稿を認めません（403）。アカウントの停止や、キーの書き込みの権限を確かめてください。",
}


NO_ADDRESS = "XのAPIの場所（base_url）が正しくありません。練習では、練習の町が動いていないときにこうなります。"


class Api(AsyncClient):  # type: ignore[misc]  # tweepy has no types
    """tweepy's client with a `request` of our own: any address, one pool, short waits, and our four failures."""

    def __init__(
        self, *, base_url: str, keys: Mapping[str, str], timeout_s: float, hear: Callable[[Mapping[str, str]], None]
    ) -> None:
        super().__init__(**{name.removeprefix("x_"): key for name, key in keys.items()}, return_type=dict)
        self._base_url = base_url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=timeout_s / 2)
        self._hear = hear
        self._pool: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        route: str,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        user_auth: bool = True,
        *,
        data: aiohttp.FormData | None = None,
    ) -> aiohttp.ClientResponse:
        """The answer, read to its end, in JSON. Raises one of the four failures for everything else."""
        is_post = (method, route) == ("POST", POSTS)
        url, headers = self._signed(method, route, params or {})
        try:
            async with self._open_pool().request(
                method, url, json=json, data=data, headers=headers, allow_redirects=False
            ) as response:
                await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise TemporaryFailure("Xにつながりません。") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _in_doubt("Xから返事がありませんでした。", is_post=is_post) from error
        if is_post:
            self._hear(response.headers)
        if failure := await _failure(response, is_post=is_post):
            raise failure
        return response

    def _signed(self, method: str, route: str, params: Mapping[str, str]) -> tuple[URL, dict[str, str]]:
        signer = Signer(self.consumer_key, self.consumer_secret, self.access_token, self.access_token_secret)
        plain = str(self._address(route).with_query(sorted(params.items())))
        signed, headers, _ = signer.sign(plain, method, headers={"User-Agent": self.user_agent})
        address, mark, query = signed.partition("?")
        # The signature is made over an escaped `:`, which aiohttp would send as it is.
        return URL(address + mark + query.replace(":", "%3A"), encoded=True), headers

    def _address(self, route: str) -> URL:
        try:
            address = URL(self._base_url + route)
        except ValueError as error:
            raise ChannelClosed(NO_ADDRESS) from error
        if address.scheme not in ("http", "https") or not address.host or not address.port:
            raise ChannelClosed(NO_ADDRESS)
        return address

    def _open_pool(self) -> aiohttp.ClientSession:
        if self._pool is None:
            connector = aiohttp.TCPConnector(force_close=True)
            self._pool = aiohttp.ClientSession(timeout=self._timeout, connector=connector)
        return self._pool

    async def upload(self, data: bytes, media_type: str, now: datetime) -> _Uploaded:
        form = aiohttp.FormData()
        form.add_field("media", data, filename="picture", content_type=media_type)
        form.add_field("media_category", "tweet_image")
        form.add_field("media_type", media_type)
        answer = await (await self.request("POST", "/2/media/upload", data=form)).json()
        return _Uploaded(
            id=_id_of(answer), expires_at=now + timedelta(seconds=answer["data"].get("expires_after_secs", 3600))
        )

    async def describe(self, media_id: str, alt: str) -> None:
        await self.request("POST", "/2/media/metadata", json={"id": media_id, "metadata": {"alt_text": {"text": alt}}})

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None


async def _failure(response: aiohttp.ClientResponse, *, is_post: bool) -> DeliveryFailure | None:
    status = response.status
    if 200 <= status < 300:
        return None if await _is_answer(response) else _in_doubt("Xの返事を読めません。", is_post=is_post)
    if status == 408 or status >= 500:
        return _in_doubt(f"Xの側で問題が起きています（{status}）。", is_post=is_post)
    if status == 429:
        return TemporaryFailure("Xの回数の限度に達しました（429）。", retry_at=_resets_at(response.headers))
    detail = _detail(await response.text(errors="replace"))
    if status == 403 and "duplicate" in detail.lower():
        return _Duplicate("Xに同じ文の投稿があります。")
    if status == 404:
        return _Gone("Xにその投稿はありません（404）。")
    if status in CLOSED:
        return ChannelClosed(CLOSED[status])
    if status < 400:
        return ChannelClosed(f"XのAPIの場所が変わったようです（{status}）。情報の担当へ伝えてください。")
    return PermanentFailure(f"Xが受け付けませんでした（{status}）：{detail}")


async def _is_answer(response: aiohttp.ClientResponse) -> bool:
    """JSON with `data`, or with `meta` alone where there is nothing to tell."""
    try:
        document = await response.json()
    except (aiohttp.ContentTypeError, ValueError):
        return False
    return isinstance(document, dict) and ("data" in document or "meta" in document)


def _in_doubt(sentence: str, *, is_post: bool) -> DeliveryFailure:
    """Everything but a post can simply be asked again."""
    return OutcomeUnknown(sentence) if is_post else TemporaryFailure(sentence)


def _resets_at(headers: Mapping[str, str]) -> datetime | None:
    """When X takes requests again: the day's limit when that is used up, else the quarter of an hour's."""
    used_up = [limit for limit in DAY_LIMITS if headers.get(f"{limit}-remaining") == "0"]
    return _instant(headers.get(f"{used_up[0] if used_up else 'x-rate-limit'}-reset"))


def _detail(body: str) -> str:
    """X's own words for a refusal, short; a page of HTML says nothing."""
    try:
        document = json.loads(body)
        return str(document.get("detail") or document.get("title") or "")[:200]
    except (ValueError, AttributeError):
        return ""


def _id_of(answer: Mapping[str, Any], *, is_post: bool = False) -> str:
    try:
        return str(answer["data"]["id"])
    except (KeyError, TypeError):
        raise _in_doubt("Xの返事に番号がありません。", is_post=is_post) from None
