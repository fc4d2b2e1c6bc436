"""The desk's own style and scripts, with htmx and the Digital Agency's tokens beside them: read once, named by their
content, kept by the browser for good.

    htmx.min.js           htmx.org 2.0.11 (0BSD)
    htmx-sse.min.js       htmx-ext-sse 2.2.4 (0BSD)
    tokens.css            @digital-go-jp/design-tokens 1.1.9 (MIT)
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from broadcaster.resources import packaged

_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, kw_only=True)
class Piece:
    body: bytes
    packed: bytes
    digest: str
    media_type: str

    @classmethod
    def of(cls, path: Path) -> Piece:
        body = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(
            body=body,
            packed=gzip.compress(body, 9, mtime=0),
            digest=hashlib.sha256(body).hexdigest()[:16],
            media_type=media_type,
        )


class Static:
    def __init__(self) -> None:
        folder = packaged("templates") / "static"
        self._pieces = {path.name: Piece.of(path) for path in sorted(folder.iterdir()) if path.is_file()}

    def address(self, name: str) -> str:
        """With the content's own name: a new version is fetched at once, an old one never mixed with it."""
        return f"/desk/static/{self._pieces[name].digest}/{name}"

    def routes(self, path: str) -> list[Route]:
        return [Route(path + "/{digest}/{name}", self._serve, methods=["GET"])]

    async def _serve(self, request: Request) -> Response:
        piece = self._pieces.get(request.path_params["name"])
        if piece is None or piece.digest != request.path_params["digest"]:
            return PlainTextResponse("そのページはありません。", status_code=404)
        headers = {"cache-control": _FOREVER, "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            return Response(piece.packed, media_type=piece.media_type, headers=headers)
        return Response(piece.body, media_type=piece.media_type, headers=headers)
