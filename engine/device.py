"""The device of a run: which one, what it is called, how much memory it took."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.contract import Batch, Refused

if TYPE_CHECKING:
    from accelerate import Accelerator


def pick(device: str, precision: str) -> tuple[torch.device, str]:
    """The device, and the precision that `auto` stands for there. Raises Refused for what this machine cannot do."""
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("runtime.device=cuda: torch sees no GPU here (a CPU build of torch, or CUDA_VISIBLE_DEVICES?)\n"
                      "say runtime.device=auto or cpu")
    cuda = device != "cpu" and torch.cuda.is_available()
    if precision == "auto":
        built_for_it = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_has_bf16()
        precision = "bf16" if built_for_it else "fp32"
    if precision == "fp16" and not cuda:
        raise Refused("precision=fp16 needs a GPU; on a CPU use bf16 or fp32")
    return torch.device("cuda" if cuda else "cpu"), precision


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies in bf16: AMX (Intel, from Sapphire Rapids), AVX512-BF16 (Intel Cooper Lake, AMD from
    Zen 4). On others bf16 is emulated, and slower than fp32 (`python -m benchmarks step` measures both)."""
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch's own, not public: one may be gone
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on the device, copied without waiting where the device allows it."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def accelerated(device: torch.device, precision: str) -> Accelerator:
    """A fresh accelerator: accelerate keeps one a process, but runs of one sweep may differ in device and precision."""
    from accelerate import Accelerator  # the door looks at devices too, and has no time for it
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    once = GradientAccumulationPlugin(num_steps=1)  # else an environment variable could divide our losses
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no" if precision == "fp32" else precision,
                       gradient_accumulation_plugin=once)


def name_of(device: torch.device) -> str:
    """What a reader needs to place a time: the GPU's name, or the CPU's and its threads; and how many processes."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    many = f"{world} x " if world > 1 else ""
    if device.type == "cuda":
        return many + torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{many}{name}, {torch.get_num_threads()} threads"


def peak_bytes(device: torch.device) -> int | None:
    """Most memory so far: allocated on the GPU, else the resident set of the whole process; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # getrusage() counts what the process that started this one had
        lines = Path("/proc/self/status").read_text().splitlines()
        found = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
        return None if found is None else int(found) * 1024
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def highest(one: int | None, other: int | None) -> int | None:
    """The larger of two numbers that may be unknown."""
    known = [each for each in (one, other) if each is not None]
    return max(known) if known else None
