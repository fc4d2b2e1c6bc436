"""The readers' list: the dirty sample row by row, then encodings, broken files, addresses and the way back."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from broadcaster.message import LANGUAGES
from broadcaster.problems import Refused
from broadcaster.readers import (
    COLUMNS,
    FORMATS,
    FREQUENCIES,
    METHODS,
    STATES,
    Fault,
    Reader,
    RowRefused,
    address_problem,
    read_list,
    write_list,
)
from broadcaster.settings import Settings
from broadcaster.ward import Ward
from tests.makers import NOW

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ward(settings: Settings) -> Ward:
    return settings.ward


# ---- the plain case -------------------------------------------------------------------------------------------------


def test_a_row_becomes_a_reader(ward: Ward) -> None:
    (reader,) = read(a_row(topics="緊急・災害;広報紙情報", districts="D03;D05", language="zh_hans"), ward=ward)
    assert reader == Reader(
        address="Hana.1234@example.jp",
        domain="example.jp",
        language="zh-Hans",
        format="text",
        topic_bits=ward.topic_bit("emergency") | ward.topic_bit("koho"),
        district_bits=1 << 3 | 1 << 5,
        frequency="at_once",
        registered_at=datetime(2018, 6, 22, 23, 31, 36, tzinfo=UTC),
        method="空メール",
        state="active",
    )


def test_the_dirty_sample_is_judged_row_by_row_as_expected(ward: Ward) -> None:
    with (DATA / "dirty_200.csv").open("rb") as file:
        judged = list(read_list(file, ward, now=NOW))
    assert len(judged) == EXPECTED["totals"]["rows"]
    for outcome, expected in zip(judged, EXPECTED["rows"], strict=True):
        if isinstance(outcome, RowRefused):
            assert expected["verdict"] == "refused", outcome
            assert outcome.reason in (expected["reason"], *expected.get("or", ())), expected
            assert (outcome.row, outcome.line) == (expected["row"], expected["line"])
        else:
            assert expected["verdict"] == "accepted", expected
            assert outcome.address == expected["email"].strip()


def test_no_refusal_repeats_the_address(ward: Ward) -> None:
    with (DATA / "dirty_200.csv").open("rb") as file:
        judged = list(read_list(file, ward, now=NOW))
    for outcome, expected in zip(judged, EXPECTED["rows"], strict=True):
        if isinstance(outcome, RowRefused):
            email = expected["email"].strip()
            parts = [part for part in (email, email.partition("@")[0]) if len(part) > 3]
            assert not any(part in outcome.ja + outcome.en + repr(outcome) for part in parts), outcome


def test_a_reader_shown_in_a_log_has_no_address(ward: Ward) -> None:
    (reader,) = read(a_row(), ward=ward)
    assert "Hana" not in repr(reader)


def test_the_second_row_of_an_address_names_the_first(ward: Ward) -> None:
    _, second = read(a_row(), a_row(email="Hana.1234@EXAMPLE.JP"), ward=ward)
    assert isinstance(second, RowRefused)
    assert second.ja == "1番目の行と同じアドレスです。どちらか一つにしてください。"


def test_the_local_part_tells_capitals_apart(ward: Ward) -> None:
    first, second = read(a_row(), a_row(email="hana.1234@example.jp"), ward=ward)
    assert isinstance(first, Reader)
    assert isinstance(second, Reader)


def test_a_refused_row_does_not_stand_in_the_way_of_the_right_one(ward: Ward) -> None:
    first, second = read(a_row(districts=""), a_row(), ward=ward)
    assert isinstance(first, RowRefused)
    assert isinstance(second, Reader)


def test_an_empty_district_is_not_the_whole_ward(ward: Ward) -> None:
    whole, empty = read(a_row(districts="whole"), a_row(districts=""), ward=ward)
    assert isinstance(whole, Reader)
    assert whole.district_bits == 1
    assert isinstance(empty, RowRefused)
    assert empty.reason is Fault.DISTRICT
    assert "全域なら whole" in empty.ja


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"topics": "緊急・災害;"}, Fault.TOPIC),
        ({"districts": "D03;D99"}, Fault.DISTRICT),
        ({"registered_at": "0001-01-01T00:00:00+09:00"}, Fault.DATE),
        ({"registered_at": "2018-06-23"}, Fault.DATE),
        ({"registered_at": "=NOW()"}, Fault.FORMULA),
        ({"state": "-1"}, Fault.FORMULA),
        ({"method": "空\0メール"}, Fault.ENCODING),
        ({"email": "Hana.1234\0@example.jp"}, Fault.ENCODING),
        ({"state": "あ" * 22_000}, Fault.TOO_LONG),
    ],
)
def test_a_cell_that_cannot_be_right_is_refused(ward: Ward, change: dict[str, str], reason: Fault) -> None:
    (outcome,) = read(a_row(**change), ward=ward)
    assert isinstance(outcome, RowRefused)
    assert outcome.reason is reason


# ---- encodings ------------------------------------------------------------------------------------------------------


def test_a_list_in_cp932_is_read_when_it_is_said_to_be_one(ward: Ward) -> None:
    with (DATA / "sample_200_cp932.csv").open("rb") as file:
        judged = list(read_list(file, ward, "cp932", now=NOW))
    assert Counter(type(outcome) for outcome in judged) == {Reader: 200}


def test_a_list_in_cp932_read_as_utf_8_is_refused_row_by_row_with_advice(ward: Ward) -> None:
    with (DATA / "sample_200_cp932.csv").open("rb") as file:
        judged = [outcome for outcome in read_list(file, ward, now=NOW) if isinstance(outcome, RowRefused)]
    assert len(judged) == 200
    assert {outcome.reason for outcome in judged} == {Fault.ENCODING}
    assert "cp932" in judged[0].ja


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_bom_at_the_head_makes_no_difference(ward: Ward, bom: bytes) -> None:
    (outcome,) = read_list(io.BytesIO(bom + a_list(a_row())), ward, now=NOW)
    assert isinstance(outcome, Reader)


def test_another_encoding_is_refused(ward: Ward) -> None:
    with pytest.raises(Refused, match="must be utf-8 or cp932"):
        list(read_list(io.BytesIO(a_list(a_row())), ward, "euc-jp", now=NOW))


# ---- files that are broken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"email,language\n", b"name,address\nA,B\n", b"\x00" * 100, "\ufeff".encode("utf-16"), b'"email'],
)
def test_another_heading_is_no_readers_list(ward: Ward, data: bytes) -> None:
    with pytest.raises(Refused, match="not the heading"):
        list(read_list(io.BytesIO(data), ward, now=NOW))


def test_a_line_without_end_is_refused_before_it_is_all_read(ward: Ward) -> None:
    class Endless(io.RawIOBase):
        """A list whose second line never ends; remembers how much of it was asked for."""

        def __init__(self) -> None:
            self.head = io.BytesIO(a_list())
            self.asked = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size > 0
            self.asked += size
            return self.head.readline(size) or b"a" * size

    file = Endless()
    with pytest.raises(Refused, match="begins in line 2 cannot be found"):
        list(read_list(file, ward, now=NOW))  # type: ignore[arg-type]  # a reader of lines is all that is needed
    assert file.asked < 1_000_000


def test_a_quote_that_is_never_closed_swallows_nobody_in_silence(ward: Ward) -> None:
    data = a_list(a_row()) + b'"Sora@example.jp,ja\r\n' + a_list(a_row(email="umi@example.jp"), heading=False)
    outcomes = read_list(io.BytesIO(data), ward, now=NOW)
    assert isinstance(next(outcomes), Reader)
    with pytest.raises(Refused, match="begins in line 3 cannot be found"):
        next(outcomes)


def test_a_quote_closed_in_a_later_row_swallows_nobody_in_silence(ward: Ward) -> None:
    data = a_list() + b'"Sora@example.jp,ja\r\numi@example.jp,"ja",text\r\n'
    with pytest.raises(Refused, match="begins in line 2 cannot be found"):
        list(read_list(io.BytesIO(data), ward, now=NOW))


def test_a_stray_quote_costs_its_own_row_only(ward: Ward) -> None:
    data = a_list() + b'"a b"@example.jp,ja,text\r\n' + a_list(a_row(), heading=False)
    first, second = read_list(io.BytesIO(data), ward, now=NOW)
    assert isinstance(first, RowRefused)
    assert (first.reason, first.row, first.line) == (Fault.COLUMNS, 1, 2)
    assert isinstance(second, Reader)


def test_a_cell_of_two_lines_moves_the_lines_and_not_the_rows(ward: Ward) -> None:
    first, second = read(a_row(method="空\nメール"), a_row(state="gone"), ward=ward)
    assert isinstance(first, RowRefused)
    assert isinstance(second, RowRefused)
    assert (first.row, first.line, first.last_line) == (1, 2, 3)
    assert (second.row, second.line, second.last_line) == (2, 4, 4)


def test_empty_lines_hold_nobody(ward: Ward) -> None:
    data = a_list() + b"\r\n\r\n" + a_list(a_row(state="gone"), heading=False) + b"\r\n"
    (outcome,) = read_list(io.BytesIO(data), ward, now=NOW)
    assert isinstance(outcome, RowRefused)
    assert (outcome.row, outcome.line) == (1, 4)


def test_the_list_is_read_as_it_comes(ward: Ward) -> None:
    file = io.BytesIO(a_list(*(a_row(email=f"hana{n}@example.jp") for n in range(10_000))))
    outcomes = read_list(file, ward, now=NOW)
    assert isinstance(next(outcomes), Reader)
    assert file.tell() < 1_000


# ---- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "hana@example.jp",
        "=hana@example.jp",
        "o'hana+ward@example.com",
        "hana@mail.test",
        "hana@xn--wgv71a119e.example",
        "a" * 64 + "@example.jp",
        "hana..sora@docomo.example",
        "hana.@ezweb.example",
        ".hana@docomo.ne.jp",
        "-hana-@EZWEB.NE.JP",
        "hana..@t.vodafone.ne.jp",
    ],
)
def test_an_address_may_be(address: str) -> None:
    assert address_problem(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "hana..sora@example.jp",
        "hana.@notdocomo.example",
        "hana@docomo.example@docomo.example",
        "hana sora@docomo.example",
        "hana%example.com@docomo.example",
        "hana%example.com@example.jp",
        '"hana sora"@example.jp',
        "hana(sora)@example.jp",
        "Hana <hana@example.jp>",
        "hana@[192.0.2.1]",
        "hana@192.0.2.1",
        "hana@localhost",
        "hana@test",
        "hana@example.jp\n",
        "hana@docomo.example\r\nBcc: sora@example.jp",
        "hana\0@docomo.example",
        "hana\x7f@docomo.example",
        "a" * 65 + "@docomo.example",
        "a@" + ".".join(["a" * 60] * 5) + ".example",
        "花@example.jp",
        "hana@例え.example",
        "hana@gm\u0430il.example",
        "hana@xn--a.example",
        "hana@-example.jp",
        "@docomo.example",
        "hana@",
        "@",
        "",
    ],
)
def test_an_address_may_not_be(address: str) -> None:
    problem = address_problem(address)
    assert problem is not None
    assert len(address) < 5 or address not in problem.ja + problem.en


def test_a_full_width_address_is_handed_back_and_not_guessed() -> None:
    problem = address_problem("ｈａｎａ＠ｅｘａｍｐｌｅ．ｊｐ")
    assert problem is not None
    assert problem.ja == "アドレスに全角の文字があります。半角で書き直してください。"


@trials(max_examples=50, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["docomo.example", "example.jp"]))
def test_whatever_is_typed_an_accepted_address_is_plain(text: str, domain: str) -> None:
    if address_problem(f"{text}@{domain}") is None:
        assert text.isascii()
        assert text.isprintable()
        assert not set(text) & set(' ()<>[]:;@\\,"%')


# ---- and back -------------------------------------------------------------------------------------------------------


def test_what_a_spreadsheet_would_run_is_made_inert(ward: Ward) -> None:
    readers = read(
        a_row(email="=hana@example.jp"), a_row(email="+hana@example.jp"), a_row(email="'-hana@example.jp"), ward=ward
    )
    accepted = [reader for reader in readers if isinstance(reader, Reader)]
    assert [line.partition(",")[0] for line in write_list(accepted, ward)][1:] == [
        "'=hana@example.jp",
        "'+hana@example.jp",
        "'-hana@example.jp",
    ]
    assert written_and_read(accepted, ward) == accepted


def test_an_address_that_begins_with_a_quote_comes_back_with_it(ward: Ward) -> None:
    quoted = Reader(
        address="'=hana@example.jp",
        domain="example.jp",
        language="ja",
        format="text",
        topic_bits=1,
        district_bits=1,
        frequency="daily",
        registered_at=NOW,
        method="form",
        state="left",
    )
    assert list(write_list([quoted], ward))[1].startswith("''=hana@")
    assert written_and_read([quoted], ward) == [quoted]


def test_the_shipped_list_comes_back_equal(ward: Ward, settings: Settings) -> None:
    with (settings.config / "rehearsal" / "subscribers.csv").open("rb") as file:
        first = list(read_list(file, ward, now=NOW))
    readers = [outcome for outcome in first if isinstance(outcome, Reader)]
    assert (len(first), len(readers)) == (4800, 4800)
    assert written_and_read(readers[:500], ward) == readers[:500]


locals_ = st.text("abz09.=+-'_", min_size=1, max_size=12)


@trials(max_examples=50, deadline=None)
@given(st.data())
def test_every_reader_comes_back_equal(ward: Ward, data: st.DataObject) -> None:
    topics, districts = [1 << c.bit for c in ward.categories], [1, *(1 << d.bit for d in ward.districts)]
    names = data.draw(st.lists(locals_, max_size=5, unique=True))
    readers = [
        Reader(
            address=f"{name}@docomo.example",
            domain="docomo.example",
            language=data.draw(st.sampled_from(LANGUAGES)),
            format=data.draw(st.sampled_from(FORMATS)),
            topic_bits=sum(data.draw(st.sets(st.sampled_from(topics), min_size=1))),
            district_bits=sum(data.draw(st.sets(st.sampled_from(districts), min_size=1))),
            frequency=data.draw(st.sampled_from(FREQUENCIES)),
            registered_at=data.draw(st.datetimes(datetime(2000, 1, 1), datetime(2026, 11, 1))).replace(tzinfo=UTC),
            method=data.draw(st.sampled_from(METHODS)),
            state=data.draw(st.sampled_from(STATES)),
        )
        for name in names
    ]
    assert written_and_read(readers, ward) == readers


# ---- makers ---------------------------------------------------------------------------------------------------------


def a_row(**cells: str) -> list[str]:
    row = {
        "email": "Hana.1234@example.jp",
        "language": "ja",
        "format": "text",
        "topics": "緊急・災害",
        "districts": "whole",
        "frequency": "at_once",
        "registered_at": "2018-06-23T08:31:36+09:00",
        "method": "空メール",
        "state": "active",
        **cells,
    }
    return list(row.values())


def a_list(*rows: list[str], heading: bool = True) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([list(COLUMNS), *rows] if heading else rows)
    return text.getvalue().encode()


def read(*rows: list[str], ward: Ward) -> Iterator[Reader | RowRefused]:
    return read_list(io.BytesIO(a_list(*rows)), ward, now=NOW)


def written_and_read(readers: list[Reader], ward: Ward) -> list[Reader | RowRefused]:
    data = "".join(write_list(readers, ward)).encode()
    return list(read_list(io.BytesIO(data), ward, now=NOW))
