"""Through the door: every method trains on every kind of model from a folder, leaves its record, and can be loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Cli, ran, write_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
R = 16
ROLES = {"bert": "encoder", "deberta": "encoder", "mpnet": "encoder", "gpt2": "decoder", "llama": "decoder"}
CHANGES = {**{f"adapter-{kind}": [f"r={R}"] for kind in "hpl"}, "adapter-d": [f"r={R}", "drop=1"],
           "preembed": ["l_p=2", "l_i=1"], "prelayer": ["l_p=2", "l_i=1"]}
D, LAYERS = 32, 2


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("kinds")
    return {kind: write_model(place / kind, kind) for kind in ROLES}


def words(kind: str, folder: Path, out: Path, *more: str) -> list[str]:
    """A run of a second on that model."""
    names = [] if kind in ("bert", "gpt2") else [f"model/roles={kind}"]
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
    if kind == "llama":   # two heads of keys and values for four of queries, three matrices in the MLP, no biases
        block = 2 * D * D + 2 * D * D // 2 + 3 * D * ff + 2 * D
        lora -= LAYERS * 8 * D // 2
    return {"ft-top2": 2 * block, "bitfit": biases,
            "adapter-h": 2 * LAYERS * one, "adapter-p": LAYERS * one,
            "adapter-d": (LAYERS - 1) * one, "adapter-l": LAYERS * (one + 2 * D), "preembed": 3 * D,
            "prelayer": LAYERS * 3 * D, "lora": lora, "lora-pe": lora + 12 * D,
            "lora-pl": lora + LAYERS * 12 * D}[method]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ROLES)
def test_every_method_trains_on_every_kind_of_model(cli: Cli, folders: dict[str, Path], tmp_path: Path, kind: str,
                                                    method: str) -> None:
    if (method, kind) == ("bitfit", "llama"):
        pytest.skip("refused: tests/test_door.py")
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


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_language_model_is_loaded_as_it_is(folders: dict[str, Path], kind: str) -> None:
    """Without a fresh head: nothing is drawn, nothing trains, and a tied output stays tied."""
    import tiny as small

    from engine import models
    from engine.contract import generator

    spec = small.spec(small.ROLES[kind])
    made = models.load(spec, folders[kind], 0, small.recipe(dropout=0.0), 0, generator(0, "head"))
    plain = AutoModelForCausalLM.from_pretrained(folders[kind]).eval()
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(made.model.eval()(ids).logits, plain(ids).logits)
    assert made.head == () and not any(p.requires_grad for p in made.model.parameters())
    assert made.model.get_output_embeddings().weight is made.model.get_input_embeddings().weight


@pytest.mark.parametrize("method", ["adapter-h", "lora-pl"])
def test_llama_learns_texts_and_writes_them(cli: Cli, folders: dict[str, Path], tmp_path: Path,
                                            small_texts: list[str], no_java: None, method: str) -> None:
    words = [word for word in small_texts if not word.startswith("model.path")]
    out = ran(cli, "task=e2e", *words, "model/roles=llama", f"model.path={folders['llama']}", f"method={method}",
              f"recipe=text/{method}", *CHANGES.get(method, []))
    path = Path(out.splitlines()[-1].split()[-1])
    record: dict[str, Any] = json.loads(path.read_text())
    assert (record["method"], record["metric"]) == (method, "bleu") and record["value"] is not None


def test_mpnet_has_room_for_as_many_tokens_as_it_can_number(folders: dict[str, Path]) -> None:
    """Its positions begin at 2, also where the configuration says that padding is 0."""
    from engine.configs import check_room
    from engine.contract import Refused

    config = AutoConfig.from_pretrained(folders["mpnet"], pad_token_id=0)
    model = AutoModel.from_pretrained(folders["mpnet"], config=config)
    check_room("mpnet", config, 94, 0)
    with torch.no_grad():
        assert model(torch.full((1, 94), 7)).last_hidden_state.isfinite().all()
        with pytest.raises(IndexError):
            model(torch.full((1, 95), 7))
    with pytest.raises(Refused, match="94 positions"):
        check_room("mpnet", config, 95, 0)


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
