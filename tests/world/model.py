# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays the model behind a real agent: `python tests/world/model.py serve --port 0`, and prints where it listens.

It speaks OpenAI's chat protocol as far as an agent's loop of tool calls needs it, and takes the orders that the played
agent takes (see `pi` beside this file): it has the agent read the issue, write the page, and run what the orders say
with its own tools. `crash` is the model's own: it answers with an error.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

AGENT = Path(__file__).resolve().with_name("pi")
MODEL = "played"
READ_ISSUE = "cat ../../request.md 2>/dev/null; true"


def _agent() -> Any:
    loader = SourceFileLoader("played_agent", str(AGENT))
    spec = spec_from_loader(loader.name, loader)
    if spec is None:
        raise ImportError(str(AGENT))
    module = module_from_spec(spec)
    write, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = write
    return module


PLAYED = _agent()


class Refuses(Exception):
    """The model does not answer."""


def text_of(message: dict[str, Any]) -> str:
    """The text of a message, which is a string or parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def next_step(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model says next: `{"tool", "arguments"}` or `{"text"}`. Refuses where it was ordered to crash."""
    last = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=0)
    prompt = text_of(messages[last])
    results = [text_of(message) for message in messages[last:] if message["role"] == "tool"]
    if "the word ok" in prompt:
        return {"text": "ok"}
    if not results:
        return {"tool": "bash", "arguments": {"command": READ_ISSUE}}
    issue = results[0] if "## " in results[0] else prompt
    orders = PLAYED.ORDER.findall(issue)
    plan = []
    if "nothing" not in orders:
        path, content = PLAYED.page(issue)
        plan.append({"tool": "write", "arguments": {"path": path, "content": content}})
    told = [order for order in orders if order.split()[0] not in ("nothing", "crash")]
    if told:
        script = AGENT.read_text(encoding="utf-8")
        command = f"python3 - --orders {shlex.join(told)} <<'PLAYED_AGENT'\n{script}\nPLAYED_AGENT\n"
        plan.append({"tool": "bash", "arguments": {"command": command}})
    if len(results) <= len(plan):
        return plan[len(results) - 1]
    if any(order.startswith("crash") for order in orders):
        raise Refuses("ordered to")
    return {"text": "Done."}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        try:
            step = next_step(asked["messages"])
        except Refuses as error:
            self._send(400, "application/json", json.dumps({"error": {"message": str(error)}}))
            return
        delta: dict[str, Any] = {"role": "assistant"}
        if "tool" in step:
            function = {"name": step["tool"], "arguments": json.dumps(step["arguments"])}
            delta["tool_calls"] = [{"index": 0, "id": "call_1", "type": "function", "function": function}]
        else:
            delta["content"] = step["text"]
        ends = "tool_calls" if "tool" in step else "stop"
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": ends}], "usage": usage},
        ]
        about = {"id": "played", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
        lines = [f"data: {json.dumps({**about, **event})}\n\n" for event in events]
        self._send(200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n"]))

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        print(format % arguments, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="model.py", description="A model that does as the issue says.")
    serving = parser.add_subparsers(dest="command", required=True).add_parser("serve")
    serving.add_argument("--port", type=int, default=0)
    server = ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler)
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
