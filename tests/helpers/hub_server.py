"""A hub on this machine: the few addresses of it that huggingface_hub calls, and faults that a test asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".model", ".pth")
"""The endings of files that the hub keeps apart from git, and knows by their SHA-256."""


class Server:
    """Repositories, which are folders, and the faults of their files."""

    def __init__(self, repositories: dict[str, Path]):
        self.repositories = repositories
        self.cut: dict[str, int] = {}
        """Files of which the connection breaks after so many bytes, once."""
        self.broken: set[str] = set()
        """Files that can't be had after a cut."""
        self.corrupt: set[str] = set()
        """Files that are sent with a wrong byte."""
        self.sent: list[tuple[str, str | None]] = []
        """Each file that was asked for, and the range of it."""
        self.tokens: dict[str, set[str | None]] = {"hub": set(), "elsewhere": set()}
        """What was sent as authorization to the hub, and to the other host that large files come from."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self.elsewhere = f"http://localhost:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def files(self, repo: str) -> dict[str, Path]:
        folder = self.repositories[repo]
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def commit(repo: str) -> str:
    return hashlib.sha1(repo.encode()).hexdigest()


def facts(path: Path) -> dict:
    """What the hub says of a file."""
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if not path.name.endswith(LARGE):
        return {"size": len(content), "git": git, "sha256": None}
    return {"size": len(content), "git": "0" * 40, "sha256": hashlib.sha256(content).hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    hub: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in self.hub.repositories:
            return self._json(parts)
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        if len(parts) > 4 and parts[2] in ("resolve", "large") and repo in self.hub.repositories:
            self.hub.tokens["hub" if parts[2] == "resolve" else "elsewhere"].add(self.headers.get("Authorization"))
            if parts[2] == "resolve" and name in self.hub.files(repo) and name.endswith(LARGE):
                return self._redirect(repo, name)
            return self._file(repo, name, body)
        return self._head(404, {"X-Error-Code": "RepoNotFound", "Content-Length": "0"})

    def _json(self, parts: list[str]) -> None:
        repo = "/".join(parts[2:4])
        known = {name: facts(path) for name, path in self.hub.files(repo).items()}
        if parts[4:5] == ["tree"]:
            content: object = [
                {"type": "file", "path": name, "oid": each["git"], "size": each["size"], **_lfs(each, "oid")}
                for name, each in known.items()
            ]
        else:
            siblings = [
                {"rfilename": name, "size": each["size"], "blobId": each["git"], **_lfs(each, "sha256")}
                for name, each in known.items()
            ]
            content = {
                "id": repo,
                "modelId": repo,
                "sha": commit(repo),
                "siblings": siblings,
                "tags": [],
                "private": False,
            }
        text = json.dumps(content).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(text))})
        self.wfile.write(text)

    def _redirect(self, repo: str, name: str) -> None:
        """Say what a large file is, and where it is."""
        said = facts(self.hub.files(repo)[name])
        headers = {
            "X-Repo-Commit": commit(repo),
            "X-Linked-Etag": f'"{said["sha256"]}"',
            "X-Linked-Size": str(said["size"]),
        }
        at = f"{self.hub.elsewhere}/{repo}/large/{commit(repo)}/{name}"
        self._head(302, headers | {"Location": at, "Content-Length": "0"})

    def _file(self, repo: str, name: str, body: bool) -> None:
        path = self.hub.files(repo).get(name)
        if path is None:
            return self._head(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"})
        said, content = facts(path), path.read_bytes()
        headers = {
            "X-Repo-Commit": commit(repo),
            "ETag": f'"{said["sha256"] or said["git"]}"',
            "Accept-Ranges": "bytes",
        }
        if not body:
            return self._head(200, headers | {"Content-Length": str(len(content))})
        asked = self.headers.get("Range")
        self.hub.sent.append((name, asked))
        if name in self.hub.broken and name not in self.hub.cut:
            return self._head(500, {"Content-Length": "0"})
        if name in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        total, content = len(content), content[start:]
        if asked:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self._head(206 if asked else 200, headers | {"Content-Length": str(len(content))})
        if name in self.hub.cut:
            self.wfile.write(content[: self.hub.cut.pop(name)])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(content)
        return None

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _lfs(said: dict, digest: str) -> dict:
    return {"lfs": {digest: said["sha256"], "size": said["size"], "pointerSize": 130}} if said["sha256"] else {}
