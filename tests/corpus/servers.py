"""Real servers on loopback for corpora behind URLs: Python's own with faults, nginx, and one that speaks S3."""

import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import pytest


class RangeServer(http.server.ThreadingHTTPServer):
    """Serves a folder with byte ranges. `fault(path, number)` may spoil a GET: its name, or None for none.

    `number` counts how often the very same bytes were asked for before.

    Faults: "503", "hang up" (no answer), "cut" (half the bytes promised), "short" (half of them, and says so),
    "flip" (one bit), "slow" (an answer after 3 s), "whole" (the range is ignored).
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.fault: Callable[[str, int], str | None] = lambda path, number: None
        self.asked: Counter[tuple[str, str | None]] = Counter()
        self.fails_heads = False
        self.num_bytes = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def num_gets(self) -> int:
        return self.asked.total()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, send_body: bool) -> None:
        path = self.server.folder / self.path.lstrip("/")
        fault = "503" if self.server.fails_heads and not send_body else None
        if send_body:
            with self.server.lock:
                key = self.path, self.headers.get("Range")
                fault = self.server.fault(self.path, self.server.asked[key])
                self.server.asked[key] += 1
        if fault == "hang up":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(3)
        if fault == "503" or not path.is_file():
            self.send_error(503 if fault else 404)
            return
        self._send(path.read_bytes(), fault, send_body)

    def _send(self, data: bytes, fault: str | None, send_body: bool) -> None:
        asked = self.headers.get("Range")
        if asked and fault != "whole":
            start, end = asked.removeprefix("bytes=").split("-")
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            data = data[int(start) : int(end) + 1]
        else:
            self.send_response(200)
        if fault == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "short":
            data = data[: len(data) // 2]
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if fault == "cut":
            data = data[: len(data) // 2]
            self.close_connection = True
        if send_body:
            with suppress(ConnectionError):  # a client that was kept waiting has gone
                self.wfile.write(data)
            with self.server.lock:
                self.server.num_bytes += len(data)


@contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    with RangeServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(command: list[str], url: str) -> Iterator[None]:
    """A server of another program, once it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not answer") from error
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def nginx(folder: Path, scratch: Path) -> Iterator[str]:
    """nginx serving a folder; its URL."""
    port = free_port()
    config = f"""
        daemon off; pid {scratch}/pid; error_log {scratch}/error.log; worker_processes 1;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy; fastcgi_temp_path {scratch}/fast;
            uwsgi_temp_path {scratch}/uwsgi; scgi_temp_path {scratch}/scgi;
            server {{ listen 127.0.0.1:{port}; root {folder}; }}
        }}"""
    (scratch / "nginx.conf").write_text(config)
    program = nginx_program()
    assert program
    with started([program, "-c", str(scratch / "nginx.conf")], f"http://127.0.0.1:{port}/manifest.json"):
        yield f"http://127.0.0.1:{port}"


def nginx_program() -> str | None:
    return shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """moto's server, and the environment that leads to it."""
    program, port = moto_program(), free_port()
    assert program
    url = f"http://127.0.0.1:{port}"
    settings = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    for name, value in (settings | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # one of another server that is gone
    with started([program, "-H", "127.0.0.1", "-p", str(port)], url):
        yield


def moto_program() -> str | None:
    """MOTO_SERVER names moto's server where it stands in an environment of its own."""
    return shutil.which(os.environ.get("MOTO_SERVER", "moto_server"))
