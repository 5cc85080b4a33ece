"""bulk_add.py: how many vectors a second a server takes durably, as lines of JSON: `bulk_add.py [BINARY] [N] [DIM]`.

The store lies in a file (DIRECTORY in the environment says where). Each request is one connection's stream of N
vectors, as decimal numbers and as base64; an item counts when its `ok` has come back. For comparison: how often the
same disk takes 1 MiB with an fsync."""
import base64
import http.client
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time

BINARY = sys.argv[1] if len(sys.argv) > 1 else "build/vlmd"
N = int(sys.argv[2]) if len(sys.argv) > 2 else 20000
DIM = int(sys.argv[3]) if len(sys.argv) > 3 else 512


def lines(form, prefix):
    source = random.Random(1)
    base = [source.gauss(0, 1) for _ in range(DIM + 1009)]
    out = []
    for i in range(N):
        vector = base[i % 1009:i % 1009 + DIM]
        if form == "base64":
            vector = base64.b64encode(struct.pack(f"<{DIM}f", *vector)).decode()
        else:
            vector = [round(x, 8) for x in vector]
        out.append(json.dumps({"id": f"{prefix}{i}", "vector": vector, "metadata": {"n": i}}))
    return ("\n".join(out) + "\n").encode()


def post(address, body):
    connection = http.client.HTTPConnection(*address, timeout=600)
    connection.request("POST", "/v1/collections/bench/items", body, {"Content-Type": "application/x-ndjson"})
    reply = connection.getresponse()
    rows = reply.read().splitlines()
    last = json.loads(rows[-1])
    assert reply.status == 200 and last["added"] == N and len(rows) == N + 1, last


def fsyncs(directory):
    piece = os.urandom(1 << 20)
    with open(os.path.join(directory, "probe"), "wb") as file:
        start = time.time()
        for _ in range(20):
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return 20 / (time.time() - start)


with tempfile.TemporaryDirectory(dir=os.environ.get("DIRECTORY")) as directory:
    print(f"disk: {fsyncs(directory):.0f} × 1 MiB + fsync per second")
    server = subprocess.Popen([BINARY, "serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:{directory}/c.db",
                               "--set", "log_level=error"], stdout=subprocess.PIPE, text=True)
    try:
        host, port = server.stdout.readline().split(" ready on http://")[1].split()[0].rsplit(":", 1)
        address = (host, int(port))
        connection = http.client.HTTPConnection(*address)
        connection.request("PUT", "/v1/collections/bench", json.dumps({"dimensions": DIM}), {"Content-Type": "application/json"})
        assert connection.getresponse().status == 201
        for form, clients in (("decimal", 1), ("base64", 1), ("decimal", 2), ("base64", 2)):
            bodies = [lines(form, f"{form}{clients}{k}-") for k in range(clients)]
            start = time.time()
            threads = [threading.Thread(target=post, args=(address, body)) for body in bodies]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.time() - start
            with open(f"/proc/{server.pid}/status") as file:
                peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
            print(f"{form:8} {clients} client(s): {clients * N / seconds:8.0f} vectors/s, "
                  f"{sum(map(len, bodies)) / seconds / 1e6:6.1f} MB/s, peak {peak // 1024} MB")
    finally:
        server.terminate()
        server.wait()
