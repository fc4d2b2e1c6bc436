"""Makes the fonts that a signage screen ships: `make fonts` writes templates/signage/fonts/ anew.

A screen may be any small computer, and many have no Japanese font at all. What it needs goes to it once, some 1.8 MB:

* Japanese and Latin, two weights: BIZ UDPGothic, drawn to be read by everybody. JIS X 0208's level 1 and its signs and
  kana, the signs and names that Windows adds to it, and every letter that config/ uses.
* Korean: Noto Sans CJK KR, the 2,350 syllables of KS X 1001, in which nearly everything is written.
* Chinese, both scripts: Noto Sans CJK SC and TC, the letters of the phrases, the prepared texts, the samples and the names
  of places. Whole tables would be another 2 MB; a letter beyond them is drawn by the Japanese font or by one of the
  screen's own.

Both are under the SIL Open Font License 1.1. Their Debian packages: fonts-morisawa-bizud-gothic, fonts-noto-cjk.

    python tools/signage_fonts.py [FOLDER WITH BIZUDPGothic-*.ttf]
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fontTools import subset
from fontTools.ttLib import TTFont
from fontTools.ttLib.ttCollection import TTCollection

ROOT = Path(__file__).resolve().parent.parent
CONFIG, TARGET = ROOT / "config", ROOT / "templates" / "signage" / "fonts"
BIZ = Path("/usr/share/fonts/truetype/bizud-gothic")
NOTO = Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc")

LATIN = "".join(map(chr, (*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x2010, 0x2027), 0x20AC, 0x2122)))
LEVEL_1 = (*range(1, 9), *range(16, 48))
HANGUL = range(16, 41)
NEC_SIGNS, IBM_NAMES = range(0x87, 0x88), range(0xFA, 0xFD)
"""Lead bytes of Windows code page 932: ①㈱㎡ and 髙﨑, which JIS X 0208 lacks and people's names have."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One file: some letters of one font."""

    file: str
    family: str
    weight: str
    font: TTFont
    letters: str


def rows(codec: str, wanted: Iterable[int]) -> str:
    """The letters of these rows of a 94 × 94 table."""
    codes = (bytes((0xA0 + row, 0xA0 + cell)) for row in wanted for cell in range(1, 95))
    return "".join(code.decode(codec, "ignore") for code in codes)


def code_page_932(leads: Iterable[int]) -> str:
    codes = (bytes((lead, trail)) for lead in leads for trail in range(0x40, 0xFD))
    return "".join(code.decode("cp932", "ignore") for code in codes)


def used_in_japanese() -> str:
    """Every letter of the configuration, whatever the language."""
    files = (path for path in CONFIG.rglob("*") if path.suffix in (".csv", ".yaml", ".toml"))
    return "".join(path.read_text(encoding="utf-8-sig") for path in files)


def used_in(language: str) -> str:
    """The letters of the phrases, the prepared texts and the sample notices of one language: `zh_hans`."""
    with (CONFIG / "phrases.csv").open(encoding="utf-8-sig", newline="") as file:
        said = [row[language] for row in csv.DictReader(file)]
    for name in ("presets.yaml", "rehearsal/notices.yaml", "words/player.yaml"):
        said += texts_of(yaml.safe_load((CONFIG / name).read_text(encoding="utf-8")), language)
    return "".join(said) + names_of_places()


def names_of_places() -> str:
    """They stand in Japanese in every language."""
    files = sorted((CONFIG / "places").glob("*.csv"))
    return "".join(path.read_text(encoding="utf-8-sig") for path in files)


def texts_of(node: Any, language: str, *, is_in: bool = False) -> Iterator[str]:
    if isinstance(node, dict):
        for name, inner in node.items():
            yield from texts_of(inner, language, is_in=is_in or str(name).replace("-", "_").lower() == language)
    elif isinstance(node, list):
        for inner in node:
            yield from texts_of(inner, language, is_in=is_in)
    elif is_in and isinstance(node, str):
        yield node


def noto(tag: str) -> TTFont:
    fonts = TTCollection(str(NOTO)).fonts
    return next(font for font in fonts if font["name"].getDebugName(1) == f"Noto Sans CJK {tag}")


def cuts(biz: Path) -> Iterator[Cut]:
    japanese = LATIN + rows("euc_jp", LEVEL_1) + code_page_932((*NEC_SIGNS, *IBM_NAMES)) + used_in_japanese()
    for weight, name in (("400", "Regular"), ("700", "Bold")):
        font = TTFont(biz / f"BIZUDPGothic-{name}.ttf")
        yield Cut(file=f"ja-{weight}.woff2", family="Signage", weight=weight, font=font, letters=japanese)
    korean = LATIN + rows("euc_kr", HANGUL) + used_in("ko")
    yield Cut(file="ko.woff2", family="Signage KR", weight="400 700", font=noto("KR"), letters=korean)
    for tag, file, language in (("SC", "zh-hans", "zh_hans"), ("TC", "zh-hant", "zh_hant")):
        yield Cut(
            file=f"{file}.woff2",
            family=f"Signage {tag}",
            weight="400 700",
            font=noto(tag),
            letters=LATIN + rows("euc_jp", (1, 3)) + used_in(language),
        )


def write(cut: Cut) -> list[int]:
    """The file. Gives the code points that it draws."""
    options = subset.Options(flavor="woff2", hinting=False, layout_features=["kern", "locl", "vert"])
    options.drop_tables += ["meta"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes={ord(letter) for letter in cut.letters if letter.isprintable()})
    subsetter.subset(cut.font)
    subset.save_font(cut.font, TARGET / cut.file, options)
    return sorted(cut.font.getBestCmap())


def ranges(points: Iterable[int]) -> str:
    """As CSS writes them: `U+20-7E,U+3000`."""
    runs: list[list[int]] = []
    for point in points:
        if runs and point == runs[-1][1] + 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    return ",".join(f"U+{first:X}" if first == last else f"U+{first:X}-{last:X}" for first, last in runs)


def main(biz: Path) -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    rules = ["/* Made by tools/signage_fonts.py (make fonts). SIL Open Font License 1.1: see OFL.txt. */"]
    for cut in cuts(biz):
        points = write(cut)
        rules.append(
            f'@font-face{{font-family:"{cut.family}";font-weight:{cut.weight};font-display:swap;'
            f'src:url("{cut.file}") format("woff2");unicode-range:{ranges(points)}}}'
        )
    (TARGET / "fonts.css").write_text("\n".join(rules) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else BIZ)
