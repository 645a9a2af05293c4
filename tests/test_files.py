"""Adapter files of every form hold the same numbers for whoever reads them, and what is no adapter is refused."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import loralib
import peft
import pytest
import tiny
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from engine import weights
from engine.backbone import Backbone
from engine.contract import Method, Refused, generator
from lora import pair
from lora.files import Adapter, Update, load, read, write, write_peft
from lora.method import layers

KINDS = tiny.KINDS
SETTINGS: dict[str, dict[str, Any]] = {
    "q,v": {}, "q,k,v,o": {"targets": ["q", "k", "v", "o"], "alpha": 3}, "ff": {"targets": ["ff"], "r": 3},
    "8 and 4": {"r": {"q": 8, "v": 4}}, "3, 4 and 5": {"r": {"q": 3, "v": 4, "o": 5}, "targets": ["q", "v", "o"]},
    "k": {"targets": ["k"]},
}
SETTING = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
KIND = pytest.mark.parametrize("kind", KINDS)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return tiny.logits(model.eval(), tiny.Rows(9).batch(range(9)))


def run(folder: Path, kind: str = "roberta", method: Method | None = None, **changes: Any) -> Backbone:
    """A model as a run leaves it, with what a run keeps of it in the folder; B and the head are random."""
    method = method or tiny.lora(**changes)
    made = tiny.adapted(method, kind)
    tiny.randomise(made.model)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if name.startswith(made.head):
                parameter.add_(torch.randn(parameter.shape, generator=generator(7, name)) * 0.3)
    about = {"task": "rte", "model": "roberta-base", "model_revision": None, "output": made.output,
             "method": asdict(method)}
    weights.save(weights.trained(made.model), folder / "best.safetensors", about)
    return made


def loaded(adapter: Adapter, kind: str = "roberta", **changes: Any) -> torch.Tensor:
    """The logits of a fresh model with the adapter in it."""
    made = tiny.backbone(kind, **changes)
    keys = load(made, adapter)
    assert not keys.missing and not keys.unexpected and keys.matched
    return logits(made.model)


def same(one: Adapter, other: Adapter) -> None:
    """Bit for bit, but for where they come from."""
    assert len(one.updates) == len(other.updates)
    for a, b in zip(one.updates, other.updates, strict=True):
        assert (a.module, a.layer, a.target, a.scale, a.start, a.stop) == (
            b.module, b.layer, b.target, b.scale, b.start, b.stop)
        assert a.A.dtype == b.A.dtype and torch.equal(a.A, b.A) and a.B.dtype == b.B.dtype and torch.equal(a.B, b.B)
    assert one.rest.keys() == other.rest.keys()
    assert all(torch.equal(tensor, other.rest[name]) for name, tensor in one.rest.items())


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edits a JSON file or the tensors of a safetensors file."""
    if path.suffix == ".json":
        said = json.loads(path.read_text())
        edit(said)
        path.write_text(json.dumps(said))
    else:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        edit(tensors)
        save_file(tensors, path, metadata)


# --- ours -----------------------------------------------------------------------------------------------------------


def test_a_runs_file_says_layers_from_one_targets_slices_and_scale(tmp_path: Path) -> None:
    made = run(tmp_path / "here", "gpt2", r={"v": 4, "q": 2, "ff": 1}, targets=["v", "q", "ff"], alpha=6)
    found = read(tmp_path / "here")
    assert (found.name, found.form, found.about["task"]) == ("here", "ours", "rte")
    first = [(u.layer, u.target, u.start, u.stop, u.scale, tuple(u.A.shape), tuple(u.B.shape)) for u in found.updates]
    assert first[:4] == [(1, "q", 0, 16, 3.0, (2, 16), (16, 2)), (1, "v", 32, 48, 1.5, (4, 16), (16, 4)),
                         (1, "ff", 0, 64, 6.0, (1, 16), (64, 1)), (1, "ff", 0, 16, 6.0, (1, 64), (16, 1))]
    assert [u.layer for u in found.updates] == [1] * 4 + [2] * 4 and list(found.rest) == ["score.weight"]
    own = {name: module for name, module in made.model.named_modules() if name == found.updates[0].module}
    assert torch.equal(own[found.updates[0].module].A["q"], found.updates[0].A)


@KIND
@SETTING
def test_a_run_comes_back_from_its_file(kind: str, setting: dict[str, Any], tmp_path: Path) -> None:
    made = run(tmp_path, kind, **setting)
    other = tiny.backbone(kind, dropout=0.0)
    keys = load(other, read(tmp_path / "best.safetensors"))
    assert torch.equal(logits(made.model), logits(other.model))
    assert sorted(keys.matched) == sorted(load_file(tmp_path / "best.safetensors"))
    assert [layer.scale for layer in layers(made.model)] == [layer.scale for layer in layers(other.model)]


def test_what_is_written_as_ours_is_what_a_run_writes(tmp_path: Path) -> None:
    made = run(tmp_path / "run", "gpt2")
    path = write(read(tmp_path / "run"), tmp_path / "copy")
    assert sorted(each.name for each in path.parent.iterdir()) == ["adapter.json", "best.safetensors"]
    same(read(tmp_path / "run"), read(path))
    assert json.loads((tmp_path / "copy/adapter.json").read_text()) == read(tmp_path / "run").about
    fresh = tiny.adapted(tiny.lora(), "gpt2", seed=3)
    weights.load(fresh, path, keep_output=False)  # a run can start from it
    assert torch.equal(logits(made.model), logits(fresh.model))


def test_a_folder_may_hold_the_last_epoch_alone(tmp_path: Path) -> None:
    run(tmp_path)
    best = read(tmp_path)
    (tmp_path / "best.safetensors").rename(tmp_path / "last.safetensors")
    same(best, read(tmp_path))
    same(best, read(tmp_path / "last.safetensors"))


def test_a_prefix_beside_lora_is_kept_in_the_rest(tmp_path: Path) -> None:
    for name in ("lora-pe", "lora-pl"):
        made = run(tmp_path / name, method=tiny.methods()[name])
        found = read(tmp_path / name)
        trained = weights.trained(made.model)
        assert any("special" in key for key in found.rest) and {u.scale for u in found.updates} == {2.0}
        assert len(found.rest) + 2 * len(found.updates) == len(trained)
        with pytest.raises(Refused, match="no place for .*special"):
            write_peft(found, tmp_path / "peft")
        with pytest.raises(Refused, match="unexpected .*special"):
            load(tiny.backbone(), found)


@pytest.mark.parametrize("name", ["ft", "bitfit", "adapter-h", "prelayer"])
def test_a_file_without_lora_is_refused_by_name(name: str, tmp_path: Path) -> None:
    method = tiny.methods()[name]
    run(tmp_path, method=method)
    with pytest.raises(Refused, match=f"no LoRA update.*{method.label}"):
        read(tmp_path)
    (tmp_path / "adapter.json").unlink()
    with pytest.raises(Refused, match="no LoRA update.*tensors such as"):
        read(tmp_path)


# --- PEFT -----------------------------------------------------------------------------------------------------------


@KIND
@SETTING
def test_ours_to_peft_and_back_is_the_same(kind: str, setting: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "run", kind, **setting)
    begin = read(tmp_path / "run")
    there = read(write_peft(begin, tmp_path / "peft"))
    assert there.form == "peft"
    same(begin, there)
    again = read(write(there, tmp_path / "again"))
    assert again.form == "ours"
    same(begin, again)
    said = again.about["method"]
    assert said["alpha"] == setting.get("alpha", 8) and said["r"] == setting.get("r", 4)
    assert torch.equal(loaded(begin, kind), loaded(again, kind))


@KIND
@SETTING
def test_pefts_own_loader_gets_the_same_logits_from_our_file(kind: str, setting: dict[str, Any],
                                                             tmp_path: Path) -> None:
    made = run(tmp_path / "run", kind, **setting)
    write_peft(read(tmp_path / "run"), tmp_path / "peft")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of keys that it misses
        theirs = peft.PeftModel.from_pretrained(tiny.backbone(kind).model, str(tmp_path / "peft"))
    assert (logits(made.model) - logits(theirs)).abs().max() < 1e-6
    assert (logits(made.model) - logits(tiny.backbone(kind).model)).abs().max() > 1e-2


@pytest.mark.parametrize("setting", [SETTINGS["q,v"], SETTINGS["8 and 4"], SETTINGS["3, 4 and 5"]], ids=str)
def test_a_fused_projection_is_written_in_blocks(setting: dict[str, Any], tmp_path: Path) -> None:
    """The product is each slice's own, k's rows are exactly zero, and another scale is in B to float64's precision."""
    made = run(tmp_path / "run", "gpt2", **setting)
    write_peft(read(tmp_path / "run"), tmp_path / "peft")
    tensors = load_file(tmp_path / "peft/adapter_model.safetensors")
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    for name, module in made.model.named_modules():
        if name.endswith("c_attn"):
            A, B = (tensors[f"base_model.model.{name}.lora_{factor}.weight"].double() for factor in "AB")
            r = config["rank_pattern"].get(name, config["r"])
            alpha = config["alpha_pattern"].get(name, config["lora_alpha"])
            assert len(A) == r == sum(each.r for each in module.slices) and not B[16:32].any()
            for each in module.slices:
                own = module.scale[each.name] * module.B[each.name].double() @ module.A[each.name].double()
                assert torch.allclose((alpha / r * B @ A)[each.start:each.stop], own, rtol=1e-12, atol=1e-15)


def test_the_configuration_names_the_base_model_of_the_hub(tmp_path: Path) -> None:
    run(tmp_path / "run")
    found = read(tmp_path / "run")
    for model, name in (("roberta-base", "FacebookAI/roberta-base"), ("minilm", None), ("encoder", None),
                        ("gpt2-nano", None), ("../roles/bert", None), (None, None)):
        write_peft(replace(found, about={**found.about, "model": model}), tmp_path / "peft")
        config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == name and bool(config["revision"]) == bool(name)
        assert (config["lora_alpha"], config["r"], config["bias"]) == (8, 4, "none")


def theirs(folder: Path, kind: str, outputs: int = 2, **settings: Any) -> peft.PeftModel:
    """PEFT's own LoRA with random B, saved by PEFT."""
    settings = {"r": 4, "lora_alpha": 6, "task_type": "SEQ_CLS" if outputs else "CAUSAL_LM"} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny.backbone(kind, outputs).model, peft.LoraConfig(**settings))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator(1, name)) * 0.2)
        model.save_pretrained(str(folder))
    return model


PATTERNS = {"rank_pattern": {"layer.1.attention.self.value": 2, "key": 3}, "alpha_pattern": {"value": 16}}


@pytest.mark.parametrize(("kind", "settings"), [
    ("roberta", {"target_modules": ["query", "value"]}),
    ("bert", {"target_modules": ["query", "key", "value"], **PATTERNS}),
    ("bert", {"target_modules": ["query", "value"], "modules_to_save": ["pooler"]}),
    ("deberta", {"target_modules": ["query_proj", "output.dense"], "modules_to_save": ["pooler"]}),
    ("roberta", {"target_modules": ["query", "dense"], "modules_to_save": ["classifier"], "exclude_modules": ["x"]}),
    ("roberta", {"target_modules": "all-linear"}),
    ("roberta", {"target_modules": r".*\.1\..*query", "use_rslora": True}),
    ("roberta", {"target_modules": ["value"], "layers_to_transform": [0]}),
    ("roberta", {"target_modules": ["query"], "bias": "all"}),
    ("roberta", {"target_modules": ["key"], "bias": "lora_only"}),
    ("mpnet", {"target_modules": ["q", "v", "attn.o"], "modules_to_save": ["classifier"]}),
    ("llama", {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "rank_pattern": {"k_proj": 2}}),
    ("llama", {"target_modules": "all-linear"}),
    ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ("gpt2", {"target_modules": ["c_attn", "attn.c_proj", "c_fc"], "rank_pattern": {"c_attn": 5}}),
], ids=str)
def test_an_adapter_made_by_peft_gives_the_same_logits(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = theirs(tmp_path / "peft", kind, **settings)
    found = read(tmp_path / "peft")
    assert (found.name, found.form) == ("peft", "peft")
    assert (logits(model) - loaded(found, kind)).abs().max() < 1e-6
    again = read(write(found, tmp_path / "ours"))
    same(found, again)
    if not settings.get("bias"):
        write_peft(again, tmp_path / "back")
        assert read(tmp_path / "back").about["base_model_name_or_path"] == found.about["base_model_name_or_path"]
        assert (logits(model) - loaded(read(tmp_path / "back"), kind)).abs().max() < 1e-6
    assert (logits(model) - loaded(again, kind)).abs().max() < 1e-6


def test_pefts_one_a_for_a_fused_projection_is_shared_by_q_k_and_v(tmp_path: Path) -> None:
    model = theirs(tmp_path / "peft", "gpt2", 0, target_modules=["c_attn"])
    found = read(tmp_path / "peft/adapter_config.json")
    assert [(u.layer, u.target, u.start, u.stop) for u in found.updates[:3]] == [
        (1, "q", 0, 16), (1, "k", 16, 32), (1, "v", 32, 48)]
    assert all(torch.equal(u.A, found.updates[0].A) for u in found.updates[:3]) and found.updates[0].scale == 1.5
    assert (logits(model) - loaded(found, "gpt2", outputs=0)).abs().max() < 1e-5
    back = load_file(write_peft(found, tmp_path / "back"))  # and is one A again
    before = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert back.keys() == before.keys() and all(torch.equal(back[name], before[name]) for name in before)
    same(found, read(tmp_path / "back"))
    same(found, read(write(found, tmp_path / "ours")))


def test_an_edited_alpha_counts_even_where_the_metadata_says_another(tmp_path: Path) -> None:
    run(tmp_path / "run", "gpt2")
    path = write_peft(read(tmp_path / "run"), tmp_path / "peft")
    change(tmp_path / "peft/adapter_config.json", lambda said: said.update(lora_alpha=3 * said["lora_alpha"]))
    for one, other in zip(read(tmp_path / "run").updates, read(path).updates, strict=True):
        assert one.scale is not None and other.scale is not None
        assert torch.allclose(3 * one.scale * one.B @ one.A, other.scale * other.B @ other.A, atol=1e-6)


def test_what_our_file_says_of_its_blocks_is_checked(tmp_path: Path) -> None:
    run(tmp_path / "run", "gpt2")
    path = write_peft(read(tmp_path / "run"), tmp_path / "peft")

    def fill(tensors: dict[str, torch.Tensor]) -> None:
        next(tensor for name, tensor in tensors.items() if name.endswith("c_attn.lora_B.weight"))[20, 1] = 1.0

    change(path, fill)  # k
    with pytest.raises(Refused, match="metadata describes other tensors"):
        read(path)


# --- loralib --------------------------------------------------------------------------------------------------------


def official(kind: str, outputs: int = 2, enable: Sequence[bool] = (True, False, True), seed: int = 3,
             merged: bool = True) -> nn.Module:
    """A tiny model with loralib's layers at its query and value, or its fused projection, as the official code has
    them: alpha 6, r 4; B and the head are random. It stays in train() mode, without dropout."""
    model = tiny.backbone(kind, outputs).model
    for name, module in list(model.named_modules()):
        if not name.endswith(("self.query", "self.value", "attn.c_attn")):
            continue
        fused = name.endswith("c_attn")
        d_out, d_in = module.weight.T.shape if fused else module.weight.shape
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "fan_in_fan_out": fused}
        if fused and merged:
            settings["enable_lora"] = list(enable)
        layer = (loralib.MergedLinear if fused and merged else loralib.Linear)(d_in, d_out, **settings)
        with torch.no_grad():
            layer.weight.copy_(module.weight), layer.bias.copy_(module.bias)
            layer.lora_A.copy_(torch.randn(layer.lora_A.shape, generator=generator(seed, f"{name}.A")) * 0.3)
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator(seed, f"{name}.B")) * 0.3)
        model.get_submodule(name.rpartition(".")[0]).add_module(name.rpartition(".")[2], layer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("classifier", "score")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator(seed, name)) * 0.1)
    return model.train()


def unmerged(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return tiny.logits(model.train(), tiny.Rows(9).batch(range(9)))


def kept(model: nn.Module) -> dict[str, torch.Tensor]:
    """What the official code keeps: lora_state_dict, and the head."""
    head = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(("classifier", "score"))}
    return loralib.lora_state_dict(model) | head


@pytest.mark.parametrize("whole", [False, True], ids=["LoRA and head", "everything"])
@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "model"])
def test_a_file_of_loralib_gives_the_same_logits(kind: str, whole: bool, wrapper: str | None, tmp_path: Path) -> None:
    model = official(kind)
    state = model.state_dict() if whole else kept(model)
    torch.save({wrapper: state} if wrapper else state, tmp_path / "mnli.bin")
    found = read(tmp_path / "mnli.bin", alpha=6)
    assert (found.name, found.form, dict(found.about)) == ("mnli", "loralib", {})
    assert [(u.layer, u.target) for u in found.updates] == [(1, "q"), (1, "v"), (2, "q"), (2, "v")]
    assert {u.scale for u in found.updates} == {1.5} and (len(found.rest) > 10) == whole
    assert (unmerged(model) - loaded(found, kind)).abs().max() < 1e-6
    if not whole:
        for again in (write(found, tmp_path / "ours"), write_peft(found, tmp_path / "peft")):
            same(found, read(again))


@pytest.mark.parametrize(("enable", "merged", "targets"), [
    ((True, False, True), True, "qv"), ((True, True, True), True, "qkv"), ((), False, "qkv")],
    ids=["q and v", "all three", "one Linear"])
def test_a_fused_projection_of_loralib_is_cut_where_it_is_enabled(enable: Sequence[bool], merged: bool, targets: str,
                                                                  tmp_path: Path) -> None:
    model = official("gpt2", 0, enable, merged=merged)
    torch.save({"model_state_dict": loralib.lora_state_dict(model)}, tmp_path / "e2e.pt")
    found = read(tmp_path / "e2e.pt", alpha=6)
    assert "".join(u.target for u in found.updates if u.layer == 2) == targets
    assert (unmerged(model) - loaded(found, "gpt2", outputs=0)).abs().max() < 1e-5


def test_one_enabled_slice_of_three_could_be_any(tmp_path: Path) -> None:
    torch.save(loralib.lora_state_dict(official("gpt2", 0, (False, True, False))), tmp_path / "k.pt")
    with pytest.raises(Refused, match="which of its slices"):
        read(tmp_path / "k.pt", alpha=6)


def test_without_alpha_the_scale_is_not_known(tmp_path: Path) -> None:
    torch.save(kept(official("roberta")), tmp_path / "a.bin")
    found = read(tmp_path / "a.bin")
    assert {u.scale for u in found.updates} == {None}
    for use in (lambda: load(tiny.backbone(), found), lambda: write_peft(found, tmp_path / "peft")):
        with pytest.raises(Refused, match="give alpha"):
            use()
    path = write(found, tmp_path / "ours")
    assert {u.scale for u in read(path).updates} == {None} and {u.scale for u in read(path, 6).updates} == {1.5}
    with pytest.raises(Refused, match="alpha=0"):
        read(tmp_path / "a.bin", alpha=0)


def test_weights_that_hold_the_update_already_are_refused(tmp_path: Path) -> None:
    model = official("gpt2")
    torch.save(model.eval().state_dict(), tmp_path / "eval.bin")
    made = tiny.backbone("gpt2")
    before = tiny.state(made.model)
    with pytest.raises(Refused, match="holds the update already"):
        load(made, read(tmp_path / "eval.bin", alpha=6))
    assert tiny.furthest(before, made.model.state_dict()) == 0


ran: list[str] = []


class Stranger:
    """A class of somebody else's."""

    def __init__(self) -> None:
        self.tensor = torch.zeros(2)


class Trap:
    """What an attacker puts into a pickle: a call."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.args


@pytest.mark.parametrize("old", [False, True], ids=["zip", "pickle"])
@pytest.mark.parametrize("what", ["class", "function", "system", "eval", "nested"])
def test_a_foreign_object_in_a_pickle_is_refused_and_nothing_runs(what: str, old: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil: Any = {"class": Stranger(), "function": read, "system": Trap(os.system, f"touch {mark}"),
                 "eval": Trap(eval, f"open({str(mark)!r}, 'w')"),
                 "nested": {"deep": [Trap(os.system, f"touch {mark}")]}}[what]
    torch.save({"q.lora_A": torch.zeros(2, 4), "q.lora_B": torch.zeros(4, 2), "x": evil}, tmp_path / "a.bin",
               _use_new_zipfile_serialization=not old)
    with pytest.raises(Refused, match="nothing but tensors in it|not a tensor with a name") as error:
        read(tmp_path / "a.bin")
    assert not mark.exists() and str(error.value).count("\n") < 2 and "weights_only" not in str(error.value)
    assert what == "nested" or {"class": "Stranger", "function": "read", "system": "posix.system",
                                       "eval": "eval"}[what] in str(error.value)
    if what in ("system", "eval"):  # the trap is one
        torch.load(tmp_path / "a.bin", weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("content", [
    [torch.zeros(2)], torch.zeros(2), {"model_state_dict": {"a": torch.zeros(1)}, "epoch": 3},
    {"a": {"b": torch.zeros(1)}},
    {1: torch.zeros(2)}, {"model_state_dict": [torch.zeros(1)]}, {}, {"a": torch.zeros(1)}, {"a": "text"},
    {"q.lora_A": torch.zeros(2, 4)}, {"q.lora_B": torch.zeros(2, 4)},
    {"q.lora_A": torch.zeros(3, 4), "q.lora_B": torch.zeros(4, 2)},
    {"q.lora_A": torch.zeros(2), "q.lora_B": torch.zeros(4, 2)},
    {"q.lora_A": torch.zeros(0, 4), "q.lora_B": torch.zeros(4, 0)},
    {"q.lora_A": torch.zeros(4, 4), "q.lora_B": torch.zeros(4, 2)},
    {"q.lora_A": torch.zeros(2, 4, dtype=torch.int64), "q.lora_B": torch.zeros(4, 2, dtype=torch.int64)},
], ids=str)
def test_a_torch_file_that_is_no_adapter_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(Refused) as error:
        read(tmp_path / "a.pt", alpha=1)
    assert str(tmp_path / "a.pt") in str(error.value) and str(error.value).count("\n") < 2


# --- refusals -------------------------------------------------------------------------------------------------------


def test_what_is_not_there_or_not_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "none.safetensors", tmp_path / "empty"):
        with pytest.raises(Refused, match=str(path)):
            read(path)
    run(tmp_path / "run")
    for name, path in (("ours", write(read(tmp_path / "run"), tmp_path / "ours")),
                       ("peft", write_peft(read(tmp_path / "run"), tmp_path / "peft"))):
        whole = path.read_bytes()
        for half in (b"", whole[:7], whole[:200], whole[:-9], b"\xff" * 64):
            path.write_bytes(half)
            with pytest.raises(Refused, match="not a readable safetensors file"):
                read(tmp_path / name)
    for half in (b"", b"nothing", b"\x80\x04.", b"PK\x03\x04" + b"\0" * 40):
        (tmp_path / "a.bin").write_bytes(half)
        with pytest.raises(Refused, match="nothing but tensors in it"):
            read(tmp_path / "a.bin")
    for word, named in (("ours", True), ("other", False)):
        (tmp_path / f"{word}.json").write_text("{}")
        with pytest.raises(Refused, match="a JSON, no weights") as error:
            read(tmp_path / f"{word}.json")
        assert str(error.value).endswith(str(tmp_path / "ours") if named else "if the run kept one")


QUERY = "roberta.encoder.layer.0.attention.self.query"


def conv(r: int, k: int) -> dict[str, torch.Tensor]:
    """The state of a convolution of loralib's, in a model."""
    model = nn.ModuleDict({"c": loralib.Conv2d(12, 24, k, r=r)})
    return dict(model.state_dict())


def test_convolutions_are_not_taken_for_linear_layers(tmp_path: Path) -> None:
    """Without its weight a linear layer of an unknown model could be one, unless the shapes have nothing in common."""
    def refused(state: dict[str, torch.Tensor], said: str) -> None:
        torch.save(state, tmp_path / "a.bin")
        with pytest.raises(Refused, match=said) as error:
            read(tmp_path / "a.bin", 1)
        assert str(error.value).count("\n") < 2

    for k in (1, 3):
        refused(conv(4, k), "c is a convolution")
        older = conv(4, k)
        refused({**older, "c.weight": older.pop("c.conv.weight")}, "c is a convolution")
        refused({key: each for key, each in conv(4, k).items() if "lora" in key}, "or, of a smaller r, a convolution")
    linear = {"t.lora_A": torch.ones(4, 16), "t.lora_B": torch.ones(16, 4)}
    refused(linear, "save the model's whole state dict")
    whole = {**linear, "t.weight": torch.zeros(16, 16)}
    odd = {"t.lora_A": torch.ones(3, 16), "t.lora_B": torch.ones(16, 3)}   # no k divides 3 and 16
    known = {f"{QUERY}.{name[2:]}": each for name, each in linear.items()}
    for state in (whole, odd, known):
        torch.save(state, tmp_path / "a.bin")
        assert len(read(tmp_path / "a.bin", 1).updates) == 1


@pytest.mark.parametrize(("odd", "said"), [
    (lambda A: A.to_sparse(), "sparse"), (lambda A: A.to("meta"), "on the meta device"),
    (lambda A: torch.nested.nested_tensor([A]), "nested"), (lambda A: A.to(torch.float8_e4m3fn), "float8"),
    (lambda A: A.to(torch.complex64), "complex64"), (lambda A: A.bool(), "bool")],
    ids=["sparse", "meta", "nested", "float8", "complex", "bool"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_factors_that_are_no_plain_matrices_are_refused(odd: Callable[[torch.Tensor], torch.Tensor], said: str,
                                                        tmp_path: Path) -> None:
    A, B = torch.ones(4, 16), torch.ones(16, 4)
    for state in ({"A": odd(A), "B": B}, {"A": A, "B": odd(B)}):
        torch.save({f"{QUERY}.lora_{factor}": tensor for factor, tensor in state.items()}, tmp_path / "a.bin")
        with pytest.raises(Refused, match=rf"{said}.*plain tensors of floating"):
            read(tmp_path / "a.bin", 1)
    if said in ("sparse", "on the meta device", "nested"):
        torch.save({f"{QUERY}.lora_A": A, f"{QUERY}.lora_B": B, "head": odd(A)}, tmp_path / "a.bin")
        with pytest.raises(Refused, match=f"head is .*{said}"):
            read(tmp_path / "a.bin", 1)
    elif said in ("float8", "complex64"):
        run(tmp_path / "run")
        for form, path in (("ours", write(read(tmp_path / "run"), tmp_path / "ours")),
                           ("peft", write_peft(read(tmp_path / "run"), tmp_path / "peft"))):
            change(path, lambda t: t.update({key: odd(each) for key, each in t.items() if "query" in key}))
            with pytest.raises(Refused, match="plain tensors of floating"):
                read(tmp_path / form)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_factors_of_every_precision_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({f"{QUERY}.lora_A": torch.ones(4, 16, dtype=dtype), f"{QUERY}.lora_B": torch.ones(16, 4, dtype=dtype)},
               tmp_path / "a.bin")
    assert read(tmp_path / "a.bin").updates[0].A.dtype == dtype


def test_numbers_of_hundreds_of_digits_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "run")
    path = write_peft(read(tmp_path / "run"), tmp_path / "peft")
    for digits in (310, 400):
        change(tmp_path / "peft" / CONFIG, lambda said, n=digits: said.update(lora_alpha=10**n))
        with pytest.raises(Refused, match="lora_alpha: a number of more than 300 digits"):
            read(tmp_path / "peft")
    change(tmp_path / "peft" / CONFIG, lambda said: said.update(lora_alpha=8))
    change(path, lambda tensors: [tensors.update({name.replace("layer.0", f"layer.{'9' * 5000}"): tensors.pop(name)})
                                  for name in list(tensors)])
    save_file(load_file(path), path, {"format": "pt"})
    with pytest.raises(Refused, match="number of 5000 digits"):
        read(tmp_path / "peft")
BROKEN_OURS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "A alone": ("best.safetensors", lambda t: t.pop(f"{QUERY}.B.q"), r"query\.B\.q is missing"),
    "B alone": ("best.safetensors", lambda t: t.pop(f"{QUERY}.A.q"), r"query\.A\.q is missing"),
    "ranks": ("best.safetensors", lambda t: t.update({f"{QUERY}.B.q": torch.zeros(16, 3)}), "ranks disagree"),
    "other rank": ("best.safetensors", lambda t: t.update(
        {f"{QUERY}.B.q": torch.zeros(16, 3), f"{QUERY}.A.q": torch.zeros(3, 16)}), "rank 3, and adapter.json says r=4"),
    "a vector": ("best.safetensors", lambda t: t.update({f"{QUERY}.A.q": torch.zeros(4)}), "not two matrices"),
    "a number": ("best.safetensors", lambda t: t.update({f"{QUERY}.A.q": torch.tensor(1.0)}), "rank 0"),
    "whole numbers": ("best.safetensors", lambda t: t.update({f"{QUERY}.A.q": torch.ones(4, 16).long()}), "floating"),
    "two on one": ("best.safetensors", lambda t: t.update(
        {f"{QUERY}.A.v": torch.zeros(4, 16), f"{QUERY}.B.v": torch.zeros(16, 4)}), "overlap"),
    "alpha": ("adapter.json", lambda said: said["method"].update(alpha="much"), "alpha=much"),
    "r": ("adapter.json", lambda said: said["method"].update(r={"q": 2, "v": 4}), "r=2"),
}


@pytest.mark.parametrize(("file", "edit", "said"), BROKEN_OURS.values(), ids=BROKEN_OURS)
def test_a_broken_file_of_ours_is_refused(file: str, edit: Callable[[dict[str, Any]], object], said: str,
                                          tmp_path: Path) -> None:
    run(tmp_path)
    change(tmp_path / file, edit)
    with pytest.raises(Refused, match=said):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "\x00", "[" * 100_000],
                         ids=["empty", "open", "list", "number", "zero", "deep"])
@pytest.mark.parametrize("form", ["run", "peft"])
def test_broken_json_is_refused(form: str, text: str, tmp_path: Path) -> None:
    run(tmp_path / "run")
    write_peft(read(tmp_path / "run"), tmp_path / "peft")
    (tmp_path / form / ("adapter.json" if form == "run" else "adapter_config.json")).write_text(text)
    with pytest.raises(Refused, match="JSON"):
        read(tmp_path / form)


@pytest.mark.parametrize("updates", ["{", "3", "[1]", '[["m", "q", 0, 1, 4]]', '[["m", "q", -1, 1, 4, 1.0]]',
                                     '[["m", "q", 0, 16, 4, "x"]]', '[["m", "q", 0, 16, 4, 1.0]]'])
def test_broken_metadata_is_refused(updates: str, tmp_path: Path) -> None:
    run(tmp_path)
    for folder in ("peft", "ours"):
        path = (write_peft if folder == "peft" else write)(read(tmp_path), tmp_path / folder)
        save_file(load_file(path), path, {"format": "pt", "updates": updates})
        with pytest.raises(Refused, match="metadata"):
            read(path)


KEY = f"base_model.model.{QUERY}.lora_"
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
BROKEN_PEFT: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "IA3": (CONFIG, lambda said: said.update(peft_type="IA3"), "type IA3, not LORA"),
    "no type": (CONFIG, lambda said: said.pop("peft_type"), "type None"),
    "DoRA": (CONFIG, lambda said: said.update(use_dora=True), "use_dora=True"),
    "lora_bias": (CONFIG, lambda said: said.update(lora_bias=True), "lora_bias"),
    "PiSSA": (CONFIG, lambda said: said.update(init_lora_weights="pissa_niter_4"), "pissa_niter_4"),
    "r": (CONFIG, lambda said: said.update(r=5), "says r=5"),
    "no r": (CONFIG, lambda said: said.pop("r"), "r=None"),
    "alpha": (CONFIG, lambda said: said.update(lora_alpha="x"), "lora_alpha=x"),
    "patterns": (CONFIG, lambda said: said.update(rank_pattern={"(": 3}), "rank_pattern"),
    "a list": (CONFIG, lambda said: said.update(alpha_pattern=[1]), "alpha_pattern"),
    "A alone": (TENSORS, lambda t: t.pop(f"{KEY}B.weight"), "lora_A alone"),
    "B alone": (TENSORS, lambda t: t.pop(f"{KEY}A.weight"), "lora_B alone"),
    "ranks": (TENSORS, lambda t: t.update({f"{KEY}B.weight": torch.zeros(16, 3)}), "ranks disagree"),
    "a vector": (TENSORS, lambda t: t.update({f"{KEY}B.weight": torch.zeros(16)}), "not two matrices"),
    "magnitude": (TENSORS, lambda t: t.update(
        {f"{KEY}magnitude_vector": torch.zeros(16)}), "magnitude_vector: not a tensor of plain LoRA"),
    "a stranger": (TENSORS, lambda t: t.update(x=torch.zeros(1)), "x: not a tensor of plain LoRA"),
}


@pytest.mark.parametrize(("file", "edit", "said"), BROKEN_PEFT.values(), ids=BROKEN_PEFT)
def test_a_peft_folder_that_is_broken_or_no_plain_lora_is_refused(
        file: str, edit: Callable[[dict[str, Any]], object], said: str, tmp_path: Path) -> None:
    run(tmp_path / "run")
    path = write_peft(read(tmp_path / "run"), tmp_path / "peft")
    save_file(load_file(path), path, {"format": "pt"})  # as PEFT leaves it
    change(tmp_path / "peft" / file, edit)
    with pytest.raises(Refused, match=said) as error:
        read(tmp_path / "peft")
    assert str(error.value).count("\n") < 2


def test_dora_as_peft_writes_it_and_a_pickle_are_refused(tmp_path: Path) -> None:
    theirs(tmp_path / "dora", "roberta", target_modules=["query"], use_dora=True)
    with pytest.raises(Refused, match="use_dora"):
        read(tmp_path / "dora")
    model = theirs(tmp_path / "bin", "roberta", target_modules=["query"])
    state = load_file(tmp_path / "bin/adapter_model.safetensors")
    (tmp_path / "bin/adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "bin/adapter_model.bin")
    assert model is not None
    with pytest.raises(Refused, match="safe_serialization"):
        read(tmp_path / "bin")


def test_biases_beside_lora_have_no_place_in_a_peft_folder_of_ours(tmp_path: Path) -> None:
    theirs(tmp_path / "bias", "roberta", target_modules=["query"], bias="all")
    found = read(tmp_path / "bias")
    assert any(name.endswith("query.bias") for name in found.rest)
    with pytest.raises(Refused, match="no place for .*bias"):
        write_peft(found, tmp_path / "again")


# --- into a model ---------------------------------------------------------------------------------------------------


def changed(adapter: Adapter, drop: Sequence[str] = (), add: Mapping[str, torch.Tensor] | None = None,
            updates: Sequence[Update] | None = None) -> Adapter:
    rest = {name: tensor for name, tensor in adapter.rest.items() if name not in drop} | dict(add or {})
    return replace(adapter, rest=rest, updates=adapter.updates if updates is None else updates)


@KIND
def test_every_tensor_has_its_place_and_every_place_its_tensor(kind: str, tmp_path: Path) -> None:
    run(tmp_path, kind)
    found = read(tmp_path)
    name, tensor = next(iter(found.rest.items()))
    one = found.updates[0]
    cases = {
        "1 unexpected .x.y.": changed(found, add={"x.y": tensor}), f"1 missing .{name}.": changed(found, drop=[name]),
        f"1 of another shape .{name}.": changed(found, add={name: torch.zeros(3, 5)}),
        "2 missing .*A.q, .*B.q": changed(found, updates=[u for u in found.updates if u is not one]),
        "2 unexpected .*nowhere": changed(found, updates=[*found.updates, replace(one, module="nowhere")]),
        f"1 of another shape .{one.module}": changed(found, updates=[replace(one, A=one.A[:, 1:]), *found.updates[1:]]),
        "of another shape": changed(found, updates=[replace(one, start=1, stop=17), *found.updates[1:]]),
    }
    for said, wrong in cases.items():
        made = tiny.backbone(kind)
        before = tiny.state(made.model)
        with pytest.raises(Refused, match=said) as error:
            load(made, wrong)
        assert tiny.furthest(before, made.model.state_dict()) == 0 and str(error.value).count("\n") < 2
    deeper = tiny.backbone(kind, layers=3)
    with pytest.raises(Refused, match="4 missing"):
        load(deeper, found)
    with pytest.raises(Refused, match="4 unexpected .*layer.1.*A.q|4 unexpected .*(h|layers).1.*A.q"):
        load(tiny.backbone(kind, layers=1), found)
    with pytest.raises(Refused, match="of another shape"):
        load(tiny.backbone(kind, outputs=3), found)
    with pytest.raises(Refused, match="of another shape"):
        load(tiny.adapted(tiny.lora(), kind), found)  # adapted already


def test_a_folder_of_pefts_must_have_what_its_configuration_names(tmp_path: Path) -> None:
    theirs(tmp_path / "some", "roberta", target_modules=["value"], layers_to_transform=[0], modules_to_save=["x"])
    some = read(tmp_path / "some")
    load(tiny.backbone(), some)
    for named in (["value"], r".*\.value", None):
        every = replace(some, about={**some.about, "layers_to_transform": None, "target_modules": named})
        with pytest.raises(Refused, match="2 missing .*layer.1.*value.A.v"):
            load(tiny.backbone(), every)
    for named in ("(", 3):
        with pytest.raises(Refused, match="target_modules"):
            load(tiny.backbone(), replace(every, about={"target_modules": named}))


def test_a_fresh_head_is_not_left_in(tmp_path: Path) -> None:
    """Without the head the logits would be noise; only BERT's pooler may come with the base model's own weights."""
    theirs(tmp_path / "bare", "roberta", target_modules=["query"], task_type=None)
    with pytest.raises(Refused, match="4 missing .classifier"):
        load(tiny.backbone(), read(tmp_path / "bare"))
    run(tmp_path / "run", "bert")
    found = read(tmp_path / "run")
    with pytest.raises(Refused, match="2 missing .bert.pooler"):
        load(tiny.backbone("bert"), changed(found, drop=["bert.pooler.dense.weight", "bert.pooler.dense.bias"]))
    with pytest.raises(Refused, match="unexpected .score.weight"):
        run(tmp_path / "gpt2", "gpt2")
        load(tiny.backbone("gpt2", 0), read(tmp_path / "gpt2"))


@pytest.mark.parametrize("rename", [lambda name: name.removeprefix("roberta."), lambda name: f"model.{name}"],
                         ids=["shorter", "longer"])
def test_names_may_lack_the_models_prefix_or_have_another(rename: Callable[[str], str], tmp_path: Path) -> None:
    made = run(tmp_path)
    found = read(tmp_path)
    other = replace(found, updates=[replace(u, module=rename(u.module)) for u in found.updates],
                    rest={rename(name): tensor for name, tensor in found.rest.items()})
    assert torch.equal(logits(made.model), loaded(other))
    twice = replace(other, updates=[*other.updates, *found.updates])
    with pytest.raises(Refused, match="unexpected"):
        load(tiny.backbone(), twice)


def test_half_precision_comes_back_as_it_was_and_goes_into_any_model(tmp_path: Path) -> None:
    run(tmp_path / "run", "gpt2", r={"q": 3, "v": 4})
    found = read(tmp_path / "run")
    half = replace(found, updates=[replace(u, A=u.A.bfloat16(), B=u.B.bfloat16()) for u in found.updates])
    same(half, read(write_peft(half, tmp_path / "peft")))
    made = tiny.backbone("gpt2")
    made.model.double()
    load(made, half)
    assert logits(made.model).dtype == torch.float64


@pytest.mark.parametrize("form", [write, write_peft])
def test_the_same_adapter_is_the_same_bytes(form: Callable[..., Path], tmp_path: Path) -> None:
    run(tmp_path / "run", "gpt2", r={"q": 3, "v": 4})
    found = read(tmp_path / "run")
    made = [form(found, tmp_path / f"{i}") for i in range(8)]
    assert len({tuple(file.read_bytes() for file in sorted(path.parent.iterdir())) for path in made}) == 1


# --- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [write, write_peft])
@pytest.mark.parametrize("there", [False, True], ids=["nothing before", "another before"])
def test_a_writer_that_is_killed_halfway_leaves_what_was_there(form: Callable[..., Path], there: bool, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run")
    run(tmp_path / "next", r=2)
    if there:
        form(read(tmp_path / "run"), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*")}

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(pair, "_save", half)
        form(read(tmp_path / "next"), tmp_path / "out")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")} == before
    if there:
        same(read(tmp_path / "out"), read(tmp_path / "run"))


@pytest.mark.parametrize("form", [write, write_peft])
def test_a_full_disk_is_said_and_leaves_what_was_there(form: Callable[..., Path], tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run")
    form(read(tmp_path / "run"), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pair, "_save", full)
    with pytest.raises(Refused, match="No space left"):
        form(read(tmp_path / "run"), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_command_converts_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capfd: pytest.CaptureFixture[str]) -> None:
    """There and back is the same file's tensors."""
    from lora.__main__ import main

    source = next(path.parent for path in sorted((ROOT / "results" / "runs").rglob("best.safetensors")))

    def run(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["lora", *map(str, words)])
        return main()

    assert run(source, tmp_path / "peft", "--to", "peft") == 0
    assert run(tmp_path / "peft", tmp_path / "ours", "--to", "ours") == 0
    one, two = (load_file(folder / "best.safetensors") for folder in (source, tmp_path / "ours"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert run(source, tmp_path / "peft", "--to", "peft") == 2
    assert run(tmp_path / "no", tmp_path / "x", "--to", "ours") == 2
    said = capfd.readouterr()
    assert "not empty" in said.err and "no such file" in said.err and not (tmp_path / "x").exists()
    assert str(tmp_path / "peft" / "adapter_model.safetensors") in said.out
