"""A Hub on this machine, for uploads that leave it: repositories in memory, each with one branch and no large files.

`huggingface_hub` reads the endpoint when it is imported, so a test gives it to a process of its own: `Hub.environment`.
"""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Files by path in each repository by id; `commits` holds the messages."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []

    def environment(self, home: Path) -> dict[str, str]:
        """Environment variables of a process that takes this for the Hub, with caches of its own below `home`."""
        address = f"http://127.0.0.1:{self.server_address[1]}"
        offline = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_TOKEN": "hf_loopback", "NO_PROXY": "127.0.0.1"}
        return os.environ | offline | {"HF_HOME": str(home)}


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self._answer({"url": f"http://127.0.0.1:{self.server.server_address[1]}/{name}"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in path:
            self._commit("/".join(path.split("/")[3:5]), body)
        else:
            self._answer({"error": f"no {path} here"}, 404)

    def _commit(self, name: str, body: bytes):
        for entry in map(json.loads, body.splitlines()):
            if entry["key"] == "header":
                self.server.commits.append(entry["value"]["summary"])
            elif entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.server.repositories[name][entry["value"]["path"]] = content
        self._answer({"commitUrl": f"/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_GET(self):
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        files = self.server.repositories.get(name)
        if files is None:
            self._answer({"error": "no such repository"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif is_api:
            siblings = [{"rfilename": path, "type": "file", "path": path} for path in files]
            self._answer({"id": name, "modelId": name, "sha": COMMIT, "tags": [], "siblings": siblings})
        elif (path := "/".join(parts[4:])) in files:
            etag = {"ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self._answer(files[path], headers=etag)
        else:
            self._answer({"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, content: bytes | dict, status: int = 200, headers: dict[str, str] | None = None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
