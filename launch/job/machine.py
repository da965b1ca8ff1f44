"""The device and precision of a job: agreed by all ranks before anything is loaded, kept when a run is resumed."""

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
    """What the configurations of all jobs have in common."""

    @property
    def teacher(self) -> TeacherConfig | None: ...

    @property
    def deepspeed(self) -> DeepSpeedConfig: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


AnyConfig = TypeVar("AnyConfig", bound=JobConfig)
_KEYS = {"teacher": "teacher.dtype", "students": "deepspeed.torch_autocast"}


@dataclass(frozen=True)
class Device:
    """A rank's device: its name, and the types that it multiplies natively, the best first."""

    name: str
    natives: tuple[Dtype, ...]
    remark: str = ""


def wanted_dtypes(config: JobConfig) -> dict[str, WantedDtype]:
    """What the configuration asks for, by who computes in it."""
    wanted: dict[str, WantedDtype] = {"teacher": config.teacher.dtype} if config.teacher else {}
    return wanted | {"students": config.deepspeed.torch_autocast.wanted}


def settle_precision(config: AnyConfig, run: Path, device: torch.device) -> tuple[AnyConfig, RanOn]:
    """The configuration with the types that all ranks compute in, and the note of it for run.json.

    A type that the user names is used, with one warning where a device emulates it. "auto" is the type that a run was
    begun with where every device has it, else the best that all devices have. Every rank must call it.
    """
    own = Device(device_name(device), native_dtypes(device), explain_native(device))
    devices = gather_objects(own)
    wanted = wanted_dtypes(config)
    before = on_rank_zero(lambda: _dtypes_before(run))
    chosen = {name: choose(one, before.get(name), devices) for name, one in wanted.items()}
    ran_on = RanOn(device=_describe(devices, device), teacher=chosen.get("teacher"), students=chosen["students"])
    if dist.get_rank() == 0:
        _say(ran_on, devices, wanted, before, chosen)
    _warn_of_emulation(wanted, devices, device)
    deepspeed = config.deepspeed.model_copy(update={"torch_autocast": AutocastConfig.of(chosen["students"])})
    teacher = config.teacher and config.teacher.model_copy(update={"dtype": chosen["teacher"]})
    return config.model_copy(update={"teacher": teacher, "deepspeed": deepspeed}), ran_on


def choose(wanted: WantedDtype, before: Dtype | None, devices: list[Device]) -> Dtype:
    """The type of one kind of model, as `settle_precision` says."""
    if wanted != "auto":
        return wanted
    if before and all(before in device.natives for device in devices):
        return before
    return common_dtype([device.natives for device in devices])


def _dtypes_before(run: Path) -> Mapping[str, Dtype]:
    """What the run computed in until now: by its notes, or by its configuration where that names types."""
    if noted := read_ran_on(run / "run.json"):
        return noted[-1].dtypes
    if not (run / "config.json").is_file():
        return {}
    values = json.loads((run / "config.json").read_text())
    section = values["deepspeed"].get("torch_autocast", {"enabled": True})
    named = {"teacher": (values["teacher"] or {}).get("dtype", "auto")}
    named["students"] = section.get("dtype", "auto") if section["enabled"] else "float32"
    return {name: dtype for name, dtype in named.items() if dtype != "auto"}


def _describe(devices: list[Device], device: torch.device) -> str:
    parts = [count_devices(one.name for one in devices), f"torch {torch.__version__}"]
    return ", ".join(parts + ([dist.get_backend(None)] if device.type != "cpu" or len(devices) > 1 else []))


def _say(
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
            f"the ranks' devices are best at different types, so all use one they share: {each}", stacklevel=2
        )
    for name, dtype in chosen.items():
        was = before.get(name)
        if was and was != dtype:
            why = f"not every device has {was}" if wanted[name] == "auto" else "its configuration names another type"
            said = f"{_KEYS[name]}: the run computed in {was} until now and goes on in {dtype}: {why}"
            warnings.warn(f"{said}. The same bits are promised for one precision only", stacklevel=2)
        elif was and wanted[name] == "auto" and was != (best := common_dtype([one.natives for one in devices])):
            said = f"{_KEYS[name]}: keeps {was}, in which the run was begun; {best} would suit this device better"
            print(f"[rank 0] {said}", file=sys.stderr, flush=True)


def _warn_of_emulation(wanted: dict[str, WantedDtype], devices: list[Device], device: torch.device) -> None:
    """One warning, of the first rank whose device emulates a type that the user named."""
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
    """Say how much slower a type is that the device has no instructions for."""
    times, best = slowdown(dtype, device), native_dtypes(device)[0]
    warnings.warn(
        f"{key}: {device_name(device)} has no instructions for {dtype}: a matrix product takes {times:.1f} times as "
        f'long as in float32; "auto" would compute in {best}',
        stacklevel=2,
    )


def note_machine(run: Path, ran_on: RanOn, step: int) -> None:
    """Add to run.json what the run goes on with from this step, where that is something new; on rank 0."""
    path = run / "run.json"
    noted = [one for one in read_ran_on(path) if one.step < step]  # later steps are made again
    if not noted or noted[-1] != ran_on.model_copy(update={"step": noted[-1].step}):
        noted.append(ran_on.model_copy(update={"step": step}))
    facts = json.loads(path.read_text()) if path.is_file() else {}
    facts["ran_on"] = [one.model_dump() for one in noted]
    write_durably(path, json.dumps(facts, ensure_ascii=False, indent=2))
