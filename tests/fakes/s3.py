"""A fake object store: a real HTTP server on loopback that speaks as much of S3 as DVC needs.

    with FakeS3() as store:
        run("dvc", "push", AWS_ENDPOINT_URL=store.url, ...)
        store.objects   # "bucket/key" -> bytes

Buckets exist as soon as they are named. Signatures are required but not verified; checksums are verified. A
request that is not understood is answered with 501 and kept in `puzzling`, so that a test can fail on it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

HEADER = '<?xml version="1.0" encoding="UTF-8"?>'
DATE = "2024-01-01T00:00:00.000Z"


class FakeS3:
    """The server; start it with `with`. `down` makes it answer 503 to everything."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puzzling: list[str] = []
        self.down = False
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def __enter__(self) -> FakeS3:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def listing(self, bucket: str, query: dict[str, list[str]]) -> str:
        """ListObjectsV2 in one page."""
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        contents, folders = [], set()
        for name in sorted(self.objects):
            if not name.startswith(f"{bucket}/{prefix}"):
                continue
            key = name.removeprefix(f"{bucket}/")
            below = key.removeprefix(prefix)
            if delimiter and delimiter in below:
                folders.add(prefix + below.split(delimiter)[0] + delimiter)
            else:
                contents.append(key)
        entries = [
            f"<Contents><Key>{escape(key)}</Key><LastModified>{DATE}</LastModified>"
            f"<ETag>{etag(self.objects[f'{bucket}/{key}'])}</ETag>"
            f"<Size>{len(self.objects[f'{bucket}/{key}'])}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in contents
        ]
        entries += [
            f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>" for key in sorted(folders)
        ]
        return (
            f"{HEADER}<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(entries)}</KeyCount><MaxKeys>{len(entries) + 1}</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{''.join(entries)}</ListBucketResult>"
        )


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    store: FakeS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        name = f"{bucket}/{key}"
        if self.store.down:
            return self._error(503, "ServiceUnavailable")
        if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
            return self._error(403, "AccessDenied")
        match self.command, bool(key), sorted(set(query) - {"x-id"}):
            case ("GET", False, asked) if "list-type" in asked:
                return self._send(200, self.store.listing(bucket, query).encode(), xml=True)
            case ("HEAD", False, []):
                return self._send(200, b"")
            case ("PUT", True, []) if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
                if not self._intact(body):
                    return self._error(400, "BadDigest")
                self.store.objects[name] = body
                return self._send(200, b"", ETag=etag(body))
            case ("HEAD" | "GET", True, []):
                if name not in self.store.objects:
                    return self._error(404, "NoSuchKey" if self.command == "GET" else "NotFound")
                return self._read(self.store.objects[name])
            case ("DELETE", True, []):
                self.store.objects.pop(name, None)
                return self._send(204, b"")
        self.store.puzzling.append(f"{self.command} {self.path}")
        return self._error(501, "NotImplemented")

    def _read(self, content: bytes) -> None:
        asked = self.headers.get("Range", "")
        if not asked:
            return self._send(200, content, ETag=etag(content))
        first, _, last = asked.removeprefix("bytes=").partition("-")
        stop = min(int(last or len(content) - 1), len(content) - 1) + 1
        span = f"bytes {first}-{stop - 1}/{len(content)}"
        return self._send(206, content[int(first) : stop], ETag=etag(content), **{"Content-Range": span})

    def _intact(self, body: bytes) -> bool:
        """Whether the body is what its sender says it is."""
        crc = self.headers.get("x-amz-checksum-crc32")
        if crc is not None and base64.b64decode(crc) != binascii.crc32(body).to_bytes(4, "big"):
            return False
        sha = self.headers.get("x-amz-content-sha256", "")
        return len(sha) != 64 or sha == hashlib.sha256(body).hexdigest()

    def _error(self, status: int, code: str) -> None:
        text = f"{HEADER}<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._send(status, text.encode(), xml=True)

    def _send(self, status: int, body: bytes, *, xml: bool = False, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml" if xml else "binary/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
