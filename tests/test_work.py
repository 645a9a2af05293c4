"""Claims and work folders: one process at a time, taken over from the dead alone; what a folder says of its cell."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import ROOT

from engine import claim, holder, work
from engine.contract import Elsewhere, Stopped

HOLD = """
import sys, time
from pathlib import Path
from engine import claim, work
claim.LEASE, claim.BEAT, claim.FRESH = map(float, sys.argv[2:5])
with work.claimed(Path(sys.argv[1])) as mine:
    print("held", flush=True)
    sys.stdin.readline()
    mine.progress({"step": 1})
    print(mine.lost, flush=True)
"""
# The claim is what keeps two from being inside; O_EXCL on `inside` sees it where it did not.
CONTEND = """
import os, sys, time
from pathlib import Path
from engine import claim, work
from engine.contract import Stopped
claim.LEASE, claim.BEAT = 1.0, 0.2
folder, count = Path(sys.argv[1]), Path(sys.argv[2])
for round in range(20):
    try:
        with work.claimed(folder / "cell", wait=60):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            said = int(count.read_text())
            time.sleep(0.003)
            count.write_text(str(said + 1))
            (folder / "inside").unlink()
            if round % 2:
                raise Stopped("the folder stays")
    except Stopped:
        pass
"""
CELLS = """
import os, sys, time
from pathlib import Path
from engine import claim, work
from engine.contract import Elsewhere
claim.LEASE, claim.BEAT = 2.0, 0.2
out = Path(sys.argv[1])
records = [out / "runs" / "demo" / "rte" / f"tiny-lora-s{seed}-0.json" for seed in range(12)]
while not all(record.exists() for record in records):
    for record in records:
        try:
            with work.claimed(work.folder_of(out, record)):
                if not record.exists():
                    with open(out / "ran", "a") as file:
                        file.write(f"{record.stem} {os.getpid()}\\n")
                    time.sleep(0.05)
                    record.write_text("{}")
        except Elsewhere:
            pass
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """start(script, words…): a process of its own, ended with the test."""
    with ExitStack() as stack:
        def made(script: str, *words: object) -> "subprocess.Popen[str]":
            process = subprocess.Popen([sys.executable, "-c", script, *map(str, words)], cwd=ROOT, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(lambda: (process.kill(), process.communicate()))
            return process

        yield made


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of a second."""
    for name, value in (("LEASE", 1.0), ("BEAT", 0.2), ("FRESH", 0.0)):
        monkeypatch.setattr(claim, name, value)


def forged(folder: Path, number: int = 1, **changes: object) -> Path:
    """A claim of another machine's process, with the same host name and process id as this one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"claim-{number}"
    said = asdict(holder.here(claim.LEASE)) | {"place": "another container", "token": "other"} | changes
    path.write_text(json.dumps(said))
    return path


def test_two_processes_are_never_inside_at_once(start: Start, tmp_path: Path) -> None:
    """40 rounds, half of which remove the folder and half leave it; the first takes over from a dead process."""
    (tmp_path / "count").write_text("0")
    forged(tmp_path / "cell", 7, place=holder.place(), born=1)
    both = [start(CONTEND, tmp_path, tmp_path / "count") for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (tmp_path / "count").read_text() == "40"


def test_two_processes_on_one_list_run_each_cell_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "runs" / "demo" / "rte").mkdir(parents=True)
    both = [start(CELLS, tmp_path) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert sorted(name for name, _ in ran) == sorted(f"tiny-lora-s{seed}-0" for seed in range(12))
    assert len({pid for _, pid in ran}) == 2   # and they shared them
    assert [path for path in (tmp_path / "work").rglob("*") if path.is_file()] == []


@pytest.mark.skipif(holder.place() is None, reason="only Linux tells that a process is gone")
@pytest.mark.parametrize("buried", [True, False])
def test_a_killed_holder_of_this_machine_is_followed_at_once(start: Start, tmp_path: Path, buried: bool) -> None:
    """Also while its parent has not asked for its end: a zombie runs nothing."""
    process = start(HOLD, tmp_path / "cell", 120, 20, 1)
    assert process.stdout and process.stdout.readline() == "held\n"
    with pytest.raises(Elsewhere, match=f"pid {process.pid}, since 20"), work.claimed(tmp_path / "cell"):
        pass
    assert work.state(tmp_path / "cell").kind == "running"
    process.send_signal(signal.SIGKILL)
    if buried:
        process.wait(10)
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert work.state(tmp_path / "cell").kind == "died"
    with work.claimed(tmp_path / "cell") as mine:
        assert mine.lost is None
        assert [path.name for path in (tmp_path / "cell").iterdir()] == ["claim-2"]


def test_a_frozen_holder_learns_that_it_lost_and_writes_nothing(start: Start, tmp_path: Path, hasty: None) -> None:
    """While it is not frozen it keeps its cell for longer than a lease."""
    process = start(HOLD, tmp_path / "cell", 1, 0.2, 0)
    assert process.stdin and process.stdout and process.stdout.readline() == "held\n"
    with pytest.raises(Elsewhere), work.claimed(tmp_path / "cell", wait=1.7):
        pass
    process.send_signal(signal.SIGSTOP)
    with work.claimed(tmp_path / "cell", wait=20) as mine:
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("\n", 20)
        assert said.startswith("it was taken over by ") and f"pid {os.getpid()}" in said
        assert process.returncode == 0 and mine.lost is None
        assert [path.name for path in (tmp_path / "cell").iterdir()] == ["claim-2"]   # no progress.json, not removed
    assert not (tmp_path / "cell").exists()


@pytest.mark.parametrize("torn", [False, True])
def test_another_machine_is_watched_for_a_lease(tmp_path: Path, hasty: None, torn: bool) -> None:
    """Its process ids mean nothing here: the same host name and a dead process's id prove nothing."""
    path = forged(tmp_path / "cell", pid=2**22 + 1)
    if torn:
        path.write_text('{"host"')
    with pytest.raises(Elsewhere, match="unknown" if torn else "pid"), work.claimed(tmp_path / "cell"):
        pass
    began = time.monotonic()
    with work.claimed(tmp_path / "cell", wait=20):
        assert time.monotonic() - began >= 0.9


def test_a_touch_is_a_sign_of_life_whatever_its_clock_says(tmp_path: Path, hasty: None) -> None:
    """A holder whose clock is an hour behind seems dead; it is watched even without wait, and seen to live."""
    path, said = forged(tmp_path / "cell"), []
    os.utime(path, (time.time() - 3600,) * 2)
    assert work.state(tmp_path / "cell").kind == "silent"

    def say(words: str) -> None:
        said.append(words)
        os.utime(path, (time.time() - 3590,) * 2)

    with pytest.raises(Elsewhere), work.claimed(tmp_path / "cell", say=say):
        pass
    assert len(said) == 1 and said[0].startswith("no sign of life for 3,600 s from ")
    assert work.state(tmp_path / "cell").kind == "running"
    with work.claimed(tmp_path / "cell", wait=20):   # no touch any more
        pass


def test_a_clock_ahead_hides_no_death(tmp_path: Path, hasty: None) -> None:
    os.utime(forged(tmp_path / "cell"), (time.time() + 3600,) * 2)
    assert work.state(tmp_path / "cell").kind == "running"
    time.sleep(1.1)
    assert work.state(tmp_path / "cell").kind == "silent"


def test_the_longer_lease_counts(tmp_path: Path, hasty: None) -> None:
    forged(tmp_path / "cell", lease=3600.0)
    with pytest.raises(Elsewhere), work.claimed(tmp_path / "cell", wait=1.5):
        pass


@pytest.mark.skipif(holder.place() is None, reason="only Linux tells that a process is gone")
def test_a_process_is_known_by_its_start_too(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = holder.here(1.0)
    assert not mine.gone() and replace(mine, born=(mine.born or 0) - 1).gone()   # its id was given to this one later
    assert replace(mine, pid=2**22 + 1).gone() and replace(mine, released="now").gone()
    for unknown in ({"pid": None}, {"born": None}, {"place": "another"}, {"pid": 1, "born": None}):
        assert not replace(mine, **unknown).gone()   # type: ignore[arg-type]
    monkeypatch.setattr(holder, "place", lambda: None)   # not Linux
    assert not replace(mine, place=None, pid=2**22 + 1).gone()


def test_a_job_that_slurm_started_again_takes_over_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    forged(tmp_path / "cell", host="node7")
    with pytest.raises(Elsewhere, match="node7, pid .*, Slurm job 17_3, since"), work.claimed(tmp_path / "cell"):
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with work.claimed(tmp_path / "cell"):
        pass
    forged(tmp_path / "cell", job="18", restart=0)
    with pytest.raises(Elsewhere), work.claimed(tmp_path / "cell"):
        pass


def test_how_a_block_ends(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    with pytest.raises(RuntimeError), work.claimed(folder):
        raise RuntimeError("out of memory\nsecond line")
    state = work.state(folder)
    assert state.kind == "failed" and state.failed and state.holder is None
    assert state.failed["error"] == "RuntimeError: out of memory"
    assert "in test_how_a_block_ends" in state.failed["traceback"]
    for error in (Stopped("at step 3"), Elsewhere("there"), KeyboardInterrupt()):
        with pytest.raises(type(error)), work.claimed(folder):
            assert not (folder / "failed.json").exists()   # the new try's only
            raise error
        assert work.state(folder).kind == "free" and not (folder / "failed.json").exists()


def test_a_finished_folder_goes_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted in place, a part of it could be found, claimed, and deleted with the claim."""
    folder, there = tmp_path / "cell", []
    rmtree = work.shutil.rmtree
    monkeypatch.setattr(work.shutil, "rmtree", lambda path, ignore_errors: (
        there.append(folder.exists()), rmtree(path, ignore_errors=ignore_errors)))
    (tmp_path / ".gone-of-a-killed-process").mkdir()
    with work.claimed(folder):
        (folder / "step-1.pt").write_text("large")
    assert there == [False, False] and list(tmp_path.iterdir()) == []


def test_a_folder_that_was_deleted_meanwhile_is_lost(tmp_path: Path, hasty: None) -> None:
    """Nothing is written into the folder of the next one, nor is it removed."""
    folder = tmp_path / "cell"
    with pytest.raises(ValueError), work.claimed(folder) as mine:
        folder.rename(tmp_path / "aside")
        assert mine.lost is not None and "gone" in mine.lost
        forged(folder, token="next")
        mine.progress({"step": 1})
        raise ValueError("not to be written there")
    assert [path.name for path in folder.iterdir()] == ["claim-1"]
    assert json.loads((folder / "claim-1").read_text())["token"] == "next"


def test_a_claim_that_was_looked_at_in_another_folder_is_none(tmp_path: Path) -> None:
    """The cell was finished, its folder removed, and begun again between a look and the claim: the new one counts."""
    folder = tmp_path / "cell"
    forged(folder, 1)
    assert claim._next(folder, 5) is None
    assert [path.name for path in folder.iterdir()] == ["claim-1"]


def test_a_server_that_does_not_answer_takes_nothing_away_at_first(tmp_path: Path, hasty: None,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: object) -> list[str]:
        raise OSError(5, "Input/output error")

    with work.claimed(tmp_path / "cell") as mine, monkeypatch.context() as patch:
        patch.setattr(claim.os, "listdir", fail)
        assert mine.lost is None
        time.sleep(1.0)
        assert mine.lost is not None and "Input/output error" in mine.lost


def test_progress_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with work.claimed(tmp_path / "cell") as mine:
        mine.progress({"step": 1})
        mine.progress({"step": 2})
        assert json.loads((tmp_path / "cell" / "progress.json").read_text()) == {"step": 1}
        monkeypatch.setattr(work, "EVERY", 0.0)
        mine.progress({"step": 3})
        assert work.state(tmp_path / "cell").progress == {"step": 3}


def test_what_a_folder_says(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    assert work.state(folder).kind == "free"
    folder.mkdir()
    for step in (9, 10):
        (folder / f"step-{step}.pt").touch()
        (folder / f"step-{step}.json").write_text(json.dumps({"step": step}))
    (folder / "step-11.json").write_text('{"step": 11}')   # its tensors are gone
    (folder / "step-12.pt").touch()   # its JSON is not there yet
    state = work.state(folder)
    assert (state.kind, state.point, state.broken) == ("interrupted", {"step": 10}, ())
    (folder / "step-10.json").write_text("{")
    state = work.state(folder)
    assert state.point == {"step": 9} and len(state.broken) == 1 and "step-10.json" in state.broken[0]
    work.fail(folder, "job 17 CANCELLED", "no traceback")
    assert work.state(folder).kind == "failed"
    forged(folder)
    assert work.state(folder).kind == "running"   # again


def test_where_the_folder_is() -> None:
    for out in (Path("results"), Path("/data/out")):
        record = out / "runs" / "demo" / "rte" / "gpt2-1.5b-lora-s0-c51d.json"
        wanted = out / "work" / "demo" / "rte" / "gpt2-1.5b-lora-s0-c51d"
        assert work.folder_of(out, record) == wanted == work.folder_of(out, record.relative_to(out))
        assert work.folder_of(out, record.with_name(wanted.name)) == wanted   # a training's folder
