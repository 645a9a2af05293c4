"""Through the door: every method trains on every kind of model from a folder, leaves its record, and can be loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Cli, write_model
from transformers import AutoModelForCausalLM

METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
R = 16
ROLES = {"bert": "encoder", "deberta": "encoder", "gpt2": "decoder"}
CHANGES = {**{f"adapter-{kind}": [f"r={R}"] for kind in "hpl"}, "adapter-d": [f"r={R}", "drop=1"],
           "preembed": ["l_p=2", "l_i=1"], "prelayer": ["l_p=2", "l_i=1"]}
D, LAYERS = 32, 2


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("kinds")
    return {kind: write_model(place / kind, kind) for kind in ROLES}


def words(kind: str, folder: Path, out: Path, *more: str) -> list[str]:
    """A run of a second on that model."""
    names = ["model/roles=deberta"] if kind == "deberta" else []
    return ["scale=demo", "scale.train=32", "scale.validation=16", "epochs=1", "batch=8", f"model={ROLES[kind]}",
            *names, f"model.path={folder}", "precision=fp32", f"runtime.out={out}", *more]


def trained(method: str, kind: str) -> int:
    """What the definitions say trains on a model of this size, beside the head."""
    ff = 64 if kind != "gpt2" else 4 * D
    block = 4 * D * D + 2 * D * ff + 9 * D + ff   # attention, MLP, their biases, two LayerNorms
    biases = LAYERS * (4 * D + ff + D + 2 * D) + D   # and of one more LayerNorm: the embeddings' or the last
    if kind == "deberta":
        biases += 3 * D   # of the convolution, its LayerNorm and that of the relative positions
    one = 2 * D * R + R + D
    lora = 2 * LAYERS * 2 * D * 8
    return {"ft-top2": 2 * block, "bitfit": biases,
            "adapter-h": 2 * LAYERS * one, "adapter-p": LAYERS * one,
            "adapter-d": (LAYERS - 1) * one, "adapter-l": LAYERS * (one + 2 * D), "preembed": 3 * D,
            "prelayer": LAYERS * 3 * D, "lora": lora, "lora-pe": lora + 12 * D,
            "lora-pl": lora + LAYERS * 12 * D}[method]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ROLES)
def test_every_method_trains_on_every_kind_of_model(cli: Cli, folders: dict[str, Path], tmp_path: Path, kind: str,
                                                    method: str) -> None:
    changed = CHANGES.get(method, [])
    status, out, err = cli("task=rte", f"method={method}", *words(kind, folders[kind], tmp_path, *changed))
    assert status == 0, err
    (path,) = (tmp_path / "runs" / "demo" / "rte").glob("*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    assert (record["method"], record["value"] is not None) == (method, True)
    if method != "ft":
        assert record["footprint"]["trainable"] == trained(method, kind)
    assert all(setting in record["variant"] for setting in changed)
    assert str(path) in out.splitlines()[-1]


def test_a_language_model_is_loaded_as_it_is(folders: dict[str, Path]) -> None:
    """Without a fresh head: nothing is drawn, nothing trains, and a tied output stays tied."""
    import tiny as small

    from engine import models
    from engine.contract import generator

    spec = small.spec(small.GPT2)
    made = models.load(spec, folders["gpt2"], 0, small.recipe(dropout=0.0), 0, generator(0, "head"))
    plain = AutoModelForCausalLM.from_pretrained(folders["gpt2"]).eval()
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(made.model.eval()(ids).logits, plain(ids).logits)
    assert made.head == () and not any(p.requires_grad for p in made.model.parameters())
    assert made.model.lm_head.weight is made.model.transformer.wte.weight


def test_cls_dropout_is_set_before_the_classifier_alone(folders: dict[str, Path]) -> None:
    import tiny as small

    from engine import models
    from engine.contract import Refused, generator

    def rates(kind: str, **recipe: Any) -> set[tuple[bool, float]]:
        spec = small.spec(small.DEBERTA if kind == "deberta" else small.BERT)
        made = models.load(spec, folders[kind], 2, small.recipe(**recipe), 0, generator(0, "head"))
        return {(name == "dropout", module.p) for name, module in made.model.named_modules()
                if isinstance(module, torch.nn.Dropout) and not name.startswith("pooler")}

    for kind in ("bert", "deberta"):
        assert rates(kind, dropout=None, cls_dropout=0.25) == {(False, 0.1), (True, 0.25)}
        assert rates(kind, dropout=0.0, cls_dropout=0.25) == {(False, 0.0), (True, 0.25)}
        assert rates(kind, dropout=0.2, cls_dropout=None) == {(False, 0.2), (True, 0.2)}
    with pytest.raises(Refused, match="cls_dropout"):
        models.load(small.spec(small.GPT2), folders["gpt2"], 2, small.recipe(cls_dropout=0.1), 0, generator(0, "head"))
