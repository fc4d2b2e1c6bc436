"""The readers' list of しなメール as a CSV file: read row by row, judged, and written again.

A row becomes a `Reader` or a `RowRefused` that says why in two languages; nothing is mended, widened or guessed: an
empty district is no reader of the whole ward, and a full-width address is handed back to be written again. The file is
streamed; all that is kept of a row is its address, to find the second one (150 MB for a million rows).

Why not a table library: a row that cannot be decoded, or has a column too many, must cost that row and not the file.
Why not the address syntax of the standard alone: phones of the 2000s have addresses such as `a..b@` and `a.@`, which no
standard allows and the carriers deliver to this day.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import BinaryIO

from email_validator import EmailNotValidError, validate_email

from broadcaster.clock import local
from broadcaster.manuscript import canonical_language
from broadcaster.message import LANGUAGES
from broadcaster.problems import Problem, Refused, refuse
from broadcaster.ward import Ward

COLUMNS = ("email", "language", "format", "topics", "districts", "frequency", "registered_at", "method", "state")
FORMATS = ("text", "html")
FREQUENCIES = ("at_once", "daily", "weekly")
METHODS = ("form", "空メール")
STATES = ("active", "pending", "suspended", "left")
WHOLE = "whole"
WHOLE_BIT = 1

LONGEST_FIELD = 65_536
LONGEST_ROW = 131_072
"""Bytes, line breaks in quoted cells included; `csv` gives up on a single cell of more."""

LONGEST_ADDRESS = 254  # RFC 5321 §4.5.3.1.3, without the angle brackets
LONGEST_LOCAL_PART = 64  # RFC 5321 §4.5.3.1.1

CARRIERS = (
    "docomo.ne.jp",
    "ezweb.ne.jp",
    "au.com",
    "softbank.ne.jp",
    "i.softbank.jp",
    "vodafone.ne.jp",
    "docomo.example",
    "ezweb.example",
    "au.example",
    "softbank.example",
    "i-softbank.example",
)
"""Domains, and all below them, that gave out addresses with `..`, a `.` before the @ or a leading `-` until 2009."""

ENCODINGS = ("utf-8", "cp932")

_BLANKS = " \t\u3000"
_ACTIVE = ("=", "+", "-", "@", "\t", "\r")
_INERT = re.compile(r"'+[=+\-@\t\r]")
_NEEDS_QUOTE = re.compile(r"'*[=+\-@\t\r]")
_OLD_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$&'*+/=?^_`{|}~.-]+", re.ASCII)
_BROKEN = ("\ufffd", "\ufeff", "\0")


class Fault(StrEnum):
    """Why a row was refused."""

    ENCODING = "encoding"
    COLUMNS = "columns"
    TOO_LONG = "too_long"
    FORMULA = "formula"
    ADDRESS = "bad_address"
    LANGUAGE = "unknown_language"
    FORMAT = "unknown_format"
    TOPIC = "unknown_topic"
    DISTRICT = "unknown_district"
    FREQUENCY = "unknown_frequency"
    DATE = "bad_date"
    METHOD = "unknown_method"
    STATE = "unknown_state"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """`address` keeps the local part as written and its domain in small letters: two that are equal are one reader."""

    address: str = field(repr=False)
    domain: str
    language: str
    format: str
    topic_bits: int
    district_bits: int  # bit 0 is the whole ward
    frequency: str
    registered_at: datetime
    method: str
    state: str


@dataclass(frozen=True, kw_only=True)
class RowRefused:
    """`row` counts from 1 below the heading. The sentences never hold the address."""

    row: int
    line: int  # of the file, where the row begins
    last_line: int  # and where it ends
    reason: Fault
    ja: str
    en: str

    def in_(self, language: str) -> str:
        return self.ja if language == "ja" else self.en


class _Bad(Exception):
    def __init__(self, reason: Fault, ja: str, en: str) -> None:
        super().__init__(reason)
        self.reason, self.ja, self.en = reason, ja, en


# Reading.


def read_list(file: BinaryIO, ward: Ward, encoding: str = "utf-8", *, now: datetime) -> Iterator[Reader | RowRefused]:
    """Every row of the list, in order.

    `encoding` is the file's own, chosen by the person who hands it in: UTF-8 with or without BOM, or `cp932` as
    spreadsheets write it. It is not guessed: bytes of one are often letters of the other.

    `now` tells a registration from one that lies ahead.

    Raises Refused when it is no such list (another heading), and when the end of a row cannot be found: a quote that is
    never closed swallows what follows, so nothing behind it can be trusted. The rows before it were read well.
    """
    if encoding not in ENCODINGS:
        raise refuse(
            "encoding",
            ja=f"文字コードは {' か '.join(ENCODINGS)} にしてください。",
            en=f"The encoding must be {' or '.join(ENCODINGS)}.",
        )
    lines = _Lines(file=file, encoding=encoding)
    rows = csv.reader(lines, strict=True)
    _heading(rows)
    judge = _Judge(ward=ward, now=now)
    number = 0
    while (cells := _next_row(rows, lines)) is not None:
        if cells:  # an empty line holds nobody
            number += 1
            yield _judged(judge, cells, number, lines)


def _next_row(rows: Iterator[list[str]], lines: _Lines) -> list[str] | None:
    lines.begin()
    try:
        return next(rows, None)
    except csv.Error:
        if lines.ended or lines.first != lines.last:
            raise lines.endless() from None
        return [""]  # a stray quote or carriage return: this line's columns cannot be told apart


def _judged(judge: _Judge, cells: list[str], row: int, lines: _Lines) -> Reader | RowRefused:
    try:
        return judge.reader(cells, row)
    except _Bad as bad:
        return RowRefused(row=row, line=lines.first, last_line=lines.last, reason=bad.reason, ja=bad.ja, en=bad.en)


@dataclass(kw_only=True)
class _Lines:
    """The lines of the file as text, never more than one row of it in memory.

    Bytes that are no letters become U+FFFD, so that the row they stand in is refused and the next one is read. No part
    of a two-byte letter of cp932 looks like a line break or a comma, so lines may be cut before they are decoded.
    """

    file: BinaryIO
    encoding: str
    first: int = 1  # line of the row being read
    last: int = 0
    ended: bool = False
    _left: int = LONGEST_ROW

    def begin(self) -> None:
        self.first, self._left = self.last + 1, LONGEST_ROW

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.file.readline(self._left + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self._left -= len(line)
        if self._left < 0:
            raise self.endless()
        self.last += 1
        has_bom = self.last == 1 and self.encoding == "utf-8"
        return line.decode("utf-8-sig" if has_bom else self.encoding, "replace")

    def endless(self) -> Refused:
        return refuse(
            "file",
            ja=f'{self.first}行目から始まる行の終わりが見つかりません。引用符（"）が閉じていないか、長すぎます。'
            "この先は読めないので、名簿を直してから、もう一度読み込んでください。",
            en=f"The end of the row that begins in line {self.first} cannot be found: a quote is not closed, or "
            "the row is too long. Nothing behind it can be read; mend the list and read it again.",
        )


def _heading(rows: Iterator[list[str]]) -> None:
    try:
        heading = next(rows, [])
    except csv.Error:
        heading = []
    if tuple(cell.strip() for cell in heading) != COLUMNS:
        columns = ",".join(COLUMNS)
        raise refuse(
            "file",
            ja=f"一行目が名簿の見出しではありません。「{columns}」と書いてください（文字コードも確かめてください）。",
            en=f"The first line is not the heading of a readers' list; it must be {columns} (check the encoding too).",
        )


@dataclass(kw_only=True)
class _Judge:
    """Judges one row after another; remembers whom it took, because a second row of the same address is refused."""

    ward: Ward
    now: datetime
    _taken: dict[str, int] = field(default_factory=dict)

    def reader(self, cells: list[str], row: int) -> Reader:
        """Raises _Bad with the first thing that is wrong."""
        self._shape(cells)
        email, language, format_, topics, districts, frequency, registered, method, state = map(_active_again, cells)
        address, domain = self._address(email)
        reader = Reader(
            address=address,
            domain=domain,
            language=_language(language),
            format=_one_of(FORMATS, format_, Fault.FORMAT, "形式", "format"),
            topic_bits=self._topic_bits(topics),
            district_bits=self._district_bits(districts),
            frequency=_one_of(FREQUENCIES, frequency, Fault.FREQUENCY, "頻度", "frequency"),
            registered_at=self._registered_at(registered),
            method=_one_of(METHODS, method, Fault.METHOD, "登録の方法", "method"),
            state=_one_of(STATES, state, Fault.STATE, "状態", "state"),
        )
        self._once(reader.address, row)
        return reader

    def _shape(self, cells: list[str]) -> None:
        if any(mark in cell for cell in cells for mark in _BROKEN):
            raise _Bad(
                Fault.ENCODING,
                "文字が壊れています。名簿の文字コード（UTF-8 か cp932）を確かめて、この行を書き直してください。",
                "Letters are broken; check the encoding of the list (UTF-8 or cp932) and write this row again.",
            )
        if any(len(cell) > LONGEST_FIELD // 4 and len(cell.encode()) > LONGEST_FIELD for cell in cells):
            raise _Bad(Fault.TOO_LONG, "欄が長すぎます（64 kB まで）。", "A cell is too long (at most 64 kB).")
        if len(cells) != len(COLUMNS):
            raise _Bad(
                Fault.COLUMNS,
                f"欄の数が違います。{len(COLUMNS)}欄にしてください（引用符の使い方も確かめてください）。",
                f"The row must have {len(COLUMNS)} columns (check its quotes too).",
            )
        if any(cell.startswith(_ACTIVE) for cell in cells[1:]):
            raise _formula()

    def _address(self, cell: str) -> tuple[str, str]:
        address = cell.strip(_BLANKS)
        if problem := address_problem(address):
            if address.startswith(("=", "+", "-")):  # a lone `@docomo.example` is an address with a half missing
                raise _formula()
            raise _Bad(Fault.ADDRESS, problem.ja, problem.en)
        local_part, _, domain = address.rpartition("@")
        return f"{local_part}@{domain.lower()}", domain.lower()

    def _topic_bits(self, cell: str) -> int:
        bits = 0
        for name in cell.split(";"):
            category = self.ward.category(name.strip(_BLANKS))
            if category is None:
                names = "、".join(category.name for category in self.ward.categories)
                raise _Bad(
                    Fault.TOPIC,
                    f"区分が空か、知らない名です。次から選んでください：{names}",
                    f"The topic is empty or unknown; use {', '.join(c.id for c in self.ward.categories)}.",
                )
            bits |= self.ward.topic_bit(category.id)
        return bits

    def _district_bits(self, cell: str) -> int:
        bits = 0
        for name in cell.split(";"):
            district = self.ward.district(name.strip(_BLANKS))
            if district is None and name.strip(_BLANKS) != WHOLE:
                raise _Bad(
                    Fault.DISTRICT,
                    f"地区が空か、知らない名です。区の全域なら {WHOLE}、地区なら D01 のように書いてください。",
                    f"The district is empty or unknown; write {WHOLE} for the whole ward, or a code such as D01.",
                )
            bits |= 1 << district.bit if district else WHOLE_BIT
        return bits

    def _registered_at(self, cell: str) -> datetime:
        instant = _instant(cell.strip(_BLANKS))
        if instant is None or instant > self.now:
            raise _Bad(
                Fault.DATE,
                "登録の日時が読めないか、先の日時です。2018-06-23T08:31:36+09:00 のように、時差も書いてください。",
                "The time of registration cannot be read or lies ahead; write 2018-06-23T08:31:36+09:00.",
            )
        return instant

    def _once(self, address: str, row: int) -> None:
        earlier = self._taken.setdefault(address, row)
        if earlier != row:
            raise _Bad(
                Fault.DUPLICATE,
                f"{earlier}番目の行と同じアドレスです。どちらか一つにしてください。",
                f"The same address as row {earlier}; keep one of the two.",
            )


def _instant(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
        return instant.astimezone(UTC) if instant.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _active_again(cell: str) -> str:
    """A cell that `write_list` made inert, as it was."""
    return cell[1:] if _INERT.match(cell) else cell


def _formula() -> _Bad:
    return _Bad(
        Fault.FORMULA,
        "表計算ソフトで式として動く書き出し（= + - @）の欄があります。",
        "A cell begins like a formula (= + - @).",
    )


def _language(cell: str) -> str:
    language = canonical_language(cell.strip(_BLANKS))
    if language is None:
        choices = " ".join(LANGUAGES)
        raise _Bad(
            Fault.LANGUAGE, f"扱わない言葉です。{choices} から選んでください。", f"Unknown language; use {choices}."
        )
    return language


def _one_of(choices: tuple[str, ...], cell: str, reason: Fault, ja: str, en: str) -> str:
    value = cell.strip(_BLANKS)
    if value not in choices:
        raise _Bad(
            reason,
            f"{ja}（{en}）は {'・'.join(choices)} のどれかにしてください。",
            f"The {en} must be one of {', '.join(choices)}.",
        )
    return value


# Addresses.


def address_problem(address: str) -> Problem | None:
    """What keeps this address from being a reader's, or None. The sentence never holds the address."""
    if not address.isascii():
        if _is_address(unicodedata.normalize("NFKC", address)):
            return _address_problem(
                "アドレスに全角の文字があります。半角で書き直してください。",
                "The address holds full-width letters; write it in plain ones.",
            )
        return _address_problem(
            "アドレスに使えない文字があります（似た形の別の文字や、見えない文字かもしれません）。",
            "The address holds letters that cannot be used (look-alikes or invisible ones, perhaps).",
        )
    local_part, _, _ = address.rpartition("@")
    if len(address) > LONGEST_ADDRESS or len(local_part) > LONGEST_LOCAL_PART:
        return _address_problem(
            f"アドレスが長すぎます（全体で{LONGEST_ADDRESS}字、@ の前は{LONGEST_LOCAL_PART}字まで）。",
            f"The address is too long (at most {LONGEST_ADDRESS}, {LONGEST_LOCAL_PART} before the @).",
        )
    if not _is_address(address):
        return _address_problem(
            "アドレスの形が違います。name@example.jp のように、一つだけ書いてください。",
            "This is no address; write one such as name@example.jp.",
        )
    return None


def _address_problem(ja: str, en: str) -> Problem:
    return Problem(where="email", ja=ja, en=en)


def _is_address(address: str) -> bool:
    local_part, _, domain = address.rpartition("@")
    if "%" in local_part or "." not in domain:  # `a%b@relay` asks a relay to pass it on
        return False
    if _is_of_a_carrier(domain) and _OLD_LOCAL_PART.fullmatch(local_part):
        local_part = "old"  # the carrier's own rule, not the standard's; the domain is still judged
    try:
        # test_environment: `.test` addresses are those of drills and rehearsals.
        validate_email(
            f"{local_part}@{domain}", allow_smtputf8=False, check_deliverability=False, test_environment=True
        )
    except EmailNotValidError:
        return False
    return True


def _is_of_a_carrier(domain: str) -> bool:
    domain = domain.lower()
    return any(domain == carrier or domain.endswith(f".{carrier}") for carrier in CARRIERS)


# Writing.


def write_list(readers: Iterable[Reader], ward: Ward) -> Iterator[str]:
    """The list as lines of CSV, the heading first; `read_list` reads it back equal.

    A cell that a spreadsheet would run gets a `'` in front, and so does one that looks as if it had one already.
    """
    line = _line_writer()
    yield line(list(COLUMNS))
    for reader in readers:
        yield line([_inert(cell) for cell in _cells(reader, ward)])


def _cells(reader: Reader, ward: Ward) -> list[str]:
    topics = [c.name for c in ward.categories if reader.topic_bits & ward.topic_bit(c.id)]
    districts = [d.code for d in ward.districts if reader.district_bits & 1 << d.bit]
    return [
        reader.address,
        reader.language,
        reader.format,
        ";".join(topics),
        ";".join([WHOLE, *districts] if reader.district_bits & WHOLE_BIT else districts),
        reader.frequency,
        local(reader.registered_at).isoformat(),
        reader.method,
        reader.state,
    ]


def _inert(cell: str) -> str:
    return f"'{cell}" if _NEEDS_QUOTE.match(cell) else cell


def _line_writer() -> Callable[[list[str]], str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")

    def line(cells: list[str]) -> str:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(cells)
        return buffer.getvalue()

    return line
