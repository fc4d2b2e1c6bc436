"""The peer of N9: FastAPI routes on the server that the product uses, with its settings. No bench of its own.

python -m benchmarks.fastapi_site PORT FILE
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send


def site(body: bytes) -> FastAPI:
    known = json.loads(body)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "public, max-age=30"}
    made = FastAPI()

    @made.get("/bytes")
    async def as_bytes(request: Request) -> Response:
        asked = request.headers.get("if-none-match")
        if asked is not None and (asked == "*" or tag in asked):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/feed+json", headers=headers)

    @made.get("/dict")
    async def as_dict():  # without a type, as such a route is usually written
        return dict(known)

    @made.get("/typed")
    async def as_typed_dict() -> dict[str, object]:
        return dict(known)

    return made


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """The floor: always the same, whatever is asked."""
    if scope["type"] == "http":
        await send(_START if any(name == b"if-none-match" for name, _ in scope["headers"]) else _FIRST)
        await send(_NOTHING)


_HEADERS = [(b"etag", b'"x"'), (b"cache-control", b"public, max-age=30")]
_FIRST = {"type": "http.response.start", "status": 200, "headers": [*_HEADERS, (b"content-length", b"0")]}
_START = {"type": "http.response.start", "status": 304, "headers": _HEADERS}
_NOTHING = {"type": "http.response.body", "body": b""}


if __name__ == "__main__":
    uvicorn.run(
        bare if sys.argv[3:] == ["bare"] else site(Path(sys.argv[2]).read_bytes()),
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        proxy_headers=False,
        lifespan="off",
        loop="uvloop",
    )
