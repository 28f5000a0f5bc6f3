"""`state.json` in a run's folder: whether the run goes on, has finished, has failed or was stopped; without torch."""

from __future__ import annotations

import os
import platform
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from mbt_lightning.disk import write_json
from mbt_lightning.errors import one_line

NAME = "state.json"


def now() -> str:
    """The time in ISO form, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class RunState:
    """Writes `state.json` of one run: by the first process only, since no other knows the folder here.

    It holds `state` (`running`, `finished`, `failed`, or `stopped` by SIGTERM or Ctrl-C), `pid`, `host`, the times
    `started` and `ended`, `exit_code`, and a `message` of one line. A run that is `running` and whose process is gone
    was killed.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.content: dict[str, Any] = {}
        self.is_over = False
        self.lock = threading.Lock()

    def begin(self, folder: Path) -> None:
        """Say that the run goes on; the first call counts."""
        if self.content:
            return
        self.folder = folder
        about = {"pid": os.getpid(), "host": platform.node(), "started": now(), "ended": None}
        self.content = {"state": "running"} | about | {"exit_code": None, "message": ""}
        write_json(folder / NAME, self.content)

    def end(self, state: str, exit_code: int, message: object = "", is_over: bool = True) -> None:
        """Say how the run ended; nothing is written for a run that never began.

        Args:
            state: `finished`, `failed` or `stopped`.
            exit_code: of the program.
            message: why, in one line.
            is_over: whether this is the last word; else it stands until a later one.
        """
        with self.lock:
            if self.folder is None or self.is_over:
                return
            self.is_over = is_over
            self.content |= {"state": state, "ended": now(), "exit_code": exit_code, "message": one_line(message)}
            write_json(self.folder / NAME, self.content)
