"""test_chaos.py: everything at once that clients do wrong, and among it requests that must be answered right: clients
that vanish, stall in the middle of a body, send one byte a second, read slowly, ask for 10,000 tokens, send noise, and
broken pictures one in five. At the end nothing hangs, nothing is left over, and memory is what it was.

VLMD_CHAOS_S=600 makes it last; a short while otherwise."""
import json
import os
import random
import shutil
import socket
import struct
import tempfile
import threading
import time
import unittest

from harness import MEMORY_TELLS, PATIENCE_S, Server, image_b64, image_bytes, wait_until
from test_stream import events, make_long_captioner

SECONDS = float(os.environ.get("VLMD_CHAOS_S", 15))
BODY_TIMEOUT_S = 2
PICTURES = ("photo_97x61.jpg", "tall_33x120.png", "wide_200x150.jpg")
MEMORY_GROWTH_MAX = 32 << 20
BROKEN = "AAAA" * 100


class Chaos(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        long = os.path.join(self.directory, "long")
        make_long_captioner(long)
        self.server = Server({"captioner": "blip-caption-tiny", "answerer": "blip-vqa-tiny", "long": long,
                              "clip": "clip-tiny"}, body_timeout_s=BODY_TIMEOUT_S, max_queue=24, max_inflight=48,
                             prefill_chunk=4, max_batch=8, feature_cache_mb=1, kv_cache_mb=16, log_level="error")
        self.addCleanup(self.server.stop)
        self.lock = threading.Lock()
        self.faults, self.counts = [], {}

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def fault(self, text):
        with self.lock:
            self.faults.append(text)

    # ---- requests that must be right -----------------------------------------------------------

    def ask(self, path, body, what):
        """The reply once it is not refused for load; None when the time is over first."""
        while time.monotonic() < self.until + PATIENCE_S:
            reply = self.server.post(path, body)
            if reply.status not in (429, 503):
                self.count(what)
                return reply
            self.count("refused")
            if int(reply.headers.get("Retry-After", 0)) < 1:
                self.fault(f"{what}: a refusal without Retry-After")
            time.sleep(random.uniform(0.02, 0.3))
        return None

    def healthy_caption(self):
        name = random.choice(PICTURES)
        reply = self.ask("/v1/caption", {"image": image_b64(name), "model": "captioner"}, "captions")
        if reply and (reply.status != 200 or reply.json["caption"] != self.wanted[name]):
            self.fault(f"caption of {name}: {reply.status} {reply.body[:200]}")

    def healthy_stream(self):
        name = random.choice(PICTURES)
        reply = self.ask("/v1/caption", {"image": image_b64(name), "model": "captioner", "stream": True}, "streams")
        if not reply:
            return
        found = events(reply.body)
        deltas = "".join(json.loads(data).get("delta", "") for _, data in found[:-1])
        if reply.status != 200 or deltas != self.wanted[name] or json.loads(found[-1][1])["caption"] != deltas:
            self.fault(f"stream of {name}: {reply.status} {reply.body[:400]}")

    def healthy_answer(self):
        reply = self.ask("/v1/vqa", {"image": image_b64(), "question": "what is it?"}, "answers")
        if reply and (reply.status != 200 or reply.json["answer"] != self.wanted["answer"]):
            self.fault(f"answer: {reply.status} {reply.body[:200]}")

    def batch_with_broken_ones(self):
        """Pictures of which one in five is broken: that one gets an error, the others are there."""
        n = random.randint(1, 10)
        broken = {i for i in range(n) if random.random() < 0.2}
        items = [{"id": f"{i}", "image": BROKEN if i in broken else image_b64(random.choice(PICTURES))}
                 for i in range(n)]
        reply = self.ask("/v1/collections/chaos/items", {"items": items}, "batches")
        if reply and len(broken) == n == 1:  # the whole request is one broken picture
            if reply.status != 422:
                self.fault(f"a broken picture alone: {reply.status} {reply.body[:200]}")
        elif reply and (reply.status != 200 or {e["index"] for e in reply.json.get("errors", [])} != broken
                      or reply.json["added"] + reply.json["updated"] != n - len(broken)):
            self.fault(f"batch without {broken}: {reply.status} {reply.body[:400]}")

    # ---- clients that are not right ------------------------------------------------------------

    def connect(self, timeout=PATIENCE_S, **options):
        client = socket.socket()
        if "receive_buffer" in options:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive_buffer"])
        client.settimeout(timeout)
        client.connect(self.server.address)
        return client

    def request(self, body, headers=""):
        data = json.dumps(body).encode()
        return (f"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}"
                f"Content-Length: {len(data)}\r\n\r\n").encode() + data

    LONG = {"model": "long", "max_tokens": 1400, "min_tokens": 1400, "temperature": 1.0, "stream": True}

    def vanisher(self):
        data = self.request({"image": image_b64(), **self.LONG, "stream": random.random() < 0.7})
        with self.connect() as client:
            client.sendall(data[:random.choice((10, 200, len(data) // 2, len(data)))])
            if random.random() < 0.5:
                client.settimeout(random.uniform(0.001, 0.3))
                try:
                    client.recv(200)
                except OSError:
                    pass
            if random.random() < 0.5:  # with a reset
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.count("vanished")

    def ended(self, client, what):
        """The server must have answered 408 or hung up before long."""
        until = time.monotonic() + PATIENCE_S
        reply = b""
        client.settimeout(0.2)
        while time.monotonic() < until:
            try:
                piece = client.recv(4096)
            except socket.timeout:
                continue
            except OSError:
                piece = b""
            if not piece:
                if reply and b" 408 " not in reply.split(b"\r\n")[0] and b" 429 " not in reply.split(b"\r\n")[0]:
                    self.fault(f"{what}: {reply[:100]}")
                self.count(what)
                return
            reply += piece
        self.fault(f"{what}: the connection was left open")

    def staller(self):
        data = self.request({"image": image_b64()})
        with self.connect() as client:
            client.sendall(data[:random.randint(100, len(data) - 1)])
            self.ended(client, "stalled")

    def dripper(self):
        data = self.request({"image": image_b64()})
        with self.connect() as client:
            client.sendall(data[:150])
            try:
                for i in range(150, 150 + 3 * BODY_TIMEOUT_S):
                    client.sendall(data[i:i + 1])
                    time.sleep(1)
            except OSError:
                pass  # it hung up: that is what it should do
            self.ended(client, "dripped")

    def glutton(self):
        reply = self.server.post("/v1/caption", {"image": image_b64(), "max_tokens": 10000, "model": "long"})
        if reply.status not in (400, 429, 503):
            self.fault(f"10,000 tokens: {reply.status} {reply.body[:200]}")
        begin = time.monotonic()
        reply = self.server.post("/v1/caption", {"image": image_b64(), **self.LONG, "stream": False},
                                 {"X-Request-Timeout-Ms": "200"})
        if reply.status not in (200, 429, 503, 504):
            self.fault(f"1,400 tokens: {reply.status} {reply.body[:200]}")
        self.slowest_deadline = max(self.slowest_deadline, time.monotonic() - begin)
        self.count("gluttons")

    def slow_reader(self):
        with self.connect(receive_buffer=2048) as client:
            client.sendall(self.request({"image": image_b64(), **self.LONG}))
            for _ in range(random.randint(1, 20)):
                time.sleep(0.05)
                if not client.recv(64):
                    break
        self.count("read slowly")

    def noise(self):
        with self.connect(timeout=5) as client:
            try:
                client.sendall(random.randbytes(random.randint(1, 3000)) + b"\r\n\r\n")
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass
            except OSError:
                pass
        self.count("noise")

    def broken_picture(self):
        data = bytearray(image_bytes(random.choice(PICTURES)))
        for _ in range(random.randint(1, 30)):
            data[random.randrange(len(data))] = random.randrange(256)
        reply = self.server.request("POST", "/v1/caption", bytes(data[:random.randint(1, len(data))]),
                                    {"Content-Type": "image/jpeg"})
        if reply.status not in (200, 415, 422, 429, 503):
            self.fault(f"a broken picture: {reply.status} {reply.body[:200]}")
        self.count("broken pictures")

    # ---- the test ------------------------------------------------------------------------------

    def play(self, act):
        while time.monotonic() < self.until:
            try:
                act()
            except OSError as error:
                if act not in self.rude:
                    self.fault(f"{act.__name__}: {error!r}")
            except Exception as error:  # the thread's end must not pass for success
                self.fault(f"{act.__name__}: {error!r}")
                return
            if act in self.rude:
                time.sleep(random.uniform(0, 0.1))

    def left_over(self):
        pid = self.server.process.pid
        return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task"))}

    def test_right_requests_among_wrong_ones(self):
        random.seed(7)
        server = self.server
        self.slowest_deadline = 0
        self.wanted = {name: server.post("/v1/caption", {"image": image_b64(name), "model": "captioner"}).json["caption"]
                       for name in PICTURES}
        self.wanted["answer"] = server.post("/v1/vqa", {"image": image_b64(), "question": "what is it?"}).json["answer"]
        self.assertEqual(server.request("PUT", "/v1/collections/chaos", {"model": "clip"}).status // 100, 2)
        before = self.left_over()
        self.rude = [self.vanisher, self.staller, self.dripper, self.glutton, self.slow_reader, self.noise,
                     self.broken_picture]
        healthy = [self.healthy_caption, self.healthy_caption, self.healthy_stream, self.healthy_answer,
                   self.batch_with_broken_ones]
        memory = []
        self.until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=self.play, args=(act,)) for act in self.rude + [self.vanisher] + healthy]
        for thread in threads:
            thread.start()
        while time.monotonic() < self.until:
            time.sleep(min(1, SECONDS / 10))
            memory.append(server.resident_bytes())
            if server.get("/healthz").status != 200:
                self.fault("/healthz")
        for thread in threads:
            thread.join(PATIENCE_S * 2)
            self.assertFalse(thread.is_alive(), f"a client hangs; {self.counts}")
        self.assertEqual(self.faults[:5], [], f"{len(self.faults)} faults; {self.counts}")
        wait_until(lambda: server.metric("vlmd_requests_in_flight") == 0, "all requests are done")
        for what in ("captions", "streams", "answers", "batches", "vanished", "stalled", "dripped", "gluttons",
                     "read slowly", "noise", "broken pictures"):
            self.assertGreater(self.counts.get(what, 0), 0, f"{what}: {self.counts}")
        wait_until(lambda: self.left_over()["descriptors"] <= before["descriptors"], f"all is closed {before}")
        self.assertEqual(self.left_over()["threads"], before["threads"])
        self.assertEqual(server.metric("vlmd_queue_depth"), 0)
        self.assertEqual(server.metric("vlmd_kv_cache_bytes"), 0)
        self.healthy_caption()
        self.healthy_stream()
        self.assertEqual(self.faults, [])
        self.assertEqual(server.get("/readyz").status, 200)
        self.assertLess(self.slowest_deadline, PATIENCE_S / 2)
        if MEMORY_TELLS:
            third = memory[len(memory) // 3]
            self.assertLess(memory[-1] - third, MEMORY_GROWTH_MAX, [m >> 20 for m in memory])
        print(f"\n{SECONDS:.0f} s of chaos: {self.counts}; memory {[m >> 20 for m in memory[::max(1, len(memory) // 10)]]}"
              f" MiB; a deadline of 0.2 s was answered within {self.slowest_deadline:.1f} s")


if __name__ == "__main__":
    unittest.main()
