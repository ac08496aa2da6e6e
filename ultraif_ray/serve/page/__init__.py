"""The page at `/`: plain files beside this one, without a build. By the guard's headers, no other script runs in it."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""What the page is made of. Windows and bare systems guess other types for scripts, which a browser then refuses."""


def routes() -> list[Route]:
    """`GET /` for the page, and `GET /page/NAME` for its parts. None wants a token: the page asks for it."""
    files = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in TYPES)
    return [_route(file) for file in files]


def _route(file: Path) -> Route:
    content = file.read_bytes()

    async def reply(request: Request) -> Response:
        return Response(content, media_type=TYPES[file.suffix])

    return Route("/" if file.name == "index.html" else f"/page/{file.name}", reply)
