"""Files that a browser keeps for good: read once, and named by their content, so that a new version is fetched at once.

The desk's style and scripts, with htmx and the Digital Agency's tokens beside them (`templates/static/`):

    htmx.min.js           htmx.org 2.0.11 (0BSD)
    htmx-sse.min.js       htmx-ext-sse 2.2.4 (0BSD)
    tokens.css            @digital-go-jp/design-tokens 1.1.9 (MIT)

The player of a signage screen (`templates/signage/`), and its fonts in a folder of their own:

    lean-qr.js            lean-qr 2.7.4 (MIT)
    fonts/*.woff2         BIZ UDPGothic, Noto Sans CJK (SIL OFL 1.1)
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

_FOREVER = "public, max-age=31536000, immutable"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2"}
"""Not left to the machine: a browser refuses a module that is sent as anything else."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    body: bytes
    packed: bytes  # empty where packing gains nothing
    digest: str
    media_type: str

    @classmethod
    def of(cls, path: Path) -> Piece:
        body = path.read_bytes()
        packed = gzip.compress(body, 9, mtime=0)
        media_type = _MEDIA_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(
            body=body,
            packed=packed if len(packed) < len(body) * 0.9 else b"",
            digest=_digest([body]),
            media_type=media_type,
        )


class Static:
    """The files of one folder, below one path.

    `as_one`: they share one name, made of all of them, because they call each other by name. A browser then never has
    one of them new and one old.
    """

    def __init__(self, folder: Path, path: str, *, as_one: bool = False, leaving_out: Iterable[str] = ()) -> None:
        files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name not in leaving_out]
        self._path = path
        self._pieces = {file.name: Piece.of(file) for file in files}
        whole = _digest(piece.body for piece in self._pieces.values())
        self._digests = {name: whole if as_one else piece.digest for name, piece in self._pieces.items()}

    def address(self, name: str) -> str:
        """With the content's own name: a new version is fetched at once, an old one never mixed with it."""
        return f"{self._path}/{self._digests[name]}/{name}"

    def addresses(self) -> list[str]:
        return [self.address(name) for name in self._pieces]

    def routes(self) -> list[Route]:
        return [Route(self._path + "/{digest}/{name}", self._serve, methods=["GET"])]

    async def _serve(self, request: Request) -> Response:
        name = request.path_params["name"]
        piece = self._pieces.get(name)
        if piece is None or self._digests[name] != request.path_params["digest"]:
            return PlainTextResponse("そのページはありません。", status_code=404)
        headers = {"cache-control": _FOREVER, "vary": "accept-encoding"}
        if piece.packed and "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            return Response(piece.packed, media_type=piece.media_type, headers=headers)
        return Response(piece.body, media_type=piece.media_type, headers=headers)


def _digest(bodies: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for body in bodies:
        found.update(hashlib.sha256(body).digest())
    return found.hexdigest()[:16]
