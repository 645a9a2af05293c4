"""A checkpoint is whole and checked, or it is none: whatever a disk or a power cut does to it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_resume
import torch
from test_resume import At, Run, alike

from engine import checkpoint
from engine.checkpoint import Checkpoints
from engine.contract import Stopped


def about(step: int) -> dict[str, Any]:
    return {"step": step, "steps": 9, "epoch": 1, "seconds": float(step)}


def state(step: int) -> dict[str, Any]:
    shared = torch.arange(1000.0) * step
    return {"a": shared, "b": {"c": [shared, 1, 2.5, None, True, "x", (0.9, 0.999)]}, "step": step}


@pytest.fixture
def three(tmp_path: Path) -> Checkpoints:
    """Checkpoints of steps 2 and 3, and one of step 1 that was pruned."""
    made = Checkpoints(tmp_path / "work", "digest", 10)
    for step in (1, 2, 3):
        assert made.save(state(step), about(step))
    return made


def found(made: Checkpoints) -> int | None:
    """The step of what is read back, itself compared with what was written."""
    loaded = made.load()
    if loaded is None:
        return None
    step = loaded.about["step"]
    assert torch.equal(loaded.state["a"], state(step)["a"]) and loaded.state["b"]["c"][1:] == state(step)["b"]["c"][1:]
    assert loaded.state["step"] == step
    return int(step)


def test_what_was_saved_is_read_back_and_two_are_kept(three: Checkpoints) -> None:
    assert found(three) == 3
    names = {f"step-{step}.{kind}" for step in (2, 3) for kind in ("pt", "json")}
    assert {path.name for path in three.folder.iterdir()} == names
    said = json.loads((three.folder / "step-3.json").read_text())
    assert {"sha256", "digest", "step", "steps", "epoch", "seconds"} <= said.keys()
    assert (three.folder / "step-3.pt").stat().st_size < 9000  # a tensor that stands in it twice is written once
    three.clear()
    assert found(three) is None and list(three.folder.iterdir()) == []


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut off":
        del content[len(content) // 2:]
    elif how == "empty":
        content.clear()
    elif how == "zeroed":
        content = bytearray(len(content))
    elif how == "a flipped bit":
        content[len(content) // 3] ^= 4
    elif how == "longer":
        content += b"x"
    path.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], object]] = {
    **{how: lambda folder, how=how: damage(folder / "step-3.pt", how)  # type: ignore[misc]
       for how in ("cut off", "empty", "zeroed", "a flipped bit", "longer")},
    "no .pt": lambda folder: (folder / "step-3.pt").unlink(),
    "no JSON": lambda folder: (folder / "step-3.json").unlink(),
    "half a JSON": lambda folder: damage(folder / "step-3.json", "cut off"),
    "an empty JSON": lambda folder: damage(folder / "step-3.json", "empty"),
    "a JSON of something else": lambda folder: (folder / "step-3.json").write_text("[1]"),
    "JSON of another": lambda folder: (folder / "step-3.json").write_text((folder / "step-2.json").read_text()),
    "another digest": lambda folder: reworded(folder, digest="other"),
    "another format": lambda folder: reworded(folder, format=0),
}


def reworded(folder: Path, **changes: Any) -> None:
    path = folder / "step-3.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_said_and_the_one_before_taken(three: Checkpoints, how: str,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGE[how](three.folder)
    assert found(three) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: checkpoint {three.folder / 'step-3.pt'} ") and line.endswith("; left aside")
    assert three.save(state(4), about(4)) and found(three) == 4
    assert {path.stem for path in three.folder.iterdir()} <= {"step-2", "step-3", "step-4"}


def test_when_none_is_whole_the_run_starts_afresh(three: Checkpoints) -> None:
    for step in (2, 3):
        damage(three.folder / f"step-{step}.pt", "a flipped bit")
    assert found(three) is None
    assert three.save(state(1), about(1)) and found(three) == 1  # which is now behind what is left of the old ones


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "pwned"),))

    made = Checkpoints(tmp_path, "digest", 10)
    assert made.save({"a": Evil()}, about(1))  # with a checksum that fits
    assert made.load() is None and not (tmp_path / "pwned").exists()


def test_the_same_step_again_never_endangers_the_older(three: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an evaluation that was interrupted: a power cut between its .pt and its JSON must cost nothing."""
    monkeypatch.setattr(checkpoint, "whole_text", cut)
    with pytest.raises(KeyboardInterrupt):
        three.save(state(3), about(3))
    monkeypatch.undo()
    assert found(three) == 3
    again = state(3) | {"new": True}
    assert three.save(again, about(3)) and (loaded := three.load()) and loaded.state["new"] is True


def cut(*_: object) -> None:
    raise KeyboardInterrupt


# --- a full disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 100, 3000, 4500])
def test_a_full_disk_costs_the_checkpoint_alone(three: Checkpoints, room: int, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in three.folder.iterdir()}
    left = [room]
    real = checkpoint._Hashed.write

    def limited(self: Any, data: bytes) -> int:
        left[0] -= len(bytes(data))
        if left[0] < 0:
            self.file = Broken()
        return real(self, data)

    monkeypatch.setattr(checkpoint._Hashed, "write", limited)
    assert three.save(state(4), about(4)) is False
    assert "note: no checkpoint at step 4: No space left on device; the run goes on" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in three.folder.iterdir()} == before
    monkeypatch.undo()
    assert found(three) == 3 and three.save(state(4), about(4))


class Broken:
    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_room_for_the_json_is_no_checkpoint(three: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "whole_text", full)
    assert three.save(state(4), about(4)) is False
    assert not list(three.folder.glob("step-4*")) and found(three) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB, where the tests may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        done = subprocess.run(words, capture_output=True).returncode
    except OSError:
        done = 1
    if done:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_run_on_a_disk_that_is_full_keeps_its_number(small_disk: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    reference = Run("ft", tmp_path / "whole", None).piece(At())
    run = Run("ft", small_disk / "work", 0)
    with pytest.raises(Stopped):
        run.piece(At(2))
    assert test_resume.steps(run.folder)[-1] == 2
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)) > 0:
                pass
        except OSError:
            pass
    alike(run.piece(At()), reference)
    err = capsys.readouterr().err
    assert "goes on at step 2" in err and "No space left on device; the run goes on" in err
    assert test_resume.steps(run.folder)[-1] == 2 and not list(run.folder.glob(".part-*"))
    (small_disk / "filler").unlink()
    alike(run.piece(At()), reference)


# --- in a run -------------------------------------------------------------------------------------------------------


def test_a_run_whose_last_checkpoint_is_damaged_is_still_the_same_run(tmp_path: Path) -> None:
    reference = Run("lora", tmp_path / "whole", None).piece(At())
    run = Run("lora", tmp_path / "run", 0)
    with pytest.raises(Stopped):
        run.piece(At(5))
    assert test_resume.steps(run.folder) == [4, 5]
    damage(run.folder / "step-5.pt", "a flipped bit")
    alike(run.piece(At()), reference)
    for path in run.folder.glob("step-*.pt"):
        damage(path, "zeroed")
    afresh = run.piece(At())
    alike(afresh, reference)
    assert afresh.outcome.resumed == 0
