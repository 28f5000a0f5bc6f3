"""A loopback server that speaks as much of W&B's protocol as its real programs need, and can misbehave on request.

`wandb sweep`, `wandb agent`, `wandb.init`, the streaming of a run, resuming, `wandb sync` and `wandb.Api` all work with
it. Everything that they send is kept in plain records (`Sweep`, `Run`) for tests to look at. It can be run by hand:
`python tests/helpers/wandb_server.py 8080`, then
`WANDB_BASE_URL=http://127.0.0.1:8080 WANDB_API_KEY=<any 40 letters> wandb …`.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import string
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

ENTITY = "lab"
NOW = datetime.now(UTC).isoformat()


@dataclass
class Run:
    """What the server knows of a run."""

    name: str
    project: str
    sweep: str | None = None
    number: int = 0
    state: str = "pending"  # handed to an agent, not heard of yet
    exit_code: int | None = None
    display_name: str = ""
    raw_config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    inits: int = 0
    completes: int = 0
    posts: int = 0
    preempting: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The configuration by its flat keys, without what W&B keeps for itself."""
        return {key: content.get("value") for key, content in self.raw_config.items() if key != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        """All rows that were logged, in the order that the server has them."""
        return [json.loads(line) for line in self.streams.get("wandb-history.jsonl", []) if line]

    @property
    def output(self) -> str:
        """What the program printed."""
        return "\n".join(self.streams.get("output.log", []))

    def node(self) -> dict[str, Any]:
        """The run as an answer to a query."""
        history = self.history
        keys = sorted({key for row in history for key in row})
        kinds = {key: {"typeCounts": [{"type": "number", "count": len(history)}]} for key in keys}
        return {
            "id": f"id-{self.name}",
            "name": self.name,
            "displayName": self.display_name or self.name,
            "projectId": "1",
            "sweepName": self.sweep,
            "state": self.state,
            "config": json.dumps(self.raw_config),
            "summaryMetrics": json.dumps(self.summary),
            "systemMetrics": "{}",
            "historyLineCount": len(history),
            "historyKeys": {
                "sets": [],
                "keys": kinds,
                "lastStep": history[-1]["_step"] if history else -1,
            },
            "createdAt": NOW,
            "heartbeatAt": NOW,
            "tags": [],
            "readOnly": False,
            "user": {"name": "tester", "username": ENTITY},
            "exitcode": self.exit_code,
            "shouldStop": False,
            "failed": self.state == "failed",
            "stopped": False,
            "running": self.state == "running",
            "sampledHistory": [],
        } | dict.fromkeys(("group", "jobType", "commit", "description", "notes"))


@dataclass
class Sweep:
    """What the server knows of a sweep."""

    name: str
    project: str
    text: str
    state: str = "PENDING"
    handed: int = 0

    @property
    def config(self) -> dict[str, Any]:
        """The sweep's file."""
        return yaml.safe_load(self.text)

    def grid(self) -> list[dict[str, Any]]:
        """All points in W&B's order: names sorted, the last varies fastest."""
        parameters = sorted(self.config["parameters"].items())
        values = [p["values"] if "values" in p else [p["value"]] for _, p in parameters]
        return [dict(zip([name for name, _ in parameters], point, strict=True)) for point in itertools.product(*values)]

    def node(self) -> dict[str, Any]:
        """The sweep as an answer to a query."""
        return {
            "id": f"id-{self.name}",
            "name": self.name,
            "displayName": None,
            "method": self.config["method"],
            "state": self.state,
            "config": self.text,
            "createdAt": NOW,
            "updatedAt": NOW,
            "heartbeatAt": NOW,
            "runCount": self.handed,
            "runCountExpected": len(self.grid()),
            "earlyStopJobRunning": False,
        } | dict.fromkeys(("description", "bestLoss", "controller", "scheduler"))


@dataclass
class Fault:
    """Something that goes wrong.

    Args:
        where: name of an operation, `file_stream`, `upload`, or `*` for all.
        what: a status to answer with, `reset` (the connection), `hang` (no answer), or `lost` (done, but no answer).
        times: how often; None for ever.
    """

    where: str
    what: int | str
    times: int | None = None


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str = "refused on request"):
        super().__init__(text)
        self.status = status


class WandbServer:
    """The server; a context manager that serves in threads of its own.

    Args:
        port: 0 for any free one; a server that comes back after it was gone takes its old one.
    """

    def __init__(self, port: int = 0):
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, str] = {}
        self.projects: set[str] = set()
        self.requeued: list[str] = []
        self.faults: list[Fault] = []
        self.faulted: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.unknown: list[str] = []
        self.lock = threading.RLock()
        self.released = threading.Event()
        self.port = port

    def __enter__(self) -> WandbServer:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self) -> None:
        """Begin, or be there again after `close`."""
        self.released.clear()
        handler = type("BoundHandler", (Handler,), {"wandb": self})
        self.http = Http(("127.0.0.1", self.port), handler)
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Be gone: connections are refused from now on."""
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self) -> str:
        """What `WANDB_BASE_URL` must be."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, folder: Path) -> dict[str, str]:
        """What the clients' environment must hold to know nobody but this server; their own files go into `folder`."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "0123456789" * 4,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_CONFIG_DIR": str(folder / "wandb-config"),
            "WANDB_CACHE_DIR": str(folder / "wandb-cache"),
            "WANDB_DATA_DIR": str(folder / "wandb-data"),
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "NETRC": str(folder / "netrc"),
            "NO_PROXY": "127.0.0.1",
        }

    def fail(self, where: str, what: int | str, times: int | None = None) -> None:
        """Misbehave from now on; `heal` ends it."""
        self.faults.append(Fault(where, what, times))

    def heal(self) -> None:
        """Behave again."""
        self.faults.clear()
        self.released.set()
        self.released = threading.Event()

    def fault_for(self, where: str) -> Fault | None:
        """The fault that is due, counted off."""
        with self.lock:
            for fault in self.faults:
                if fault.where in (where, "*") and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    self.faulted[where] += 1
                    return fault
        return None

    def requeue(self, name: str) -> None:
        """Let the next agent that asks resume a run, as W&B does with those that were preempted."""
        self.requeued.append(name)

    def run_of(self, name: str, project: str) -> Run:
        """A run, made if it is new."""
        self.projects.add(project)
        return self.runs.setdefault(name, Run(name, project, number=len(self.runs)))

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer an operation."""
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        self.calls[name] += 1
        answer = getattr(self, f"on_{name}", None)
        if answer is None:
            self.unknown.append(query)
            raise Refused(400, f"unknown operation {name}")
        with self.lock:
            return {"data": answer(variables)}

    # Who is asking

    def on_Viewer(self, v: dict) -> dict:
        user = {"id": "u", "name": "tester", "username": ENTITY, "email": "", "admin": False, "flags": "{}"}
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        none = {"apiKeys": {"edges": []}, "deletedAt": None}
        return {"viewer": user | {"entity": ENTITY, "teams": teams} | none}

    on_GetViewer = on_GetDefaultEntity = on_Viewer

    def on_ServerFeaturesQuery(self, v: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def on_OrganizationCoreWeaveOrganizationID(self, v: dict) -> dict:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    # Sweeps and agents

    def on_UpsertSweep(self, v: dict) -> dict:
        if v.get("id"):
            sweep = self.sweeps[v["id"].removeprefix("id-")]
        else:
            project = v.get("projectName") or "uncategorized"
            self.projects.add(project)
            sweep = Sweep("".join(random.choices(string.ascii_lowercase, k=8)), project, v["config"])
            self.sweeps[sweep.name] = sweep
        sweep.state = v.get("state") or sweep.state
        project = {"id": "p", "name": sweep.project, "entity": {"id": "e", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": sweep.name, "project": project}, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, v: dict) -> dict:
        sweep = self.sweeps.get(v["sweep"])
        if sweep is None:
            return {"project": None}
        runs = [{"node": run.node()} for run in self.runs.values() if run.sweep == sweep.name]
        return {"project": {"sweep": sweep.node() | {"runs": {"edges": runs}}}}

    def on_GetSweep(self, v: dict) -> dict:
        sweep = self.sweeps.get(v["name"])
        known = sweep is not None and sweep.project == v["project"]
        return {"project": {"sweep": sweep.node() | {"__typename": "Sweep"} if known else None}}

    on_GetSweepLegacy = on_GetSweep

    def on_CreateAgent(self, v: dict) -> dict:
        agent = f"agent-{len(self.agents)}"
        self.agents[agent] = v["sweep"]
        self.sweeps[v["sweep"]].state = "RUNNING"
        return {"createAgent": {"agent": {"id": agent}}}

    def on_Heartbeat(self, v: dict) -> dict:
        sweep = self.sweeps[self.agents[v["id"]]]
        commands = [] if json.loads(v["runState"]) else [self.next_command(sweep)]
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def next_command(self, sweep: Sweep) -> dict[str, Any]:
        """What an idle agent shall do: resume what was put back, start the next point, or exit."""
        grid = sweep.grid()
        if self.requeued:
            kind, run = "resume", self.runs[self.requeued.pop(0)]
            run.state, run.exit_code = "pending", None
        elif sweep.handed < len(grid):
            kind, run = "run", self.run_of("".join(random.choices(string.ascii_lowercase, k=8)), sweep.project)
            run.sweep = sweep.name
            run.raw_config = {key: {"value": value} for key, value in grid[sweep.handed].items()}
            sweep.handed += 1
        else:
            sweep.state = "FINISHED"
            return {"type": "exit"}
        names = sweep.config["parameters"]
        args = {key: {"value": value} for key, value in run.config.items() if key in names}
        return {"type": kind, "run_id": run.name, "program": sweep.config["program"], "args": args}

    # A run's life

    def on_RunResumeStatus(self, v: dict) -> dict:
        run = self.runs.get(v["name"])
        if run is None:
            return {"model": {"id": "m", "name": v["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": None}}

        def tail(name: str) -> str:
            return json.dumps(run.streams.get(name, [])[-1:])

        bucket = run.node() | {
            "logLineCount": len(run.streams.get("output.log", [])),
            "eventsLineCount": len(run.streams.get("wandb-events.jsonl", [])),
            "historyTail": tail("wandb-history.jsonl"),
            "eventsTail": tail("wandb-events.jsonl"),
            "wandbConfig": json.dumps({k: x for k, x in run.raw_config.get("_wandb", {}).get("value", {}).items()}),
        }
        return {"model": {"id": "m", "name": run.project, "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}}

    def on_UpsertBucket(self, v: dict) -> dict:
        name = v.get("name") or v["id"].removeprefix("id-")
        run = self.run_of(name, v.get("project") or "uncategorized")
        if v.get("host"):  # later changes of the configuration come without it
            run.inits += 1
            run.state, run.exit_code, run.preempting = "running", None, False
        run.sweep = v.get("sweep") or run.sweep
        run.display_name = v.get("displayName") or run.display_name
        if v.get("config"):
            run.raw_config |= json.loads(v["config"])
        if v.get("summaryMetrics"):
            run.summary = json.loads(v["summaryMetrics"])
        if v.get("state"):
            run.preempting = v["state"] == "preempting"
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        return {"upsertBucket": {"bucket": run.node() | {"project": project}, "inserted": run.inits == 1}}

    def on_CreateRunFiles(self, v: dict) -> dict:
        place = f"{self.url}/upload/{v['run']}/"
        files = [{"name": name, "uploadUrl": place + name} for name in v["files"]]
        return {"createRunFiles": {"runID": f"id-{v['run']}", "uploadHeaders": [], "files": files}}

    def on_MarkRunFilesUploaded(self, v: dict) -> dict:
        return {"markRunFilesUploaded": {"success": True}}

    def stream(self, name: str, project: str, content: dict[str, Any]) -> dict[str, Any]:
        """Take in a part of a run's stream; what is sent again replaces itself."""
        with self.lock:
            run = self.run_of(name, project)
            run.posts += 1
            for file, part in (content.get("files") or {}).items():
                lines = run.streams.setdefault(file, [])
                start = part["offset"]
                lines += [""] * (start - len(lines))
                lines[start : start + len(part["content"])] = part["content"]
                if file == "wandb-summary.json":
                    run.summary = json.loads(part["content"][-1])
            if content.get("preempting"):
                run.preempting = True
            if content.get("complete"):
                run.completes += 1
                run.exit_code = content["exitcode"]
                bad = "preempted" if run.preempting else "failed"
                run.state = bad if run.exit_code else "finished"
        return {"exitcode": None, "limits": {}}

    # wandb.Api

    def project(self, v: dict, part: dict[str, Any]) -> dict[str, Any]:
        """A part of a project, or that there is none."""
        name = v.get("project") or v.get("projectName") or v.get("name")
        known = name in self.projects and (v.get("entity") or ENTITY) == ENTITY
        fixed = {"id": "p", "internalId": "1", "name": name, "entityName": ENTITY, "readOnly": False}
        return {"project": fixed | part if known else None}

    def on_GetProject(self, v: dict) -> dict:
        return self.project(v, {"createdAt": NOW, "isBenchmark": False, "user": None, "__typename": "Project"})

    def on_Runs(self, v: dict) -> dict:
        wanted = json.loads(v.get("filters") or "{}")
        sweeps = [part["sweep"] for part in wanted.get("$and", []) if "sweep" in part]
        found = [r for r in self.runs.values() if r.project == v["project"] and (not sweeps or r.sweep in sweeps)]
        start = int(v.get("cursor") or 0)
        end = start + (v.get("perPage") or 50)
        edges = [{"node": run.node(), "cursor": str(end)} for run in found[start:end]]
        page = {"endCursor": str(end), "hasNextPage": end < len(found)}
        return self.project(v, {"runCount": len(found), "runs": {"edges": edges, "pageInfo": page}})

    def of_run(self, v: dict, part: Any) -> dict[str, Any]:
        """A part of a run."""
        run = self.runs.get(v.get("name") or v.get("runName") or v.get("run"))
        return self.project(v, {"run": part(run) if run else None})

    def on_Run(self, v: dict) -> dict:
        return self.of_run(v, Run.node)

    on_RunState = on_RunHistoryKeys = on_QueryRunInfo = on_Run

    def on_RunFullHistory(self, v: dict) -> dict:
        return self.of_run(v, lambda run: {"history": run.streams.get("wandb-history.jsonl", [])})

    def on_RunParquetHistory(self, v: dict) -> dict:
        return self.of_run(v, lambda run: {"parquetHistory": {"parquetUrls": [], "liveData": run.history}})

    def on_HistoryPage(self, v: dict) -> dict:
        def page(run: Run) -> dict[str, Any]:
            rows = [row for row in run.history if v["minStep"] <= row["_step"] < v["maxStep"]]
            return {"history": [json.dumps(row) for row in rows[: v["pageSize"]]]}

        return self.of_run(v, page)

    def on_SampledHistoryPage(self, v: dict) -> dict:
        spec = json.loads(v["spec"])

        def page(run: Run) -> dict[str, Any]:
            rows = [row for row in run.history if spec["minStep"] <= row["_step"] < spec["maxStep"]]
            return {"sampledHistory": [[row for row in rows if all(key in row for key in spec["keys"])]]}

        return self.of_run(v, page)


class Http(ThreadingHTTPServer):
    """The same, whose threads nobody waits for."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Takes requests apart and puts answers together."""

    wandb: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        content = json.loads(body or "{}")
        if path == "/graphql":
            found = re.search(r"\b(?:query|mutation)\s+(\w+)", content["query"])
            where = found[1] if found else ""
            self.answer(where, lambda: self.wandb.graphql(content["query"], content.get("variables") or {}))
        elif stream := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            self.answer("file_stream", lambda: self.wandb.stream(stream[3], stream[2], content))
        else:
            self.wandb.unknown.append(f"POST {path}")
            self.reply(404, {"errors": [{"message": "no such place"}]})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, _, run, name = unquote(urlsplit(self.path).path).split("/", 3)

        def keep() -> dict[str, Any]:
            self.wandb.runs[run].files[name] = body
            return {}

        self.answer("upload", keep)

    def do_GET(self) -> None:
        self.reply(200, {})

    def answer(self, where: str, work: Any) -> None:
        """Do the work and answer, or fail on request."""
        fault = self.wandb.fault_for(where)
        if fault and fault.what == "hang":
            self.wandb.released.wait()
        if fault and fault.what in ("hang", "reset"):
            self.cut()
        elif fault and isinstance(fault.what, int):
            self.reply(fault.what, {"errors": [{"message": f"answer {fault.what} on request"}]})
        else:
            try:
                answer = work()
            except Refused as refused:
                self.reply(refused.status, {"errors": [{"message": str(refused)}]})
                return
            if fault:
                self.cut()
            else:
                self.reply(200, answer)

    def cut(self) -> None:
        """Close the connection without a word."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with WandbServer(int(sys.argv[1]) if sys.argv[1:] else 0) as server:
        print(server.url, flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
