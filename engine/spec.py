"""What the files of conf/ state, checked: recipe, decoding, model. Light, so that a bad value is answered at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from engine.contract import Refused, number, one_of


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of one cell, as conf/recipe states them; batch is the global one."""

    lr: float
    epochs: int
    batch: int
    length: int
    warmup: float  # below 1: share of all steps; from 1 on: steps
    schedule: str
    weight_decay: float
    decay_on: str
    betas: Sequence[float]
    eps: float
    clip: float | None
    label_smoothing: float
    dropout: float | None
    cls_dropout: float | None  # before the classifier alone
    precision: str
    batching: str
    averaging: str | None  # of a text's loss; None where a label is predicted

    def __post_init__(self) -> None:
        number("lr", self.lr, 0, open_low=True)
        number("epochs", self.epochs, 1, whole=True)
        number("batch", self.batch, 1, whole=True)
        number("length", self.length, 4, whole=True)
        number("warmup", self.warmup, 0)
        number("warmup", self.warmup, 0, whole=isinstance(self.warmup, int) or self.warmup >= 1)
        number("weight_decay", self.weight_decay, 0)
        number("eps", self.eps, 0, open_low=True)
        number("clip", self.clip, 0, open_low=True, none=True)
        number("label_smoothing", self.label_smoothing, 0, 1)
        number("dropout", self.dropout, 0, 1, none=True)
        number("cls_dropout", self.cls_dropout, 0, 1, none=True)
        one_of("decay_on", self.decay_on, ("matrices", "all"))
        one_of("precision", self.precision, ("fp32", "bf16", "fp16", "auto"))
        one_of("batching", self.batching, ("shuffle", "grouped"))
        one_of("averaging", self.averaging, (None, "tokens", "examples"))
        one_of("schedule", self.schedule, ("linear", "cosine", "constant_with_warmup"))
        if not isinstance(self.betas, Sequence) or len(self.betas) != 2:
            raise Refused(f"betas={self.betas}: betas must be two numbers")
        for beta in self.betas:
            number("betas", beta, 0, 0.999999)


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """The recipe among a run's settings. Raises Refused on a value out of range."""
    return Recipe(**{field.name: settings[field.name] for field in fields(Recipe)})


@dataclass(frozen=True)
class Decode:
    """A file of conf/decode: how texts are searched for, and what its words mean."""

    name: str
    checkpoint: str  # best (lowest validation loss) · last
    search: str  # official · hf: see engine/search.py
    beams: int
    length_penalty: float  # a finished text's score is its log-probability / length ** length_penalty
    no_repeat: int  # tokens of a run that must not come twice; 0: no ban
    ban_sees: str  # completion · all: whether a run of the prompt counts as having come
    renormalise: bool  # whether the other words share what the banned ones had
    ends: Sequence[str]  # texts that end an output besides the end token
    max_new: int  # tokens

    def __post_init__(self) -> None:
        one_of("decode.checkpoint", self.checkpoint, ("best", "last"))
        one_of("decode.search", self.search, ("official", "hf"))
        one_of("decode.ban_sees", self.ban_sees, ("completion", "all"))
        one_of("decode.renormalise", self.renormalise, (True, False))
        number("decode.beams", self.beams, 1, whole=True)
        number("decode.length_penalty", self.length_penalty, 0)
        number("decode.no_repeat", self.no_repeat, 0, whole=True)
        number("decode.max_new", self.max_new, 1, whole=True)
        if not isinstance(self.ends, (list, tuple)) or not all(isinstance(end, str) and end for end in self.ends):
            raise Refused(f"decode.ends={self.ends}: decode.ends must be a list of texts")


def decode_of(settings: Mapping[str, Any]) -> Decode | None:
    """The way to decode among a run's settings, None where the task has no texts. Raises Refused."""
    said, texts = settings["decode"], settings["task"].get("scored") is not None
    if texts != (said is not None):
        task = settings["task"]["name"]
        raise Refused(f"decode: task={task} answers with {'texts: name one' if texts else 'labels: leave it out'}")
    if said is None:
        return None
    made_for = settings["scale"].get("_texts")
    if made_for is not None and settings["task"]["name"] not in made_for:
        raise Refused(f"scale={settings['scale']['name']}: texts are generated for {', '.join(made_for)} alone; for "
                      f"task={settings['task']['name']} give data_root=DIR and scale=paper")
    if settings["averaging"] is None:
        raise Refused(f"averaging=null: task={settings['task']['name']} needs averaging=tokens or averaging=examples")
    made = Decode(**{key: value for key, value in said.items() if not key.startswith("_")})
    if made.max_new > settings["length"] - 2:
        raise Refused(f"decode.max_new={made.max_new}: leaves no room for a prompt in length={settings['length']}")
    return made


@dataclass(frozen=True)
class ModelSpec:
    """A file of conf/model: where the weights are, what shape they must have, and the paper's names for its modules."""

    name: str
    path: str | None  # a hub id, a folder or a package; None: nobody has the weights
    revision: str | None
    package: str | None
    sha256: str | None
    attention: str | None  # None: what the library takes
    config: Mapping[str, Any] | None
    roles: Mapping[str, Any]  # the paper's name -> a pattern, or pattern, part and parts

    def __post_init__(self) -> None:
        if self.path is not None and not isinstance(self.path, str):
            raise Refused(f"model.path={self.path}: model.path must be a hub id or a folder")
        if not isinstance(self.roles, Mapping):
            raise Refused(f"model.roles={self.roles}: model.roles must say which modules are q, k, v, o and ff")
        for name, role in self.roles.items():
            if isinstance(role, str):
                continue
            if not isinstance(role, Mapping) or set(role) != {"pattern", "part", "parts"}:
                raise Refused(f"model.roles.{name}={role}: a role is a pattern, or {{pattern, part, parts}}")
            number(f"model.roles.{name}.part", role["part"], 0, whole=True)
            number(f"model.roles.{name}.parts", role["parts"], 1, whole=True)
