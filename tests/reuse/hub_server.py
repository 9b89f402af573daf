"""The part of the Hugging Face Hub's API that huggingface_hub needs to make a repository, upload to it and download."""
import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_ours"


class Hub:
    """The repositories of a server: {name: {branch: {file: bytes}}}, at `url`, and the requests that came."""

    def __init__(self, url):
        self.url, self.repositories, self.uploads, self.requests = url, {}, {}, []

    def files(self, repository, revision):
        """(The files of a revision, a branch or a commit, and its commit), or the error code of the Hub."""
        if repository not in self.repositories:
            return "RepoNotFound", ""
        for branch, files in self.repositories[repository].items():
            commit = hashlib.sha1(repr((branch, sorted(files.items()))).encode()).hexdigest()
            if revision in (branch, commit):
                return files, commit
        return "RevisionNotFound", ""

    def answer(self, method, path, body, headers):
        """(Status, headers, body) of a request."""
        self.requests.append(f"{method} {path}")
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            files, commit = self.files(found[1], unquote(found[2]))
            if isinstance(files, str):
                return 404, {"X-Error-Code": files}, b""
            if found[3] not in files:
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
            data = files[found[3]]
            return 200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}, data
        if headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/lfs/"):
            return 401, {}, b'{"error": "Invalid username or password."}'
        value = json.loads(body) if body and body[:1] == b"{" and b"\n" not in body.strip() else {}
        return self.change(method, path, body, value)

    def change(self, method, path, body, value):
        """(Status, headers, body) of a request that writes."""
        def json_of(status, **content):
            return status, {"Content-Type": "application/json"}, json.dumps(content).encode()

        if path == "/api/repos/create":
            name = "/".join(filter(None, [value.get("organization"), value["name"]]))
            there = name in self.repositories
            self.repositories.setdefault(name, {"main": {}})
            return json_of(409 if there else 200, url=f"{self.url}/{name}", error="it exists")
        if path == "/api/validate-yaml":
            return json_of(200, errors=[], warnings=[])
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/branch/(.+)", path):
            branches, branch = self.repositories[found[1]], unquote(found[2])
            there = branch in branches
            branches.setdefault(branch, dict(branches["main"]))
            return json_of(409 if there else 200, error="it exists")
        if re.fullmatch(r"/api/models/.+/preupload/.+", path):
            return json_of(200, files=[{"path": file["path"], "shouldIgnore": False, "oid": None,
                                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                                       for file in value["files"]])
        if path.endswith(".git/info/lfs/objects/batch"):
            return json_of(200, transfer="basic", objects=[
                each | {"actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}} for each in value["objects"]])
        if method == "PUT" and path.startswith("/lfs/"):
            self.uploads[path.removeprefix("/lfs/")] = body
            return 200, {}, b""
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/(.+)", path):
            files = self.repositories[found[1]][unquote(found[2])]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.uploads[line["value"]["oid"]]
            commit = self.files(found[1], unquote(found[2]))[1]
            return json_of(200, success=True, commitOid=commit, commitUrl=f"{self.url}/{found[1]}/commit/{commit}")
        return json_of(404, error=f"{method} {path} is not served here")


@contextlib.contextmanager
def serve():
    """Give the Hub of a server on this machine."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            size = self.headers.get("Content-Length")
            body = self.rfile.read(int(size)) if size else b"".join(self.chunks())
            status, headers, answer = hub.answer(self.command, urlsplit(self.path).path, body, self.headers)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": len(answer)}).items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        def chunks(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
