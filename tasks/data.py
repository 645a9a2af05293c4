"""Rows from the hub, a folder in its layout, or the synthetic generator, checked before anything trains on them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.contract import Origin, Refused
from engine.hub import snapshot
from tasks import synthetic

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """A data set of the hub: DIR/<name>/<config>/<split>.jsonl.gz is where a folder has it."""

    id: str
    config: str
    revision: str

    def files(self, origin: Origin, splits: Sequence[str]) -> dict[str, list[Path]]:
        """The file or files of every split. Raises Refused naming what is missing."""
        if origin.kind == "hub":
            ways_out = "give a folder (data_root=DIR), a filled cache (HF_HOME=DIR), or run without either: scale=demo"
            folder = snapshot("dataset", self.id, self.revision, [f"{self.config}/*"], self._missing(splits), ways_out)
            folder /= self.config
        else:
            root = Path(str(origin.root)).expanduser()
            folder = root / self.id.rpartition("/")[2] / self.config
            if not folder.is_dir():
                raise Refused(f"{folder}: no such folder; data_root must hold {folder.relative_to(root)}/"
                              f"{splits[0]}.jsonl.gz (or .jsonl, .parquet)")
        return {split: _found(folder, split) for split in splits}

    def _missing(self, splits: Sequence[str]) -> Callable[[Path], str | None]:
        return lambda folder: next((f"{self.config}/{split}-*.parquet" for split in splits
                                    if not _find(folder / self.config, split)), None)


def _found(folder: Path, split: str) -> list[Path]:
    files = _find(folder, split)
    if not files:
        raise Refused(f"{folder}: no {split}.jsonl.gz (or .jsonl, .parquet, {split}_subset.jsonl.gz)")
    return files


def _find(folder: Path, split: str) -> list[Path]:
    for name in (split, f"{split}_subset"):  # a subset is used when the whole is not there, and said in the record
        for pattern in (f"{name}.jsonl.gz", f"{name}.jsonl", f"{name}.parquet", f"{name}-*.parquet"):
            found = sorted(folder.glob(pattern))
            sharded = re.search(r"-of-(\d+)", found[0].name) if found else None
            shards = int(sharded[1]) if sharded else len(found)
            if len(found) != shards:
                raise Refused(f"{folder}: {len(found)} of the {shards} files of {name}; fetch the others")
            if found:
                return found
    return []


@dataclass(frozen=True)
class Raw:
    """The checked rows of every split, what they are, and the sha256 of exactly what is trained and judged on."""

    rows: Mapping[str, Rows]
    kind: str  # hub · folder · synthetic, with (subset) where one of the files is one
    revision: str | None
    sha256: str


def load(task: str, source: Source, origin: Origin, columns: Sequence[str], classes: int | None, train: str,
         validation: Sequence[str]) -> Raw:
    """Reads and checks all splits of a task. classes: number of labels; None: a score from 0 to 5.

    Raises Refused, with file and line, on a missing column, a bad label, a damaged file or an empty split.
    """
    splits = [train, *validation]
    kind = origin.kind
    if kind == "synthetic":
        try:
            rows = {split: synthetic.rows(task, split, origin.train if split == train else origin.validation, seed=0)
                    for split in splits}
        except ValueError as error:
            raise Refused(f"scale.train, scale.validation: {error}") from None
    else:
        files = source.files(origin, splits)
        rows = {split: [row for path in files[split] for row in _read(path)] for split in splits}
        kind += " (subset)" if any("_subset" in path.name for paths in files.values() for path in paths) else ""
        for split in splits:
            _check(rows[split], files[split][0], columns, classes)
    revision = source.revision if kind == "hub" else None
    return Raw(rows, kind, revision, _sha256(rows, columns, classes))


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file (gzip or plain) or a Parquet file."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet  # datasets would leave an Arrow copy in its cache

        try:
            yield from parquet.read_table(path).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise Refused(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]})") from None
        return
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise Refused(f"{path}, line {number}: not a JSON object")
                yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Refused(f"{path}: damaged or cut off after line {number} ({error}); fetch it again") from None
    except UnicodeDecodeError as error:
        raise Refused(f"{path}, after line {number}: not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}, line {number}: not JSON ({error})") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from None


def _check(rows: Rows, path: Path, columns: Sequence[str], classes: int | None) -> None:
    if not rows:
        raise Refused(f"{path}: no rows")
    for number, row in enumerate(rows, 1):
        lost = [name for name in (*columns, "label") if name not in row]
        if lost:
            raise Refused(f"{path}, line {number}: no column '{lost[0]}' (it has {', '.join(row)})")
        for name in columns:
            if not isinstance(row[name], str) or re.search("[\ud800-\udfff]", row[name]):
                raise Refused(f"{path}, line {number}: '{name}' is not text: {row[name]!a}")
        label = row["label"]
        good = isinstance(label, (int, float)) and not isinstance(label, bool)
        if not (good and (0 <= label <= 5 if classes is None else label in range(classes))):
            wanted = "a score from 0 to 5" if classes is None else f"one of 0 to {classes - 1}"
            raise Refused(f"{path}, line {number}: label {label!r} is not {wanted}")


def _sha256(rows: Mapping[str, Rows], columns: Sequence[str], classes: int | None) -> str:
    """Over texts and labels, not files, so that the hub's copy and a folder's agree; the hub keeps float32 scores."""
    digest = hashlib.sha256()
    for split in rows:
        digest.update(f"{split}\n".encode())
        for row in rows[split]:
            label = float(np.float32(row["label"])) if classes is None else int(row["label"])
            digest.update(json.dumps([*(row[name] for name in columns), label], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
