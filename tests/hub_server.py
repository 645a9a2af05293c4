"""A small hub on loopback, with faults on demand: what huggingface_hub's real client asks for a model or a data set.

Files with the endings of BIG are kept as on the hub: known by their sha256, and served from another address (the CDN).
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

BIG = (".safetensors", ".bin", ".parquet", ".model")


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD /path" the pattern is found in, `times` times."""

    pattern: str
    status: int = 200
    body: bytes | None = None  # sent instead of what was asked for, with the status and the headers
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0  # seconds before the answer
    cut: int | None = None  # bytes of the file after which the connection ends
    flip: bool = False  # one bit of the file is another
    rate: int | None = None  # bytes a second
    times: int = 1 << 30


class Hub:
    """The repositories, what goes wrong, and what was asked: requests, "METHOD /path" each."""

    def __init__(self, url: str, cdn: str) -> None:
        self.url, self.cdn = url, cdn
        self.commits: dict[tuple[str, str, str], str] = {}  # (models or datasets, id, revision) -> commit
        self.trees: dict[str, dict[str, bytes]] = {}  # commit -> path -> content
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.xet: str | None = None  # address of the storage server; None: big files come by HTTP

    def add(self, kind: str, name: str, files: Mapping[str, bytes], revisions: Sequence[str] = ("main",)) -> str:
        """A repository at these revisions; its commit."""
        seed = json.dumps([kind, name, *revisions, *sorted(files)]).encode() + b"".join(files.values())
        commit = hashlib.sha1(seed).hexdigest()
        self.trees[commit] = dict(files)
        for revision in (*revisions, commit):
            self.commits[f"{kind}s", name, revision] = commit
        self.blobs |= {hashlib.sha256(content).hexdigest(): content for content in files.values()}
        return commit

    def asked(self, pattern: str) -> list[str]:
        """The requests so far that the pattern is found in."""
        return [one for one in self.requests if re.search(pattern, one)]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        asked = f"{self.command} {path}"
        self.hub.requests.append(asked)
        fault = next((one for one in self.hub.faults if one.times > 0 and re.search(one.pattern, asked)), Fault(""))
        fault.times -= 1
        time.sleep(fault.wait)
        try:
            if fault.body is not None:
                return self.send(fault.status, fault.body, fault.headers)
            self.route(path, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def route(self, path: str, fault: Fault) -> None:
        """Answers as the hub does."""
        if found := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            return self.file(self.hub.blobs[found[1]], {"ETag": f'"{found[1]}"'}, fault)
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree|xet-read-token)/(.+)", path):
            kind, name, what, revision = found.groups()
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", path):
            kind, name, what, revision = "datasets" if found[1] else "models", found[2], "resolve", found[3]
        else:
            return self.error(404, "", "Not Found")
        commit = self.hub.commits.get((kind, name, revision))
        if commit is None:
            there = any(known[:2] == (kind, name) for known in self.hub.commits)
            return self.error(404, "RevisionNotFound" if there else "RepoNotFound", "not here")
        files = self.hub.trees[commit]
        if what == "revision":
            return self.json({"id": name, "sha": commit, "private": False, "gated": False, "downloads": 0, "likes": 0,
                              "tags": [], "siblings": [{"rfilename": file} for file in files]})
        if what == "xet-read-token":
            return self.send(200, b"{}", {"X-Xet-Cas-Url": str(self.hub.xet), "X-Xet-Access-Token": "token",
                                          "X-Xet-Token-Expiration": str(int(time.time()) + 3600)})
        if what == "tree":
            return self.json([self.listed(file, content) for file, content in files.items()])
        content = files.get(found[4])
        if content is None:
            return self.error(404, "EntryNotFound", "Entry not found")
        known = self.listed(found[4], content)
        headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
        if "lfs" not in known:
            return self.file(content, headers | {"ETag": f'"{known["oid"]}"'}, fault)
        sha256 = known["lfs"]["oid"]
        self.send(302, b"", headers | {"X-Linked-ETag": f'"{sha256}"', "Location": f"{self.hub.cdn}/cdn/{sha256}"})

    def listed(self, path: str, content: bytes) -> dict[str, Any]:
        """A file as the list of a repository's files has it."""
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        told: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        if path.endswith(BIG):
            sha256 = hashlib.sha256(content).hexdigest()
            told["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            if self.hub.xet:
                told["xetHash"] = sha256
        return told

    def file(self, content: bytes, headers: Mapping[str, str], fault: Fault) -> None:
        """A file's bytes, from where the client asks for them on."""
        if fault.flip:
            content = bytes([content[0] ^ 1]) + content[1:]
        begin = int((re.match(r"bytes=(\d+)-", self.headers.get("Range") or "") or ["", "0"])[1])
        more = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        self.head(206 if begin else 200, headers | more | {"Content-Length": str(len(content) - begin)})
        if self.command == "HEAD":
            return
        rest = content[begin:fault.cut]
        step = max(1, fault.rate // 10) if fault.rate else len(rest) or 1
        for place in range(0, len(rest), step):
            self.wfile.write(rest[place:place + step])
            time.sleep(0.1 if fault.rate else 0)
        if fault.cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def error(self, status: int, code: str, message: str) -> None:
        """As the hub says what went wrong."""
        self.send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def json(self, said: Any) -> None:
        """An answer of the API."""
        self.send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """A whole answer."""
        self.head(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no error here."""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub of its own, empty."""
    handler = type("Handler", (Answer,), {})
    servers = [Server(("127.0.0.1", 0), handler) for _ in range(2)]
    handler.hub = hub = Hub(*(f"http://127.0.0.1:{server.server_port}" for server in servers))  # type: ignore
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@contextmanager
def silence() -> Iterator[int]:
    """The port of a server that takes calls and never says a word."""
    server = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def listen() -> None:
        try:
            while True:
                taken.append(server.accept()[0])
        except OSError:
            return

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        for call in [*taken, server]:
            call.close()
