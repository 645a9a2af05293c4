"""Rows from the hub, a folder in its layout, or the synthetic generator, checked before anything trains on them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from engine.contract import Origin, Refused, generator
from engine.hub import snapshot
from tasks import synthetic
from tasks.rows import Row, RowFormat, Rows, Table, lost

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
            parts = [re.search(r"-(\d+)-of-(\d+)", path.name) for path in found]
            if any(parts):
                there = sorted({int(part[1]) for part in parts if part})
                shards = max(int(part[2]) for part in parts if part)
                if there != list(range(shards)):
                    raise Refused(f"{folder}: {len(there)} of the {shards} files of {name}; fetch the others")
                if len(found) > shards:  # a second download, "… (1).parquet", would count its rows twice
                    raise Refused(f"{folder}: {len(found)} files of {name}, which has {shards}; delete those too many")
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


def load(task: str, source: Source, origin: Origin, splits: Sequence[str], format: RowFormat, hint: str = "") -> Raw:
    """Reads and checks all splits of a task, the first of them the one to train on. hint (a line) says what else could
    be asked for if a split is missing.

    Raises Refused, with file and line, on a bad row, a damaged file or an empty split.
    """
    kind, commit = origin.kind, None
    rows: dict[str, Rows]
    if kind == "synthetic":
        try:
            sizes = {split: origin.train if split == splits[0] else origin.validation for split in splits}
            rows = {split: synthetic.rows(task, split, size, seed=0) for split, size in sizes.items()}
        except ValueError as error:
            raise Refused(f"scale.train, scale.validation: {error}") from None
    else:
        files, commit = source.files(origin, splits, hint)
        rows = {split: _checked(files[split], format) for split in splits}
        kind += " (subset)" if any("_subset" in path.name for paths in files.values() for path in paths) else ""
    return Raw(rows, kind, commit, _sha256(rows, format))


def _checked(paths: Sequence[Path], format: RowFormat) -> Rows:
    """The rows of a split, which may lie in several files."""
    parts = []
    for path in paths:
        rows = _read(path, format.columns)
        wrong = format.first_wrong(rows)
        if wrong is not None:
            place, problem = wrong
            raise Refused(f"{path}, {'row' if isinstance(rows, Table) else 'line'} {place + 1}: {problem}")
        parts.append(rows)
    if not any(map(len, parts)):
        raise Refused(f"{paths[0]}: no rows")
    return parts[0] if len(parts) == 1 else [row for part in parts for row in part]


def _read(path: Path, columns: Sequence[str] | None = None) -> Rows:
    """The rows of a JSON Lines file (gzip or plain) or a Parquet file; of the latter these columns alone, if any are
    given. Raises Refused for a damaged file, and for a Parquet file that lacks one of the columns."""
    return _parquet(path, columns) if path.suffix == ".parquet" else list(_json_lines(path))


def _parquet(path: Path, columns: Sequence[str] | None) -> Table:
    import pyarrow  # datasets would leave an Arrow copy in its cache
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, page_checksum_verification=True) as file:
            there = dict.fromkeys(file.schema_arrow.names)
            problem = lost(there, *columns or ())
            if problem:
                raise Refused(f"{path}, row 1: {problem}")
            made: dict[str, list[Any]] = {name: [] for name in columns or there}
            twice = next((name for name in made if file.schema_arrow.names.count(name) > 1), None)
            if twice is not None:
                raise Refused(f"{path}: it has the column '{twice}' more than once")
            for batch in file.iter_batches(columns=[*made]):  # as one table, all would be in memory twice
                for name, values in made.items():
                    values += _values(path, name, batch[name], len(values))
            return Table(made)
    except FileNotFoundError:
        raise Refused(f"{path}: no such file; {_remedy(path)}") from None
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise Refused(f"{path}: cannot be read ({error.strerror})") from None
        raise Refused(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]}); {_remedy(path)}") from None


def _values(path: Path, name: str, values: Any, before: int) -> list[Any]:
    """An Arrow array as Python has it. before: how many rows of the file come before it."""
    try:
        return list(values.to_pylist())
    except UnicodeDecodeError:
        for row, value in enumerate(values, before + 1):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise Refused(f"{path}, row {row}: '{name}' is not UTF-8 ({error.reason}); {_remedy(path)}") from None
        raise


def _json_lines(path: Path) -> Iterator[Row]:
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise Refused(f"{path}, line {number}: not a JSON object")
                yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Refused(f"{path}: damaged or cut off after line {number} ({error}); {_remedy(path)}") from None
    except UnicodeDecodeError as error:
        raise Refused(f"{path}, after line {number}: not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}, line {number}: not JSON ({error})") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from None


def _remedy(path: Path) -> str:
    """What to do about a damaged file. In the hub's cache it is a link to its content: what is left of the two would be
    taken for the whole."""
    from huggingface_hub import constants

    if not path.absolute().is_relative_to(Path(constants.HF_HUB_CACHE).expanduser().absolute()):
        return "fetch it again"
    content = f" and its content, {path.resolve()}," if path.is_symlink() else ""
    return f"delete it{content} and run again: it is fetched anew"


def limited(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    """So many of the examples, in their order, drawn once: alike for all seeds. None: all."""
    if limit is None or limit >= len(examples):
        return examples
    kept = torch.randperm(len(examples), generator=generator(0, "limit"))[:limit].sort().values
    return [examples[i] for i in kept.tolist()]


def _sha256(rows: Mapping[str, Rows], format: RowFormat) -> str:
    """Over texts and labels, not files, so that the hub's copy and a folder's agree."""
    digest = hashlib.sha256()
    for split, each in rows.items():
        digest.update(f"{split}\n".encode())
        lines = format.lines(each)
        while some := "".join(islice(lines, 1000)):  # a digest of a thousand lines at once is quick, of all in memory
            digest.update(some.encode())
    return digest.hexdigest()
