"""A model hub on this machine: as much of its interface as an upload asks, and what was uploaded."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """Repositories by name. Files whose names end with `large` go through LFS, as weights do on the real one."""

    def __init__(self, token: str, large: tuple[str, ...] = (".safetensors", ".onnx")) -> None:
        self.token, self.large = token, large
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def reply(self, status: int, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_PUT(self) -> None:
                hub.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
                self.reply(200, {})

            def do_GET(self) -> None:
                repo = self.path.removeprefix("/api/models/").removesuffix("/revision/main")
                if repo not in hub.private:
                    self.reply(404, {"error": "Repository not found"})
                    return
                self.reply(200, {"id": repo, "private": hub.private[repo], "sha": "0" * 40, "tags": []})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self.reply(401, {"error": "Invalid username or password."})
                    return
                self.reply(*hub.answer(self.path, body))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """Return (status, JSON) of a POST."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.private:
                return 409, {"error": "exists", "url": f"{self.address}/{repo}"}
            self.private[repo], self.files[repo] = asked["visibility"] == "private", {}
            return 200, {"url": f"{self.address}/{repo}"}
        if path == "/api/validate-yaml":  # of the card
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "lfs" if name.endswith(self.large) else "regular",
                      "shouldIgnore": False} for name in names]  # fmt: skip
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"objects": [self._action(one) for one in json.loads(body)["objects"]]}
        if path.endswith("/commit/main"):
            repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
            self._commit(repo, [json.loads(line) for line in body.splitlines()])
            return 200, {"commitUrl": f"{self.address}/{repo}/commit/1", "commitOid": "1", "success": True}
        return 404, {"error": path}

    def _action(self, one: dict[str, Any]) -> dict[str, Any]:
        action = {"upload": {"href": f"{self.address}/blobs/{one['oid']}"}}
        return {"oid": one["oid"], "size": one["size"], "actions": action}

    def _commit(self, repo: str, operations: list[dict[str, Any]]) -> None:
        for one in operations:
            value = one["value"]
            if one["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                self.files[repo][value["path"]] = self.blobs[value["oid"]]
