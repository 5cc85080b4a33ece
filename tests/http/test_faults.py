"""test_faults.py: the embedded store under faults: killed at random moments, no room left, a file that is damaged or another
program's, two processes at one file, and hostile names and metadata. VLMD_KILL_ROUNDS=100 kills that often (few otherwise)."""
import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
import unittest
from urllib.parse import quote

from harness import DATA, Server, run

CLIP = {"clip": "clip-tiny"}
LINES = {"Content-Type": "application/x-ndjson"}
DIM = 64
DAMAGES = int(os.environ.get("VLMD_DAMAGES", "24"))
ROUNDS = int(os.environ.get("VLMD_KILL_ROUNDS", "4"))


def vector(i):
    return [((i * 31 + k * 17) % 97 - 48) / 48 + 0.01 for k in range(DIM)]


def item(i):
    return {"id": f"i{i}", "vector": vector(i), "metadata": {"n": i, "text": "x" * (i % 500)}}


class Faults(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "c.db")

    def serve(self, **settings):
        server = Server(CLIP, store=f"sqlite:{self.path}", **settings)
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        return server

    def exported(self, server):
        body = server.get("/v1/collections/v/export").body
        return {row["id"]: row for row in map(json.loads, body.splitlines()[1:])}

    def test_killed_at_random_moments(self):
        """Every acknowledged item is there after each kill, and every item that is there is whole."""
        source = random.Random(ROUNDS)
        acknowledged, number, lock = set(), [0], threading.Lock()
        server = self.serve()
        server.request("PUT", "/v1/collections/v", {"dimensions": DIM, "metric": "dot"})
        for _ in range(ROUNDS):
            stop = threading.Event()

            def write():
                while not stop.is_set():
                    with lock:
                        first = number[0]
                        number[0] += 20
                    body = "".join(json.dumps(item(i)) + "\n" for i in range(first, first + 20))
                    reply = server.request("POST", "/v1/collections/v/items", body, LINES, timeout=20)
                    rows = [json.loads(text) for text in reply.body.splitlines()]
                    with lock:
                        acknowledged.update(row["id"] for row in rows if row.get("ok"))

            def writer():
                try:
                    write()
                except Exception:  # the connection broke in one of its many ways: not acknowledged
                    pass

            threads = [threading.Thread(target=writer) for _ in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(source.uniform(0.02, 0.3))
            server.process.kill()
            stop.set()
            for thread in threads:
                thread.join()
            server.process.wait()
            server.stop()
            server = self.serve()
            there = self.exported(server)
            self.assertEqual(acknowledged - set(there), set())
            self.assertEqual(server.get("/v1/collections/v").json["count"], len(there))
            for key, row in there.items():
                want = item(int(key[1:]))
                self.assertEqual(row["metadata"], want["metadata"])
                self.assertLess(max(abs(x - y) for x, y in zip(row["vector"], want["vector"])), 1e-6)
            probe = source.choice(sorted(there)) if there else None
            if probe:
                n = int(probe[1:])
                found = server.post("/v1/collections/v/search", {"vector": vector(n), "top_k": 1, "filter": {"n": n}}).json
                self.assertEqual(found["results"][0]["id"], probe)
        self.assertGreater(len(acknowledged), 0)
        print(f"{ROUNDS} kills, {len(acknowledged)} items acknowledged, {len(there)} there, none lost")
        server.stop()

    def test_no_room_left(self):
        server = self.serve()
        server.request("PUT", "/v1/collections/v", {"dimensions": DIM, "metric": "dot"})
        self.assertEqual(server.post("/v1/collections/v/items", {"items": [item(i) for i in range(100)]}).status, 200)
        size = max(os.path.getsize(os.path.join(self.directory, name)) for name in os.listdir(self.directory))
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size + 100000, resource.RLIM_INFINITY))
        body = "".join(json.dumps(item(i)) + "\n" for i in range(100, 6000))
        reply = server.post("/v1/collections/v/items", body, LINES)
        rows = [json.loads(text) for text in reply.body.splitlines()]
        self.assertEqual(reply.status, 507, reply.body[:300])
        error = rows[-1]["error"]
        self.assertEqual(error["code"], "no_space")
        self.assertIn("disk", error["message"])
        kept = {f"i{i}" for i in range(100)} | {row["id"] for row in rows if row.get("ok")}
        reply = server.post("/v1/collections/v/items", {"items": [item(i) for i in range(30000, 30500)]})
        self.assertEqual((reply.status, reply.error["code"]), (507, "no_space"))
        # Reading and searching go on, nothing is lost, and nothing of what was refused is there.
        self.assertEqual(set(self.exported(server)), kept)
        self.assertEqual(server.post("/v1/collections/v/search", {"vector": vector(5)}).status, 200)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        reply = server.post("/v1/collections/v/items", body, LINES)
        self.assertEqual(reply.status, 200, reply.body[-300:])
        self.assertEqual(len(self.exported(server)), 6000)
        server.process.kill()
        server.stop()
        server = self.serve()
        self.assertEqual(len(self.exported(server)), 6000)
        server.stop()

    @unittest.skipUnless(os.geteuid() == 0, "only root mounts a small filesystem")
    def test_a_disk_that_is_really_full(self):
        """A filesystem of a few MB: what is acknowledged stays, the rest is refused with 507, and room makes it go on."""
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", self.directory], capture_output=True, text=True)
        if mounted.returncode:
            self.skipTest("mount: " + mounted.stderr.strip())
        self.addCleanup(subprocess.run, ["umount", "-l", self.directory], check=True)
        server = self.serve()
        server.request("PUT", "/v1/collections/v", {"dimensions": DIM, "metric": "dot"})
        ballast = os.path.join(self.directory, "ballast")
        with open(ballast, "wb") as file:
            file.write(bytes(2 << 20))
        kept, statuses = set(), set()
        for first in range(0, 20000, 500):
            body = "".join(json.dumps(item(i)) + "\n" for i in range(first, first + 500))
            reply = server.post("/v1/collections/v/items", body, LINES)
            statuses.add(reply.status)
            rows = [json.loads(text) for text in reply.body.splitlines()]
            kept |= {row["id"] for row in rows if row.get("ok")}
            if reply.status != 200:
                self.assertEqual((reply.status, rows[-1]["error"]["code"]), (507, "no_space"), reply.body[:300])
        self.assertEqual(statuses, {200, 507})
        self.assertLess(os.statvfs(self.directory).f_bavail * os.statvfs(self.directory).f_frsize, 1 << 20)
        reply = server.post("/v1/collections/v/items", {"items": [item(i) for i in range(30000, 30500)]})
        self.assertEqual((reply.status, reply.error["code"]), (507, "no_space"))
        self.assertEqual(set(self.exported(server)), kept)
        self.assertEqual(server.post("/v1/collections/v/search", {"vector": vector(5)}).status, 200)
        # Killed while it is full: the next start has no room, either, and yet everything that was acknowledged.
        server.process.kill()
        server.stop()
        server = self.serve()
        self.assertEqual(set(self.exported(server)), kept)
        os.remove(ballast)
        more = [item(i) for i in range(40000, 40100)]
        self.assertEqual(server.post("/v1/collections/v/items", {"items": more}).json["added"], 100)
        self.assertEqual(set(self.exported(server)), kept | {row["id"] for row in more})
        self.assertEqual(server.stop(), 0)

    def answers(self):
        """What a server says of a file that may be damaged: None where it refuses to start, else {id: item} of what it gives whole,
        and how many requests failed. Nothing but 200, 404 and a clear 500 may come, and it stays ready."""
        server = Server(CLIP, wait=False, store=f"sqlite:{self.path}")
        line = server.process.stdout.readline()
        if " ready on http://" not in line:
            self.assertEqual(server.process.wait(60), 1, server.log())
            self.assertRegex(server.log(), "damaged|no database|database disk image|another program|holds a vector|has format|dimensions")
            server.process.stdout.close()
            return None, 0
        host, port = line.split(" ready on http://")[1].split()[0].rsplit(":", 1)
        server.address = (host, int(port))
        there, failed = {}, 0
        for i in range(0, 400, 7):
            reply = server.get(f"/v1/collections/v/items/i{i}?vector=true")
            self.assertIn(reply.status, (200, 500), reply.body[:300])
            if reply.status == 200:
                there[i] = reply.json
            else:
                self.assertRegex(reply.error["message"], "damaged")
                failed += 1
            found = server.post("/v1/collections/v/search", {"vector": vector(i), "top_k": 3, "filter": {"n": {"gte": i}}})
            self.assertIn(found.status, (200, 500), found.body[:300])
            failed += found.status == 500
            if found.status == 200:
                self.assertEqual(found.json["results"][0]["metadata"]["n"] >= i, True)
        self.assertEqual(server.get("/readyz").status, 200)
        self.assertEqual(server.stop(), 0, server.log())
        return there, failed

    def test_damaged_pages(self):
        """Bytes of the file flipped, pages zeroed or swapped, its end cut off: refused, or an error for what is touched; never a
        crash, and never another answer than before."""
        server = self.serve()
        server.request("PUT", "/v1/collections/v", {"dimensions": DIM, "metric": "dot"})
        self.assertEqual(server.post("/v1/collections/v/items", {"items": [item(i) for i in range(400)]}).json["added"], 400)
        server.stop()
        with open(self.path, "rb") as file:
            whole = file.read()
        page, source, refused, failures = 16384, random.Random(5), 0, 0
        want, failed = self.answers()
        self.assertEqual((len(want), failed), (58, 0))
        for round in range(DAMAGES):
            data = bytearray(whole)
            kind = round % 4
            first = source.randrange(1, len(data) // page) * page  # the head is another test's
            if kind == 0:
                data[source.randrange(first, first + page)] ^= 1 << source.randrange(8)
            elif kind == 1:
                for _ in range(20):
                    data[source.randrange(first, first + page)] = source.randrange(256)
            elif kind == 2:
                other = source.randrange(1, len(data) // page) * page
                data[first:first + page] = data[other:other + page]
            else:
                del data[first + source.randrange(page):]
            for name in os.listdir(self.directory):
                os.remove(os.path.join(self.directory, name))
            with open(self.path, "wb") as file:
                file.write(data)
            there, failed = self.answers()
            if there is None:
                refused += 1
                continue
            failures += failed
            for i, row in there.items():
                self.assertEqual(row, {**want[i], "timings": row.get("timings")} if "timings" in row else want[i])
            if not failed:  # not noticed at all: then nothing that a client can see is different
                self.assertEqual(len(there), len(want))
        print(f"{DAMAGES} damages: {refused} files refused, {failures} requests failed")
        self.assertGreater(refused + failures, DAMAGES // 4)

    def refused(self, *words):
        status, out, err = run("serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:{self.path}", "--model",
                               f"clip={DATA}/checkpoints/clip-tiny", check=False)
        self.assertEqual(status, 1, out + err)
        for word in words:
            self.assertIn(word, err)

    def test_a_file_of_another_program(self):
        database = sqlite3.connect(self.path)
        database.execute("CREATE TABLE precious(x)")
        database.execute("INSERT INTO precious VALUES (42)")
        database.commit()
        database.close()
        self.refused("another program")
        self.assertEqual(sqlite3.connect(self.path).execute("SELECT x FROM precious").fetchall(), [(42,)])
        for content in (b"a text, and no database at all\n" * 1000, os.urandom(50000)):
            with open(self.path, "wb") as file:
                file.write(content)
            self.refused(self.path, "no database")
            with open(self.path, "rb") as file:
                self.assertEqual(file.read(), content)

    def test_two_processes_at_one_file(self):
        server = self.serve()
        server.request("PUT", "/v1/collections/v", {"dimensions": DIM})
        self.refused("in use by another process")
        self.assertEqual(server.post("/v1/collections/v/items", {"items": [item(1)]}).json["added"], 1)
        server.stop()

    def test_hostile_names_and_metadata(self):
        server = self.serve()
        odd = ["a/b", "../../etc/passwd", "'; DROP TABLE items; --", '"quoted"', "ü😀", "%00", "a\\b", "\x01\x7f", " ", "a?b#c"]
        for name in odd:
            path = "/v1/collections/" + quote(name, safe="")
            self.assertEqual(server.request("PUT", path, {"dimensions": DIM}).status, 201, name)
            rows = [{"id": each, "vector": vector(i), "metadata": {each: each, "deep": {each: [each]}}} for i, each in enumerate(odd)]
            self.assertEqual(server.post(path + "/items", {"items": rows}).json["added"], len(odd))
            for row in rows:
                back = server.get(path + "/items/" + quote(row["id"], safe="")).json
                self.assertEqual((back["id"], back["metadata"]), (row["id"], row["metadata"]))
                found = server.post(path + "/search", {"vector": row["vector"], "filter": {row["id"]: row["id"]}}).json["results"]
                self.assertEqual([hit["id"] for hit in found], [row["id"]])
        self.assertEqual({row["name"] for row in server.get("/v1/collections").json["collections"]}, set(odd))
        path = "/v1/collections/" + quote(odd[0], safe="") + "/items"
        for row in ({"id": "a\0b", "vector": vector(1)}, {"id": "x" * 513, "vector": vector(1)},
                    {"id": "big", "vector": vector(1), "metadata": {"x": "y" * (10 << 20)}}):
            reply = server.post(path, {"items": [row]})
            self.assertIn(reply.status, (400, 413, 422), reply.body[:200])
            self.assertTrue(reply.error["message"])
        self.assertEqual(server.request("PUT", "/v1/collections/a%00b", {"dimensions": 2}).status, 400)
        self.assertEqual(server.get("/readyz").status, 200)
        server.stop()


if __name__ == "__main__":
    unittest.main()
