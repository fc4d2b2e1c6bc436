"""The ward: its name, categories, districts, towns and screens. Values only; `settings.py` reads them from config/."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broadcaster.message import WHOLE_WARD, Area

_DIGITS = "一二三四五六七八九"
_TOWN = re.compile(rf"(?P<town>[^\s、,・]+?)(?P<chome>[{_DIGITS}](?:[・～〜~-][{_DIGITS}])*)丁目")


@dataclass(frozen=True, kw_only=True)
class Category:
    id: str  # in addresses: /feeds/<id>.rss
    name: str
    english: str
    bit: int  # of a reader's topics; never reused
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class District:
    code: str
    name: str
    bit: int


@dataclass(frozen=True, kw_only=True)
class Town:
    name: str  # 西五反田一丁目
    kana: str
    district: str  # its district's code
    latitude: float = 0.0
    longitude: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Screen:
    id: str
    site: str
    place: str
    district: str | None  # None: a ward-wide place such as the city hall
    orientation: str = "landscape"


class UnknownArea(ValueError):
    """Nothing by that name: it is refused, never widened to the whole ward."""


@dataclass(frozen=True, kw_only=True)
class Ward:
    name: str
    english_name: str
    sender: str  # CAP's sender: no space, comma, `<` or `&`
    base_url: str
    mail_name: str
    mail_name_english: str
    mail_domain: str
    dial_number: str
    categories: tuple[Category, ...]
    districts: tuple[District, ...]
    towns: tuple[Town, ...]
    screens: tuple[Screen, ...]
    link_hosts: tuple[str, ...]
    by_hand: tuple[str, ...]  # media that people serve by hand; named in messages, sent by nobody here
    emergency_category: str = "emergency"
    hosts: tuple[str, ...] = ()  # by which this installation is called besides the name in base_url
    _towns: Mapping[str, Town] = field(init=False, repr=False, compare=False)
    _categories: Mapping[str, Category] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_towns", {town.name: town for town in self.towns})
        object.__setattr__(self, "_categories", {category.id: category for category in self.categories})

    def category(self, name: str) -> Category | None:
        """By its id, its name or an older name."""
        return next((c for c in self.categories if name in (c.id, c.name, *c.aliases)), None)

    def category_by_id(self, id: str) -> Category:
        return self._categories[id]

    def district(self, name: str) -> District | None:
        return next((d for d in self.districts if name in (d.code, d.name)), None)

    def whole(self) -> Area:
        return Area(description=f"{self.name}全域", geocodes=(WHOLE_WARD,))

    def area(self, name: str) -> Area:
        """The area by this name: `whole`, a district, or towns as people write them. Raises UnknownArea."""
        name = name.strip()
        if name in ("whole", WHOLE_WARD, self.name, f"{self.name}全域", "区全域"):
            return self.whole()
        if district := self.district(name):
            return Area(description=district.name, geocodes=(district.code,))
        towns = self.towns_in(name)
        if not towns:
            raise UnknownArea(name)
        return Area(description=name, geocodes=tuple(dict.fromkeys(town.district for town in towns)))

    def towns_in(self, text: str) -> tuple[Town, ...]:
        """Every town named in the text, `西五反田一・二丁目、大崎一丁目` and `東品川一～四丁目` written out.

        Empty when one of the names is unknown: half an area is worse than a question.
        """
        if town := self._towns.get(text):
            return (town,)
        found: list[Town] = []
        for match in _TOWN.finditer(text):
            for chome in _chome(match["chome"]):
                town = self._towns.get(f"{match['town']}{chome}丁目")
                if town is None:
                    return ()
                found.append(town)
        return tuple(found)

    def dots(self, width: float = 300.0) -> Mapping[str, list[tuple[float, float]]]:
        """The towns of each district as points of a drawing, north up: by the district's code, `(x, y)` from the upper
        left corner. At this size the ward is flat."""
        placed = [town for town in self.towns if town.latitude]
        if not placed:
            return {}
        west, north = min(town.longitude for town in placed), max(town.latitude for town in placed)
        narrower = math.cos(math.radians(north))
        scale = width / ((max(town.longitude for town in placed) - west) * narrower)
        found: dict[str, list[tuple[float, float]]] = {}
        for town in placed:
            point = (town.longitude - west) * narrower * scale, (north - town.latitude) * scale
            found.setdefault(town.district, []).append((round(point[0], 1), round(point[1], 1)))
        return found

    def topic_bit(self, category: str) -> int:
        return 1 << self.category_by_id(category).bit

    def district_bits(self, geocodes: Iterable[str]) -> int:
        """The readers' districts that these geocodes mean. Bit 0 is a reader of the whole ward, always meant."""
        codes = set(geocodes)
        if WHOLE_WARD in codes:
            return self.all_district_bits
        return 1 | sum(1 << district.bit for district in self.districts if district.code in codes)

    @property
    def all_district_bits(self) -> int:
        return 1 | sum(1 << district.bit for district in self.districts)


def _chome(text: str) -> Iterable[str]:
    """`一・二` is 一 二, `一～四` is 一 二 三 四."""
    if len(text) == 3 and text[1] in "～〜~-":
        first, last = _DIGITS.index(text[0]), _DIGITS.index(text[2])
        return _DIGITS[first : last + 1]
    return [char for char in text if char in _DIGITS]
