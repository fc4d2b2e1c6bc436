"""Pictures: whatever is handed in is drawn anew, and only what was drawn is kept.

`keep` decodes a JPEG, PNG or WebP and encodes it again: upright, in sRGB, at most 1920 pixels long, one frame, without
the place, the camera, the comments and whatever hung behind it. The stored bytes are named by their SHA-256.

    stored = keep(data, home / "media")
    picture = image(stored, alt="朝市の店先に並ぶ大根")

A decoder is where a hostile file does its work, so it runs in a child process with 512 MiB, five seconds of
processor, no file to write and none of our environment; a child that dies costs one sentence. Its answer is judged
before it is kept.

Why not check and keep the file as it came: a picture can be a web page as well, and where it was taken stands in it.
Why not threads or a pool: a limit on memory belongs to a process, and one that has met a hostile file is not met again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as Pillow
from PIL import ImageCms, ImageOps, UnidentifiedImageError

from broadcaster.message import Image
from broadcaster.problems import Problem, Refused, refuse

if TYPE_CHECKING:  # the child needs none of what stands behind it
    from broadcaster.manuscript import Fetch

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_BYTES = 10_000_000
MOST_PIXELS = 24_500_000
"""What cameras sell as 24 megapixels: 6048 × 4024, 5712 × 4284."""
LONGEST_SIDE = 8_192
LONGEST_KEPT_SIDE = 1_920
HEAVIEST_PNG = 4_000_000
"""Some media take 5 MB; a heavier drawing becomes a JPEG on white."""
FEW_COLOURS = 8_192
"""A PNG with fewer is a drawing, with letters that a JPEG would blur; photographs have tens of thousands."""
QUALITY = 85

MEMORY = 512 * 1024 * 1024
PROCESSOR_SECONDS = 5
WALL_SECONDS = 20
"""Longer than the processor's, because a busy machine is not the picture's fault."""
DECODERS = threading.BoundedSemaphore(2)

ENDINGS: Mapping[str, str] = {"image/jpeg": "jpg", "image/png": "png"}
_SIGNATURES: Mapping[str, bytes] = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG\r\n\x1a\n"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Fault(StrEnum):
    EMPTY = "empty"
    TOO_HEAVY = "too_heavy"
    NO_PICTURE = "no_picture"
    TOO_LARGE = "too_large"
    MOVING = "moving"
    BROKEN = "broken"
    GAVE_UP = "gave_up"


SENTENCES: Mapping[Fault, tuple[str, str]] = {
    Fault.EMPTY: ("画像のファイルが空です。", "The file is empty."),
    Fault.TOO_HEAVY: (
        f"画像が大きすぎます。{MOST_BYTES // 1_000_000} MB までにしてください。",
        f"The picture is too heavy; at most {MOST_BYTES // 1_000_000} MB.",
    ),
    Fault.NO_PICTURE: (
        "画像として読めません。JPEG・PNG・WebP の画像を選んでください。"
        "HEIC・GIF・SVG・PDF は、JPEG か PNG にして出し直してください。",
        "This cannot be read as a picture; hand in a JPEG, PNG or WebP (save HEIC, GIF, SVG and PDF as one of these).",
    ),
    Fault.TOO_LARGE: (
        f"画像の画素が多すぎます。2400万画素、一辺{LONGEST_SIDE}までに縮めてください。",
        f"The picture has too many pixels; at most 24 megapixels and {LONGEST_SIDE} on a side.",
    ),
    Fault.MOVING: (
        "動く画像は使えません。一枚の絵にしてください。",
        "A moving picture cannot be used; hand in a still one.",
    ),
    Fault.BROKEN: (
        "画像が途中で切れているか、壊れています。もう一度書き出してください。",
        "The picture is cut off or damaged; save it again.",
    ),
    Fault.GAVE_UP: (
        "画像を開けませんでした。壊れているか、決めた時間と記憶では足りません。小さくして、もう一度書き出してください。",
        "The picture could not be opened: it is damaged, or asks for too much time or memory. Save it again, smaller.",
    ),
}


class _Bad(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A picture as it is kept: `<digest>.jpg` or `<digest>.png`."""

    digest: str
    media_type: str
    width: int
    height: int

    @property
    def file_name(self) -> str:
        return f"{self.digest}.{ENDINGS[self.media_type]}"


def keep(data: bytes, folder: Path) -> Stored:
    """Draw the picture anew and keep it in the folder. The same bytes give the same file, however often.

    Raises Refused with one sentence when it cannot be used. Takes a second or so: not for the event loop.
    """
    try:
        media_type, width, height, drawn = _drawn_in_a_child(data)
    except _Bad as bad:
        ja, en = SENTENCES[bad.fault]
        raise refuse("image", ja=ja, en=en) from None
    stored = Stored(digest=hashlib.sha256(drawn).hexdigest(), media_type=media_type, width=width, height=height)
    _put(folder / stored.file_name, drawn)
    return stored


def image(stored: Stored, alt: str) -> Image:
    """The stored picture as a message shows it."""
    return Image(digest=stored.digest, alt=alt, media_type=stored.media_type, width=stored.width, height=stored.height)


def path_of(folder: Path, digest: str) -> Path:
    """Where the picture with this digest is kept, or would be. Raises FileNotFoundError for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise FileNotFoundError("no picture has such a name")
    paths = [folder / f"{digest}.{ending}" for ending in ENDINGS.values()]
    return next((path for path in paths if path.is_file()), paths[0])


def read_from(folder: Path, kept: Path) -> Fetch:
    """A manuscript's `Fetch` for files in this folder and nowhere else; each picture is kept in `kept`."""

    def fetch(file: str, alt: str) -> Image:
        try:
            return image(keep(_read(_inside(folder, file)), kept), alt)
        except Refused as refused:
            raise Refused(
                Problem(where="image.file", ja=f"「{file}」：{p.ja}", en=f"{file!r}: {p.en}") for p in refused.problems
            ) from None

    return fetch


def _inside(folder: Path, file: str) -> Path:
    """The file that this name means. Where it really lies counts: a link out of the folder is a way out of it."""
    try:
        path = (folder / file).resolve()
        inside, there = path.is_relative_to(folder.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name too long, with NUL in it, or a link to itself
        inside, there = True, False
    if not inside or ".." in Path(file).parts:
        raise refuse(
            "image.file",
            ja="原稿と同じフォルダの外にある画像は使えません。画像を原稿のそばに置いてください。",
            en="A picture outside the manuscript's folder cannot be used; put it beside the manuscript.",
        )
    if not there:
        raise refuse("image.file", ja="その名の画像がありません。", en="There is no such picture.")
    return path


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)  # one more than is allowed is enough to refuse it
    except OSError:
        raise refuse("image.file", ja="画像のファイルを読めません。", en="The file cannot be read.") from None


def _put(path: Path, data: bytes) -> None:
    """Whole or not at all, also when two do it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # for the public, whatever else lies beside it
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


# Outside the box.


def _drawn_in_a_child(data: bytes) -> tuple[str, int, int, bytes]:
    if not data:
        raise _Bad(Fault.EMPTY)
    if len(data) > MOST_BYTES:
        raise _Bad(Fault.TOO_HEAVY)
    with DECODERS:
        try:
            child = subprocess.run(
                [sys.executable, "-P", "-B", "-m", "broadcaster.images"],
                input=data,
                capture_output=True,
                timeout=WALL_SECONDS,
                env=_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _Bad(Fault.GAVE_UP) from None
    if child.returncode != 0:
        raise _Bad(Fault.GAVE_UP)
    return _judged(child.stdout)


def _environment() -> dict[str, str]:
    """Where the child finds its modules, and nothing else: secrets stay here."""
    ours = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**ours, "PYTHONPATH": str(Path(__file__).absolute().parents[1])}


def _judged(answer: bytes) -> tuple[str, int, int, bytes]:
    """What the child said: a line of JSON, then the picture. Whoever took it over may have said anything."""
    line, _, drawn = answer.partition(b"\n")
    try:
        said: Any = json.loads(line)
        if "fault" in said:
            raise _Bad(Fault(said["fault"]))
        media_type, width, height = said["media_type"], said["width"], said["height"]
        sound = drawn.startswith(_SIGNATURES[media_type]) and len(drawn) <= MOST_BYTES
    except (ValueError, TypeError, KeyError):
        raise _Bad(Fault.GAVE_UP) from None
    if not sound or not all(type(side) is int and 1 <= side <= LONGEST_KEPT_SIDE for side in (width, height)):
        raise _Bad(Fault.GAVE_UP)
    return media_type, width, height, drawn


# Inside the box.


def main() -> None:
    """The child: a picture on stdin, on stdout a line of JSON and the picture drawn anew."""
    _box()
    data = sys.stdin.buffer.read()
    try:
        media_type, drawn, (width, height) = _drawn(data)
        said: dict[str, Any] = {"media_type": media_type, "width": width, "height": height}
    except _Bad as bad:
        drawn, said = b"", {"fault": bad.fault}
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n" + drawn)


def _box() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _drawn(data: bytes) -> tuple[str, bytes, tuple[int, int]]:
    """The picture drawn anew. Raises _Bad."""
    picture = _opened(data)
    is_png = picture.format == "PNG"
    picture = _plain(picture)
    if _is_drawing(picture, is_png=is_png):
        drawn = _encoded(picture, "PNG", optimize=True)
        if len(drawn) <= HEAVIEST_PNG:
            return "image/png", drawn, picture.size
    return "image/jpeg", _encoded(_on_white(picture), "JPEG", quality=QUALITY, optimize=True), picture.size


def _opened(data: bytes) -> Pillow.Image:
    """The picture, its heading read and nothing decoded yet."""
    Pillow.MAX_IMAGE_PIXELS = MOST_PIXELS
    warnings.simplefilter("error", Pillow.DecompressionBombWarning)
    try:
        picture = Pillow.open(io.BytesIO(_without_notes(data)), formats=FORMATS)
    except (Pillow.DecompressionBombWarning, Pillow.DecompressionBombError):
        raise _Bad(Fault.TOO_LARGE) from None
    except UnidentifiedImageError:
        raise _Bad(Fault.NO_PICTURE) from None
    except (OSError, ValueError, SyntaxError):
        raise _Bad(Fault.BROKEN) from None
    if picture.width * picture.height > MOST_PIXELS or max(picture.size) > LONGEST_SIDE:
        raise _Bad(Fault.TOO_LARGE)
    # A telephone's JPEG may hold a second picture for bright screens (MPO); the first one is the picture.
    if picture.format in ("PNG", "WEBP") and getattr(picture, "n_frames", 1) != 1:
        raise _Bad(Fault.MOVING)
    return picture


def _plain(picture: Pillow.Image) -> Pillow.Image:
    """Decoded, small, upright, in sRGB, RGB or RGBA, and with nothing attached."""
    try:
        picture = _in_colour(picture)
        picture.thumbnail((LONGEST_KEPT_SIDE, LONGEST_KEPT_SIDE), Pillow.Resampling.LANCZOS)
        picture.load()
        picture = _in_srgb(_upright(picture))
    except (OSError, ValueError, SyntaxError, EOFError, IndexError):
        raise _Bad(Fault.BROKEN) from None
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255):
        picture = picture.convert("RGB")
    plain = Pillow.new(picture.mode, picture.size)
    plain.paste(picture)
    return plain


def _in_colour(picture: Pillow.Image) -> Pillow.Image:
    """In a mode that can be made smaller: not a palette, not 16 bits."""
    if picture.mode.startswith("I;16"):
        return picture.point(lambda value: value / 256).convert("L")  # `convert` alone would cut off at 255
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture if picture.mode in ("RGB", "CMYK", "L") else picture.convert("RGB")


def _upright(picture: Pillow.Image) -> Pillow.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return picture  # a note that cannot be read turns nothing


def _in_srgb(picture: Pillow.Image) -> Pillow.Image:
    wanted = "RGBA" if picture.mode == "RGBA" else "RGB"
    profile = picture.info.get("icc_profile")
    if profile:
        # A profile that cannot be read or belongs to another kind of picture is as good as none.
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            return _converted(picture, profile, wanted)
    return picture.convert(wanted)


def _converted(picture: Pillow.Image, profile: bytes, wanted: str) -> Pillow.Image:
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(picture, given, ImageCms.createProfile("sRGB"), outputMode=wanted)
    assert converted is not None  # only when asked to change it in place
    return converted


def _is_drawing(picture: Pillow.Image, *, is_png: bool) -> bool:
    return picture.mode == "RGBA" or (is_png and picture.getcolors(FEW_COLOURS) is not None)


def _on_white(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode == "RGB":
        return picture
    white = Pillow.new("RGBA", picture.size, "white")
    return Pillow.alpha_composite(white, picture).convert("RGB")


def _encoded(picture: Pillow.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format=format, **options)
    return out.getvalue()


def _without_notes(data: bytes) -> bytes:
    """A PNG without its texts: they are thrown away in any case, and one of 8 kB can swell to 8 MB when read."""
    if not data.startswith(_SIGNATURES["image/png"]):
        return data
    return _SIGNATURES["image/png"] + b"".join(
        chunk for kind, chunk in _chunks(data) if kind not in (b"tEXt", b"zTXt", b"iTXt")
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG: length, kind, content, checksum (PNG 3rd edition §5.3). What is left over comes last."""
    at = len(_SIGNATURES["image/png"])
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at:end]
        at = end


if __name__ == "__main__":
    main()
