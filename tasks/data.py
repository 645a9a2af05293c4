"""Rows from the hub, a folder in its layout, or the synthetic generator, checked before anything trains on them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from engine.contract import Origin, Refused, generator
from engine.hub import snapshot
from tasks import synthetic

Row = dict[str, Any]
Rows = list[Row]
Example = TypeVar("Example")
ENDINGS = (".jsonl.gz", ".jsonl", ".parquet", "-*.parquet", "/*.parquet")  # of a split's file or files, by preference


@dataclass(frozen=True)
class Source:
    """A data set of the hub: DIR/<name>/<config>/<split>.jsonl.gz is where a folder has it."""

    id: str
    config: str | None  # the hub's name for a part of it, and the folder's
    revision: str  # a commit, or a branch of converted files
    home: str | None = None  # who publishes it, where the hub may not have it in a form that is read here
    hub: Mapping[str, str] | None = None  # our name of a split -> the hub's, where it is another

    def files(self, origin: Origin, splits: Sequence[str], hint: str) -> tuple[dict[str, list[Path]], str | None]:
        """The file or files of every split, and the hub's commit. Raises Refused naming what is missing."""
        if origin.kind == "hub":
            there = {split: (self.hub or {}).get(split, split) for split in splits}
            ways_out = "give a folder (data_root=DIR), a filled cache (HF_HOME=DIR), or run without either: scale=demo"
            if self.home is not None:
                ways_out += f"; {self.home} publishes it, data_root=DIR reads it from {self._layout(splits[0])}"
            folder = snapshot("dataset", self.id, self.revision, self._wanted(there.values()),
                              lambda place: self._missing(place, list(there.values())), ways_out)
            place = self._place(folder, there[splits[0]])
            return {split: _found(place, there[split], hint) for split in splits}, folder.name
        root = Path(str(origin.root)).expanduser()
        folder = root / self.id.rpartition("/")[2] / (self.config or "")
        if not folder.is_dir():
            raise Refused(f"{folder}: no such folder; data_root must hold {self._layout(splits[0])} (or .jsonl, "
                          ".parquet)")
        return {split: _found(folder, split, hint) for split in splits}, None

    def _layout(self, split: str) -> str:
        return str(Path(self.id.rpartition("/")[2], self.config or "", f"{split}.jsonl.gz"))

    def _wanted(self, splits: Iterable[str]) -> list[str]:
        """Patterns of the files in the hub's repository that hold these splits, and of no others."""
        places = [f"{self.config}/"] if self.config else ["", "*/"]
        return [f"{place}{split}{ending}" for place in places for split in splits for ending in ENDINGS]

    def _place(self, folder: Path, split: str) -> Path:
        """Where in a copy of the hub's repository the splits lie; without a config, in the only folder with them,
        whatever the hub calls it."""
        if self.config:
            return folder / self.config
        places = sorted(path for path in folder.glob("*") if path.is_dir() and _find(path, split))
        return places[0] if places else folder

    def _missing(self, folder: Path, splits: Sequence[str]) -> str | None:
        """The first file that such a copy lacks."""
        place = self._place(folder, splits[0])
        within = f"{self.config}/" if self.config else ""
        for split in splits:
            try:
                if not _find(place, split):
                    return f"{within}{split}-*.parquet"
            except Refused:  # some of its files alone
                return f"{within}{split}-*.parquet"
        return None


def _found(folder: Path, split: str, hint: str) -> list[Path]:
    files = _find(folder, split)
    if not files:
        raise Refused(f"{folder}: no {split}.jsonl.gz (or .jsonl, .parquet, {split}_subset.jsonl.gz){hint}")
    return files


def _find(folder: Path, split: str) -> list[Path]:
    for name in (split, f"{split}_subset"):  # a subset is used when the whole is not there, and said in the record
        for ending in ENDINGS:
            found = sorted(folder.glob(f"{name}{ending}"))
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


def load(task: str, source: Source, origin: Origin, splits: Sequence[str], check: Callable[[Row], str | None],
         fingerprint: Callable[[Row], list[Any]], hint: str = "") -> Raw:
    """Reads and checks all splits of a task, the first of them the one to train on. check says what is wrong with a
    row, fingerprint which of its values count, hint (a line) what else could be asked for if a split is missing.

    Raises Refused, with file and line, on a bad row, a damaged file or an empty split.
    """
    kind, commit = origin.kind, None
    if kind == "synthetic":
        try:
            sizes = {split: origin.train if split == splits[0] else origin.validation for split in splits}
            rows = {split: synthetic.rows(task, split, size, seed=0) for split, size in sizes.items()}
        except ValueError as error:
            raise Refused(f"scale.train, scale.validation: {error}") from None
    else:
        files, commit = source.files(origin, splits, hint)
        rows = {split: [row for path in files[split] for row in _read(path)] for split in splits}
        kind += " (subset)" if any("_subset" in path.name for paths in files.values() for path in paths) else ""
        for split in splits:
            _check(rows[split], files[split][0], check)
    return Raw(rows, kind, commit, _sha256(rows, fingerprint))


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


def _check(rows: Rows, path: Path, check: Callable[[Row], str | None]) -> None:
    if not rows:
        raise Refused(f"{path}: no rows")
    for number, row in enumerate(rows, 1):
        wrong = check(row)
        if wrong is not None:
            raise Refused(f"{path}, line {number}: {wrong}")


def limited(examples: list[Example], limit: int | None) -> list[Example]:
    """So many of the examples, in their order, drawn once: alike for all seeds. None: all."""
    if limit is None or limit >= len(examples):
        return examples
    kept = torch.randperm(len(examples), generator=generator(0, "limit"))[:limit].sort().values
    return [examples[i] for i in kept.tolist()]


def _sha256(rows: Mapping[str, Rows], fingerprint: Callable[[Row], list[Any]]) -> str:
    """Over texts and labels, not files, so that the hub's copy and a folder's agree."""
    digest = hashlib.sha256()
    for split in rows:
        digest.update(f"{split}\n".encode())
        for row in rows[split]:
            digest.update(json.dumps(fingerprint(row), ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
