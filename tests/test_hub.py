"""Finding models and data: at once when they are there; from a hub that is slow, wrong, out of reach or silent, the
files or the reason in two lines within a stated time; never a pickle, never a damaged file."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_server
import psutil
import pytest
from conftest import ROOT, Cli, glue_splits, jsonl, ran, text_rows, write_model
from hub_server import Fault, Hub

from engine import download, hub
from engine.contract import Origin, Refused, Stopped
from engine.stop import Stop
from tasks.data import Source

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def online(tmp_path: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had said that we are offline, with empty caches, and short waits."""
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", *PROXIES, *(name.lower() for name in PROXIES)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(download, "PATIENCE", 1.0)


@pytest.fixture
def served(online: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server.serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def silent(online: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with hub_server.silence() as port:
        yield port


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("the hub was asked"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def find(path: str = "org/model", revision: str | None = None) -> Path:
    return hub.model_folder("mine", path, revision, None)


def refusal(**words: Any) -> str:
    """What a model that cannot be had is refused with: two lines, and nothing left behind."""
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        find(**words)
    said = str(caught.value)
    assert len(said.splitlines()) == 2 and said.endswith("(scale=demo)")
    assert max(map(len, said.splitlines())) < 400
    assert time.monotonic() - began < 60   # far more than any of them takes; the client's own retries take minutes
    assert not [one for one in psutil.Process().children() if "hub_client" in " ".join(one.cmdline())]
    return said


# From the hub into the cache

def test_a_model_is_fetched_once_and_found_offline(served: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"pytorch_model.bin": b"pickle", "onnx/config.json": b"{}", "onnx/model.safetensors": b"x",
              "dict.txt": b"a 1", "README.md": b"#", "consolidated.safetensors": b"x"}
    commit = served.add("model", "org/model", content(tiny) | others)
    place = find()
    assert place.name == commit and content(place) == content(tiny)
    assert served.asked("pytorch|onnx|dict|README|consolidated") == []
    assert hub.revision_of(place, None) == commit
    before = len(served.requests)
    assert find() == place and len(served.requests) == before
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find() == place


def test_a_slow_hub_is_no_dead_hub(served: Hub, tiny: Path) -> None:
    served.add("model", "org/model", content(tiny))
    served.faults = [Fault("", wait=1.2)]
    assert (find() / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_the_time_that_the_client_takes_to_load_is_not_the_hubs(served: Hub, tiny: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    served.add("model", "org/model", content(tiny))
    slow = tmp_path / "slow.py"
    slow.write_text(f"import runpy, time\ntime.sleep(6)\nrunpy.run_path({str(download.CLIENT)!r}, "
                    "run_name='__main__')\n")
    monkeypatch.setattr(download, "CLIENT", slow)
    monkeypatch.setattr(download, "ANSWER", 4.0)
    monkeypatch.setattr(download, "STALL", 5.0)
    assert (find() / "config.json").is_file()


@pytest.mark.parametrize("fault", [Fault("cdn", cut=1000, times=2), Fault("config.json", status=503, body=b"", times=1),
                                   Fault("/tree/", status=502, body=b"", times=1)], ids=["cut", "503", "502"])
def test_what_fails_once_is_tried_again(served: Hub, tiny: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE", 8.0)
    served.add("model", "org/model", content(tiny))
    served.faults = [fault]
    assert content(find()) == content(tiny)


def test_a_model_that_another_program_left_half_is_completed(served: Hub, tiny: Path, no_cache: Path) -> None:
    commit = served.add("model", "org/model", content(tiny))
    place = no_cache / "models--org--model" / "snapshots" / commit
    place.mkdir(parents=True)
    shutil.copy(tiny / "config.json", place)
    assert (find(revision=commit) / "model.safetensors").is_file()


def test_a_branch_is_looked_up_once_and_known_by_its_commit(served: Hub, tiny: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    served.add("model", "org/model", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    commit = served.add("model", "org/model", content(tiny), ["refs/pr/2"])
    place = find(revision="refs/pr/2")
    assert place.name == commit
    monkeypatch.setattr(hub, "_sha256", lambda _: pytest.fail("hashed again"))
    assert hub.revision_of(find(revision="refs/pr/2"), None) == commit


# What goes wrong on the way

FAULTS = {
    "gated": (Fault("/api/", status=403, body=b"", headers={"X-Error-Code": "GatedRepo"}),
              ["gated", "HF_TOKEN=", "ask"]),
    "401": (Fault("/api/", status=401, body=b"", headers={"X-Error-Message": "Invalid username or password."}),
            ["no such repository", "model.path=org/model", "HF_TOKEN"]),
    "403": (Fault("/api/", status=403, body=b"<html>"), ["403", "firewall"]),
    "429": (Fault("/tree/", status=429, body=b"", headers={"Retry-After": "120"}), ["limit of requests", "wait 120 s"]),
    "500": (Fault("/tree/", status=500, body=b""), ["HTTP 500", "again later"]),
    "503 of files": (Fault("/resolve/", status=503, body=b""), ["HTTP 503", "again later"]),
    "503 of the CDN": (Fault("/cdn/", status=503, body=b""), ["HTTP 503", "again later"]),
    "a page": (Fault("/api/", body=b"<html>blocked"), ["not a hub's answer", "firewall", "HF_ENDPOINT"]),
    "a page for files": (Fault("/resolve/", body=b"<html>blocked"), ["not a hub's answer", "firewall"]),
    "cut": (Fault("/cdn/", cut=1000), ["connection to 127.0.0.1 was cut", "again"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_in_words(served: Hub, tiny: Path, name: str) -> None:
    served.add("model", "org/model", content(tiny))
    fault, words = FAULTS[name]
    served.faults = [fault]
    said = refusal()
    assert all(word in said for word in [*words, "model org/model", "model.path=DIR", "HF_HOME=DIR"]), said


def test_what_the_hub_does_not_have_is_named(served: Hub, tiny: Path) -> None:
    served.add("model", "org/model", content(tiny))
    assert "no revision v9" in refusal(revision="v9")
    assert "no revision " + "a" * 40 in refusal(revision="a" * 40)
    assert "no such repository" in refusal(path="org/other")


def test_a_model_without_safetensors_is_refused(served: Hub, tiny: Path) -> None:
    files = content(tiny) | {"pytorch_model.bin": content(tiny)["model.safetensors"]}
    del files["model.safetensors"]
    served.add("model", "org/model", files)
    with pytest.raises(Refused, match="no model.safetensors.*never pickles"):
        find()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(("address", "says"), [
    ("http://127.0.0.1:{closed}", "127.0.0.1 cannot be reached.*refused"),
    ("http://no-such-host.invalid", "no-such-host.invalid cannot be reached"),
    ("nonsense", "HF_ENDPOINT=nonsense is not the address"), ("http://", "not the address"),
    ("ftp://127.0.0.1", "not the address"), ("http://127.0.0.1:99999", "not the address"),
])
def test_a_definite_no_is_answered_before_any_patience(online: None, address: str, says: str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE", 1000.0)
    monkeypatch.setattr(download, "ANSWER", 1000.0)
    monkeypatch.setenv("HF_ENDPOINT", address.format(closed=closed_port()))
    for revision in (None, "a" * 40):   # the client asks another question first, and tries again where it is the second
        with pytest.raises(Refused, match=says):
            find(revision=revision)


@pytest.mark.parametrize("address", ["http://[::1", "http://localhost:99999"])
def test_an_address_that_the_client_cannot_be_imported_with_is_refused(address: str, tmp_path: Path) -> None:
    """In a process of its own, since here the client is imported already."""
    words = ["task=rte", "method=lora", "model=minilm", "init_from=none", f"runtime.out={tmp_path}"]
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], text=True, capture_output=True,
                          env=os.environ | {"HF_ENDPOINT": address})
    assert (done.returncode, done.stderr.count("\n")) == (2, 2)
    assert f"HF_ENDPOINT={address} is not the address" in done.stderr


@pytest.mark.parametrize(("name", "value", "says"), [
    ("ALL_PROXY", "socks5://127.0.0.1:1", ["proxy settings", "socks5://127.0.0.1:1", "pip install socksio"]),
    ("HTTP_PROXY", "foo://127.0.0.1:1", ["proxy settings", "foo://127.0.0.1:1"]),
    ("HTTP_PROXY", "http://me:secret@127.0.0.1:{closed}", ["cannot be reached", "through the proxy http://127.0.0.1:"]),
])
def test_a_wrong_proxy_is_named(online: None, name: str, value: str, says: list[str], capfd: pytest.CaptureFixture[str],
                                monkeypatch: pytest.MonkeyPatch) -> None:
    if "socks" in value:
        monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv(name, value.format(closed=closed_port()))
    said = refusal()
    assert all(word in said for word in says) and "secret" not in said
    assert capfd.readouterr().err == ""


def test_a_proxy_that_refuses_is_named(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = served.url
    served.faults = [Fault("", status=407, body=b"")]
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert f"the proxy refuses (HTTP 407), through the proxy {proxy}" in refusal()


@pytest.mark.parametrize("revision", [2024, 1e10])
def test_a_revision_that_is_a_number_is_refused(revision: Any, no_download: None) -> None:
    with pytest.raises(Refused, match=r"model.revision=.* in quotes: model.revision=\"'"):
        find(revision=revision)


def test_a_full_disk_is_named(served: Hub, tiny: Path, no_cache: Path) -> None:
    served.add("model", "org/model", content(tiny))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))   # the client's process has it too: EFBIG
    try:
        said = refusal()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"no space left in {no_cache}" in said and "HF_HOME=DIR on another disk" in said
    assert not list(no_cache.rglob("*.incomplete"))


def test_a_cache_that_cannot_be_written_is_named(served: Hub, tiny: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    served.add("model", "org/model", content(tiny))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert f"the cache {tmp_path / 'file' / 'hub'} cannot be written" in refusal()


def test_a_hub_that_never_answers_is_given_up(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ANSWER", 2.0)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent}")
    assert f"no answer from http://127.0.0.1:{silent} within 2 s" in refusal()


def test_a_download_that_stands_still_is_ended_and_leaves_nothing(served: Hub, tiny: Path, no_cache: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ANSWER", 60.0)
    monkeypatch.setattr(download, "STALL", 3.0)
    served.add("model", "org/model", content(tiny))
    served.faults = [Fault("GET /cdn/", wait=100)]
    assert "no byte came from the hub for 3 s" in refusal()
    assert not list(no_cache.rglob("*.incomplete"))


def test_a_slow_line_is_no_stall(served: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client writes pieces of ten megabytes: on the disk nothing is seen for longer than this waits."""
    monkeypatch.setattr(download, "STALL", 4.0)
    served.add("model", "org/model", content(tiny))
    served.faults = [Fault("GET /cdn/", rate=len(content(tiny)["model.safetensors"]) // 8)]
    assert content(find()) == content(tiny)


@pytest.mark.parametrize("way", ["silent", "forbidden"])
def test_what_xet_does_is_told_with_the_way_around_it(served: Hub, tiny: Path, no_cache: Path, silent: int, way: str,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors are RuntimeErrors; a storage server behind a firewall keeps it hanging for minutes."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(download, "STALL", 4.0)
    served.add("model", "org/model", content(tiny))
    served.xet = f"http://127.0.0.1:{silent}" if way == "silent" else served.url
    served.faults = [Fault("/v[12]/reconstructions", status=403, body=b"")]
    said = refusal()
    assert "HF_HUB_DISABLE_XET=1" in said and ("no byte" if way == "silent" else "Xet failed") in said
    assert not list(no_cache.rglob("*.incomplete"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    assert content(find()) == content(tiny)


def test_a_client_that_dies_is_told(served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = tmp_path / "dead.py"
    dead.write_text("import sys\nsys.exit('what it said last')\n")
    monkeypatch.setattr(download, "CLIENT", dead)
    assert "ended without a word (exit status 1; what it said last)" in refusal()


def test_without_a_hub_what_the_cache_has_is_enough(served: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not needed is missing from the cache, and the hub is gone."""
    served.add("model", "org/model", content(tiny) | {"generation_config.json": b"{}"})
    place = find()
    (place / "generation_config.json").unlink()
    served.faults = [Fault("", status=503, body=b"")]
    assert find() == place
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find() == place


# What is damaged

def spoil(file: Path) -> None:
    """Flips a bit."""
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])


def test_what_comes_damaged_is_fetched_once_more(served: Hub, tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    served.add("model", "org/model", content(tiny))
    served.faults = [Fault("GET /cdn/", flip=True, times=1)]
    assert content(find()) == content(tiny)
    assert "model.safetensors is damaged, and is fetched again" in capfd.readouterr().err


def test_two_files_that_come_damaged_are_both_fetched_once_more(served: Hub, tiny: Path) -> None:
    files = content(tiny) | {"tokenizer.model": b"some words"}
    served.add("model", "org/model", files)
    served.faults = [Fault("GET /cdn/", flip=True, times=2)]
    assert content(find()) == files and len(served.asked("GET /cdn/")) == 4


def test_what_always_comes_damaged_is_refused_and_not_kept(served: Hub, tiny: Path, no_cache: Path) -> None:
    served.add("model", "org/model", content(tiny))
    served.faults = [Fault("GET /cdn/", flip=True)]
    assert "model.safetensors comes damaged" in refusal()
    assert len(served.asked("GET /cdn/")) == 2
    assert not any(path.read_bytes()[1:] == content(tiny)["model.safetensors"][1:]
                   for path in no_cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])   # by sha256, by git's sha1
def test_a_file_that_changes_in_the_cache_is_not_used(served: Hub, tiny: Path, name: str,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    served.add("model", "org/model", content(tiny))
    file = find() / name
    spoil(file)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refusal()
    assert f"{file} is damaged" in said and "unset HF_HUB_OFFLINE once, and what is damaged is fetched again" in said
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert content(find()) == content(tiny)


def test_each_file_is_compared_once(served: Hub, tiny: Path, no_cache: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    served.add("model", "org/model", content(tiny))
    find()
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_checksum", lambda *_: pytest.fail("hashed again"))
        find()
    copied = shutil.copytree(no_cache, no_cache / "copy", symlinks=True)   # what was copied is compared anew
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(copied))
    seen: list[Path] = []
    real = hub._checksum
    monkeypatch.setattr(hub, "_checksum", lambda path, like: seen.append(path) or real(path, like))
    find()
    find()
    assert [path.name for path in seen] == sorted(content(tiny))


def test_a_cache_copied_without_links_is_compared_too(served: Hub, tiny: Path, no_cache: Path, offline: None,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    commit = served.add("model", "org/model", content(tiny))
    place = find()
    for path in list(place.iterdir()):
        real = path.read_bytes()
        path.unlink()
        path.write_bytes(real)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.revision_of(find(), None) == commit
    spoil(place / "model.safetensors")
    assert "model.safetensors is damaged" in refusal()


def test_the_sha256_of_a_model_is_checked_for_the_hub_too(served: Hub, tiny: Path, small: list[str], cli: Cli) -> None:
    served.add("model", "org/model", content(tiny))
    words = [word for word in small if not word.startswith("model.path")]
    status, _, err = cli(*words, "model.path=org/model", f"model.sha256={'0' * 64}", "task=rte", "method=lora")
    assert status == 2 and "is not the file" in err and "model.sha256=null" in err
    sha256 = hub._sha256([tiny / "model.safetensors"])
    ran(cli, *words, "model.path=org/model", f"model.sha256={sha256}", "task=rte", "method=lora")


# Data

def parquet(rows: list[dict[str, Any]]) -> bytes:
    import io

    import pyarrow
    from pyarrow import parquet as library

    sink = io.BytesIO()
    library.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def glue(task: str) -> dict[str, bytes]:
    """GLUE as it is on the hub: the splits of a task, of another one, and a test split without labels."""
    splits = glue_splits(task) | {"test": glue_splits(task)["train"]}
    files = {f"{task}/{name}-00000-of-00001.parquet": parquet(rows) for name, rows in splits.items()}
    return files | {"wnli/train-00000-of-00001.parquet": b"other", "README.md": b"#"}


def test_of_a_data_set_only_the_splits_that_are_read_are_fetched(served: Hub) -> None:
    commit = served.add("dataset", "nyu-mll/glue", glue("rte"))
    source = Source("nyu-mll/glue", "rte", commit)
    files, at = source.files(Origin("hub", None, 0, 0), ["train", "validation"], "")
    assert at == commit and sorted(files) == ["train", "validation"]
    assert served.asked("test-|wnli|README") == []


@pytest.mark.parametrize(("name", "place", "config", "renamed"), [
    ("samsum", "knkarthick/samsum", "default", {}), ("e2e", "tuetschek/e2e_nlg", "default", {}),
    ("webnlg", "webnlg-challenge/web_nlg", "webnlg_challenge_2017", {"validation": "dev"}),
])
def test_converted_sets_are_read_as_their_tasks_name_them(
        served: Hub, name: str, place: str, config: str, renamed: dict[str, str], small_texts: list[str], cli: Cli,
        tmp_path: Path, no_java: None) -> None:
    """From the branch that the hub makes by itself: CONFIG/SPLIT/0000.parquet."""
    rows = {"train": text_rows(name, 16), "validation": text_rows(name, 4, 100), "test": text_rows(name, 7, 200)}
    commit = served.add("dataset", place, {
        f"{config}/{renamed.get(split, split)}/0000.parquet": parquet(each) for split, each in rows.items()
    } | {f"{config}/partial-train/0000.parquet": b"other"}, ["refs/convert/parquet"])
    words = [word for word in small_texts if not word.startswith("data_root")]
    ran(cli, f"task={name}", "method=lora", "recipe=text/lora", *words)
    record = json.loads(next((tmp_path / "out").glob(f"runs/*/{name}/*.json")).read_text())
    assert record["data_revision"] == commit and served.asked("partial") == []


def test_a_data_set_with_some_of_its_files_is_completed(served: Hub, no_cache: Path) -> None:
    two = {f"rte/train-0000{i}-of-00002.parquet": parquet(glue_splits("rte")["train"]) for i in range(2)}
    commit = served.add("dataset", "nyu-mll/glue", two | {"rte/validation-00000-of-00001.parquet": two.popitem()[1]}
                        | {"rte/train-00001-of-00002.parquet": b"x"})
    source = Source("nyu-mll/glue", "rte", commit)
    place = no_cache / "datasets--nyu-mll--glue" / "snapshots" / commit / "rte"
    place.mkdir(parents=True)
    (place / "train-00000-of-00002.parquet").write_bytes(b"x")
    files, _ = source.files(Origin("hub", None, 0, 0), ["train", "validation"], "")
    assert len(files["train"]) == 2


def test_a_data_set_with_some_of_its_files_is_not_enough_without_the_hub(served: Hub,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of converted sets do not say how many they are: half of them must not look like all."""
    rows = parquet(text_rows("samsum", 4))
    commit = served.add("dataset", "org/data", {
        f"default/{name}.parquet": rows for name in ("train/0000", "train/0001", "validation/0000")})
    source = Source("org/data", None, commit)
    splits = ["train", "validation"]
    files, _ = source.files(Origin("hub", None, 0, 0), splits, "")
    assert len(files["train"]) == 2
    files["train"][1].unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Refused, match="lacks a part of its files"):
        source.files(Origin("hub", None, 0, 0), splits, "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    served.faults = [Fault("", status=503, body=b"")]
    with pytest.raises(Refused, match="HTTP 503"):
        source.files(Origin("hub", None, 0, 0), splits, "")


# The command line

WORDS = ["task=rte", "method=lora", "model=encoder", "recipe=encoder/lora", "init_from=none", "epochs=1", "batch=8",
         "length=64", "precision=fp32", "model.path=org/model"]


def test_a_run_from_the_hub(served: Hub, tiny: Path, tmp_path: Path, cli: Cli) -> None:
    commit = served.add("model", "org/model", content(tiny))
    data = served.add("dataset", "nyu-mll/glue", glue("rte"))
    ran(cli, *WORDS, f"task.source.revision={data}", f"runtime.out={tmp_path / 'out'}")
    record = json.loads(next((tmp_path / "out").glob("runs/*/rte/*.json")).read_text())
    assert (record["model_revision"], record["data_revision"], record["data"]) == (commit, data, "hub")


def test_xxl_comes_from_the_branch_that_has_safetensors(served: Hub, tmp_path: Path, cli: Cli) -> None:
    """A tiny one in its place: main has a pickle alone; the weights are fp16."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = write_model(tmp_path / "deberta", "deberta")
    halves = {name: tensor.to(torch.float16) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    served.add("model", "microsoft/deberta-v2-xxlarge", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    commit = served.add("model", "microsoft/deberta-v2-xxlarge", content(folder) | {"pytorch_model.bin": b"pickle"},
                        ["refs/pr/2"])
    data = served.add("dataset", "nyu-mll/glue", glue("rte"))
    said = json.loads((folder / "config.json").read_text())
    sizes = [f"model.config.{name}={said[name]}" for name in (
        "num_hidden_layers", "hidden_size", "num_attention_heads", "attention_head_size", "intermediate_size",
        "vocab_size", "max_position_embeddings", "position_buckets", "layer_norm_eps")]
    ran(cli, "task=rte", "model=deberta-v2-xxlarge", "method=lora", "init_from=none", "epochs=1", "length=64",
        "precision=fp32", f"task.source.revision={data}", f"runtime.out={tmp_path / 'out'}", *sizes)
    record = json.loads(next((tmp_path / "out").glob("runs/*/rte/*.json")).read_text())
    assert record["model_revision"] == commit and served.asked("pytorch_model") == []


@pytest.mark.parametrize(("fault", "words", "says"), [
    (Fault("/tree/", status=503, body=b""), [], "HTTP 503"), (Fault("/cdn/", cut=100), [], "was cut"),
    (Fault("/api/", body=b"<html>"), [], "firewall"), (None, ["model.revision=2024"], "model.revision=2024"),
])
def test_a_fault_ends_a_run_with_status_2(served: Hub, tiny: Path, tmp_path: Path, cli: Cli, fault: Fault | None,
                                          words: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "QUIET", 1000.0)   # progress has lines of its own
    served.add("model", "org/model", content(tiny))
    served.faults = [fault] if fault else []
    status, out, err = cli(*WORDS, *words, f"runtime.out={tmp_path / 'out'}")
    assert (status, out) == (2, "") and says in err and len(err.splitlines()) <= 2 and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def slow_run(served: Hub, tiny: Path, tmp_path: Path, no_cache: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts run.py with a download that takes minutes, and waits until it is under way."""
    served.add("model", "org/model", content(tiny))
    served.faults = [Fault("GET /cdn/", rate=1000)]
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        started.append(subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *WORDS, f"runtime.out={tmp_path / 'out'}"], text=True,
            env=os.environ | {"HF_HUB_CACHE": str(no_cache)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=tmp_path, start_new_session=True))
        for _ in range(600):
            if list(no_cache.rglob("*.incomplete")) and served.asked("GET /cdn/"):
                break
            time.sleep(0.1)
        return started[0]

    yield start
    for each in started:
        each.kill()
        each.wait()


def test_ctrl_c_ends_a_download_at_once(slow_run: Callable[[], subprocess.Popen[str]], no_cache: Path) -> None:
    run = slow_run()
    os.killpg(run.pid, signal.SIGINT)   # as a terminal does
    began = time.monotonic()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in err and "interrupted" in err.splitlines()[-1]
    assert time.monotonic() - began < 10
    assert not list(no_cache.rglob("*.incomplete"))


def test_nothing_is_left_of_a_run_that_is_killed(slow_run: Callable[[], subprocess.Popen[str]], no_cache: Path) -> None:
    run = slow_run()
    client = [one for one in psutil.Process(run.pid).children() if "hub_client" in " ".join(one.cmdline())][0]
    run.kill()
    client.wait(timeout=30)
    assert not list(no_cache.rglob("*.incomplete"))


def test_a_signal_that_somebody_catches_ends_a_download(served: Hub, tiny: Path) -> None:
    """In a sweep, signals are caught in order to save: there is nothing to save yet."""
    served.add("model", "org/model", content(tiny))
    served.faults = [Fault("GET /cdn/", rate=1000)]

    def interrupt() -> None:
        for _ in range(600):
            if served.asked("GET /cdn/"):
                break
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Stopped, match="the download was ended"), Stop():
        find()


def test_progress_in_a_log_is_lines_with_bytes(served: Hub, tiny: Path, capfd: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "QUIET", 0.5)
    monkeypatch.setattr(download, "EVERY", 0.5)
    served.add("model", "org/model", content(tiny))
    served.faults = [Fault("GET /cdn/", rate=len(content(tiny)["model.safetensors"]) // 3)]
    find()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) > 2 and all("kB" in line and "\r" not in line for line in lines)
    assert " of " in lines[1] and "fetched in" in lines[-1]


def test_a_closed_stderr_is_no_reason_to_fail(served: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has None for it: 2>&- in a shell, and some daemons."""
    served.add("model", "org/model", content(tiny))
    monkeypatch.setattr(sys, "stderr", None)
    assert (find() / "model.safetensors").is_file()


# Not on the hub

def test_a_folder_is_found_without_the_hub(tiny: Path, no_download: None) -> None:
    assert hub.model_folder("encoder", str(tiny), None, None) == tiny


def test_a_package_is_found_without_the_hub(tiny: Path, tmp_path: Path, no_download: None,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_model_package"
    shutil.copytree(tiny, package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert hub.model_folder("mine", package.name, None, package.name) == package / "model"
    assert package.name not in sys.modules
    with pytest.raises(Refused, match=r"pip install -e '.\[demo\]'"):
        hub.model_folder("mine", "not_there_at_all", None, "not_there_at_all")


def cached(cache: Path, tiny: Path) -> Path:
    """A snapshot of org/model in a cache of the hub, as an older client left it: no links, no list of its files."""
    place = cache / "models--org--model" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny, place)
    return place


def test_a_cached_snapshot_is_found_without_the_hub(tiny: Path, no_cache: Path, no_download: None) -> None:
    place = cached(no_cache, tiny)
    assert find(revision="a" * 40) == place


def test_a_folder_is_no_commit_because_of_its_name(tiny: Path, no_cache: Path) -> None:
    """Nothing says that its files are the commit's, so they are what it is known by."""
    assert hub.revision_of(cached(no_cache, tiny), None) == hub.revision_of(tiny, None)


def test_a_cached_data_set_is_found_without_the_hub(no_cache: Path, offline: None, no_download: None) -> None:
    place = no_cache / "datasets--org--data" / "snapshots" / ("b" * 40)
    jsonl(place / "rte" / "train.jsonl", [{"label": 0}])

    def lacks(name: str) -> Callable[[Path], str | None]:
        return lambda folder: None if (folder / name).is_file() else name

    assert hub.snapshot("dataset", "org/data", "b" * 40, ["rte/*"], lacks("rte/train.jsonl"), "") == place
    with pytest.raises(Refused, match="the cached copy has no cola/train.jsonl, and the hub cannot be reached"):
        hub.snapshot("dataset", "org/data", "b" * 40, ["cola/*"], lacks("cola/train.jsonl"), "")


def test_offline_is_believed_without_a_process(no_cache: Path, offline: None, no_download: None) -> None:
    said = "not in the cache.*HF_HUB_OFFLINE is set.*\n.*model.path=DIR.*HF_HOME=DIR.*scale=demo"
    with pytest.raises(Refused, match=said):
        find()


@pytest.mark.parametrize("path", ["a/b/c", "what is this", "../nowhere"])
def test_neither_a_folder_nor_a_hub_id_is_refused(path: str, no_cache: Path, no_download: None) -> None:
    with pytest.raises(Refused, match="no such folder|neither a folder nor a hub id"):
        find(path)


@pytest.mark.parametrize(("lost", "says"), [
    ("config.json", "no config.json$"), ("model.safetensors", "no model.safetensors .*never pickles"),
    ("tokenizer.json", "no tokenizer.json$")])
def test_a_folder_that_lacks_a_file_is_refused(tiny: Path, tmp_path: Path, lost: str, says: str) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / lost).unlink()
    with pytest.raises(Refused, match=says):
        find(str(tmp_path / "model"))


def test_a_folder_that_lacks_a_shard_is_refused(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(Refused, match="no model-00002-of-00002.safetensors"):
        find(str(tmp_path / "model"))


def test_a_tokenizer_that_needs_a_library_names_it(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeBERTa-v2's, on the hub: transformers would ask for tiktoken, which does not help."""
    shutil.copytree(tiny, tmp_path / "model")
    for path in (tmp_path / "model").glob("tokenizer*"):
        path.unlink()
    (tmp_path / "model" / "spm.model").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refused, match="pip install sentencepiece"):
        find(str(tmp_path / "model"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert find(str(tmp_path / "model")) == tmp_path / "model"


def test_a_pickle_is_never_read(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(Refused, match="model.safetensors.*safetensors only, never pickles"):
        find(str(tmp_path / "model"))
