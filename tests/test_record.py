"""Records: whole or absent, readable or named as broken, and called by what was run rather than where."""

import copy
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from engine import record
from engine.contract import Refused
from engine.record import Record
from engine.resolve import identity


def some(**changes: Any) -> Record:
    """A record as a run would leave it."""
    made = Record(
        schema=record.SCHEMA, digest="0123456789", task="rte", model="tiny", method="lora", label="LoRA",
        variant="r=8 alpha=8 targets=q,v", scale="demo", data="synthetic", seed=0, metric="accuracy", value=61.5,
        numbers={"accuracy": 61.5}, footprint={"trainable": 10, "head": 2, "total": 100},
        outcome={"best_epoch": 1, "curve": [{"epoch": 1, "loss": 0.5}]}, settings={"lr": 1e-3, "targets": ["q", "v"]},
        sources={"lr": "Table 9"}, init_from=None, commit=None, dirty=None, versions={"torch": "2"},
        model_revision="sha256:1", data_revision=None, data_sha256="2" * 64, device="CPU, 1 threads",
        started="2021-06-17T00:00:00+00:00", weights=None)
    return replace(made, **changes)


def at(out: Path, name: str = "a") -> Path:
    return out / "runs" / "demo" / "rte" / f"{name}.json"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    record.write(some(), at(tmp_path))
    assert record.read(at(tmp_path)) == some()
    assert [path.name for path in at(tmp_path).parent.iterdir()] == ["a.json"]


def test_an_undefined_number_is_null(tmp_path: Path) -> None:
    undefined = some(value=math.nan, numbers={"pearson": math.nan}, outcome={"curve": [{"x": math.inf}]})
    record.write(undefined, at(tmp_path))
    assert "NaN" not in at(tmp_path).read_text() and "Infinity" not in at(tmp_path).read_text()
    back = record.read(at(tmp_path))
    assert back.value is None and back.numbers == {"pearson": None} and back.outcome == {"curve": [{"x": None}]}


BROKEN = {
    "half": lambda text: text[:len(text) // 2], "empty": lambda text: "", "foreign": lambda text: '{"hello": 1}',
    "list": lambda text: "[]", "number": lambda text: "3", "binary": lambda text: "\x00\x01",
    "older": lambda text: text.replace('"schema": 1', '"schema": 0'),
    "newer": lambda text: text.replace('"schema": 1', '"schema": 99'),
    "lacking": lambda text: text.replace('"seed"', '"sed"'),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_refused_alone_and_named_among_others(tmp_path: Path, kind: str) -> None:
    for name in ("a", "c"):
        record.write(some(), at(tmp_path, name))
    at(tmp_path, "b").write_text(BROKEN[kind](at(tmp_path).read_text()))
    with pytest.raises(Refused, match="b.json"):
        record.read(at(tmp_path, "b"))
    good, bad = record.read_all(tmp_path)
    assert good == [some(), some()] and len(bad) == 1 and "b.json" in bad[0]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    at(tmp_path).parent.mkdir(parents=True)
    at(tmp_path).write_bytes(b"\xff\xfe{}")
    with pytest.raises(Refused, match="not a whole record"):
        record.read(at(tmp_path))


def test_without_any_run_there_are_no_records(tmp_path: Path) -> None:
    assert record.read_all(tmp_path) == ([], [])


def test_the_note_beside_the_weights_is_no_record(tmp_path: Path) -> None:
    record.write(some(), at(tmp_path))
    at(tmp_path, "a/adapter").parent.mkdir()
    at(tmp_path, "a/adapter").write_text("{}")
    assert record.read_all(tmp_path) == ([some()], [])


@pytest.mark.parametrize("broken", ["os.replace", "pathlib.Path.write_text", "os.fsync"])
def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, full)
    with pytest.raises(OSError, match="No space left"):
        record.write(some(), at(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write(some(), at(tmp_path))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        record.write(some(value=1.0), at(tmp_path))
    assert record.read(at(tmp_path)) == some() and len(list(at(tmp_path).parent.iterdir())) == 1


def test_a_number_that_json_lacks_is_never_written_as_text(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        record.write(some(numbers={"accuracy": object()}), at(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_record_lies_where_its_name_says() -> None:
    path = record.path_of(Path("out"), "paper", "mnli", "roberta-base", "lora", 3, "0123456789")
    assert path == Path("out/runs/paper/mnli/roberta-base-lora-s3-0123456789.json")


def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(words)), resolve=True)   # type: ignore[return-value]


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in nested settings."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if not pairs:
        yield path
    for key, value in pairs:
        yield from leaves(value, (*path, key))


def changed(settings: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """A copy with another value in one place."""
    other = copy.deepcopy(settings)
    node: Any = other
    for key in path[:-1]:
        node = node[key]
    old = node[path[-1]]
    node[path[-1]] = old + 1 if isinstance(old, (int, float)) and not isinstance(old, bool) else f"{old} changed"
    return other


def named(settings: dict[str, Any], data: str = "d", revision: str | None = "m", start: str | None = None) -> str:
    return record.digest(identity(settings), data, revision, start)


@pytest.mark.parametrize("words", [("task=mnli",), ("task=stsb", "method=ft"), ("scale=demo",)], ids=" ".join)
def test_the_name_of_a_run_follows_every_setting_but_where_and_how(words: tuple[str, ...]) -> None:
    settings = composed(*words)
    first = named(settings)
    assert len(first) == 10 and set(first) <= set("0123456789abcdef")
    for path in leaves(settings):
        elsewhere = path[0] in ("runtime", "data_root") or any(str(key).startswith("_") for key in path)
        assert (named(changed(settings, path)) == first) == elsewhere, path
    places = {path[0] for path in leaves(settings)}
    assert {"task", "model", "method", "lr", "seed", "runtime", "data_root", "init_from"} <= places


def test_the_name_of_a_run_follows_data_weights_and_start() -> None:
    settings = composed("task=mnli")
    names = [named(settings), named(settings, data="e"), named(settings, revision="n"), named(settings, revision=None),
             named(settings, start="x")]
    assert len(set(names)) == len(names)


def test_a_folder_of_weights_has_no_part_in_the_name(tmp_path: Path) -> None:
    settings = composed("scale=demo")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = ({**settings, "model": settings["model"] | {"path": str(tmp_path / name)}} for name in ("one", "two"))
    assert named(one) == named(two) != named(settings)


def test_settings_are_left_as_they_were() -> None:
    settings = composed("task=mnli")
    before = copy.deepcopy(settings)
    identity(settings)
    assert settings == before and json.dumps(settings)


@pytest.mark.parametrize(("field", "held"), [
    ("digest", None), ("seed", "0"), ("seed", True), ("task", ["rte"]), ("value", "86.6"), ("weights", 7),
    ("started", 7), ("settings", None), ("sources", None), ("numbers", {"accuracy": "86.6"}), ("outcome", {}),
    ("footprint", {}),
    ("dirty", "no"), ("versions", [])])
def test_a_field_of_another_kind_is_named(field: str, held: object, tmp_path: Path) -> None:
    """One odd record must not cost the tables of all others."""
    good = next((ROOT / "results" / "runs").rglob("*.json"))
    content = json.loads(good.read_text(encoding="utf-8"))
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content | {field: held}))
    with pytest.raises(Refused, match=rf"odd.json: not a whole record.*{field}"):
        record.read(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"schema": 1, "value": NaN}', '{"schema": 1}'])
def test_what_is_no_record_is_refused_in_words(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(Refused, match="odd.json: not a whole record"):
        record.read(path)
