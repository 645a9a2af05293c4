"""Files are written whole or not at all: a killed process or a full disk leaves the old file or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def user_cache() -> Path:
    """Where this project keeps what saves time in later runs; may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-paper"


def whole_text(path: Path, text: str) -> None:
    """Puts text at path (UTF-8) in one step. Raises OSError."""
    whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(a temporary path beside path), then moves the finished file to path in one step. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)  # mode 0600
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)  # what open() would have given it
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
