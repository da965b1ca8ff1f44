"""The device and precision of a job: the same for all ranks, and kept when a run resumes."""

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
import torch.distributed as dist

from launch.job.facts import RanOn, read_ran_on
from pretrain.device import count_devices, device_name, explain_native
from pretrain.durable import write_durably
from pretrain.engines.deepspeed_config import AutocastConfig, DeepSpeedConfig
from pretrain.models.teacher import TeacherConfig
from pretrain.precision import Dtype, WantedDtype, common_dtype, native_dtypes, slowdown
from pretrain.ranks.together import gather_objects, on_rank_zero


class JobConfig(Protocol):
    """The part that the configurations of all jobs have in common."""

    @property
    def teacher(self) -> TeacherConfig | None:
        """The teacher and its precision."""

    @property
    def deepspeed(self) -> DeepSpeedConfig:
        """The `deepspeed` section, with the students' precision."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the configuration with other values for some keys, as pydantic does."""


AnyConfig = TypeVar("AnyConfig", bound=JobConfig)
_KEYS = {"teacher": "teacher.dtype", "students": "deepspeed.torch_autocast"}


@dataclass(frozen=True)
class Device:
    """A rank's device: its name, its native types, the best first, and a remark for people."""

    name: str
    natives: tuple[Dtype, ...]
    remark: str = ""


def wanted_dtypes(config: JobConfig) -> dict[str, WantedDtype]:
    """Return the configured types by "students" and, if there is one, "teacher"."""
    wanted: dict[str, WantedDtype] = {"teacher": config.teacher.dtype} if config.teacher else {}
    return wanted | {"students": config.deepspeed.torch_autocast.wanted}


def settle_precision(config: AnyConfig, run: Path, device: torch.device) -> tuple[AnyConfig, RanOn]:
    """Return the configuration with the types that all ranks compute in, and the record of it for run.json.

    A configured type is used, with one warning if a device emulates it. "auto" becomes the type that the run started
    with if it is native to every device, otherwise the best type native to all devices. Every rank must call it.
    """
    own = Device(device_name(device), native_dtypes(device), explain_native(device))
    devices = gather_objects(own)
    wanted = wanted_dtypes(config)
    before = on_rank_zero(lambda: _dtypes_before(run))
    chosen = {name: choose(one, before.get(name), devices) for name, one in wanted.items()}
    ran_on = RanOn(device=_describe(devices, device), teacher=chosen.get("teacher"), students=chosen["students"])
    if dist.get_rank() == 0:
        _report(ran_on, devices, wanted, before, chosen)
    _warn_of_emulation(wanted, devices, device)
    deepspeed = config.deepspeed.model_copy(update={"torch_autocast": AutocastConfig.of(chosen["students"])})
    teacher = config.teacher and config.teacher.model_copy(update={"dtype": chosen["teacher"]})
    return config.model_copy(update={"teacher": teacher, "deepspeed": deepspeed}), ran_on


def choose(wanted: WantedDtype, before: Dtype | None, devices: list[Device]) -> Dtype:
    """Return the type for the teacher or the students (see `settle_precision`)."""
    if wanted != "auto":
        return wanted
    if before and all(before in device.natives for device in devices):
        return before
    return common_dtype([device.natives for device in devices])


def _dtypes_before(run: Path) -> Mapping[str, Dtype]:
    """Return the types that the run has used so far, from run.json, or else the ones its configuration names."""
    if recorded := read_ran_on(run / "run.json"):
        return recorded[-1].dtypes
    if not (run / "config.json").is_file():
        return {}
    values = json.loads((run / "config.json").read_text(encoding="utf-8"))
    section = values["deepspeed"].get("torch_autocast", {"enabled": True})
    named = {"teacher": (values["teacher"] or {}).get("dtype", "auto")}
    named["students"] = section.get("dtype", "auto") if section["enabled"] else "float32"
    return {name: dtype for name, dtype in named.items() if dtype != "auto"}


def _describe(devices: list[Device], device: torch.device) -> str:
    parts = [count_devices(one.name for one in devices), f"torch {torch.__version__}"]
    return ", ".join(parts + ([dist.get_backend(None)] if device.type != "cpu" or len(devices) > 1 else []))


def _report(
    ran_on: RanOn,
    devices: list[Device],
    wanted: dict[str, WantedDtype],
    before: Mapping[str, Dtype],
    chosen: dict[str, Dtype],
) -> None:
    types = ", ".join(f"{name} in {dtype}" for name, dtype in chosen.items())
    remark = next((one.remark for one in devices if one.remark), "")
    print(f"[rank 0] runs on {ran_on.device}; {types}{remark}", file=sys.stderr, flush=True)
    if len({one.natives for one in devices}) > 1 and "auto" in wanted.values():
        each = "; ".join(f"rank {rank} ({one.name}): {one.natives[0]}" for rank, one in enumerate(devices))
        warnings.warn(
            f"the ranks' devices have different best types, so all use one that they share: {each}", stacklevel=2
        )
    for name, dtype in chosen.items():
        was = before.get(name)
        if was and was != dtype:
            why = f"not every device has {was}" if wanted[name] == "auto" else "the configuration names another type"
            change = f"{_KEYS[name]}: the run used {was} until now and continues in {dtype} because {why}"
            warnings.warn(f"{change}. Results are only reproducible bit for bit in the same precision", stacklevel=2)
        elif was and wanted[name] == "auto" and was != (best := common_dtype([one.natives for one in devices])):
            kept = f"{_KEYS[name]}: keeps {was}, with which the run started; {best} would be better on this device"
            print(f"[rank 0] {kept}", file=sys.stderr, flush=True)


def _warn_of_emulation(wanted: dict[str, WantedDtype], devices: list[Device], device: torch.device) -> None:
    """Warn on the first rank whose device emulates a configured type."""
    emulating = [
        (rank, name, dtype)
        for rank, one in enumerate(devices)
        for name, dtype in wanted.items()
        if dtype != "auto" and dtype not in one.natives
    ]
    if emulating and emulating[0][0] == dist.get_rank():
        keys = ", ".join(_KEYS[name] for rank, name, _ in emulating if rank == dist.get_rank())
        warn_of_emulation(keys, emulating[0][2], device)


def warn_of_emulation(key: str, dtype: Dtype, device: torch.device) -> None:
    """Warn how much slower a type is for which the device has no instructions."""
    times, best = slowdown(dtype, device), native_dtypes(device)[0]
    warnings.warn(
        f"{key}: {device_name(device)} has no instructions for {dtype}: a matrix product takes {times:.1f} times as "
        f'long as in float32; "auto" would compute in {best}',
        stacklevel=2,
    )


def note_machine(run: Path, ran_on: RanOn, step: int) -> None:
    """Record in run.json the machine on which the run continues from this step, if it has changed; on rank 0."""
    path = run / "run.json"
    recorded = [one for one in read_ran_on(path) if one.step < step]  # later steps are repeated
    if not recorded or recorded[-1] != ran_on.model_copy(update={"step": recorded[-1].step}):
        recorded.append(ran_on.model_copy(update={"step": step}))
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    facts["ran_on"] = [one.model_dump() for one in recorded]
    write_durably(path, json.dumps(facts, ensure_ascii=False, indent=2))
