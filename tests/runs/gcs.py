"""The part of Google Cloud Storage's JSON interface that gcsfs uses, in memory.

The emulators on PyPI know no ifGenerationMatch, on which the lease rests.
"""
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 7  # objects of a listing in one answer, so that there are several


class Server(ThreadingHTTPServer):
    """The buckets {name: {object: (generation, content)}}. While `down` every request fails."""
    daemon_threads = True
    request_queue_size = 1024  # gcsfs opens a connection for each of many files at once; with 5 some waited a minute

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.buckets: dict[str, dict[str, tuple[int, bytes]]] = {"bucket": {}}
        self.down = False
        self.lock, self.generations = threading.Lock(), itertools.count(1)
        self.before = lambda method, name: None  # called before a request is done
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


    def handle_error(self, *_: object) -> None:
        """A client that is killed in the middle is no error here."""


class Handler(BaseHTTPRequestHandler):
    """Answers with JSON, or the content of an object."""
    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self, code: int, content: object) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def described(self, bucket: str, name: str) -> dict[str, str]:
        generation, content = self.server.buckets[bucket][name]
        return {"kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(content)),
                "generation": str(generation), "updated": "2026-01-01T00:00:00Z", "timeCreated": "2026-01-01T00:00:00Z"}

    def handle_method(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket, name = re.fullmatch(r".*/b/([^/]+)/o(?:/(.*))?", url.path).groups()
        bucket, name = unquote(bucket), unquote(name or "")
        objects = self.server.buckets.get(bucket)
        if self.server.down:
            return self.answer(403, {"error": {"message": "the bucket is closed"}})
        if objects is None or (name and name not in objects):
            return self.answer(404, {"error": {"message": "Not Found"}})
        if self.command == "POST":
            _, described, content = body.split(b"--==0==", 2)  # the boundary of gcsfs
            name = json.loads(described.partition(b"\n\n")[2])["name"]
            content = content.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
            self.server.before("POST", name)
            with self.server.lock:
                if query.get("ifGenerationMatch") == "0" and name in objects:
                    return self.answer(412, {"error": {"message": "conditionNotMet"}})
                objects[name] = next(self.server.generations), content
                return self.answer(200, self.described(bucket, name))
        self.server.before(self.command, name)
        if self.command == "DELETE":
            objects.pop(name, None)
            return self.answer(200, {})
        if name:
            media = query.get("alt") == "media" or url.path.startswith("/download")
            return self.answer(200, objects[name][1] if media else self.described(bucket, name))
        self.answer(200, self.listed(bucket, query))

    def listed(self, bucket: str, query: dict[str, str]) -> dict[str, object]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names, prefixes = [], set()
        for name in sorted(self.server.buckets[bucket]):
            if name.startswith(prefix) and name > query.get("pageToken", ""):
                head, found, _ = name[len(prefix):].partition(delimiter) if delimiter else (name, "", "")
                if found:
                    prefixes.add(prefix + head + found)
                else:
                    names.append(name)
        answer = {"kind": "storage#objects", "prefixes": sorted(prefixes),
                  "items": [self.described(bucket, name) for name in names[:PAGE]]}
        return answer | ({"nextPageToken": names[PAGE - 1]} if len(names) > PAGE else {})

    do_GET = do_POST = do_DELETE = handle_method

    def log_message(self, *_: object) -> None:
        """Write no log."""
