"""What precision=auto stands for: bf16 where the device multiplies in it, fp32 elsewhere."""

import pytest
import torch

from engine.contract import Refused
from engine.device import pick

AMX, AVX = "_is_amx_tile_supported", "_is_avx512_bf16_supported"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("amx", "avx", "precision"), [
    (True, True, "bf16"), (True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32"),
    (None, True, "bf16"), (True, None, "bf16"), (None, False, "fp32"), (None, None, "fp32")])
def test_auto_on_a_cpu_is_bf16_if_it_has_either_kind_of_instruction(amx: bool | None, avx: bool | None, precision: str,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """None: this version of torch has no such function."""
    for name, there in ((AMX, amx), (AVX, avx)):
        if there is None:
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda there=there: there, raising=False)
    assert pick("auto", "auto") == pick("cpu", "auto") == (torch.device("cpu"), precision)


@pytest.mark.parametrize("has", [True, False])
def test_auto_on_a_gpu_asks_the_gpu_and_not_the_cpu(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation)
    for name in (AMX, AVX):
        monkeypatch.setattr(torch.cpu, name, lambda: not has, raising=False)
    assert pick("auto", "auto") == (torch.device("cuda"), "bf16" if has else "fp32")
    assert pick("cpu", "auto") == (torch.device("cpu"), "fp32" if has else "bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_named_stays(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (AMX, AVX):
        monkeypatch.setattr(torch.cpu, name, lambda: precision == "fp32", raising=False)
    assert pick("cpu", precision) == (torch.device("cpu"), precision)


def test_fp16_on_a_cpu_and_a_gpu_that_is_not_there_are_refused() -> None:
    with pytest.raises(Refused, match="precision=fp16 needs a GPU; on a CPU use bf16 or fp32"):
        pick("auto", "fp16")
    with pytest.raises(Refused, match="runtime.device=cuda: torch sees no GPU here"):
        pick("cuda", "fp32")
