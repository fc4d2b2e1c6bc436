"""Pictures: the nine samples come out clean, the bad ones do no harm, and nothing is read from outside its folder."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from PIL import ImageChops, ImageCms, ImageStat

from broadcaster import images
from broadcaster.images import Stored, image, keep, path_of, read_from
from broadcaster.message import Image
from broadcaster.problems import Refused
from broadcaster.settings import Settings

BAD = Path(__file__).parent / "data" / "bad_images"
FATES: dict[str, str] = {
    row["file"]: row["expected"] for row in csv.DictReader((BAD / "index.csv").read_text(encoding="utf-8").splitlines())
}
NOT_READ = "This cannot be read as a picture"


# ---- the plain case -------------------------------------------------------------------------------------------------


def test_a_picture_is_kept_under_the_digest_of_what_was_drawn(tmp_path: Path) -> None:
    stored = keep(a_picture("JPEG", size=(64, 36)), tmp_path)
    data = path_of(tmp_path, stored.digest).read_bytes()
    assert stored == Stored(digest=hashlib.sha256(data).hexdigest(), media_type="image/jpeg", width=64, height=36)
    assert os.listdir(tmp_path) == [f"{stored.digest}.jpg"]


def test_the_same_picture_twice_is_one_file(tmp_path: Path) -> None:
    data = a_picture("PNG")
    assert keep(data, tmp_path) == keep(data, tmp_path)
    assert len(os.listdir(tmp_path)) == 1


def test_the_samples_come_out_in_their_size_and_with_nothing_attached(settings: Settings, tmp_path: Path) -> None:
    folder = settings.config / "rehearsal" / "images"
    rows = list(csv.DictReader((folder / "index.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 9
    for row in rows:
        stored = keep((folder / row["file"]).read_bytes(), tmp_path)
        assert (stored.media_type, stored.width, stored.height) == (row["type"], int(row["width"]), int(row["height"]))
        assert_nothing_attached(tmp_path, stored)


def test_a_picture_lying_on_its_side_is_stood_up(settings: Settings, tmp_path: Path) -> None:
    file = settings.config / "rehearsal" / "images" / "weekend-20261205.jpg"
    with Pillow.open(file) as lying:
        assert lying.size == (900, 1600)
        wanted = lying.transpose(Pillow.Transpose.ROTATE_270)
    upright = kept(keep(file.read_bytes(), tmp_path), tmp_path)
    assert upright.size == (1600, 900)
    assert difference(upright, wanted) < 4


def test_a_picture_for_print_comes_out_for_screens(settings: Settings, tmp_path: Path) -> None:
    file = settings.config / "rehearsal" / "images" / "koho-20261201-cover.jpg"
    with Pillow.open(file) as printed:
        assert printed.mode == "CMYK"
        plain = printed.convert("RGB")
    shown = kept(keep(file.read_bytes(), tmp_path), tmp_path)
    assert shown.mode == "RGB"
    assert shown.getpixel((20, 20)) == pytest.approx((255, 255, 255), abs=3)  # paper is white, not its negative
    assert 2 < difference(shown, plain) < 60  # its profile was asked, and says something like the same


def test_where_and_by_whom_it_was_taken_is_gone(settings: Settings, tmp_path: Path) -> None:
    before = (settings.config / "rehearsal" / "images" / "photonews-20261209.jpg").read_bytes()
    assert b"Sample Photographer" in before
    stored = keep(before, tmp_path)
    after = path_of(tmp_path, stored.digest).read_bytes()
    for mark in (b"Exif", b"Sample", b"EX-100", b"GPS", b"http", b"ICC_PROFILE"):
        assert mark not in after
    assert not kept(stored, tmp_path).getexif()


def test_a_picture_is_shown_with_its_description(tmp_path: Path) -> None:
    stored = keep(a_picture("PNG", size=(16, 9)), tmp_path)
    assert image(stored, alt="空") == Image(digest=stored.digest, alt="空", media_type="image/png", width=16, height=9)


# ---- what comes out -------------------------------------------------------------------------------------------------


def test_a_large_picture_is_made_smaller_and_a_small_one_left(tmp_path: Path) -> None:
    large, small = (
        keep(a_picture("JPEG", size=(6000, 4000)), tmp_path),
        keep(a_picture("JPEG", size=(30, 20)), tmp_path),
    )
    assert (large.width, large.height) == (1920, 1280)
    assert (small.width, small.height) == (30, 20)


def test_a_drawing_stays_png_and_a_photograph_becomes_jpeg(tmp_path: Path) -> None:
    assert keep(a_picture("PNG"), tmp_path).media_type == "image/png"
    assert keep(encoded(noise((200, 200)), "PNG"), tmp_path).media_type == "image/jpeg"


def test_what_is_transparent_stays_so(tmp_path: Path) -> None:
    for data in (
        a_picture("PNG", mode="RGBA", colour=(10, 200, 30, 128)),
        a_picture("WEBP", mode="RGBA", colour=(10, 200, 30, 128), lossless=True),
    ):
        stored = keep(data, tmp_path)
        assert stored.media_type == "image/png"
        assert kept(stored, tmp_path).getpixel((0, 0)) == (10, 200, 30, 128)


def test_a_transparent_picture_too_heavy_for_its_media_is_drawn_on_white(tmp_path: Path) -> None:
    picture = noise((1400, 900)).convert("RGBA")
    picture.putalpha(0)
    stored = keep(encoded(picture, "PNG", compress_level=1), tmp_path)
    if stored.media_type == "image/jpeg":
        assert kept(stored, tmp_path).getpixel((0, 0)) == pytest.approx((255, 255, 255), abs=2)
    assert path_of(tmp_path, stored.digest).stat().st_size <= images.HEAVIEST_PNG


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("I;16", 90 * 256, (90, 90, 90)),
        ("P", 0, (0, 0, 0)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (1, 2, 3, 255), (1, 2, 3)),
        ("LA", (90, 255), (90, 90, 90)),
    ],
)
def test_every_kind_of_pixel_keeps_its_colour(tmp_path: Path, mode: str, colour: Any, shown: tuple[int, ...]) -> None:
    stored = keep(a_picture("PNG", mode=mode, colour=colour), tmp_path)
    assert kept(stored, tmp_path).getpixel((0, 0)) == shown


def test_a_colour_is_taken_over_by_its_profile(tmp_path: Path) -> None:
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored = keep(a_picture("PNG", mode="RGBA", colour=(10, 200, 30, 128), icc_profile=swapped), tmp_path)
    assert kept(stored, tmp_path).getpixel((0, 0)) == pytest.approx((10, 200, 30, 128), abs=1)
    assert "icc_profile" not in kept(stored, tmp_path).info


@pytest.mark.parametrize("notes", [{"icc_profile": b"no profile"}, {"exif": b"Exif\0\0no notes"}])
def test_notes_that_cannot_be_read_do_not_spoil_the_picture(tmp_path: Path, notes: dict[str, bytes]) -> None:
    stored = keep(a_picture("JPEG", **notes), tmp_path)
    assert_nothing_attached(tmp_path, stored)


def test_a_telephones_double_picture_is_its_first(tmp_path: Path) -> None:
    first, second = Pillow.new("RGB", (20, 20), "red"), Pillow.new("RGB", (10, 10), "blue")
    stored = keep(encoded(first, "MPO", save_all=True, append_images=[second]), tmp_path)
    assert (stored.width, stored.height) == (20, 20)
    assert kept(stored, tmp_path).getpixel((0, 0)) == pytest.approx((254, 0, 0), abs=2)


# ---- what does harm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [file for file, fate in FATES.items() if fate == "refused"])
def test_a_bad_picture_is_refused_with_a_sentence_and_leaves_nothing(tmp_path: Path, file: str) -> None:
    with pytest.raises(Refused) as caught:
        keep((BAD / file).read_bytes(), tmp_path)
    (problem,) = caught.value.problems
    assert problem.where == "image"
    assert problem.ja.endswith("。")
    assert problem.en.startswith(WHY[file])
    assert os.listdir(tmp_path) == []


WHY = {
    "truncated.jpg": "The picture is cut off",
    "bomb-header-50000x50000.png": "The picture has too many pixels",
    "bomb-real-16000x16000-1bit.png": "The picture has too many pixels",
    "script.svg": NOT_READ,
    "entities.svg": NOT_READ,
    "animated.gif": NOT_READ,
    "header-only.heic": NOT_READ,
    "html-named-jpg.jpg": NOT_READ,
    "empty.png": "The file is empty",
    "crc-wrong.png": NOT_READ,
}


def test_a_heic_is_asked_for_again_as_jpeg(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        keep((BAD / "header-only.heic").read_bytes(), tmp_path)
    assert "HEIC・GIF・SVG・PDF は、JPEG か PNG にして" in caught.value.problems[0].ja


@pytest.mark.parametrize("file", [file for file, fate in FATES.items() if fate != "refused"])
def test_an_odd_picture_is_drawn_anew_and_what_it_carried_is_gone(tmp_path: Path, file: str) -> None:
    stored = keep((BAD / file).read_bytes(), tmp_path)
    data = path_of(tmp_path, stored.digest).read_bytes()
    assert_nothing_attached(tmp_path, stored)
    assert not any(mark in data for mark in (b"<script", b"<?php", b"zTXt", b"WEBP"))
    assert stored.media_type == {"png-named-jpg.jpg": "image/png", "bomb-text-chunk.png": "image/png"}.get(
        file, "image/jpeg"
    )


def test_every_bad_picture_was_tried() -> None:
    assert set(FATES) == {path.name for path in BAD.iterdir()} - {"index.csv"}


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_a_moving_picture_is_refused(tmp_path: Path, format: str) -> None:
    frames = [Pillow.new("RGB", (20, 20), colour) for colour in ("red", "blue", "white")]
    with pytest.raises(Refused, match="A moving picture cannot be used"):
        keep(encoded(frames[0], format, save_all=True, append_images=frames[1:]), tmp_path)


@pytest.mark.parametrize("size", [(8193, 10), (10, 8193), (5000, 5000)])
def test_too_many_pixels_are_refused_by_the_heading_alone(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(Refused, match="too many pixels"):
        keep(a_picture("PNG", mode="1", colour=0, size=size), tmp_path)


def test_too_many_bytes_are_refused_without_looking(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="too heavy; at most 10 MB"):
        keep(b"\xff\xd8\xff" + bytes(images.MOST_BYTES), tmp_path)


@pytest.mark.parametrize("cut", [9, 20, 33, 60, 120])
def test_a_png_cut_off_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(Refused):
        keep(encoded(noise((40, 40)), "PNG")[:cut], tmp_path)


# ---- the box --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "error"),
    [("bytearray(700 << 20)", b"MemoryError"), ("open('/dev/shm/x', 'wb').write(b'x' * 9999)", b"File too large")],
)
def test_in_the_box_there_is_little_memory_and_no_file_to_write(harm: str, error: bytes, tmp_path: Path) -> None:
    harm = harm.replace("/dev/shm/x", str(tmp_path / "x"))
    code = f"from broadcaster import images; images._box(); {harm}"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert child.returncode != 0
    assert error in child.stderr


def test_the_box_ends_by_itself() -> None:
    code = "from broadcaster import images; images._box(); print(images.resource.getrlimit(images.resource.RLIMIT_CPU))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"(5, 5)\n"


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "WALL_SECONDS", 0.01)
    with pytest.raises(Refused, match="could not be opened"):
        keep(a_picture("JPEG"), tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, b""),
        (1, b""),
        (0, b""),
        (0, b"no JSON\n"),
        (0, b"[]\n"),
        (0, b'{"fault": "no such fault"}\n'),
        (0, b'{"media_type": "text/html", "width": 1, "height": 1}\n<html>'),
        (0, b'{"media_type": "image/jpeg", "width": 1, "height": 1}\n<html>'),
        (0, b'{"media_type": ["image/jpeg"], "width": 1, "height": 1}\n\xff\xd8\xff'),
        (0, b'{"media_type": "image/jpeg", "width": "1", "height": 1}\n\xff\xd8\xff'),
        (0, b'{"media_type": "image/jpeg", "width": 99999, "height": 1}\n\xff\xd8\xff'),
    ],
)
def test_a_child_that_died_or_was_taken_over_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: bytes
) -> None:
    a_child(monkeypatch, code, said)
    with pytest.raises(Refused, match="could not be opened"):
        keep(b"\xff\xd8\xff", tmp_path)
    assert os.listdir(tmp_path) == []


def test_no_secret_goes_into_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROADCASTER_SMTP_PASSWORD", "canary")
    asked = a_child(monkeypatch, 0, b'{"fault": "broken"}\n')
    with pytest.raises(Refused, match="cut off or damaged"):
        keep(b"\xff\xd8\xff", tmp_path)
    assert "canary" not in json.dumps(asked["env"])


def test_no_more_than_two_are_drawn_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = threading.Semaphore(0), [0, 0]
    lock, real = threading.Lock(), subprocess.run

    def counted(*args: Any, **options: Any) -> Any:
        with lock:
            most[0] += 1
            most[1] = max(most)
        inside.release()
        try:
            return real(*args, **options)
        finally:
            with lock:
                most[0] -= 1

    monkeypatch.setattr(images.subprocess, "run", counted)
    threads = [threading.Thread(target=keep, args=(a_picture("PNG", size=(n, n)), tmp_path)) for n in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[1] <= 2
    assert len(os.listdir(tmp_path)) == 5


# ---- where pictures are kept and read -------------------------------------------------------------------------------


def test_a_picture_has_one_place(tmp_path: Path) -> None:
    jpeg, png = keep(a_picture("JPEG"), tmp_path), keep(a_picture("PNG"), tmp_path)
    assert path_of(tmp_path, jpeg.digest).name == jpeg.file_name
    assert path_of(tmp_path, png.digest).name == png.file_name
    assert not path_of(tmp_path, "0" * 64).exists()


@pytest.mark.parametrize("digest", ["", "../secret", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_digest_has_no_place(tmp_path: Path, digest: str) -> None:
    with pytest.raises(FileNotFoundError):
        path_of(tmp_path, digest)


def test_a_write_that_fails_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        keep(a_picture("PNG"), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_manuscript_reads_the_pictures_beside_it(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    found = read_from(folder, tmp_path / "kept")("in/sky.png", "空")
    assert (found.alt, found.media_type, found.width) == ("空", "image/png", 32)
    assert path_of(tmp_path / "kept", found.digest).is_file()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../outside.png", "A picture outside the manuscript's folder"),
        ("in/../../outside.png", "A picture outside the manuscript's folder"),
        ("in/../sky.png", "A picture outside the manuscript's folder"),
        ("/etc/passwd", "A picture outside the manuscript's folder"),
        ("link.png", "A picture outside the manuscript's folder"),
        ("linked/outside.png", "A picture outside the manuscript's folder"),
        ("gone.png", "There is no such picture"),
        ("loop.png", "There is no such picture"),
        ("in", "There is no such picture"),
        ("pipe.png", "There is no such picture"),
        ("sky\0.png", "There is no such picture"),
        ("a" * 5000, "There is no such picture"),
        ("", "There is no such picture"),
        ("text.png", NOT_READ),
    ],
)
def test_a_manuscript_reads_nothing_else(tmp_path: Path, name: str, told: str) -> None:
    folder = a_folder(tmp_path)
    with pytest.raises(Refused) as caught:
        read_from(folder, tmp_path / "kept")(name, "空")
    (problem,) = caught.value.problems
    assert problem.where == "image.file"
    assert told in problem.en
    assert not (tmp_path / "kept").exists()


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / "here.png").symlink_to(folder / "in" / "sky.png")
    assert read_from(folder, tmp_path / "kept")("here.png", "空").width == 32


# ---- makers ---------------------------------------------------------------------------------------------------------


def a_picture(
    format: str, *, mode: str = "RGB", colour: Any = (40, 90, 160), size: tuple[int, int] = (32, 18), **options: Any
) -> bytes:
    return encoded(Pillow.new(mode, size, colour), format, **options)


def noise(size: tuple[int, int]) -> Pillow.Image:
    return Pillow.merge("RGB", [Pillow.effect_noise(size, 200) for _ in range(3)])


def encoded(picture: Pillow.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def kept(stored: Stored, folder: Path) -> Pillow.Image:
    with Pillow.open(path_of(folder, stored.digest)) as picture:
        picture.load()
        return picture


def difference(one: Pillow.Image, other: Pillow.Image) -> float:
    """Mean difference of a pixel, of 255."""
    return max(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean)


def assert_nothing_attached(folder: Path, stored: Stored) -> None:
    """A JPEG of APP0 alone, a PNG of pixels alone."""
    data = path_of(folder, stored.digest).read_bytes()
    if stored.media_type == "image/png":
        assert set(chunk_kinds(data)) <= {b"IHDR", b"IDAT", b"IEND"}
    else:
        assert data.endswith(b"\xff\xd9")
        assert not {marker for marker in segment_markers(data) if 0xE1 <= marker <= 0xEF or marker == 0xFE}


def chunk_kinds(data: bytes) -> list[bytes]:
    kinds, at = [], 8
    while at < len(data):
        kinds.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return kinds


def segment_markers(data: bytes) -> list[int]:
    """Up to the first scan."""
    markers, at = [], 2
    while data[at + 1] != 0xDA:
        markers.append(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return markers


def a_child(monkeypatch: pytest.MonkeyPatch, code: int, said: bytes) -> dict[str, Any]:
    """A child that answers as told; gives what it was started with."""
    asked: dict[str, Any] = {}

    def run(args: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        asked.update(options)
        return subprocess.CompletedProcess(args, code, said, b"")

    monkeypatch.setattr(images.subprocess, "run", run)
    return asked


def a_folder(tmp_path: Path) -> Path:
    """A manuscript's folder with one good picture, links of every kind, and a picture outside."""
    folder = tmp_path / "manuscript"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "sky.png").write_bytes(a_picture("PNG"))
    (folder / "sky.png").write_bytes(a_picture("PNG"))
    (folder / "text.png").write_text("no picture")
    (tmp_path / "outside.png").write_bytes(a_picture("PNG"))
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    return folder
