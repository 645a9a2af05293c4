"""The frozen W beside an update, read from the base model's safetensors, and its SVD, kept on disk once computed.

Only the tensors asked for are read. Folders in the environment's LORA_BASE (DIR:DIR …) are looked through first: a run
on weights from a folder does not record where they lay, but what they were."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from analysis import subspace
from engine import hub
from engine.contract import Refused
from engine.files import user_cache, whole
from engine.record import Record
from lora.files import Update

TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # transformers' Conv1D keeps W as (in, out)
CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")
SHARE = 10  # of the right-singular directions the first tenth is kept, as Figure 8 shows
HASHED = 2 << 30  # bytes of a folder up to which its fingerprint is taken: some seconds


@dataclass(frozen=True)
class Base:
    """A base model on disk: which of its safetensors files holds which tensor."""

    files: dict[str, Path]
    transposed: bool

    def weight(self, update: Update) -> torch.Tensor:
        """W (d_out, d_in) of the outputs that an update changes, as stored. Raises Refused."""
        name = self._name(f"{update.module}.weight")
        try:
            with safe_open(self.files[name], "pt") as file:
                W = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise Refused(f"{self.files[name]}: {name} cannot be read ({error})") from None
        if self.transposed and update.module.rpartition(".")[2] in CONV1D:
            W = W.T
        W = W[update.start:update.stop]
        if W.shape != (len(update.B), update.A.shape[1]):
            raise Refused(f"{name} is {tuple(W.shape)} in the base model, but its update is "
                          f"({len(update.B)}, {update.A.shape[1]}): not the model that was adapted")
        return W.contiguous()

    def _name(self, wanted: str) -> str:
        """The stored name: a bare encoder lacks the prefix that a model with a head has, and the other way round. As
        much of the end as is needed to know the layer must be the same."""
        parts = wanted.split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdigit()]
        for cut in range(max(numbers[0] if numbers else 1, 1)):
            end = ".".join(parts[cut:])
            found = [name for name in self.files if f".{name}".endswith(f".{end}")]
            if len(found) == 1:
                return found[0]
        raise Refused(f"the base model has no tensor that is clearly {wanted}")


@lru_cache
def _opened(folder: Path) -> Base:
    index = folder / hub.WEIGHTS[1]
    try:
        if (folder / hub.WEIGHTS[0]).is_file():
            with safe_open(folder / hub.WEIGHTS[0], "pt") as file:
                files = dict.fromkeys(file.keys(), folder / hub.WEIGHTS[0])
        else:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = {name: folder / shard for name, shard in shards.items()}
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise Refused(f"{folder}: not a readable model ({type(error).__name__}: {error})") from None
    return Base(files, kind in TRANSPOSED)


def of(record: Record) -> Base:
    """The base model of a run. Raises Refused when it is not at hand, or is another one than the run's."""
    model = record.settings["model"]
    sha256 = model["sha256"] if record.model_revision == f"sha256:{model['sha256']}" else None
    named = os.environ.get("LORA_BASE", "")
    for folder in map(Path, filter(None, named.split(os.pathsep))):
        if folder.is_dir() and record.model_revision in (folder.name, _revision(folder, sha256)):
            return _opened(folder)
    if model["path"] == "folder":
        raise Refused(f"the base weights of {record.digest} came from a folder; LORA_BASE=DIR says where it is now")
    folder = _found(model["name"], model["path"], model["revision"], model.get("package"))
    revision = _revision(folder, sha256)
    if None not in (revision, record.model_revision) and revision != record.model_revision:
        raise Refused(f"{record.digest} was trained on other weights of {model['name']} than those in {folder.name}\n"
                      "LORA_BASE=DIR names the folder that has them")
    return _opened(folder)


@lru_cache
def _asked(name: str, path: str, revision: str | None, package: str | None) -> Path | str:
    try:
        return hub.model_folder(name, path, revision, package)
    except Refused as error:
        return str(error).partition("\n")[0]


def _found(name: str, path: str, revision: str | None, package: str | None) -> Path:
    """hub.model_folder, asked once for a model: without a hub every question costs a probe, a refusal too."""
    answer = _asked(name, path, revision, package)
    if isinstance(answer, str):
        raise Refused(f"{answer}\nLORA_BASE=DIR names a folder that has the weights")
    return answer


@lru_cache
def _revision(folder: Path, sha256: str | None) -> str | None:
    """What identifies the weights of a folder: this sha256, if it is theirs. None: it would take too long to say."""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    quick = size <= HASHED or hub.commit_of(folder)
    return hub.revision_of(folder, sha256, known=True, others=True) if quick else None


def spectrum(W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All singular values of W (d_out, d_in), and the first tenth of its right-singular directions (d_in, d / 10), in
    float64; computed once for a matrix and kept in the user's cache."""
    W = W.double().contiguous()
    digest = hashlib.sha256(f"{tuple(W.shape)}".encode() + W.numpy().tobytes()).hexdigest()
    path = user_cache() / "svd" / f"{digest}.safetensors"
    kept = _cached(path, W)
    if kept is None:
        _, S, Vh = torch.linalg.svd(W, full_matrices=False)
        kept = {"S": S, "V": Vh[:_tenth(W)].T.contiguous()}
        with suppress(OSError, SafetensorError):  # a cache that cannot be written costs time, nothing else
            whole(path, lambda part: save_file(kept, part))
    return kept["S"], kept["V"]


def _tenth(W: torch.Tensor) -> int:
    return max(min(W.shape) // SHARE, 1)


def _cached(path: Path, W: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """What is kept of W's SVD, if it is there and true: ‖W v_k‖ = σ_k in every direction, and these orthonormal."""
    try:
        kept = load_file(path)
    except (SafetensorError, OSError):
        return None
    S, V = kept.get("S"), kept.get("V")
    if S is None or V is None or S.shape != (min(W.shape),) or V.shape != (W.shape[1], _tenth(W)):
        return None
    whole_norm = subspace.norm(W)
    gaps = [(torch.linalg.vector_norm(W @ V, dim=0) - S[:V.shape[1]]).abs().max() / max(whole_norm, 1e-300),
            (V.T @ V - torch.eye(V.shape[1], dtype=V.dtype)).abs().max(),
            (S.norm() - whole_norm).abs() / max(whole_norm, 1e-300)]
    return kept if all(gap < 1e-9 for gap in gaps) else None
