"""A Hugging Face Hub on the loopback: serves folders as repositories, through the API that huggingface_hub speaks.

    python3 hub_server.py ROOT [CERTIFICATE]

ROOT has `models/OWNER/NAME` and `datasets/OWNER/NAME`, the files of the branch main; those of another branch lie in
`NAME@BRANCH`, with %2F for a slash. A commit is named by what its files hold, so a change of them is another commit.
Large files (by their endings) are sent by a second server, as the Hub has them sent by a CDN, to which no token may go.

With a certificate (and its key, in one PEM file) it speaks TLS. The first line of its output is its two addresses. `POST /_set` takes switches as JSON (see `SWITCHES`), and `GET /_log` gives
what was asked for since it was last asked. What `hf upload` sends, with a known token, becomes files of the branch. Python's standard library is all it needs.
"""

import base64
import hashlib
import json
import re
import ssl
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = (".safetensors", ".gguf", ".bin", ".parquet", ".gz", ".zst")

SWITCHES = {
    "tokens": [],  # those that are known; another one is refused
    "private": [],  # repositories that only a token opens
    "gated": [],  # repositories whose files only a token in `granted` opens
    "granted": [],
    "moved": {},  # old names and new ones
    "page": 1000,  # entries in a page of a list
    "ranges": True,  # whether a part of a file is sent where one is asked for
    # The first `times` answers whose address has `path` in it ...
    "cut": None,  # ... end after the `after`th byte
    "corrupt": None,  # ... have another last byte
    "status": None,  # ... are refused with `status`, and `headers`
    "slow": None,  # ... come after `seconds`
    "trickle": None,  # ... come in pieces of `bytes`, every `seconds`
    "short": None,  # ... say that they are `bytes` shorter than they are
    "linked_size": {},  # what the Hub says that files are long, by the ends of their paths
    "headless": False,  # answers lack the Hub's headers, as those of a captive portal
}


def digests(path):
    """git's digest of a file, and SHA-256 of a large one."""
    data = path.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return oid, hashlib.sha256(data).hexdigest() if path.name.endswith(LARGE) else None


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        # Whoever asked has gone away.
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError)):
            super().handle_error(request, address)


class Hub:
    """What is served, how it misbehaves, and what it was asked."""

    def __init__(self, root):
        self.root, self.lock, self.log = Path(root), threading.Lock(), []
        self.switches = json.loads(json.dumps(SWITCHES))
        self.blobs, self.digests, self.uploads = {}, {}, {}

    def hits(self, name, address):
        """The switch, where it is meant for this address and not used up."""
        with self.lock:
            switch = self.switches[name]
            if not switch or switch.get("path", "") not in address or switch.get("times", 1) <= 0:
                return None
            switch["times"] = switch.get("times", 1) - 1
            return switch

    def branches(self, kind, repo):
        folder = self.root / kind / repo
        if not folder.parent.is_dir() or "@" in folder.name:
            return {}
        found = {"main": folder} if folder.is_dir() else {}
        for other in folder.parent.glob(folder.name + "@*"):
            found[urllib.parse.unquote(other.name.split("@", 1)[1])] = other
        return found

    def files(self, folder):
        """Path, size, git's digest, and SHA-256 of large files."""
        found = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            about = path.stat()
            stamp = (path, about.st_size, about.st_mtime_ns, about.st_ino)
            if stamp not in self.digests:
                self.digests[stamp] = digests(path)
            oid, sha = self.digests[stamp]
            if sha:
                self.blobs[sha] = path
            found.append((path.relative_to(folder).as_posix(), about.st_size, oid, sha, path))
        return found

    def commit(self, kind, repo, revision):
        """The commit of a revision and its files; None where there is none."""
        for branch, folder in self.branches(kind, repo).items():
            files = self.files(folder)
            named = repr([(branch, path, oid) for path, _, oid, _, _ in files]).encode()
            sha = hashlib.sha1(named).hexdigest()
            if revision in (branch, sha) or (len(revision) >= 7 and sha.startswith(revision)):
                return sha, files
        return None

    def size(self, path, size):
        for end, said in self.switches["linked_size"].items():
            if path.endswith(end):
                return said
        return size


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    @property
    def hub(self):
        return self.server.hub

    def note(self):
        entry = {
            "server": self.server.name,
            "method": self.command,
            "path": self.path,
            "range": self.headers.get("Range"),
            "token": self.headers.get("Authorization"),
            "agent": self.headers.get("User-Agent"),
        }
        with self.hub.lock:
            self.hub.log.append(entry)

    def answer(self, status, body=b"", headers=(), length=None):
        try:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def json(self, value, headers=()):
        self.answer(200, json.dumps(value).encode(), [("Content-Type", "application/json"), *headers])

    def refuse(self, status, code=None, message=None, headers=()):
        headers = list(headers)
        if code:
            headers.append(("X-Error-Code", code))
        if message:
            headers.append(("X-Error-Message", message))
        self.answer(status, json.dumps({"error": message or code or "no"}).encode(), headers)

    def send_file(self, data, headers):
        """A file, or the part of it that was asked for."""
        if self.hub.hits("corrupt", self.path) and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        status, whole, length = 200, len(data), None
        if wanted and self.hub.switches["ranges"]:
            start = int(wanted[1])
            if start >= whole:
                return self.answer(416, headers=[("Content-Range", f"bytes */{whole}")])
            end = min(int(wanted[2]) + 1, whole) if wanted[2] else whole
            status, data = 206, data[start:end]
            headers = [*headers, ("Content-Range", f"bytes {start}-{end - 1}/{whole}")]
        if self.command == "GET":
            if short := self.hub.hits("short", self.path):
                length = max(len(data) - short["bytes"], 0)
                data = data[:length]
            if cut := self.hub.hits("cut", self.path):
                length, data = len(data), data[: cut["after"]]
                self.close_connection = True
            if trickle := self.hub.hits("trickle", self.path):
                return self.send_slowly(status, data, headers, trickle)
        self.answer(status, data, headers, len(data) if length is None else length)

    def send_slowly(self, status, data, headers, trickle):
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(data)))]:
            self.send_header(name, value)
        self.end_headers()
        try:
            for at in range(0, len(data), trickle["bytes"]):
                self.wfile.write(data[at : at + trickle["bytes"]])
                self.wfile.flush()
                time.sleep(trickle["seconds"])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def misbehaves(self):
        if slow := self.hub.hits("slow", self.path):
            time.sleep(slow["seconds"])
        if status := self.hub.hits("status", self.path):
            self.refuse(status["status"], headers=status.get("headers", {}).items())
            return True
        return False

    def do_HEAD(self):
        self.do_GET()


class Cdn(Handler):
    """What large files come from."""

    def do_PUT(self):
        self.note()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.rsplit("/", 1)[-1]
        if self.headers.get("Authorization") or hashlib.sha256(body).hexdigest() != name:
            return self.refuse(400, message="not what was announced")
        self.hub.uploads[name] = body
        self.answer(200)

    def do_GET(self):
        self.note()
        if self.misbehaves():
            return
        path = self.hub.blobs.get(urllib.parse.urlsplit(self.path).path.rsplit("/", 1)[-1])
        if path is None or self.headers.get("Authorization"):
            return self.refuse(400, message="a signed address takes no token")
        self.send_file(path.read_bytes(), [("ETag", '"of-the-store"'), ("Accept-Ranges", "bytes")])


class Api(Handler):
    """The Hub."""

    def token(self):
        header = self.headers.get("Authorization")
        return header.removeprefix("Bearer ") if header else None

    def opens(self, kind, repo, files):
        """Whether a repository is open to who asks; says so where it is not."""
        switches, token = self.hub.switches, self.token()
        if token is not None and token not in switches["tokens"]:
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif not self.hub.branches(kind, repo) or (repo in switches["private"] and token is None):
            # Whether a repository is there is nobody's business who is not logged in.
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif files and repo in switches["gated"] and token not in switches["granted"]:
            self.refuse(403 if token else 401, "GatedRepo", f"Access to {kind} {repo} is restricted.")
        else:
            return True
        return False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/_set":
            with self.hub.lock:
                self.hub.switches.update(json.loads(body))
            return self.json({})
        self.note()
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/?]+)", self.path):
            kind, repo, revision = found[1], found[2], urllib.parse.unquote(found[3])
            if not self.opens(kind, repo, False):
                return None
            form = json.loads(body) if body[:1] == b"{" else urllib.parse.parse_qs(body.decode())
            _, files = self.hub.commit(kind, repo, revision) or (None, [])
            wanted = [path.strip("/") for path in form.get("paths", [])]
            return self.json([e for e in self.entries(files, "", True) if e["path"] in wanted])
        self.upload(urllib.parse.urlsplit(self.path).path, body)

    def upload(self, path, body):
        """What huggingface_hub's create_repo and upload_folder ask for."""
        if self.token() not in self.hub.switches["tokens"]:
            return self.refuse(401, message="Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = "/".join(filter(None, [wanted.get("organization"), wanted["name"]]))
            (self.hub.root / f"{wanted.get('type') or 'model'}s" / repo).mkdir(parents=True)
            return self.json({"url": f"{self.server.address}/{repo}", "name": repo, "id": repo})
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/preupload/([^/]+)", path):
            mode = lambda file: "lfs" if file["path"].endswith(LARGE) else "regular"
            files = [{"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self.json({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [{"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.server.cdn}/{o['oid']}"}}}
                       for o in json.loads(body)["objects"]]
            return self.json({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/commit/([^/]+)", path):
            kind, repo, branch = found[1], found[2], urllib.parse.unquote(found[3])
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] not in ("file", "lfsFile"):
                    continue
                value = entry["value"]
                data = base64.b64decode(value["content"]) if "content" in value else self.hub.uploads[value["oid"]]
                target = self.hub.branches(kind, repo)[branch] / value["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            commit, _ = self.hub.commit(kind, repo, branch)
            return self.json({"success": True, "commitOid": commit, "commitUrl": f"{self.server.address}/{repo}/commit/{commit}"})
        return self.refuse(404)

    def do_GET(self):
        if self.path == "/_log":
            with self.hub.lock:
                log, self.hub.log = self.hub.log, []
            return self.json(log)
        self.note()
        if self.misbehaves():
            return
        url = urllib.parse.urlsplit(self.path)
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|refs|parquet)(?:/(.*))?)?", url.path):
            return self.api(found[1], found[2], found[3] or "revision", found[4] or "", urllib.parse.parse_qs(url.query))
        if found := re.fullmatch(r"/api/resolve-cache/(models|datasets)/([^/]+/[^/]+)/([^/]+)/(.+)", url.path):
            return self.resolve(found[1], found[2], found[3], urllib.parse.unquote(found[4]), True)
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path):
            revision, file = urllib.parse.unquote(found[3]), urllib.parse.unquote(found[4])
            return self.resolve("datasets" if found[1] else "models", found[2], revision, file)
        self.refuse(404)

    def moves(self, repo):
        """Sends whoever asks for a repository by its old name to its new one, on this server."""
        if repo not in self.hub.switches["moved"]:
            return False
        self.answer(307, headers=[("Location", self.path.replace(repo, self.hub.switches["moved"][repo], 1))])
        return True

    def api(self, kind, repo, what, rest, query):
        if self.moves(repo) or not self.opens(kind, repo, False):
            return None
        if what == "refs":
            branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": self.hub.commit(kind, repo, b)[0]}
                        for b in self.hub.branches(kind, repo) if not b.startswith("refs/")]
            return self.json({"branches": branches, "tags": [], "converts": []})
        if what == "parquet":
            return self.parquet(repo)
        revision, _, folder = rest.partition("/")
        found = self.hub.commit(kind, repo, urllib.parse.unquote(revision or "main"))
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = found
        if what == "revision":
            siblings = [{"rfilename": path, "size": size, "blobId": oid} for path, size, oid, _, _ in files]
            return self.json({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "private": False,
                              "gated": repo in self.hub.switches["gated"], "disabled": False, "downloads": 0, "likes": 0,
                              "tags": [], "cardData": None, "createdAt": "2026-01-01T00:00:00.000Z",
                              "lastModified": "2026-01-01T00:00:00.000Z"})
        folder = urllib.parse.unquote(folder).strip("/")
        if folder and not any(path.startswith(folder + "/") for path, *_ in files):
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist on \"{revision}\"")
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = self.entries(files, folder, recursive)
        start, page = int(query.get("cursor", ["0"])[0]), self.hub.switches["page"]
        headers = []
        if start + page < len(entries):
            following = f"/api/{kind}/{repo}/tree/{rest}?recursive={recursive}&expand=false&cursor={start + page}"
            headers = [("Link", f'<{self.server.address}{following}>; rel="next"')]
        self.json(entries[start : start + page], headers)

    def entries(self, files, folder, recursive):
        entries, folders = [], set()
        for path, size, oid, sha, _ in files:
            below = path[len(folder) + 1 :] if folder and path.startswith(folder + "/") else None if folder else path
            if below is None:
                continue
            parents = below.split("/")[:-1]
            for depth in range(1, len(parents) + 1 if recursive else min(len(parents), 1) + 1):
                folders.add("/".join(filter(None, [folder, *parents[:depth]])))
            if not parents or recursive:
                size = self.hub.size(path, size)
                entry = {"type": "file", "path": path, "size": size, "oid": oid}
                if sha:
                    entry["lfs"] = {"oid": sha, "size": size, "pointerSize": 134}
                entries.append(entry)
        folders = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]
        return sorted(entries + folders, key=lambda entry: entry["path"])

    def parquet(self, repo):
        _, files = self.hub.commit("datasets", repo, "refs/convert/parquet") or (None, [])
        found = {}
        for path, *_ in files:
            config, split, name = path.split("/")
            urls = found.setdefault(config, {}).setdefault(split, [])
            urls.append(f"{self.server.address}/api/datasets/{repo}/parquet/{config}/{split}/{name.lstrip('0') or '0'}")
        return self.json(found)

    def resolve(self, kind, repo, revision, file, is_small=False):
        if self.moves(repo) or not self.opens(kind, repo, True):
            return None
        found = self.hub.commit(kind, repo, revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit, files = found
        match = [entry for entry in files if entry[0] == file]
        if not match:
            return self.refuse(404, "EntryNotFound", "Entry not found", [("X-Repo-Commit", commit)])
        path, size, oid, sha, place = match[0]
        headers = [] if self.hub.switches["headless"] else [("X-Repo-Commit", commit)]
        if not sha and not is_small:
            cached = f"/api/resolve-cache/{kind}/{repo}/{commit}/{urllib.parse.quote(file)}"
            return self.answer(307, b"Temporary Redirect", [*headers, ("Location", cached)])
        if not sha:
            return self.send_file(place.read_bytes(), [*headers, ("ETag", f'"{oid}"'), ("Accept-Ranges", "bytes")])
        headers += [("X-Linked-Etag", f'"{sha}"'), ("X-Linked-Size", str(self.hub.size(path, size)))]
        headers += [("ETag", '"of-the-pointer"'), ("Location", f"{self.server.cdn}/{sha}?Signature=secret")]
        self.answer(302, b"Found", headers)


def main():
    hub = Hub(sys.argv[1])
    servers = []
    for name, handler, host in [("cdn", Cdn, "localhost"), ("hub", Api, "127.0.0.1")]:
        server = Server(("127.0.0.1", 0), handler)
        server.hub, server.name, scheme = hub, name, "http"
        if len(sys.argv) > 2:
            context, scheme = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "https"
            context.load_cert_chain(sys.argv[2])
            # The handshake is made by the thread that answers.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.address = f"{scheme}://{host}:{server.server_address[1]}"
        servers.append(server)
    servers[1].cdn = servers[0].address
    threading.Thread(target=servers[0].serve_forever, daemon=True).start()
    print(servers[1].address, servers[0].address, flush=True)
    servers[1].serve_forever()


if __name__ == "__main__":
    main()
