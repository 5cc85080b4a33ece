"""harness.py: a real vlmd process on a free loopback port, and the requests that tests send to it.

Only Python's standard library. VLMD_TEST_BINARY names the binary (release or sanitized)."""
import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("VLMD_TEST_BINARY", os.path.join(ROOT, "build/vlmd"))
if not os.path.isabs(BINARY):
    BINARY = os.path.join(ROOT, BINARY)
DATA = os.path.join(ROOT, "tests/data")
# What ASan's quarantine holds back by design says nothing about the server's memory.
MEMORY_TELLS = "asan" not in BINARY
IMAGES = os.path.join(DATA, "images")
# Sanitizers slow everything down; a wait that is long only delays a failure.
PATIENCE_S = 60

MODELS = {
    "clip": "clip-tiny",
    "captioner": "blip-caption-tiny",
    "answerer": "blip-vqa-tiny",
    "matcher": "blip-itm-tiny",
}


def clean_environment(**extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLMD_")}
    env.update(extra)
    return env


def image_bytes(name="photo_97x61.jpg"):
    with open(os.path.join(IMAGES, name), "rb") as file:
        return file.read()


def image_b64(name="photo_97x61.jpg"):
    return base64.b64encode(image_bytes(name)).decode()


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Server:
    """One `vlmd serve`; .stop() returns its exit status."""

    def __init__(self, models=MODELS, wait=True, arguments=(), **settings):
        settings.setdefault("store", "memory:")
        command = [BINARY, "serve", "--listen", "127.0.0.1:0"]
        for name, directory in models.items():
            command += ["--model", f"{name}={os.path.join(DATA, 'checkpoints', directory)}"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        command += list(arguments)
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        env=clean_environment())
        self.address = None
        if wait:
            line = self.process.stdout.readline()
            if " ready on http://" not in line:
                self.process.wait(PATIENCE_S)
                raise AssertionError(f"no ready line but {line!r}; {self.log()}")
            host, port = line.split(" ready on http://")[1].split()[0].rsplit(":", 1)
            self.address = (host, int(port))

    def log(self):
        self.errors.seek(0)
        return self.errors.read()

    def connect(self, timeout=PATIENCE_S):
        return http.client.HTTPConnection(*self.address, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=PATIENCE_S):
        connection = self.connect(timeout)
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, headers=None):
        return self.request("GET", path, headers=headers)

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def metric(self, name, **labels):
        """The sum of a metric's samples whose labels include these."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith("#"):
                continue
            head, _, value = line.rpartition(" ")
            if head.split("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
                total += float(value)
        return total

    def processor_ticks(self):
        """Time of the processor that all threads have taken, in ticks of the clock (10 ms)."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def raw(self, data, timeout=PATIENCE_S):
        """Sends bytes as they are; what comes back until the server closes."""
        with socket.create_connection(self.address, timeout=timeout) as connection:
            connection.sendall(data)
            pieces = []
            try:
                while piece := connection.recv(65536):
                    pieces.append(piece)
            except (ConnectionResetError, socket.timeout):
                pass
            return b"".join(pieces)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server did not stop; " + self.log())
        finally:
            self.process.stdout.close()


def multipart(fields):
    """[(name, value)] with value text or (filename, bytes) → body, headers."""
    boundary = "----boundary7d1"
    body = b""
    for name, value in fields:
        body += f"--{boundary}\r\n".encode()
        if isinstance(value, tuple):
            body += (f'Content-Disposition: form-data; name="{name}"; filename="{value[0]}"\r\n'
                     "Content-Type: application/octet-stream\r\n\r\n").encode() + value[1]
        else:
            body += f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        body += b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def together(n, function):
    """function(i) for i in range(n), all at once; their results in order. The first exception is raised."""
    results, faults = [None] * n, []

    def one(i):
        try:
            results[i] = function(i)
        except Exception as fault:  # noqa: BLE001 - handed to the caller
            faults.append(fault)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return results


def wait_until(condition, what, timeout=PATIENCE_S, every=0.02):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(every)
    raise AssertionError(f"still not so after {timeout} s: {what}")


class ServerTest(unittest.TestCase):
    """A test case whose class shares one server; it must stop cleanly."""

    settings = {}
    models = MODELS

    @classmethod
    def setUpClass(cls):
        cls.server = Server(cls.models, **cls.settings)

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        if status != 0:
            raise AssertionError(f"the server ended with status {status}:\n{cls.server.log()[-4000:]}")

    def fails(self, reply, status, code=None, param=None, words=()):
        """The reply is an error of this kind, in the one shape that errors have."""
        self.assertEqual(reply.status, status, reply.body[:500])
        error = reply.error
        self.assertEqual(set(error), {"type", "code", "message", "param"})
        if code:
            self.assertEqual(error["code"], code, error)
        if param:
            self.assertEqual(error["param"], param, error)
        for word in (words,) if isinstance(words, str) else words:
            self.assertIn(word, error["message"])


def run(*arguments, check=True, stdin=None, **env):
    """A subcommand's (status, stdout, stderr)."""
    done = subprocess.run([BINARY, *arguments], capture_output=True, timeout=PATIENCE_S * 2,
                          input=stdin, env=clean_environment(**env))
    out, err = done.stdout.decode(), done.stderr.decode()
    if check and done.returncode != 0:
        raise AssertionError(f"vlmd {' '.join(arguments)} ended with {done.returncode}: {err}")
    return done.returncode, out, err
