"""What a model's configuration allows and is told: positions for the inputs, rates of dropout."""

from __future__ import annotations

from transformers import PretrainedConfig

from engine.contract import Refused
from engine.spec import Recipe

DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "resid_pdrop", "embd_pdrop",
            "attn_pdrop", "attention_dropout")  # what configurations call the body's
# These number their positions from padding_idx + 1; MPNet takes 1 for it, whatever its configuration says.
FROM_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "mpnet", "ibert",
                "data2vec-text")
HEAD_DROPOUTS = ("classifier_dropout", "cls_dropout")


def check_room(name: str, config: PretrainedConfig, length: int, special: int) -> None:
    """Raises Refused when there are no positions for texts of `length` tokens and `special` ones around them."""
    positions = getattr(config, "max_position_embeddings", None) or 0
    if positions <= 0:  # relative positions alone: any length will do
        return
    if config.model_type in FROM_PADDING:
        positions -= 1 + (1 if config.model_type == "mpnet" else config.pad_token_id)
    if special >= positions:
        raise Refused(f"l_p + l_i = {special}: {name} has {positions} positions, which leaves none for the text")
    if length + special > positions:
        beside = f" and {special} special ones (l_p + l_i)" if special else ""
        raise Refused(f"length={length}: {name} has {positions} positions for {length} tokens{beside}; "
                      f"say length={positions - special} or less")


def set_dropout(name: str, config: PretrainedConfig, recipe: Recipe) -> None:
    """The recipe's dropout everywhere, and its cls_dropout before the classifier; null: the model's own."""
    also = {"cls_dropout"} if config.model_type == "deberta-v2" else set()  # read, but not declared
    for keys, rate in ((DROPOUTS + HEAD_DROPOUTS, recipe.dropout), (HEAD_DROPOUTS, recipe.cls_dropout)):
        there = [key for key in keys if hasattr(config, key) or key in also]
        for key in there if rate is not None else ():
            setattr(config, key, rate)
        if rate is not None and not there:
            what = "dropout" if keys != HEAD_DROPOUTS else "cls_dropout"
            raise Refused(f"{what}={rate}: {name} has no such dropout; say {what}=null")
