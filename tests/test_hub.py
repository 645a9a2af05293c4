"""Finding models and data: at once when they are there, within two seconds when they are not, never a pickle."""

import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import jsonl

from engine import hub
from engine.contract import Refused


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had said that we are offline."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes calls and never says a word."""
    server = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def listen() -> None:
        try:
            while True:
                taken.append(server.accept()[0])
        except OSError:
            return

    threading.Thread(target=listen, daemon=True).start()
    yield server.getsockname()[1]
    for call in [*taken, server]:
        call.close()


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(*_: object) -> tuple[bool, str]:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "reachable", probe)


def asked(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str, float]:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    began = time.perf_counter()
    return (*hub.reachable(), time.perf_counter() - began)


def test_a_closed_port_is_out_of_reach_at_once(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    answer, seen, seconds = asked(f"http://127.0.0.1:{port}", monkeypatch)
    assert not answer and seen and seconds < 2.5


def test_a_silent_server_is_out_of_reach_in_two_seconds(online: None, silent: int,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    answer, seen, seconds = asked(f"http://127.0.0.1:{silent}", monkeypatch)
    assert not answer and seen and seconds < 2.5


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "ftp://127.0.0.1", "http://127.0.0.1:99999"])
def test_a_wrong_endpoint_is_out_of_reach_in_words(online: None, endpoint: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    answer, seen, seconds = asked(endpoint, monkeypatch)
    assert not answer and seen and seconds < 2.5


def test_offline_is_believed_without_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection"))
    assert hub.reachable() == (False, "HF_HUB_OFFLINE is set")


def test_a_folder_is_found_without_a_probe(tiny: Path, no_probe: None) -> None:
    assert hub.model_folder("encoder", str(tiny), None, None) == tiny


def test_a_package_is_found_without_a_probe(tiny: Path, tmp_path: Path, no_probe: None,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_model_package"
    shutil.copytree(tiny, package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert hub.model_folder("mine", package.name, None, package.name) == package / "model"
    assert package.name not in sys.modules
    with pytest.raises(Refused, match=r"pip install -e '.\[demo\]'"):
        hub.model_folder("mine", "not_there_at_all", None, "not_there_at_all")


def cached(cache: Path, tiny: Path, names: tuple[str, ...] = ()) -> Path:
    """A snapshot of org/model in a cache of the hub, of these files only (all without names)."""
    place = cache / "models--org--model" / "snapshots" / ("a" * 40)
    place.mkdir(parents=True)
    for path in tiny.iterdir():
        if not names or path.name in names:
            shutil.copy(path, place)
    return place


def test_a_cached_snapshot_is_found_without_a_probe(tiny: Path, no_cache: Path, no_probe: None) -> None:
    place = cached(no_cache, tiny)
    assert hub.model_folder("mine", "org/model", "a" * 40, None) == place


def test_a_cached_data_set_is_found_without_a_probe(no_cache: Path, no_probe: None) -> None:
    place = no_cache / "datasets--org--data" / "snapshots" / ("b" * 40)
    jsonl(place / "rte" / "train.jsonl", [{"label": 0}])
    def lacks(name: str) -> Callable[[Path], str | None]:
        return lambda folder: None if (folder / name).is_file() else name

    assert hub.snapshot("dataset", "org/data", "b" * 40, ["rte/*"], lacks("rte/train.jsonl"), "") == place
    with pytest.raises(AssertionError, match="the hub was asked"):   # cola is not there
        hub.snapshot("dataset", "org/data", "b" * 40, ["cola/*"], lacks("cola/train.jsonl"), "")


def test_a_cache_with_the_tokenizer_alone_sends_for_the_weights(tiny: Path, no_cache: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may have fetched a part of the model; with a network the rest must be fetched, not refused."""
    import huggingface_hub

    place = cached(no_cache, tiny, ("config.json", "tokenizer.json", "tokenizer_config.json"))

    def download(*_: object, local_files_only: bool = False, **__: object) -> str:
        if not local_files_only:
            shutil.copy(tiny / "model.safetensors", place)
        return str(place)

    monkeypatch.setattr(hub, "reachable", lambda *_: (True, ""))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert (hub.model_folder("mine", "org/model", "a" * 40, None) / "model.safetensors").is_file()


def test_what_is_not_cached_is_refused_with_the_ways_out(no_cache: Path) -> None:
    said = "not in the cache.*HF_HUB_OFFLINE is set.*\n.*model.path=DIR.*HF_HOME=DIR.*scale=demo"
    with pytest.raises(Refused, match=said):
        hub.model_folder("mine", "org/model", None, None)


@pytest.mark.parametrize("path", ["a/b/c", "what is this", "../nowhere"])
def test_neither_a_folder_nor_a_hub_id_is_refused(path: str, no_cache: Path, no_probe: None) -> None:
    with pytest.raises(Refused, match="no such folder|neither a folder nor a hub id"):
        hub.model_folder("mine", path, None, None)


@pytest.mark.parametrize(("lost", "says"), [("config.json", "config.json"), ("model.safetensors", "never pickles")])
def test_a_folder_that_lacks_a_file_is_refused(tiny: Path, tmp_path: Path, lost: str, says: str) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / lost).unlink()
    with pytest.raises(Refused, match=f"{lost}.*{says}|{lost}"):
        hub.model_folder("mine", str(tmp_path / "model"), None, None)


def test_a_pickle_is_never_read(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(Refused, match="model.safetensors.*safetensors only, never pickles"):
        hub.model_folder("mine", str(tmp_path / "model"), None, None)
