"""One download by the hub's own client, as a program of its own: engine/download.py starts it, watches it, ends it.

A process, because the client can neither be stopped (its Xet part hangs in native code) nor be told how often to try
again. What it says, one JSON object a line on stdout: {"ready"} when the client is loaded; Watch.state() whenever
something in it changes; at the end {"folder"} or {"error"}. When its stdin closes,
whoever started it is gone or wants its end, and it ends.

Only public parts of huggingface_hub are used, and nothing of this project: it must start fast.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

TICK = 0.2  # seconds between two looks at the bytes


def say(**said: Any) -> None:
    """A line for whoever started this."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def described(error: BaseException | None) -> list[dict[str, Any]]:
    """An error and those that led to it, outermost first: the names of their classes, and what they know."""
    found: list[dict[str, Any]] = []
    while error is not None and len(found) < 10:
        response = getattr(error, "response", None)
        host = None
        try:
            host = error.request.url.host  # type: ignore[attr-defined]
        except (AttributeError, RuntimeError):  # httpx raises the latter for an error without a request
            host = getattr(getattr(response, "url", None), "host", None)
        headers = getattr(response, "headers", {})
        found.append({
            "names": [kind.__name__ for kind in type(error).__mro__], "host": host,
            "text": next((line.strip() for line in str(error).splitlines() if line.strip()), ""),
            "status": getattr(response, "status_code", None), "wait": headers.get("retry-after"),
            "errno": getattr(error, "errno", None), "file": str(getattr(error, "filename", None) or "")})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def unfinished(process: int) -> list[Path]:
    """The half-written files that a process has open in the hub's cache. No other process will ever go on with them."""
    import psutil

    try:
        opened = [Path(file.path) for file in psutil.Process(process).open_files()]
    except psutil.Error:
        return []
    return [path for path in opened if path.name.endswith(".incomplete")]


class Watch(logging.Handler):
    """What has come so far, and what the client last had trouble with: it only logs that, and tries again."""

    def __init__(self, blobs: Path) -> None:
        super().__init__(logging.WARNING)
        self.blobs = blobs
        self.responses: list[Any] = []
        self.bars: list[Any] = []
        self.answers = 0
        self.xet = False
        self.trouble: list[dict[str, Any]] | None = None
        self.troubles = 0

    def answered(self, response: Any) -> None:
        """httpx calls this for every answer, before its body is read."""
        self.answers += 1
        self.xet = self.xet or "xet-read-token" in str(response.url)
        if response.status_code < 300 and not re.match("/api/(models|datasets)/", response.url.path):
            self.responses.append(response)
        elif response.status_code in (408, 429) or response.status_code >= 500:  # others end it, or mean nothing
            self.troubles += 1
            self.trouble = [{"names": ["HTTPStatusError"], "status": response.status_code, "host": response.url.host,
                             "wait": response.headers.get("retry-after"), "text": "", "errno": None, "file": ""}]

    def emit(self, record: logging.LogRecord) -> None:
        """The client warns that something failed. Where nothing has answered yet and the way there is closed (no such
        name, connection refused), trying again is of no use: ends."""
        error = sys.exc_info()[1]
        if error is None:
            return
        self.trouble, self.troubles = described(error), self.troubles + 1
        if not self.answers and {"ConnectError", "ProxyError"} & set(self.trouble[0]["names"]):
            say(error=self.trouble)
            os._exit(0)

    def state(self) -> dict[str, Any]:
        """bytes: of all files; total: what they will be, as far as known; moved: changes whenever a byte comes, also
        to another process that fetches the same file while this one waits for it."""
        bars = [bar for bar in self.bars if bar.unit == "B"]
        over_http = sum(response.num_bytes_downloaded for response in self.responses)
        bytes_ = max([over_http, *(int(bar.n) for bar in bars)])
        growing = 0
        with suppress(OSError):  # not there yet, or just gone
            growing = sum(file.stat().st_size for file in os.scandir(self.blobs) if file.name.endswith(".incomplete"))
        return {"bytes": bytes_, "total": max([0, *(int(bar.total or 0) for bar in bars)]),
                "moved": [over_http, *(int(bar.n) for bar in self.bars), growing], "answers": self.answers,
                "xet": self.xet, "trouble": self.trouble, "troubles": self.troubles}

    def report(self) -> None:
        """Says what changed, for ever."""
        last = None
        while True:
            now = self.state()
            if now != last:
                say(**now)
                last = now
            time.sleep(TICK)


def main() -> None:
    """argv[1]: JSON with repo, kind, revision, patterns, cache and answer, the seconds to wait for an answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; the other one decides
    asked = json.loads(sys.argv[1])

    def orphaned() -> None:
        sys.stdin.read()
        for path in unfinished(os.getpid()):
            path.unlink(missing_ok=True)
        os._exit(1)

    threading.Thread(target=orphaned, daemon=True).start()
    import huggingface_hub
    from tqdm import tqdm

    repo = f"{asked['kind']}s--{asked['repo'].replace('/', '--')}"
    watch = Watch(Path(asked["cache"], repo, "blobs"))
    log = logging.getLogger("huggingface_hub")
    log.handlers, log.propagate = [watch], False
    log.setLevel(logging.WARNING)

    nowhere = open(os.devnull, "w")  # noqa: SIM115  (until this process ends)

    class Bar(tqdm):
        """Counts, and shows nothing."""

        def __init__(self, *words: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*words, **(options | {"file": nowhere, "disable": False}))
            watch.bars.append(self)

    try:
        first = huggingface_hub.get_session()  # fails where the proxy settings are wrong
    except Exception as error:
        return say(client=described(error))
    kind, hooks = type(first), first.event_hooks

    def client() -> Any:
        return kind(event_hooks=hooks | {"response": [watch.answered]}, follow_redirects=True,
                    timeout=asked["answer"])

    huggingface_hub.set_client_factory(client)
    say(ready=True)
    threading.Thread(target=watch.report, daemon=True).start()
    try:
        folder = huggingface_hub.snapshot_download(
            asked["repo"], repo_type=asked["kind"], revision=asked["revision"], allow_patterns=asked["patterns"],
            cache_dir=asked["cache"], etag_timeout=asked["answer"], tqdm_class=Bar)
    except BaseException as error:  # whatever the client, its HTTP library and its Xet part raise
        say(error=described(error), **watch.state())
    else:
        say(folder=folder, **watch.state())


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # native threads would hold it back
