"""A download from the hub that ends: with the files, or with a reason in words within a stated time.

The hub's client runs in a process of its own (engine/hub_client.py). It tries again for minutes, or waits for ever,
where nothing comes; here is decided how long that may take, what a failure is called and what helps.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from engine.hub_client import unfinished

CLIENT = Path(__file__).with_name("hub_client.py")
START = 120.0  # seconds that loading the client may take: nothing of it is the hub's fault
ANSWER = 10.0  # seconds within which the hub must answer; more by HF_HUB_ETAG_TIMEOUT
PATIENCE = 5.0  # seconds that the client may go on trying: before a byte of any file has come, or at HTTP errors
STALL = 60.0  # seconds without a byte, after which a download is ended
QUIET, EVERY = 10.0, 30.0  # where no terminal is: seconds until the first line on progress, and from line to line
PUBLIC = "https://huggingface.co"
XET = "HF_HUB_DISABLE_XET=1 goes around Xet, the hub's storage of large files, which a firewall may keep out"
AGAIN = "run the same command again"
SLOW = f"{AGAIN} later, or wait longer: HF_HUB_ETAG_TIMEOUT=60"

Told = dict[str, Any]


class DownloadError(Exception):
    """A download that did not succeed: args are what happened and what helps, each without a line's end."""


@dataclass(frozen=True)
class DownloadRequest:
    """What is to be fetched, and to where."""

    kind: str  # model · dataset
    repo: str
    revision: str | None
    patterns: Sequence[str]  # of the files in the repository; * matches / too
    cache: Path

    @property
    def title(self) -> str:
        """model ORG/NAME@e2da8e2"""
        at = self.revision[:7] if self.revision and len(self.revision) == 40 else self.revision
        return f"{self.kind} {self.repo}{f'@{at}' if at else ''}"


def endpoint() -> str:
    """The address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or PUBLIC).rstrip("/")


def offline() -> str | None:
    """Which setting forbids to ask the hub, if one does."""
    return next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
                 if os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON")), None)


def answer_time() -> float:
    """Seconds within which the hub must answer."""
    with suppress(ValueError):
        return max(ANSWER, float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 0))
    return ANSWER


def download(wanted: DownloadRequest) -> Path:
    """The folder of the repository in the hub's cache, with the files that were wanted. Raises DownloadError, and
    KeyboardInterrupt or Stopped at a signal."""
    check_endpoint()
    asked = {"repo": wanted.repo, "kind": wanted.kind, "revision": wanted.revision, "patterns": list(wanted.patterns),
             "cache": str(wanted.cache), "answer": answer_time()}
    # The client reads this once, and as a whole number: for how long the server may be silent within a file.
    settings = {"HF_HUB_DOWNLOAD_TIMEOUT": str(max(1, round(answer_time())))} | os.environ
    if not settings.get("HF_ENDPOINT"):
        settings.pop("HF_ENDPOINT", None)
    with tempfile.TemporaryFile() as errors:
        client = subprocess.Popen([sys.executable, "-P", str(CLIENT), json.dumps(asked)], env=settings, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            return _watched(client, wanted)
        except EOFError:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()
            raise DownloadError(f"the hub's client ended without a word (exit status {client.wait()}"
                                f"{f'; {last[-1][:150]}' if last else ''})", AGAIN) from None
        finally:
            _end(client)


def _watched(client: subprocess.Popen[str], wanted: DownloadRequest) -> Path:
    """What comes of the client. Raises DownloadError when it fails or takes too long, EOFError when it is gone."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert client.stdout is not None
        with suppress(ValueError, OSError):  # closed by _end
            for line in client.stdout:
                lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    shown, state = Shown(wanted.title), Told()
    began = time.monotonic()  # since when nothing has come: no word of the client at first, then no answer and no byte
    ready, troubled = False, None  # troubled: since when the client has tried again
    while True:
        _signalled()
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            line = None
        now = time.monotonic()
        if line == "":
            raise EOFError
        if line is not None:
            try:
                told: Told = json.loads(line)
            except ValueError:  # some library's own word
                continue
            if "folder" in told:
                shown.end(told)
                return Path(told["folder"])
            if "client" in told:
                raise DownloadError(f"the proxy settings cannot be used ({told['client'][0]['text'][:150]})",
                                    f"check {_proxy() or 'HTTPS_PROXY and ALL_PROXY'}; for socks5://…: pip install "
                                    "socksio")
            if "error" in told:
                raise DownloadError(*reason(told["error"], wanted, state.get("xet", False) or told.get("xet", False)))
            if "ready" in told:
                ready, began = True, now
                continue
            if told["moved"] != state.get("moved"):
                began, troubled = now, None
            if told["answers"] != state.get("answers", 0):
                began = now
            if told["troubles"] != state.get("troubles", 0):
                troubled = troubled or now
            state = told
            shown.see(state)
        trouble = state.get("trouble") if troubled else None
        if not ready and now - began > START:
            raise DownloadError(f"the hub's client was not loaded within {START:.0f} s",
                                "run it again on a less busy machine")
        if ready and not state.get("answers") and now - began > answer_time() + 1:
            raise DownloadError(f"no answer from {endpoint()} within {answer_time():.0f} s{_through()}", SLOW)
        if trouble and troubled and now - troubled > PATIENCE and (not state["bytes"] or trouble[0]["status"]):
            raise DownloadError(*reason(trouble, wanted, state["xet"]))
        if ready and now - began > STALL:
            if trouble:
                raise DownloadError(*reason(trouble, wanted, state["xet"]))
            raise DownloadError(f"no byte came from the hub for {STALL:.0f} s", XET if state.get("xet") else AGAIN)


def _signalled() -> None:
    """Ends the download where somebody catches signals in order to save first (engine.stop.Stop): there is nothing to
    save yet. Elsewhere Ctrl-C interrupts by itself."""
    catcher = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    if getattr(catcher, "seen", None):
        raise catcher.stopped("the download was ended")  # type: ignore[union-attr]


def _end(client: subprocess.Popen[str]) -> None:
    """Ends the client, if it has not ended by itself, and takes away what it wrote half."""
    if client.poll() is None:
        half = unfinished(client.pid)
        client.kill()
        client.wait()
        for path in half:
            with suppress(OSError):
                path.unlink()
    for pipe in (client.stdin, client.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


class Shown:
    """Progress in bytes on stderr: one line that changes on a terminal, elsewhere a line now and then."""

    def __init__(self, title: str) -> None:
        self.title, self.began = title, time.monotonic()
        self.terminal = sys.stderr is not None and sys.stderr.isatty()  # None: closed, as a daemon has it
        self.next = self.began + (0.5 if self.terminal else QUIET)
        self.said = False

    def see(self, state: Told) -> None:
        """Shows how far it is, if it is time to."""
        now = time.monotonic()
        if now < self.next or not state["bytes"] or os.environ.get("RANK", "0") != "0":
            return
        self.next, self.said = now + (0.5 if self.terminal else EVERY), True
        total = f" of {size(state['total'])}" if state["total"] > state["bytes"] else ""
        rate = state["bytes"] / max(now - self.began, 0.1)
        line = f"{self.title}: {size(state['bytes'])}{total}, {size(rate)}/s"
        print(f"\r{line}\x1b[K" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr,
              flush=True)

    def end(self, state: Told) -> None:
        """All is there."""
        if self.said:
            print(f"{chr(13) if self.terminal else ''}{self.title}: {size(state['bytes'])} fetched in "
                  f"{time.monotonic() - self.began:.0f} s{chr(27) + '[K' if self.terminal else ''}", file=sys.stderr,
                  flush=True)


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.{0 if count >= 100 * power else 1}f} {unit}"
    return f"{count:.0f} bytes"


def check_endpoint() -> None:
    """Raises DownloadError for an HF_ENDPOINT that is no address of a server."""
    address = endpoint()
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is none
        good = False
    if not good:
        raise DownloadError(f"HF_ENDPOINT={address} is not the address of a hub",
                            f"unset it, or say HF_ENDPOINT={PUBLIC}")


def _proxy() -> str | None:
    """The proxy that requests to the hub go through, as it was set, without a password."""
    import urllib.request

    parts = urlsplit(endpoint())
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    with suppress(ValueError):
        said = urlsplit(found)
        found = urlunsplit(said._replace(netloc=said.netloc.rpartition("@")[2]))
    return found


def _through() -> str:
    proxy = _proxy()
    return f", through the proxy {proxy}" if proxy else ""


def reason(errors: Sequence[Told], wanted: DownloadRequest, xet: bool) -> tuple[str, str]:
    """What an error of the client's means, and what helps: by the classes of it and of those that led to it."""
    names = {name for error in errors for name in error["names"]}
    status = next((error["status"] for error in errors if error["status"]), None)
    wait = next((error["wait"] for error in errors if error["wait"]), None)
    host = next((error["host"] for error in errors if error["host"]), None) or urlsplit(endpoint()).hostname
    texts = [error["text"] for error in errors if error["text"]]
    numbers = {error["errno"] for error in errors if isinstance(error["errno"], int)}
    on = f"{endpoint()}/{'datasets/' if wanted.kind == 'dataset' else ''}{wanted.repo}"
    setting = "model" if wanted.kind == "model" else "task.source"
    id_ = "model.path" if wanted.kind == "model" else "task.source.id"
    if "OfflineModeIsEnabled" in names:
        return "the hub may not be asked (HF_HUB_OFFLINE)", "unset HF_HUB_OFFLINE"
    if "GatedRepoError" in names:
        return "access to it is gated", f"ask for access on {on}, then HF_TOKEN=…"
    if "DisabledRepoError" in names:
        return "access to it has been disabled on the hub", "take another source"
    if "RevisionNotFoundError" in names:
        return f"it has no revision {wanted.revision or 'main'}", f"{setting}.revision=… names one that {on} has"
    if "RepositoryNotFoundError" in names or status == 401:
        return ("no such repository, or none without a token",
                f"check {id_}={wanted.repo}; HF_TOKEN=… if it is private or gated")
    if status == 429:
        return ("the hub's limit of requests is reached (HTTP 429)",
                f"wait {f'{wait} s' if wait else 'some minutes'} and run it again; with HF_TOKEN=… the limit is higher")
    if status == 407 or "ProxyError" in names:
        return (f"the proxy refuses ({texts[0][:100] if 'ProxyError' in names and texts else 'HTTP 407'}){_through()}",
                "check HTTPS_PROXY and HTTP_PROXY")
    if status is not None and status >= 500:
        return f"{host} has trouble (HTTP {status}){_through()}", f"{AGAIN} later"
    if status is not None and status >= 400:
        return (f"{host} refuses (HTTP {status}){_through()}",
                "HF_TOKEN=… where access is restricted; else a firewall may forbid it")
    if {"JSONDecodeError", "FileMetadataError"} & names:
        return (f"what {host} answers is not a hub's answer: the page of a firewall or of a proxy?{_through()}",
                "open the hub in a browser from here, or check HF_ENDPOINT")
    if numbers & {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or any("No space left" in text for text in texts):
        return f"no space left in {wanted.cache}", "make room, or HF_HOME=DIR on another disk"
    if numbers & {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST}:
        return f"the cache {wanted.cache} cannot be written", "HF_HOME=DIR names another folder"
    if {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError"} & names:
        return (f"{host} cannot be asked ({texts[0][:100] if texts else 'wrong address'}){_through()}",
                "check HF_ENDPOINT and HTTPS_PROXY")
    if {"SSLError", "SSLCertVerificationError"} & names or any("CERTIFICATE" in text for text in texts):
        return (f"the certificate of {host} is not trusted here{_through()}",
                "SSL_CERT_FILE=FILE names your network's own certificates")
    if {"ConnectTimeout", "ReadTimeout", "TimeoutException"} & names:
        return f"no answer from {host} within {answer_time():.0f} s{_through()}", SLOW
    if "ConnectError" in names:
        return (f"{host} cannot be reached ({texts[-1][:100] if texts else 'no connection'}){_through()}",
                "check the network")
    if {"RemoteProtocolError", "NetworkError", "DecodingError"} & names:
        return f"the connection to {host} was cut{_through()}", f"{AGAIN}: files that are whole are kept"
    if xet and {"RuntimeError", "XetDownloadError", "XetAuthenticationError", "XetObjectNotFoundError"} & names:
        return f"Xet failed ({texts[0][:100] if texts else 'no reason given'})", XET
    if "OSError" in names and any("onsistency" in text for text in texts):
        return "a file came with another length than it should have", AGAIN
    first = errors[0]
    return f"the hub did not give it ({first['names'][0]}: {first['text'][:150]})", AGAIN
