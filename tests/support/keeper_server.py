"""An MCP server that keeps things for its client: subscriptions and tasks. Runs by path.

    python -S tests/support/keeper_server.py [noTasks] [modern]

It is one of the older era; with `modern` it speaks 2026-07-28 alone.

Standard library only. It answers one request after the other, ends with its stdin, and does nothing unless told.

Tools (all answer with text)
  touch(uri)       says that a resource has changed, if it is subscribed to
  subscribed()     the URIs that are subscribed to, as JSON
  hang_up()        ends every subscription of the modern era
  pid()            its process id
  work(ttl)        runs as a task alone: it works until `finish` names it; `ttl` in milliseconds
  finish(task)     completes a task: "t-1" is the first one; says so in a notification
  tasks()          the ids of its tasks, as JSON
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

Json = dict[str, Any]

NOW = "2026-01-31T09:08:07.006Z"
DEFAULT_TTL = 60_000
HAS_TASKS = "noTasks" not in sys.argv
IS_MODERN = "modern" in sys.argv
EXTENSION = "io.modelcontextprotocol/tasks"


def tool(name: str, *, task: str | None = None, **properties: str) -> Json:
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    listed: Json = {"name": name, "inputSchema": schema}
    return listed if task is None else {**listed, "execution": {"taskSupport": task}}


TOOLS = [
    tool("touch", uri="string"),
    tool("subscribed"),
    tool("hang_up"),
    tool("pid"),
    tool("work", task="required", ttl="integer"),
    tool("finish", task="forbidden", id="string"),
    tool("tasks"),
]
RESOURCES = [{"uri": f"keep://{name}", "name": name} for name in ("one", "two", "refused")]


class Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.tasks: dict[str, Json] = {}
        self.waiting: dict[str, list[Any]] = {}
        self.listening: dict[Any, list[str]] = {}

    def send(self, message: Json) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()

    def receive(self, message: Json) -> None:
        if message.get("method") == "notifications/cancelled":
            self.listening.pop(message["params"]["requestId"], None)
        if "id" not in message or "method" not in message:
            return
        answer = self.answer_modern if IS_MODERN else self.answer
        try:
            result = answer(message["id"], message["method"], message.get("params") or {})
        except Refused as error:
            self.send({"id": message["id"], "error": {"code": error.code, "message": str(error)}})
            return
        if result is not None:
            self.send({"id": message["id"], "result": result})

    def answer(self, request: Any, method: str, params: Json) -> Json | None:
        match method:
            case "initialize":
                return self.initialize(params)
            case "ping":
                return {}
            case "tools/list":
                return {"tools": TOOLS}
            case "resources/list":
                return {"resources": RESOURCES}
            case "resources/templates/list":
                return {"resourceTemplates": []}
            case "resources/subscribe":
                return self.subscribe(params["uri"])
            case "resources/unsubscribe":
                self.subscribed.remove(params["uri"])
                return {}
            case "tools/call":
                return self.call(params)
            case "tasks/get":
                return self.task(params)
            case "tasks/result":
                return self.result(request, self.task(params))
            case "tasks/list":
                return {"tasks": list(self.tasks.values()), "x": 1.0}
            case "tasks/cancel":
                return self.end(self.task(params), "cancelled")
            case _:
                raise Refused(-32601, f"no method {method}")

    def answer_modern(self, request: Any, method: str, params: Json) -> Json | None:
        match method:
            case "server/discover":
                capabilities = {
                    "tools": {},
                    "resources": {"subscribe": True},
                    "extensions": {EXTENSION: {}},
                }
                versions = ["2026-07-28"]
                return complete({"supportedVersions": versions, "capabilities": capabilities, "ttlMs": 0})
            case "tools/call" if params["name"] == "work":
                declared = params["_meta"]["io.modelcontextprotocol/clientCapabilities"]
                if EXTENSION not in declared.get("extensions", {}):
                    raise Refused(-32021, "work runs as a task")
                created = self.begin({**params, "task": {}})["task"]
                return {"resultType": "task", **modern(created)}
            case "tasks/get":
                task = self.task(params)
                result = {"result": complete(self.outcome(task))} if task["status"] == "completed" else {}
                return complete({**modern(task), **result})
            case "tasks/update":
                self.task(params)["statusMessage"] = json.dumps(params["inputResponses"])
                return complete({})
            case "tasks/cancel":
                self.task(params)["status"] = "cancelled"
                return complete({})
            case "subscriptions/listen":
                self.listen(request, params["notifications"])
                return None
            case "tools/list" | "tools/call" | "resources/list" | "resources/templates/list":
                result = self.answer(request, method, params)
                return None if result is None else complete(result)
            case _:
                raise Refused(-32601, f"no method {method}")

    def listen(self, request: Any, wanted: Json) -> None:
        uris = wanted.get("resourceSubscriptions", [])
        if any(uri.endswith("refused") for uri in uris):
            raise Refused(-32050, "this one is not to be watched")
        self.listening[request] = uris
        agreed = {"resourceSubscriptions": uris}
        self.notify(request, "notifications/subscriptions/acknowledged", {"notifications": agreed})

    def notify(self, request: Any, method: str, params: Json) -> None:
        meta = {"io.modelcontextprotocol/subscriptionId": request}
        self.send({"method": method, "params": {**params, "_meta": meta}})

    def touch(self, uri: str) -> None:
        method = "notifications/resources/updated"
        if uri in self.subscribed:
            self.send({"method": method, "params": {"uri": uri}})
        for request, uris in self.listening.items():
            if uri in uris:
                self.notify(request, method, {"uri": uri})

    def initialize(self, params: Json) -> Json:
        capabilities: Json = {"tools": {}, "resources": {"subscribe": True}}
        if HAS_TASKS:
            capabilities["tasks"] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": capabilities,
            "serverInfo": {"name": "keeper", "version": "1"},
        }

    def subscribe(self, uri: str) -> Json:
        if uri.endswith("refused"):
            raise Refused(-32050, "this one is not to be watched")
        self.subscribed.append(uri)
        return {}

    def call(self, params: Json) -> Json:
        arguments = params.get("arguments") or {}
        match params["name"]:
            case "touch":
                self.touch(arguments["uri"])
                return text("touched")
            case "hang_up":
                for request in list(self.listening):
                    del self.listening[request]
                    self.send({"id": request, "result": complete({})})
                return text("hung up")
            case "subscribed":
                return text(json.dumps(sorted(self.subscribed)))
            case "pid":
                return text(str(os.getpid()))
            case "tasks":
                return text(json.dumps(list(self.tasks)))
            case "finish":
                self.end(self.tasks[arguments["id"]], "completed")
                return text("finished")
            case "work":
                return self.begin(params)
            case name:
                raise Refused(-32602, f"Unknown tool: {name}")

    def begin(self, params: Json) -> Json:
        if "task" not in params:
            raise Refused(-32601, "work runs as a task")
        task = {
            "taskId": f"t-{len(self.tasks) + 1}",
            "status": "working",
            "createdAt": NOW,
            "lastUpdatedAt": NOW,
            "ttl": params["task"].get("ttl", DEFAULT_TTL),
            "pollInterval": 10,
        }
        self.tasks[task["taskId"]] = task
        return {"task": task, "_meta": {"big": 12345678901234567890}}

    def task(self, params: Json) -> Json:
        if params["taskId"] not in self.tasks:
            raise Refused(-32602, f"no task {params['taskId']}")
        return self.tasks[params["taskId"]]

    def result(self, request: Any, task: Json) -> Json | None:
        if task["status"] == "working":
            self.waiting.setdefault(task["taskId"], []).append(request)
            return None
        return self.outcome(task)

    def outcome(self, task: Json) -> Json:
        related = {"io.modelcontextprotocol/related-task": {"taskId": task["taskId"]}}
        return {**text(f"the work of {task['taskId']} is {task['status']}"), "_meta": related}

    def end(self, task: Json, status: str) -> Json:
        task["status"] = status
        if not IS_MODERN:
            self.send({"method": "notifications/tasks/status", "params": task})
        for request in self.waiting.pop(task["taskId"], ()):
            self.send({"id": request, "result": self.outcome(task)})
        return task


def complete(result: Json) -> Json:
    return {"resultType": "complete", **result}


def modern(task: Json) -> Json:
    spelled = {"ttl": "ttlMs", "pollInterval": "pollIntervalMs"}
    return {spelled.get(name, name): value for name, value in task.items()}


def text(words: str) -> Json:
    return {"content": [{"type": "text", "text": words}]}


def main() -> None:
    server = Server()
    for line in sys.stdin:
        server.receive(json.loads(line))


if __name__ == "__main__":
    main()
