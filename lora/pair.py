"""A safetensors file and the JSON beside it: read with every fault named, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from engine.contract import Refused
from engine.files import whole

Tensors = dict[str, torch.Tensor]


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """A safetensors file's tensors, on the CPU, and its metadata. Raises Refused."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise Refused(f"{path}: not a readable safetensors file ({str(error).splitlines()[0][:200]})") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises Refused."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path}: not readable JSON ({str(error).splitlines()[0][:200]})") from None
    if not isinstance(said, dict):
        raise Refused(f"{path}: not a JSON object with settings")
    return said


def write(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], path: Path, said: Mapping[str, Any],
          beside: Path) -> None:
    """Puts tensors (safetensors) and settings (JSON) in their places one directly after the other, when both are
    complete on disk. Raises Refused when the disk does not take them."""
    apart = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in sorted(tensors.items())}

    def both(part: Path) -> None:
        part.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        whole(path, lambda inner: _save(apart, inner, {"format": "pt", **metadata}))

    try:
        whole(beside, both)
    except (OSError, SafetensorError) as error:
        raise Refused(f"{path}: not written ({error})") from None


def _save(tensors: Tensors, path: Path, metadata: Mapping[str, str]) -> None:
    """A safetensors file whose bytes are the same each time: the library leaves the order of metadata to chance."""
    data = save(tensors, dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")  # a file is the header's length, the header (JSON), the tensors
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the library aligns the tensors
    with path.open("wb") as file:
        file.writelines([len(text).to_bytes(8, "little"), text, data[end:]])
