"""Tokenised texts on disk, found again by content: what one run has tokenised, the next one reads in a moment."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from engine.files import whole

Arrays = dict[str, np.ndarray]
VERSION = 1  # of what the arrays mean; raise it when Tokens or Completions makes others of the same texts
SAID = ("model_input_names", "truncation_side", "split_special_tokens", "cls_token_id", "bos_token_id", "eos_token_id")


class Cache:
    """A folder of arrays that were made of texts by a tokenizer. Without a folder (None), or with a tokenizer that
    cannot be written down, everything is made anew.

    A file's name is a digest of all that its arrays depend on: the texts, the tokenizer, the settings, the versions of
    the libraries. So none ever goes stale, several processes may make the same one at once, and any may be deleted. It
    is read, not mapped into memory, as safe_open would: a mapped file that someone cuts short kills who reads it."""

    def __init__(self, folder: Path | None, tokenizer: Any) -> None:
        self.folder = folder
        self.tokenizer = None if folder is None else _identity(tokenizer)

    def arrays(self, texts: Sequence[Sequence[str]], settings: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """make() of these columns of texts, or what it was before: the same to the bit. settings: whatever else it
        depends on, as JSON has it. A file that is damaged or another's is written anew; where none can be written
        stands a note on stderr, once a folder."""
        if self.folder is None or self.tokenizer is None:
            return make()
        key = _key(self.tokenizer, texts, settings)
        path = self.folder / f"{key}.safetensors"
        arrays = _read(path, key)
        if arrays is None:
            arrays = make()
            data = save(arrays, {"made": _mark(key, arrays)})
            try:
                whole(path, lambda part: part.write_bytes(data))
            except OSError as error:
                _note(self.folder, error.strerror or str(error))
        return arrays


def _identity(tokenizer: Any) -> str | None:
    """A digest of all of a tokenizer that decides what it makes of a text. None where some of it is code of its own."""
    try:
        backend = tokenizer.backend_tokenizer.to_str()
    except Exception:  # one without a backend; one with a part in Python, for which tokenizers raises a bare Exception
        return None
    # in front of added_tokens stand truncation and padding: what the last call asked for, and every call says anew
    _, found, lasting = backend.partition('"added_tokens":')
    said = {name: getattr(tokenizer, name, None) for name in SAID}
    kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    return hashlib.sha256(json.dumps([kind, said, lasting]).encode()).hexdigest() if found else None


def _key(tokenizer: str, texts: Sequence[Sequence[str]], settings: Mapping[str, Any]) -> str:
    """The digest. Of a column: how many texts, how long each is, and all of them in one piece."""
    libraries = [version(name) for name in ("tokenizers", "transformers")]
    made_by = [VERSION, libraries, tokenizer, settings, [*map(len, texts)]]
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode())
    for column in texts:
        digest.update(np.fromiter(map(len, column), np.int64, len(column)).tobytes())
        digest.update("".join(column).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _read(path: Path, key: str) -> Arrays | None:
    """A file's arrays. None: there is no such file, or it is not whole, or not of this key."""
    try:
        data = path.read_bytes()
        arrays = load(data)
    except (OSError, SafetensorError, KeyError, ValueError):  # KeyError: a kind of number that numpy has not
        return None
    header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])  # load() has found it to be one
    return arrays if header.get("__metadata__") == {"made": _mark(key, arrays)} else None


def _mark(key: str, arrays: Arrays) -> str:
    """The key and a checksum: against damage, not against malice."""
    total = 0
    for name, array in sorted(arrays.items()):
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(array).data, total)
    return f"{key} {total:08x}"


@functools.cache
def _note(folder: Path, why: str) -> None:
    print(f"note: the tokenised texts were not kept in {folder}: {why}", file=sys.stderr)
