"""A sweep's ledger: a trial is claimed once however many want it, and what becomes of the claims of the dead."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mbt_lightning.errors import UserError
from mbt_lightning.process import identity, is_running, myself, start_of
from mbt_lightning.sweep import ledger as ledgers
from mbt_lightning.sweep.ledger import Ledger, TrialStatus, read_ledger

TRIALS = [f"trial{i}" for i in range(40)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "runs" / "a")
    ledger.write_plan({"points": [], "trials": {trial: {} for trial in TRIALS}})
    return ledger


def done(ledger: Ledger, trial: str) -> None:
    (ledger.folder / trial).mkdir(exist_ok=True)
    (ledger.folder / trial / "summary.json").write_text("{}")


def age(path: Path, seconds: float) -> None:
    """Make a claim look as if it had not been touched for a while."""
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_trial_from_its_plan_to_its_end(ledger: Ledger) -> None:
    assert read_ledger(ledger.folder).statuses()["trial0"] == TrialStatus("waiting")
    attempt = ledger.claim("trial0", after=0)
    assert ledger.status("trial0").name == "running" and f"process {os.getpid()}" in ledger.status("trial0").message
    attempt.end("failed", 2, "no such file")
    status = ledger.status("trial0")
    assert (status.name, status.message, status.attempts, status.failures) == ("failed", "no such file", 1, 1)
    ledger.claim("trial0", after=1).end("stopped", 143, "asked to stop")
    assert (ledger.status("trial0").name, ledger.status("trial0").failures) == ("stopped", 1)
    ledger.claim("trial0", after=2).end("done", 0)
    done(ledger, "trial0")
    assert Ledger(ledger.folder).status("trial0").name == "done"


def test_a_finished_run_whose_folder_was_deleted_is_run_again(ledger: Ledger) -> None:
    ledger.claim("trial0", after=0).end("done", 0)
    assert ledger.status("trial0").name == "waiting" and "gone" in ledger.status("trial0").message


def test_a_claim_is_refused_where_another_process_was_quicker(ledger: Ledger) -> None:
    assert ledger.claim("trial0", after=0) is not None
    assert ledger.claim("trial0", after=0) is None
    assert [path.name for path in (ledger.home / "trials" / "trial0").iterdir()] == ["1.json"], "no other file is left"


CLAIM_ALL = """
import sys
from mbt_lightning.sweep.ledger import Ledger
ledger = Ledger(sys.argv[1])
for trial in ledger.plan["trials"]:
    if (attempt := ledger.claim(trial, after=0)):
        print(trial)
        attempt.end("done", 0)
"""


def test_no_trial_is_claimed_twice_by_processes_that_race(ledger: Ledger) -> None:
    racing = [
        subprocess.Popen([sys.executable, "-c", CLAIM_ALL, str(ledger.folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    claimed = Counter(trial for process in racing for trial in process.communicate(timeout=60)[0].split())
    assert claimed == Counter(TRIALS)


HOLD = """
import subprocess, sys, time
from mbt_lightning.sweep.ledger import Ledger
attempt = Ledger(sys.argv[1]).claim("trial0", after=0)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
attempt.started(child.pid)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_owner_is_seen_at_once_and_its_trial_ended_before_it_is_tried_again(ledger: Ledger) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(ledger.folder)], stdout=subprocess.PIPE, text=True)
    trial = identity(int(owner.stdout.readline()))
    assert ledger.status("trial0").name == "running" and is_running(trial)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert ledger.status("trial0").name == "killed" and is_running(trial)
    assert ledger.claim("trial0", after=1) is not None
    assert not is_running(trial), "two processes would write into one run"
    assert ledger.status("trial0").name == "running"


def test_another_machine_is_alive_as_long_as_its_claim_is_touched(ledger: Ledger) -> None:
    attempt = ledger.claim("trial0", after=0)
    claim = attempt.file
    claim.write_text(json.dumps(myself() | {"machine": "elsewhere", "host": "node7"}))
    assert ledger.status("trial0").name == "running" and "node7" in ledger.status("trial0").message
    age(claim, ledgers.LOST_AFTER_SECONDS + 5)
    assert ledger.status("trial0").name == "killed"


def test_an_owner_that_was_taken_for_dead_gives_up(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "HEARTBEAT_SECONDS", 0.0)
    attempt = ledger.claim("trial0", after=0)
    age(attempt.file, 1000)
    assert attempt.beat() is True
    assert time.time() - attempt.file.stat().st_mtime < 60, "the claim was touched"
    Ledger(ledger.folder).claim("trial0", after=1)
    assert attempt.beat() is False


def test_a_process_of_the_same_number_is_not_taken_for_the_owner(ledger: Ledger) -> None:
    attempt = ledger.claim("trial0", after=0)
    attempt.file.write_text(json.dumps(myself() | {"start": "1"}))
    assert ledger.status("trial0").name == "killed"


def test_a_zombie_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    until = time.monotonic() + 20
    while start_of(child.pid) is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert start_of(child.pid) is None
    child.wait()


def test_a_configuration_is_read_back_as_it_was_written(ledger: Ledger) -> None:
    config = {"model": {"lr": 1e-05, "optimizer": {"class_path": "torch.optim.SGD", "init_args": {}}, "mixup": None}}
    config |= {"data": {"betas": [0.9, 1e-3], "name": "0123e5", "classes": "null", "cache": True}}
    ledger.write_config("trial0", config)
    assert ledger.config("trial0") == config and ledger.config("trial1") == {}
    assert ledger.attempts("trial0") == []


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_claim_that_a_power_cut_has_emptied_is_a_dead_one(ledger: Ledger, content: str) -> None:
    attempt = ledger.claim("trial0", after=0)
    attempt.file.write_text(content)
    age(attempt.file, 1000)
    assert ledger.status("trial0").name == "killed"
    assert ledger.claim("trial0", after=1) is not None


def test_an_end_that_was_cut_off_counts_as_none(ledger: Ledger) -> None:
    attempt = ledger.claim("trial0", after=0)
    attempt.file.with_suffix(".end").write_text("")
    assert ledger.status("trial0").name == "running"


def test_a_broken_plan_is_refused(ledger: Ledger) -> None:
    ledger.plan_file.write_text("[]")
    with pytest.raises(UserError, match=r"plan.json: not a sweep's plan; delete it"):
        ledger.plan  # noqa: B018


def test_a_run_that_has_finished_is_done_though_its_sweep_died_before_it_noted_that(ledger: Ledger) -> None:
    code = "import os, sys; from mbt_lightning.sweep.ledger import Ledger; Ledger(sys.argv[1]).claim('trial0', 0)"
    subprocess.run([sys.executable, "-c", code, str(ledger.folder)], check=True)
    assert ledger.status("trial0").name == "killed"
    (ledger.folder / "trial0").mkdir()
    for state, status in {"running": "killed", "failed": "killed", "finished": "done"}.items():
        (ledger.folder / "trial0" / "state.json").write_text(json.dumps({"state": state}))
        assert ledger.status("trial0").name == status


DAMAGE = (
    *(b"", b"null", b"[]", b"3", b'"text"', b"\xff\xfe", b"{", b"[" * 100_000, b'{"a":' * 100_000),
    *(b"{}", b'{"state": "done"}', b'{"state": null, "seconds": null}', b'{"state": "done", "seconds": "x"}'),
    *(b'{"state": ["done"], "seconds": 1, "message": ""}', b'{"state": "failed", "seconds": NaN, "message": 3}'),
    *(b'{"pid": "text", "machine": 3, "trial": "x"}', b'{"trial": {"pid": "text", "start": []}, "host": {}}'),
)
"""What may stand in the place of a claim or an end."""


@pytest.mark.parametrize("content", DAMAGE, ids=range(len(DAMAGE)))
@pytest.mark.parametrize("name", ["1.json", "1.end"])
def test_a_damaged_file_of_an_attempt_costs_that_attempt_only(name: str, content: bytes, ledger: Ledger) -> None:
    folder = ledger.home / "trials" / "trial0"
    ledger.claim("trial0", after=0).end("failed", 2, "boom")
    (folder / name).write_bytes(content)
    if name == "1.end":  # its owner is gone too
        (folder / "1.json").write_text("{}")
        age(folder / "1.json", 1000)
    status = Ledger(ledger.folder).statuses()["trial0"]
    assert status.name == ("failed" if name == "1.json" else "killed") and status.attempts == 1
    attempt = Ledger(ledger.folder).claim("trial0", after=1)
    attempt.end("done", 0)
    done(ledger, "trial0")
    assert Ledger(ledger.folder).status("trial0").name == "done"


def test_a_process_id_that_no_machine_has_is_not_running() -> None:
    for pid in (10**30, 0, -1, "1", None):
        assert not is_running({"pid": pid})


def test_foreign_names_among_the_attempts_are_left_alone(ledger: Ledger) -> None:
    ledger.claim("trial0", after=0).end("failed", 2, "boom")
    for name in ("²3.json", "0.json", "-1.json", "1.json.bak", "x.json", "99999999999999999999.json"):
        (ledger.home / "trials" / "trial0" / name).write_text("{}")
    assert ledger.attempts("trial0") == [1] and ledger.status("trial0").name == "failed"


def test_a_file_where_a_folder_belongs_is_named(ledger: Ledger) -> None:
    (ledger.home / "trials").mkdir()
    (ledger.home / "trials" / "trial0").write_text("")
    assert ledger.status("trial0").name == "waiting"
    with pytest.raises(UserError, match="trial0: a file is where a folder of the sweep belongs"):
        ledger.claim("trial0", after=0)


@pytest.mark.parametrize(
    "content",
    [
        *DAMAGE,
        b'{"points": {}, "trials": {}}',
        b'{"points": [], "trials": []}',
        b'{"points": [3], "trials": {}}',
        b'{"points": [{"values": 3, "trial": "a"}], "trials": {"a": {}}}',
        b'{"points": [{"values": {}, "trial": "b"}], "trials": {"a": {}}}',
        b'{"points": [{"values": {}, "trial": []}], "trials": {"a": {}}}',
        b'{"points": [], "trials": {"../../x": {}}}',
        b'{"points": [], "trials": {"a": null}}',
        b'{"points": [], "trials": {"a": {"settings": [3]}}}',
    ],
)
def test_a_damaged_plan_is_named(content: bytes, ledger: Ledger) -> None:
    ledger.plan_file.write_bytes(content)
    with pytest.raises(UserError, match=r"plan.json: not a sweep's plan; delete it"):
        Ledger(ledger.folder).statuses()
