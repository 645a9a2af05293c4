"""A run that is stopped at any step and taken up is, to the bit, the run that was not: weights, curve, order, noise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import ROOT
from torch import nn

from baselines.full import FullFineTuning
from baselines.prefix import PreLayer
from engine import train
from engine.checkpoint import Checkpoints, read
from engine.contract import Batch, Elsewhere, Method, Splits, Stopped
from engine.member import Asked
from engine.stop import Signalled, Stop
from engine.train import Fitted

EPOCHS, STEPS = 3, 9  # 24 - 3 examples in batches of 8
METHODS: dict[str, Method] = {"lora": tiny.lora(dropout=0.2), "ft": FullFineTuning("ft", "FT"),
                              "prelayer": tiny.prefix(PreLayer)}
# Of a run, what could be taken up wrongly: noise, clipping, decay, uneven batches, warm-up, smoothing.
HARD: dict[str, Any] = {"epochs": EPOCHS, "clip": 0.3, "weight_decay": 0.1, "warmup": 0.3, "label_smoothing": 0.1}


class At(Stop):
    """Asks to stop after so many looks, as a signal would that comes just then."""

    def __init__(self, looks: int = 10**9) -> None:
        super().__init__()
        self.looks = looks

    def look(self) -> None:
        self.looks -= 1
        if self.looks == 0:
            self.seen.append(signal.SIGTERM)


class Task(tiny.Scripted):
    """The real loss; the metric hangs on the weights and on what the evaluation drew. Every step is a look."""

    def __init__(self, stop: At, evaluation: bool = False) -> None:
        super().__init__()
        self.stop, self.evaluation = stop, evaluation

    def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        if not self.evaluation:
            self.stop.look()
        return super().losses(model, batch, smoothing)

    def evaluate(self, predict: Any, validation: Any) -> dict[str, float]:
        if self.evaluation:
            self.stop.look()
        rows = predict(validation["validation"], tiny.logits)
        return {"score": float(rows.abs().sum()) % 7}


class Run:
    """A method's run, in as many pieces as it is stopped; the same data object, so that it remembers what was asked."""

    def __init__(self, method: str, folder: Path, minutes: float | None = 1e9, micro: int | None = None,
                 **changes: Any) -> None:
        self.method, self.changes, self.micro = METHODS[method], HARD | changes, micro
        self.folder, self.minutes = folder, minutes
        self.told: list[dict[str, Any]] = []
        self.code = "abc"
        special = tiny.backbone(layers=1).special(self.method.tokens) if any(self.method.tokens) else tiny.NONE
        self.rows = Splits(tiny.Rows(21, special=special), {"validation": tiny.Rows(11, 1, special=special)})

    def piece(self, stop: At, evaluation: bool = False) -> Fitted:
        self.told = []
        made = tiny.adapted(self.method, dropout=0.1, layers=1)
        torch.manual_seed(int(time.monotonic_ns() % 2**31))  # nothing may hang on the caller's random state
        asked = Asked(made, tiny.recipe(**self.changes), 0, self.told.append,
                      Checkpoints(self.folder, "digest", self.minutes, self.code), stop)
        return tiny.alone(train.fit([asked], Task(stop, evaluation), self.rows, tiny.CPU, self.micro))

    def interrupted(self, *looks: int, evaluation: bool = False) -> Fitted:
        for look in looks:
            with pytest.raises(Stopped):
                self.piece(At(look), evaluation)
        return self.piece(At())

    @property
    def asked(self) -> list[list[int]]:
        return self.rows.train.asked  # type: ignore[attr-defined]


def alike(one: Fitted, other: Fitted) -> None:
    """Every bit of what a run gives, but clock and memory."""
    assert json.dumps(one.outcome.curve) == json.dumps(other.outcome.curve)
    assert (one.outcome.best, one.outcome.last, one.outcome.best_epoch, one.outcome.steps, one.outcome.notes) == (
        other.outcome.best, other.outcome.last, other.outcome.best_epoch, other.outcome.steps, other.outcome.notes)
    for mine, reference in ((one.best, other.best), (one.last, other.last)):
        assert mine.keys() == reference.keys() and all(torch.equal(mine[name], reference[name]) for name in mine)


# --- any step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_stopped_after_any_step_it_is_the_same_run(method: str, tmp_path: Path) -> None:
    whole = Run(method, tmp_path / "whole", None)
    reference = whole.piece(At())
    assert len(whole.asked) == STEPS and reference.outcome.resumed == 0
    assert len({entry["loss"] for entry in reference.outcome.curve}) == EPOCHS
    for step in range(1, STEPS + 1) if method == "lora" else (2, 6):  # within, last of an epoch
        run = Run(method, tmp_path / str(step))
        with pytest.raises(Stopped, match=rf"SIGTERM: stopped at step {step} of {STEPS} .*the same command goes on"):
            run.piece(At(step))
        assert run.asked == whole.asked[:step]
        fitted = run.piece(At())
        alike(fitted, reference)
        assert run.asked == whole.asked and run.told == fitted.outcome.curve and fitted.outcome.resumed == 1


@pytest.mark.parametrize("changes", [
    {"micro": 3}, {"schedule": "cosine", "warmup": 0, "clip": None}, {"schedule": "constant_with_warmup"},
    {"batching": "grouped", "micro": 5, "precision": "bf16"}], ids=str)
def test_however_it_trains(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = Run("lora", tmp_path / "whole", None, **changes)
    reference = whole.piece(At())
    for look in (2, 8):
        run = Run("lora", tmp_path / str(look), **changes)
        alike(run.interrupted(look), reference)
        assert run.asked == whole.asked


@pytest.mark.parametrize("method", METHODS)
def test_stopped_in_an_evaluation_it_goes_straight_to_that_evaluation(method: str, tmp_path: Path) -> None:
    whole = Run(method, tmp_path / "whole", None)
    reference = whole.piece(At())
    for epoch in range(1, EPOCHS + 1) if method == "lora" else (2,):
        run = Run(method, tmp_path / str(epoch))
        with pytest.raises(Stopped, match=f"step {3 * epoch} of {STEPS} .epoch {epoch} "):
            run.piece(At(epoch), evaluation=True)
        before = len(run.asked)
        alike(run.piece(At()), reference)
        assert before == 3 * epoch and run.asked == whole.asked


def test_stopped_many_times_and_twice_at_the_same_evaluation(tmp_path: Path) -> None:
    reference = Run("lora", tmp_path / "whole", None).piece(At())
    run = Run("lora", tmp_path / "run")
    for _ in range(2):
        with pytest.raises(Stopped, match="step 3 of 9"):
            run.piece(At(1), evaluation=True)
    fitted = run.interrupted(*[1] * 4)  # a step, and stopped again
    alike(fitted, reference)
    assert fitted.outcome.resumed == 6


def test_a_run_that_is_through_is_not_trained_again(tmp_path: Path) -> None:
    run = Run("lora", tmp_path, 0)
    first = run.piece(At())
    asked = len(run.asked)
    again = run.piece(At())
    alike(again, first)
    assert len(run.asked) == asked and run.told == list(first.outcome.curve)


def test_clocks_and_tokens_add_up_and_the_first_start_counts(tmp_path: Path) -> None:
    run = Run("lora", tmp_path)
    with pytest.raises(Stopped):
        run.piece(At(5))
    (path,) = [path for path in tmp_path.glob("step-*.json") if json.loads(path.read_text())["step"] == 5]
    state = read(path.with_suffix(".pt"))
    state["seconds"] = [1000.0, 500.0]
    state["plain"] |= {"started": "2001-01-01T00:00:00+00:00", "peak": 10**15}
    checkpoints = Checkpoints(tmp_path, "digest", 1)
    assert checkpoints.save(state, {"step": 6, "steps": 9, "epoch": 2, "seconds": 1000.0})
    fitted = run.piece(At())
    tokens = EPOCHS * sum(run.rows.train.lengths)
    assert 1000 < fitted.outcome.seconds < 1060 and fitted.started.startswith("2001")
    assert fitted.outcome.tokens_per_second == pytest.approx(tokens / 500, rel=0.1)
    assert fitted.outcome.peak_bytes == 10**15


def test_the_frozen_weights_are_in_no_checkpoint(tmp_path: Path) -> None:
    run = Run("lora", tmp_path)
    run.piece(At())
    own = {name for name, p in tiny.adapted(METHODS["lora"], layers=1).model.named_parameters() if p.requires_grad}
    for path in tmp_path.glob("step-*.pt"):
        state = read(path)
        assert state["weights"].keys() == own == state["best_weights"].keys()
        assert len(state["optimiser"]["state"]) == len(own)


# --- when it saves --------------------------------------------------------------------------------------------------


def steps(folder: Path) -> list[int]:
    return sorted(json.loads(path.read_text())["step"] for path in folder.glob("step-*.json"))


def test_after_every_epoch_and_the_last_two_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = Checkpoints.save

    def noted(self: Checkpoints, state: Any, about: Any) -> bool:
        saved.append(about["step"])
        done = save(self, state, about)
        self.cost = 0.0
        return done

    monkeypatch.setattr(Checkpoints, "save", noted)
    Run("lora", tmp_path / "a").piece(At())
    assert saved == [3, 6, 9] and steps(tmp_path / "a") == [6, 9]
    saved.clear()
    Run("lora", tmp_path / "b", minutes=0).piece(At())
    assert saved == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
    assert len(list((tmp_path / "b").iterdir())) == 4 and steps(tmp_path / "b") == [9, 9]
    saved.clear()
    with pytest.raises(Stopped, match="nothing of that is saved"):
        Run("lora", tmp_path / "c", minutes=None).piece(At(4))
    assert saved == [] and not (tmp_path / "c").exists()


def test_where_saving_costs_much_not_every_epoch_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = Checkpoints.save, []

    def slow(self: Checkpoints, state: Any, about: Any) -> bool:
        saved.append(about["step"])
        done = save(self, state, about)
        self.cost = 100.0
        return done

    monkeypatch.setattr(Checkpoints, "save", slow)
    Run("lora", tmp_path).piece(At())
    assert saved == [3]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saving_at_every_step_changes_no_number(precision: str, tmp_path: Path) -> None:
    alike(Run("ft", tmp_path, 0, precision=precision).piece(At()),
          Run("ft", tmp_path / "none", None, precision=precision).piece(At()))


# --- what cannot be taken up ----------------------------------------------------------------------------------------


def test_a_cell_that_was_taken_over_stops_and_writes_nothing(tmp_path: Path) -> None:
    for evaluation in (False, True):
        stop, run = At(4 if not evaluation else 2), Run("lora", tmp_path / str(evaluation))
        stop.lost = lambda stop=stop: "host b has it" if stop.seen else None  # type: ignore[misc]
        with pytest.raises(Elsewhere, match="host b has it"):
            run.piece(stop, evaluation)
        assert steps(run.folder)[-1:] in ([3], [6]) and 4 not in steps(run.folder)


def test_a_checkpoint_of_another_model_is_left_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Stopped):
        Run("ft", tmp_path).piece(At(4))
    alike(Run("lora", tmp_path).piece(At()), Run("lora", tmp_path / "none", None).piece(At()))
    assert "of another model; left aside" in capsys.readouterr().err


def test_code_that_changed_in_between_is_said_in_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("lora", tmp_path)
    for code in ("abc", "abc", "def"):
        run.code = code
        with pytest.raises(Stopped):
            run.piece(At(2))
    done = run.piece(At())
    assert [note for note in done.outcome.notes if "pieces" in note] == ["trained in pieces by commits abc, def"]
    assert "commit abc trained this so far, and def goes on" in capsys.readouterr().err
    assert not any("pieces" in note for note in Run("lora", tmp_path / "other").interrupted(3).outcome.notes)


def test_it_says_where_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("lora", tmp_path)
    run.interrupted(5)
    assert f"goes on at step 5 of {STEPS} (epoch 2 of {EPOCHS}), saved " in capsys.readouterr().err


# --- signals --------------------------------------------------------------------------------------------------------


def test_handlers_are_put_back_and_one_that_waited_is_called() -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    try:
        with pytest.raises(Signalled), Stop() as stop:
            assert not stop.wanted
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop.asked == "SIGUSR2" and called == []
            stop.check()
        assert called == []
        stop.hand_over()
        assert called == [signal.SIGUSR2]
        with Stop() as late:  # it came when there was nothing left to stop
            os.kill(os.getpid(), signal.SIGUSR2)
        assert late.wanted and called == [signal.SIGUSR2] * 2
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_so_and_a_second_ctrl_c_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert not stop.seen
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(KeyboardInterrupt), Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same press, passed on by a launcher
        assert stop.asked == "SIGINT"
        monkeypatch.setattr("engine.stop.TWICE", -1.0)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_outside_the_main_thread_it_does_nothing() -> None:
    seen: list[Any] = []

    def other() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Stop() as stop:
            seen.append(signal.getsignal(signal.SIGTERM) is before and not stop.wanted)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [True]


def test_nothing_to_save_for_is_still_stopped_in_words() -> None:
    stop = At(1)
    stop.look()
    with pytest.raises(Stopped, match="SIGTERM: while decoding"), stop.leaving("while decoding"):
        stop.check()
    stop.lost = lambda: "host b"
    with pytest.raises(Elsewhere, match="host b"), stop.leaving("while decoding"):
        stop.check()


# --- other processes: this file run as a script ----------------------------------------------------------------------


def command(*words: object, processes: int = 1) -> tuple[list[str], dict[str, str]]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return ([sys.executable, *launch, __file__, *map(str, words)],
            os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


def digest(fitted: Fitted) -> dict[str, Any]:
    return {"curve": list(fitted.outcome.curve), "resumed": fitted.outcome.resumed,
            "last": {name: tensor.tolist() for name, tensor in fitted.last.items()},
            "best": {name: tensor.tolist() for name, tensor in fitted.best.items()}}


def main(folder: str, looks: str, rank_that_stops: str) -> int:
    """One piece of a LoRA run: 0 done (its digest is written), 3 stopped. looks=0: a real signal is waited for."""
    rank, place = os.environ.get("RANK", "0"), Path(folder)
    stop = At(int(looks) if looks != "0" and rank == rank_that_stops else 10**9)
    run = Run("lora", place / "work", 1e9, **({} if looks != "0" else {"epochs": 4000}))
    try:
        with stop:
            fitted = run.piece(stop)
    except Stopped as error:
        print(error, flush=True)
        stop.hand_over()
        return 3
    (place / f"{rank}.json").write_text(json.dumps(digest(fitted)))
    return 0


def call(*words: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    words_, env = command(*words, processes=processes)
    return subprocess.run(words_, env=env, capture_output=True, text=True, timeout=300)


def wait_for(found: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_to_a_real_process_saves_and_stops(name: str, tmp_path: Path) -> None:
    words, env = command(tmp_path, 0, 0)
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: steps(tmp_path / "work"))
        process.send_signal(getattr(signal, name))
        said, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 3, err
    step = int(said.partition("stopped at step ")[2].split()[0])
    assert said.startswith(f"{name}: ") and steps(tmp_path / "work")[-1] == step and f"{name}: stops as soon" in err


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "looks"), [(1, 4)])
def test_two_processes_stop_at_one_step_and_go_on_to_the_bit(rank: int, looks: int, tmp_path: Path) -> None:
    """Only one of them gets the signal."""
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = call(tmp_path / "whole", 10**6, 0, processes=2)
    stopped = call(tmp_path / "cut", looks, rank, processes=2)
    said = [line for line in stopped.stdout.splitlines() if "stopped at step" in line]
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert stopped.returncode != 0 and len(said) == 2, stopped.stderr[-3000:]
    assert len({line.partition("stopped at ")[2] for line in said}) == 1
    again = call(tmp_path / "cut", 10**6, 0, processes=2)
    assert again.returncode == 0, again.stderr[-3000:]
    for each in (0, 1):
        one, other = (json.loads((tmp_path / kind / f"{each}.json").read_text()) for kind in ("whole", "cut"))
        assert (one.pop("resumed"), other.pop("resumed")) == (0, 1) and one == other


@pytest.mark.slow
def test_what_two_processes_saved_one_goes_on_with_and_says_so(tmp_path: Path) -> None:
    stopped = call(tmp_path, 2, 0, processes=2)
    again = call(tmp_path, 10**6, 0)
    assert stopped.returncode != 0 and again.returncode == 0, again.stderr[-3000:]
    assert "note: 2 processes saved this and 1 go on" in again.stderr


@pytest.mark.slow
def test_nobody_can_tell_that_it_was_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "kill.py"), "--runs", "2", "--folder", str(tmp_path)],
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "0 wrong" in done.stdout, done.stdout + done.stderr[-3000:]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
