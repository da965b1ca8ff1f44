"""Fixtures shared by every test: tiny, made here, no network."""

import os
import signal
from collections.abc import Generator
from unittest.mock import patch

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is first imported, by whomever

if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup: this process outlives it, those it starts need not
    signal.signal(signal.SIGHUP, lambda *_: None)

# The same examples every time, however long a busy machine takes for one.
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")

JOBS = {"finished_run", "undisturbed", "probed_run"}  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that want a job which a fixture launches."""
    for item in items:
        if JOBS & set(getattr(item, "fixturenames", ())):
            item.add_marker("job")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """What a test or its fixtures set, or DeepSpeed for them (RANK, MASTER_PORT), is not left to later tests."""
    with patch.dict(os.environ):
        return (yield)
