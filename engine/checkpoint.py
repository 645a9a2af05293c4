"""Checkpoints of a run on disk: each whole and checked, or none. What is in one: engine/progress.py."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from engine.files import whole, whole_text

FORMAT = 1
KEPT = 2  # the one before last is there for the day when the last one cannot be read


@dataclass(frozen=True)
class Loaded:
    """A checkpoint: where it lies, what its JSON says, what is in it."""

    path: Path
    about: dict[str, Any]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints in a work folder, of the run of this digest: step-<n>.pt, and step-<n>.json, which is written
    after it and vouches for it by its checksum. A .pt without one is none.

    minutes: between two, besides the one after every epoch; 0: after every step, which is for tests, being slow; None:
    none is written. code: the commit that trains.
    """

    def __init__(self, folder: Path, digest: str, minutes: float | None, code: str | None = None) -> None:
        self.folder = folder
        self.code = code
        self.digest = digest
        self.minutes = minutes
        self.cost = 0.0  # seconds that the last one took

    def save(self, state: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
        """Writes tensors and plain values; about: step, steps, epoch, seconds so far. False, and a line on stderr, when
        the disk will not take it: what was there stays, and the run goes on, for its number's sake."""
        begin = time.monotonic()
        path = self.folder / f"step-{about['step']}.pt"
        while path.exists():  # saved before the step's evaluation, and now again after it: the older stays whole
            path = path.with_name(f"{path.stem}+.pt")
        try:
            sha256 = _save(dict(state), path)
            said = {"sha256": sha256, "digest": self.digest, "format": FORMAT, **about, "saved": time.time()}
            whole_text(path.with_suffix(".json"), json.dumps(said) + "\n")
        except OSError as error:
            path.unlink(missing_ok=True)
            print(f"note: no checkpoint at step {about['step']}: {error.strerror or error}; the run goes on",
                  file=sys.stderr)
            return False
        self._prune(path)
        self.cost = time.monotonic() - begin
        return True

    def load(self) -> Loaded | None:
        """The last whole checkpoint, or None; a line on stderr for each that is not whole."""
        for path in self._paths():
            wrong, said = self._wrong(path)
            if wrong is None:
                try:
                    return Loaded(path, said, read(path))
                except Exception as error:  # whole, and yet: another version of torch wrote it
                    wrong = f"cannot be read ({type(error).__name__}: {error})".splitlines()[0]
            print(f"note: checkpoint {path} {wrong}; left aside", file=sys.stderr)
        return None

    def clear(self) -> None:
        """Deletes all of them."""
        for path in self._paths():
            _drop(path)

    def _wrong(self, path: Path) -> tuple[str | None, dict[str, Any]]:
        """What is wrong with a checkpoint, if anything, and what its JSON says."""
        try:
            said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if (said["digest"], said["format"]) != (self.digest, FORMAT):
                return "is another run's", said
            with path.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == said["sha256"]
            return None if whole else "is damaged: its checksum is another", said
        except FileNotFoundError:
            return "is half of one: the process was killed while it wrote", {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"is damaged ({type(error).__name__})", {}

    def _paths(self) -> list[Path]:
        """All that is or was to be a checkpoint, the newest first, by the .pt's name whether that is there or not."""
        stems = {path.stem for kind in ("pt", "json") for path in self.folder.glob(f"step-*.{kind}")}
        order = sorted(stems, key=lambda stem: (_step(stem), len(stem)), reverse=True)
        return [self.folder / f"{stem}.pt" for stem in order]

    def _prune(self, newest: Path) -> None:
        """Keeps the newest and the last before it that has its JSON; a later one is of an earlier life, and could not
        be read."""
        older = [path for path in self._paths() if path != newest]
        before = [path for path in older if path.with_suffix(".json").exists() and self._key(path) < self._key(newest)]
        for path in older:
            if path not in before[:KEPT - 1]:
                _drop(path)

    @staticmethod
    def _key(path: Path) -> tuple[int, int]:
        return _step(path.stem), len(path.stem)


def read(path: Path) -> dict[str, Any]:
    """What is in a checkpoint, on the CPU: tensors and plain values; nothing in it is executed."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _step(stem: str) -> int:
    digits = stem.removeprefix("step-").rstrip("+")
    return int(digits) if digits.isdecimal() else -1


def _drop(path: Path) -> None:
    """The JSON first: from then on it is no checkpoint."""
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


class _Hashed:
    """A file that is written, its checksum, and why it could not be: torch makes a RuntimeError of any reason."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(state: dict[str, Any], path: Path) -> str:
    """Writes the file whole or not at all; its checksum. Raises OSError."""
    sums: list[str] = []

    def write(part: Path) -> None:
        with part.open("wb") as file:
            hashed = _Hashed(file)
            try:
                torch.save(state, hashed)  # type: ignore[arg-type]
            except (RuntimeError, OSError) as error:
                raise hashed.error or OSError(str(error)) from None
            sums.append(hashed.sha256.hexdigest())

    whole(path, write)
    return sums[0]
