"""A bucket of Google Cloud Storage on this machine: the part of its JSON API that gcsfs, TensorStore and Google's own
client use, over HTTP. So a workdir at `gs://` is read and written by the code that does it there.

Objects come and go as wholes, a listing shows at once what is there, folders do not exist, a write may demand a
generation, and every object has its CRC-32C.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

NAME = "toys"


class Bucket:
    """The objects `{name: (bytes, generation)}`, and what was asked of them. `refuse`: writes of these names end with
    503."""

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.asked: list[tuple[str, str]] = []
        self.sessions: dict[str, tuple[str, bytearray]] = {}
        self.lock = threading.RLock()
        self.refuse = lambda name: False
        self._generation = 0

    def put(self, name: str, content: bytes, wanted: str | None = None) -> bool:
        """Writes an object. False where `wanted`, a generation, is not the one that is there (0: none)."""
        with self.lock:
            if wanted is not None and int(wanted) != self.objects.get(name, (b"", 0))[1]:
                return False
            self._generation += 1
            self.objects[name] = (content, self._generation)
            return True

    def row(self, name: str) -> dict[str, Any]:
        """What the service tells of an object."""
        content, generation = self.objects[name]
        crc = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
        return {
            "kind": "storage#object", "name": name, "bucket": NAME, "size": str(len(content)), "crc32c": crc,
            "generation": str(generation), "metageneration": "1", "contentType": "application/octet-stream",
            "updated": "2026-01-01T00:00:00.000Z", "timeCreated": "2026-01-01T00:00:00.000Z", "etag": str(generation),
            "id": f"{NAME}/{name}/{generation}", "storageClass": "STANDARD", "md5Hash": "",
        }  # fmt: skip

    def names(self, prefix: str = "") -> list[str]:
        """The objects that begin so."""
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))


class Server(ThreadingHTTPServer):
    """Says nothing of a client that was killed."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        """A broken connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its headers
    bucket: Bucket

    def log_message(self, *_):
        """Says nothing."""

    def _answer(self, code: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json")
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked was killed
            self.wfile.write(content)

    def _fail(self, code: int, text: str) -> None:
        self._answer(code, {"error": {"code": code, "message": text}})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _serve(self, method: str) -> None:
        url = urlsplit(self.path)
        asked = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        body = self._body()
        found = re.fullmatch(r"/(upload/|download/)?storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?", url.path)
        if found is None:
            return self._fail(404, f"no such call: {url.path}")
        kind, bucket, name = found.group(1) or "", found.group(2), unquote(found.group(3) or "")
        if bucket != NAME:
            return self._fail(404, "The specified bucket does not exist.")
        store = self.bucket
        with store.lock:
            store.asked.append((method, name or asked.get("name") or asked.get("prefix", "")))
            if kind == "upload/":
                return self._upload(method, asked, body)
            if not re.search(r"/o(/|$)", url.path):
                return self._answer(200, {"kind": "storage#bucket", "name": NAME, "id": NAME, "location": "X"})
            if method == "GET" and not name:
                return self._list(asked)
            if method == "POST" and (copy := re.fullmatch(r"(.*)/(?:rewriteTo|copyTo)/b/[^/]+/o/(.*)", name)):
                source, to = copy.groups()
                if source not in store.objects:
                    return self._fail(404, "no such object")
                store.put(to, store.objects[source][0])
                return self._answer(200, {"done": True, "resource": store.row(to)})
            if name not in store.objects:
                return self._fail(404, "No such object")
            if method == "DELETE":
                del store.objects[name]
                return self._answer(204)
            if asked.get("alt") != "media":
                return self._answer(200, store.row(name))
            content, generation = store.objects[name]
            return self._content(content, generation)

    def _content(self, content: bytes, generation: int) -> None:
        headers = {"x_goog_generation": str(generation), "x_goog_stored_content_length": str(len(content))}
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self._answer(200, content, **headers)
        first, last = part.groups()
        begin = int(first) if first else max(0, len(content) - int(last))
        end = min(len(content), int(last) + 1) if first and last else len(content)
        if begin >= len(content):
            return self._fail(416, "out of range")
        headers["Content_Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        return self._answer(206, content[begin:end], **headers)

    def _list(self, asked: dict[str, str]) -> None:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        names, folders = [], {}
        for name in self.bucket.names(prefix):
            first = asked.get("startOffset", "")
            if name < first or (asked.get("endOffset") and name >= asked["endOffset"]):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders[prefix + rest.split(delimiter)[0] + delimiter] = None
            else:
                names.append(name)
        rows = [self.bucket.row(name) for name in names[: int(asked.get("maxResults") or 1000)]]
        self._answer(200, {"kind": "storage#objects", "items": rows, "prefixes": list(folders)})

    def _upload(self, method: str, asked: dict[str, str], body: bytes) -> None:
        store, wanted = self.bucket, asked.get("ifGenerationMatch")
        if method == "PUT" or "upload_id" in asked:
            name, kept = store.sessions[asked["upload_id"]]
            kept += body
            total = self.headers.get("Content-Range", "bytes 0-0/*").rsplit("/", 1)[-1]
            if total == "*" or len(kept) < int(total):
                return self._answer(308, Range=f"bytes=0-{len(kept) - 1}")
            store.put(name, bytes(kept))
            return self._answer(200, store.row(name))
        kind = asked.get("uploadType")
        if kind == "resumable":
            name, number = asked.get("name") or json.loads(body)["name"], str(len(store.sessions))
            if store.refuse(name):
                return self._fail(503, "refused")
            store.sessions[number] = (name, bytearray())
            where = (
                f"http://{self.headers['Host']}/upload/storage/v1/b/{NAME}/o?uploadType=resumable&upload_id={number}"
            )
            return self._answer(200, Location=where)
        if kind == "media":
            name, content = asked["name"], body
        else:
            name, content = _parts(self.headers["Content-Type"], body)
        if store.refuse(name):
            return self._fail(503, "refused")
        if not store.put(name, content, wanted):
            return self._fail(412, "At least one of the pre-conditions you specified did not hold.")
        return self._answer(200, store.row(name))

    def do_GET(self):
        """Reads, lists."""
        self._serve("GET")

    def do_POST(self):
        """Writes, copies."""
        self._serve("POST")

    def do_PUT(self):
        """Goes on with a long write."""
        self._serve("PUT")

    def do_DELETE(self):
        """Takes away."""
        self._serve("DELETE")


def _parts(kind: str, body: bytes) -> tuple[str, bytes]:
    """Name and content of `multipart/related`."""
    mark = re.search(r'boundary="?([^";]+)', kind).group(1).encode()
    _, about, content, *_ = body.split(b"--" + mark)
    text = re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1]
    return json.loads(text)["name"], re.sub(rb"\r?\n\Z", b"", re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1])


@functools.cache
def served() -> Bucket:
    """The bucket `gs://toys` for this process and its children, until it ends: TensorStore asks once where it is."""
    bucket = Bucket()
    server = Server(("127.0.0.1", 0), type("Own", (Handler,), {"bucket": bucket}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    os.environ.update({
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "GCE_METADATA_ROOT": "127.0.0.1:1",
        "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # kinds of buckets are asked over gRPC
    })  # fmt: skip
    return bucket
