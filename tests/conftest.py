"""What several test files share."""

import os
import signal

# One thread a process: several test processes share the cores. Must stand before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background has Ctrl-C ignored, which the programs that they start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import pytest

from mbt_lightning.data.demo import DemoSize, demo_manifest


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable that the program sets outlive a test."""
    for name in (
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
        "MBT_RUN_FOLDER",
        "MBT_CHECKPOINT",
        "MBT_RESUME_FROM",
        "MBT_DIE_WITH_PARENT",
        "MBT_RUN_ID",
        "MBT_TRUST",
        "MBT_DEBUG",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """Manifest of a handful of the embedded clips (8 to train, 2 to validate, 4 to test), encoded once."""
    return demo_manifest(DemoSize(8, 2, 4), cache=tmp_path_factory.mktemp("demo"))
