"""What a run saved comes back as it was, or is refused with the numbers; a file is written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from baselines.full import FullFineTuning
from engine import weights
from engine.backbone import Backbone
from engine.contract import Refused
from lora.method import layers

FT = FullFineTuning("ft", "FT")
METHODS = pytest.mark.parametrize("method", [tiny.lora(), FT], ids=["lora", "ft"])


def saved(made: Backbone, folder: Path, **changes: torch.Tensor | None) -> Path:
    """A file of what trains, some tensors replaced, and taken out where the change is None."""
    tensors = weights.trained(made.model) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    path = folder / "run" / "best.safetensors"
    weights.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, {"task": "rte"})
    return path


def logits(made: Backbone) -> torch.Tensor:
    with torch.no_grad():
        return tiny.logits(made.model.eval(), tiny.Rows(9).batch(range(9)))


def fresh(method: Any, kind: str = "roberta", outputs: int = 2) -> Backbone:
    """Another run's model: the same body, another seed for the adapter and the head."""
    made = tiny.adapted(method, kind, seed=9, outputs=outputs)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if name.startswith(made.head):
                parameter.normal_()
    return made


@METHODS
@pytest.mark.parametrize("kind", ["roberta", "bert", "gpt2"])
def test_a_reloaded_run_gives_the_same_logits(method: Any, kind: str, tmp_path: Path) -> None:
    made = tiny.adapted(method, kind)
    fitted = tiny.train(made)
    path = tmp_path / "best.safetensors"
    weights.save(fitted.last, path, {})
    other = fresh(method, kind)
    assert not torch.allclose(logits(made), logits(other), atol=1e-3)
    said = weights.load(other, path, keep_output=False)
    assert torch.equal(logits(made), logits(other)) and said == f"{len(fitted.last)} tensors from {path}"


def test_the_best_epoch_can_be_put_back_into_the_trained_model(tmp_path: Path) -> None:
    made = tiny.adapted(tiny.lora())
    task = tiny.Scripted([2, 1, 1], look=lambda: logits(made))
    fitted = tiny.train(made, task, epochs=3)
    weights.save(fitted.best, tmp_path / "best.safetensors", {})
    weights.load(made, tmp_path / "best.safetensors", keep_output=False)
    assert torch.equal(logits(made), task.seen[0]) and not torch.equal(logits(made), task.seen[2])


def test_a_file_has_what_trains_and_says_what_it_belongs_to(tmp_path: Path) -> None:
    made = tiny.adapted(tiny.lora())
    path = saved(made, tmp_path)
    found = load_file(path)
    assert found.keys() == {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert len(found) == 8 + 4 and all(".base." not in name for name in found)
    assert json.loads(path.with_name("adapter.json").read_text()) == {"task": "rte"}
    assert sorted(p.name for p in path.parent.iterdir()) == ["adapter.json", "best.safetensors"]


def test_trained_is_a_copy_that_training_does_not_reach() -> None:
    made = tiny.adapted(tiny.lora())
    before = weights.trained(made.model)
    kept = {name: tensor.clone() for name, tensor in before.items()}
    tiny.train(made)
    assert tiny.furthest(before, kept) == 0 and tiny.furthest(before, weights.trained(made.model)) > 1e-4


@METHODS
@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_keep_output_leaves_the_last_layer_and_takes_the_rest(method: Any, kind: str, tmp_path: Path) -> None:
    parent, child = tiny.adapted(method, kind, outputs=3), fresh(method, kind, outputs=2)
    tiny.randomise(parent.model)
    last, before = {"roberta": "classifier.out_proj.", "bert": "classifier."}[kind], weights.trained(child.model)
    weights.load(child, saved(parent, tmp_path), keep_output=True)
    given, after = weights.trained(parent.model), weights.trained(child.model)
    kept = {name for name in after if name.startswith(last)}
    assert len(kept) == 2 and all(torch.equal(after[name], before[name]) for name in kept)
    assert all(torch.equal(after[name], given[name]) for name in after.keys() - kept)
    pooled = "classifier.dense.weight" if kind == "roberta" else "bert.pooler.dense.weight"
    assert not torch.equal(after[pooled], before[pooled])


def refusal(made: Backbone, path: Path, keep_output: bool = False) -> str:
    """The message, after a look that nothing of a refused file got into the model."""
    before = tiny.state(made.model)
    with pytest.raises(Refused) as caught:
        weights.load(made, path, keep_output)
    assert tiny.furthest(before, made.model.state_dict()) == 0
    return str(caught.value)


def test_what_does_not_fit_is_refused_with_counts(tmp_path: Path) -> None:
    made, extra = tiny.adapted(tiny.lora()), torch.zeros(2)
    bias = {"classifier__dense__bias": None}
    message = refusal(made, saved(made, tmp_path, **bias))
    assert "11 tensors match, 1 missing (classifier.dense.bias" in message and "unexpected" not in message
    message = refusal(made, saved(made, tmp_path, surplus=extra, other=extra + 1))
    assert "2 unexpected (other" in message and "missing" not in message
    message = refusal(made, saved(made, tmp_path, classifier__dense__bias=torch.zeros(3)))
    assert "1 of another shape (classifier.dense.bias" in message
    message = refusal(made, saved(made, tmp_path, surplus=extra, classifier__dense__weight=torch.zeros(3), **bias))
    assert "1 missing" in message and "1 unexpected" in message and "1 of another shape" in message


def test_a_tensor_of_another_shape_is_not_counted_as_a_match(tmp_path: Path) -> None:
    made = tiny.adapted(tiny.lora())
    assert "11 tensors match, 1 of another shape" in refusal(
        made, saved(made, tmp_path, classifier__dense__bias=torch.zeros(3)))


def test_another_method_rank_or_task_is_refused(tmp_path: Path) -> None:
    path = saved(tiny.adapted(tiny.lora()), tmp_path)
    assert "unexpected" in refusal(tiny.adapted(FT), path) and "missing" in refusal(tiny.adapted(FT), path)
    assert "8 of another shape" in refusal(tiny.adapted(tiny.lora(r=2)), path)
    assert "4 missing" in refusal(tiny.adapted(tiny.lora(targets=["q", "k", "v"])), path)
    assert "4 unexpected" in refusal(tiny.adapted(tiny.lora(targets=["q"])), path)
    assert "2 of another shape" in refusal(tiny.adapted(tiny.lora(), outputs=3), path)   # the last layer, unless kept
    assert "unexpected" in refusal(tiny.adapted(tiny.lora(), "bert"), path, keep_output=True)


@pytest.mark.parametrize("content", [b"", b"not tensors at all", b"\x08\0\0\0\0\0\0\0{}      rubbish", None, "cut"])
def test_a_file_that_is_no_safetensors_is_refused_by_its_name(content: bytes | str | None, tmp_path: Path) -> None:
    made = tiny.adapted(tiny.lora())
    path = saved(made, tmp_path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10] if isinstance(content, str) else content)
    assert "best.safetensors" in refusal(made, path)


def test_a_merged_model_is_not_saved() -> None:
    made = tiny.adapted(tiny.lora())
    one = layers(made.model)[1]
    one.merge()
    with pytest.raises(RuntimeError, match="value is merged"):
        weights.trained(made.model)
    one.unmerge()
    assert len(weights.trained(made.model)) == 12


@pytest.mark.parametrize("there", [True, False])
def test_a_failed_write_leaves_the_old_file_or_none(
        there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.adapted(tiny.lora())
    if there:
        path = saved(made, tmp_path)
        old = path.read_bytes()

    def broken(tensors: dict[str, torch.Tensor], part: Path, **rest: Any) -> None:
        save_file(tensors, part, **rest)
        part.write_bytes(part.read_bytes()[:50])
        raise OSError("No space left on device")

    monkeypatch.setattr(weights, "save_file", broken)
    with pytest.raises(OSError, match="No space left"):
        saved(made, tmp_path, classifier__dense__bias=torch.ones(16))
    left = sorted(file.name for file in (tmp_path / "run").iterdir())
    assert left == (["adapter.json", "best.safetensors"] if there else [])
    assert not there or path.read_bytes() == old
