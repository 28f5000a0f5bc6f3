"""`state.json` in a run's folder: whether the run is running, finished, failed or stopped; without torch."""

from __future__ import annotations

import os
import platform
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from mbt_lightning.disk import write_json
from mbt_lightning.errors import one_line

NAME = "state.json"


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


class RunState:
    """Writes the `state.json` of a run; only in the first process, as no other knows the folder here.

    It contains `state` (`running`, `finished`, `failed`, or `stopped` by SIGTERM or Ctrl-C), `pid`, `host`, the times
    `started` and `ended`, `exit_code`, and a one-line `message`. A run that is `running` without a process was killed.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.content: dict[str, Any] = {}
        self.is_over = False
        self.lock = threading.Lock()

    def start(self, folder: Path) -> None:
        """Record that the run is running; only the first call counts."""
        if self.content:
            return
        self.folder = folder
        about = {"pid": os.getpid(), "host": platform.node(), "started": now(), "ended": None}
        self.content = {"state": "running"} | about | {"exit_code": None, "message": ""}
        write_json(folder / NAME, self.content)

    def end(self, state: str, exit_code: int, message: object = "", is_over: bool = True) -> None:
        """Record how the run ended, if it has started: `finished`, `failed` or `stopped`.

        A call that is not final (`is_over`) may be replaced by a later one.
        """
        with self.lock:
            if self.folder is None or self.is_over:
                return
            self.is_over = is_over
            self.content |= {"state": state, "ended": now(), "exit_code": exit_code, "message": one_line(message)}
            try:
                write_json(self.folder / NAME, self.content)
            except OSError as error:  # a full disk must not hide what ended the run
                print(f"mbt: {self.folder / NAME} cannot be written ({error.strerror}): {state}", file=sys.stderr)
