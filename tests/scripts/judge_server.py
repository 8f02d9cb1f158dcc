"""An OpenAI-compatible server on the loopback that judges answers, and misbehaves as it is told.

    python3 judge_server.py

The first line of its output is its address and that of a second server, to which it may redirect. `POST /_set` takes switches as
JSON (see `SWITCHES`), and `GET /_log` gives what both were asked since they were last asked for it. What it says of an answer
depends on the answer alone. Python's standard library is all it needs.
"""

import gzip
import hashlib
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SWITCHES = {
    "key": None,  # the only one that is known; None asks for none
    "models": ["judge"],
    "formats": ["json_schema", "json_object"],  # those that are known; another one is refused with 400
    "seconds": 0,  # that every answer takes
    # What the next chat completions do instead, one after the other:
    #   {"status": 500, "headers": {}, "say": ""}, {"cut": 20} (bytes), {"sleep": 3}, {"say": "text"}, {"wrap": "a %s b"},
    #   {"change": {"accuracy": "7"}} (null takes one out), {"refuse": "No."}, {"empty": true}, {"uncounted": true},
    #   {"redirect": true}, {"html": true}, {"usual": true}, {"raw": {"status": 200, "headers": {}, "body": {}}} (a text stays
    #   as it is), {"parts": true} (the text in parts, behind thoughts), {"pack": true} (gzip, which nobody asked for)
    "next": [],
}


def number(text, most):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % most


def part(prompt, begin, end):
    found = re.search(re.escape(begin) + r"\n(.*?)\n\n" + re.escape(end), prompt, re.DOTALL)
    return found.group(1) if found else ""


def verdict(prompt):
    """What the first prompt of a conversation is answered with."""
    if "Answer A:" in prompt:
        one, other = part(prompt, "Answer A:", "Answer B:"), part(prompt, "Answer B:", "They are judged by")
        worth = [number(text, 5) for text in (one, other)]
        return {"winner": "tie" if worth[0] == worth[1] else "A" if worth[0] > worth[1] else "B"}
    answer = part(prompt, "Answer to grade:", "Give a whole number")
    names = re.findall(r"^- ([^:\n]+)", prompt[prompt.rindex("Give a whole number"):], re.MULTILINE)
    return {name: 1 + number(name + answer, 10) for name in names}


class Judge:
    def __init__(self):
        self.lock, self.log, self.elsewhere = threading.Lock(), [], ""
        self.switches = json.loads(json.dumps(SWITCHES))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, status, body, headers=(), cut=None):
        data = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def error(self, status, message, headers=(), code=None):
        self.send(status, json.dumps({"error": {"message": message, "code": code}}), headers)

    def do_GET(self):
        judge = self.server.judge
        with judge.lock:
            log, judge.log = judge.log, []
        self.send(200, json.dumps(log))

    def do_POST(self):
        judge = self.server.judge
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.path == "/_set":
            with judge.lock:
                judge.switches.update(body)
            return self.send(200, "")
        key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        with judge.lock:
            judge.log.append({"path": self.path, "key": key, "body": body, "time": time.time(),
                              "elsewhere": self.server.is_elsewhere})
            switches = judge.switches
            do = switches["next"].pop(0) if switches["next"] else {}
        time.sleep(do.get("sleep", switches["seconds"]))
        if self.server.is_elsewhere or self.path != "/v1/chat/completions":
            return self.error(404, "there is nothing here")
        if switches["key"] is not None and key != switches["key"]:
            return self.error(401, f"Incorrect API key provided: {key}", code="invalid_api_key")
        if body["model"] not in switches["models"]:
            return self.error(404, f"The model `{body['model']}` does not exist", code="model_not_found")
        form = body.get("response_format", {}).get("type")
        if form and form not in switches["formats"]:
            return self.error(400, f"Invalid parameter: 'response_format' of type '{form}' is not supported.")
        if "redirect" in do:
            return self.send(307, "", {"Location": judge.elsewhere + self.path})
        if "status" in do:
            return self.error(do["status"], do.get("say", "busy"), do.get("headers", {}))
        if "raw" in do:
            body = do["raw"]["body"]
            return self.send(do["raw"].get("status", 200), body if isinstance(body, str) else json.dumps(body), do["raw"].get("headers", {}))
        if "html" in do:
            return self.send(200, "<html>Please log in</html>")
        prompt = body["messages"][0]["content"]
        said = verdict(prompt)
        for name, value in do.get("change", {}).items():
            said.pop(name, None)
            if value is not None:
                said[name] = value
        content = do.get("wrap", "%s") % json.dumps(said)
        message = {"role": "assistant", "content": do.get("say", content)}
        if "refuse" in do:
            message = {"role": "assistant", "content": None, "refusal": do["refuse"]}
        if "parts" in do:
            thoughts = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
            halves = [content[: len(content) // 2], content[len(content) // 2 :]]
            message["content"] = [thoughts, *({"type": "text", "text": half} for half in halves)]
        choices = [] if "empty" in do else [{"index": 0, "message": message, "finish_reason": "stop"}]
        answer = {"object": "chat.completion", "choices": choices}
        if "uncounted" not in do:
            answer["usage"] = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
        if "pack" in do:
            return self.send(200, gzip.compress(json.dumps(answer).encode()), {"Content-Encoding": "gzip"})
        self.send(200, json.dumps(answer), cut=do.get("cut"))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        # Whoever asked has gone away.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, address)


def main():
    judge = Judge()
    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    for server, is_elsewhere in zip(servers, (False, True)):
        server.judge, server.is_elsewhere = judge, is_elsewhere
    addresses = [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    judge.elsewhere = addresses[1]
    print(*addresses, flush=True)
    threading.Thread(target=servers[1].serve_forever, daemon=True).start()
    servers[0].serve_forever()


main()
