"""A small Hub on this machine: what huggingface_hub asks of the real one to make, fill and read a repository."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_right"
READ_TOKEN = "hf_reads_only"
COMMIT = "c0ffee" * 6 + "c0ff"


class SmallHub:
    """The state of the Hub: `repositories` has the files of each by name, `bodies` all that was ever received.

    `fails_at` is a part of an address; requests for it get the status `fails_with`.
    """

    def __init__(self):
        self.repositories, self.private, self.messages = {}, {}, {}
        self.uploaded, self.bodies = {}, []
        self.fails_at, self.fails_with = None, 500
        self.url = ""

    def answer(self, method, path, headers, body):
        """The status, the JSON or bytes and the headers that answer a request."""
        self.bodies.append(body)
        if self.fails_at is not None and self.fails_at in path:
            return self.fails_with, {"error": "out of order"}, {}
        if method in ("GET", "HEAD") and (match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/(.+)", path)):
            return self.file(*match.groups())
        if method == "PUT":  # by an address that is a permission by itself
            return self.upload(path, body)
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_TOKEN):
            return 401, {"error": "Invalid credentials in Authorization header"}, {}
        if token == READ_TOKEN and method == "POST":
            return 403, {"error": "Forbidden: you must use a write token"}, {}
        return self.authorized(path, body)

    def authorized(self, path, body):
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/preupload/main", path):
            return self.preupload(json.loads(body)["files"])
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(body)["objects"])
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", path):
            return self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)", path):
            found = match[1] in self.repositories
            info = {"id": match[1], "private": self.private.get(match[1]), "tags": [], "siblings": []}
            return (200, info, {}) if found else (404, {"error": "Repository not found"}, {})
        return 404, {"error": f"the small Hub does not know {path}"}, {}

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this model repo"}, {}
        self.repositories[name], self.private[name] = (
            {},
            asked.get("visibility", asked.get("private")) in (True, "private"),
        )
        return 200, {"url": f"{self.url}/{name}"}, {}

    @staticmethod
    def validate(content):
        front_matter = re.match(r"---\n(.*?)\n---\n", content, flags=re.S)
        values = yaml.safe_load(front_matter[1]) if front_matter else None
        errors = [] if isinstance(values, dict) else [{"message": "the card has no metadata"}]
        return (400 if errors else 200), {"errors": errors, "warnings": []}, {}

    @staticmethod
    def preupload(files):
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        return 200, {"files": modes}, {}

    def batch(self, objects):
        actions = [
            each | {"actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}", "header": {}}}} for each in objects
        ]
        return 200, {"transfer": "basic", "objects": actions}, {}

    def upload(self, path, body):
        oid = path.removeprefix("/lfs/")
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "the content is not what was announced"}, {}
        self.uploaded[oid] = body
        return 200, {}, {}

    def commit(self, name, lines):
        header, *changes = lines
        files = {}
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert change["key"] == "lfsFile", change
                files[value["path"]] = self.uploaded[value["oid"]]
                assert len(files[value["path"]]) == value["size"]
        self.repositories[name] |= files
        self.messages.setdefault(name, []).append(header["value"]["summary"])
        address = f"{self.url}/{name}/commit/{COMMIT}"
        return 200, {"commitUrl": address, "commitOid": COMMIT, "hookOutput": "", "success": True}, {}

    def file(self, name, path):
        """A file as it is downloaded."""
        content = self.repositories.get(name, {}).get(path)
        if content is None:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return 200, content, {"ETag": etag, "X-Repo-Commit": COMMIT}


@contextlib.contextmanager
def small_hub():
    """A small Hub that runs in the block."""
    hub = SmallHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            status, content, headers = hub.answer(self.command, path, self.headers, body)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = respond

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
