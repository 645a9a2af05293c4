"""What a run trained, on disk: safetensors with a small JSON beside it, written whole or not at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from engine.backbone import Backbone
from engine.contract import Refused
from engine.files import whole, whole_text

Tensors = dict[str, torch.Tensor]


def trained(model: nn.Module) -> Tensors:
    """A copy, on the CPU, of every tensor that trains. Raises RuntimeError on a merged model: BA would count twice."""
    for name, module in model.named_modules():
        if getattr(module, "merged", False):
            raise RuntimeError(f"{name} is merged; unmerge before saving")
    own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return {name: p.to("cpu", copy=True).contiguous() for name, p in own.items()}


def save(tensors: Tensors, path: Path, about: Mapping[str, Any]) -> None:
    """Writes path (safetensors) and adapter.json beside it, which says what they belong to. Raises OSError."""
    try:
        whole(path, lambda part: save_file(tensors, part, metadata={"format": "pt"}))
    except SafetensorError as error:  # what a full disk becomes in there
        raise OSError(errno.EIO, str(error), str(path)) from None
    whole_text(path.with_name("adapter.json"), json.dumps(about, indent=1) + "\n")


def load(backbone: Backbone, path: Path, keep_output: bool) -> str:
    """Copies saved tensors into a model to which the same method was applied; says how many matched.

    With keep_output the head's last layer stays as it is (another task has other classes). Every other trainable tensor
    must be in the file and nothing in the file may be left over. Raises Refused otherwise.
    """
    found = read(path)
    own = {name: p for name, p in backbone.model.named_parameters() if p.requires_grad}
    if keep_output:
        own = {name: p for name, p in own.items() if not name.startswith(f"{backbone.output}.")}
        found = {name: t for name, t in found.items() if not name.startswith(f"{backbone.output}.")}
    missing, unexpected = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & found.keys() if own[name].shape != found[name].shape)
    if missing or unexpected or wrong:
        parts = [f"{len(names)} {what} ({names[0]}, …)" for what, names in
                 (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong)) if names]
        fit = len(own) - len(missing) - len(wrong)
        raise Refused(f"{path} does not fit this method and model: {fit} tensors match, {', '.join(parts)}")
    put(backbone.model, {name: found[name] for name in own})
    return f"{len(own)} tensors from {path}"


def read(path: Path) -> Tensors:
    """The tensors of a file. Raises Refused."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path}: not a readable safetensors file ({error})") from None


def put(model: nn.Module, tensors: Tensors) -> None:
    """Copies tensors into the parameters of these names."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
