"""test_bulk.py: items in bulk: lines of JSON, streamed and answered line by line, and what comes of faults on the way."""
import base64
import http.client
import json
import os
import struct
import tempfile
import threading
import unittest
import urllib.parse

from harness import DATA, MEMORY_TELLS, Server, ServerTest, image_b64, image_bytes, multipart, run

LINES = {"Content-Type": "application/x-ndjson"}
DIM = 8


def vector(i):
    return [((i * 7 + k * 13) % 101) / 101 + 0.01 for k in range(DIM)]


def line(i, **more):
    return json.dumps({"id": f"item-{i:07}", "vector": vector(i), "metadata": {"n": i}, **more}) + "\n"


def rows(reply):
    """The result lines and the last line."""
    parsed = [json.loads(text) for text in reply.body.splitlines()]
    return parsed[:-1], parsed[-1]


class Bulk(ServerTest):
    settings = {"max_body_mb": 1, "max_inflight_mb": 6}

    def setUp(self):
        self.server.request("DELETE", "/v1/collections/v")
        self.assertEqual(self.server.request("PUT", "/v1/collections/v", {"dimensions": DIM}).status, 201)

    def count(self, name="v"):
        return self.server.get(f"/v1/collections/{name}").json["count"]

    def add(self, body, path="/v1/collections/v/items", **headers):
        return self.server.post(path, body, {**LINES, **headers})

    def test_a_line_each_and_the_sums(self):
        reply = self.add(line(1) + "\n" + line(2) + line(1).strip())
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.headers["Content-Type"], "application/x-ndjson")
        results, last = rows(reply)
        self.assertEqual(results, [{"line": 1, "id": "item-0000001", "ok": True}, {"line": 3, "id": "item-0000002", "ok": True},
                                   {"line": 4, "id": "item-0000001", "ok": True}])
        self.assertEqual(last, {"done": True, "lines": 4, "added": 2, "updated": 1, "failed": 0})
        self.assertEqual(self.count(), 2)

    def test_each_fault_concerns_its_line(self):
        bad = ["{", "5", '{"id": "x"}', '{"vector": [1]}', '{"id": "", "vector": [1]}', '{"id": "x", "vector": [1]}',
               json.dumps({"id": "x", "vector": [0] * DIM}), json.dumps({"id": "x", "vector": ["a"] * DIM}),
               json.dumps({"id": "x", "vector": [1e39] * DIM}), json.dumps({"id": "x", "vector": "AAA"}),
               json.dumps({"id": "x", "vector": base64.b64encode(struct.pack("<8f", *[float("nan")] * 8)).decode()}),
               json.dumps({"id": "x", "text": "a"}), json.dumps({"id": "x", "vector": vector(1), "metadata": 5}),
               json.dumps({"id": "x", "vector": vector(1), "image": "aGVsbG8="}),
               json.dumps({"id": "x", "vector": vector(1), "text": "a"}), json.dumps({"id": "x", "vektor": vector(1)}),
               '{"id": "a\\u0000b", "vector": [1]}', '{"id": "x", "id": "y", "vector": [1]}', "[" * 100, '{"id": "x\xff"}']
        body = "".join(each + "\n" + line(i) for i, each in enumerate(bad)).encode("latin-1")
        results, last = rows(self.add(body))
        self.assertEqual(len(results), 2 * len(bad))
        for i, each in enumerate(bad):
            with self.subTest(line=each):
                self.assertFalse(results[2 * i]["ok"])
                self.assertTrue(results[2 * i]["error"]["message"])
                self.assertEqual(results[2 * i + 1], {"line": 2 * i + 2, "id": f"item-{i:07}", "ok": True})
        self.assertEqual(last, {"done": True, "lines": 2 * len(bad), "added": len(bad), "updated": 0, "failed": len(bad)})
        self.assertEqual(self.count(), len(bad))

    def test_a_body_longer_than_any_that_is_held(self):
        n = 30000
        body = "".join(line(i) for i in range(n))
        self.assertGreater(len(body), 6 << 20)
        for how in ("length", "chunks"):
            with self.subTest(how):
                before = self.memory()
                if how == "length":
                    reply = self.add(body)
                else:
                    pieces = (body[i:i + 50001].encode() for i in range(0, len(body), 50001))
                    reply = self.add(pieces)
                self.assertEqual(reply.status, 200, reply.body[:500])
                results, last = rows(reply)
                self.assertEqual([row["line"] for row in results], list(range(1, n + 1)))
                self.assertTrue(all(row["ok"] for row in results))
                self.assertEqual(last["lines"], n)
                if MEMORY_TELLS:
                    self.assertLess(self.memory() - before, 64 << 20)
        self.assertEqual(self.count(), n)
        found = self.server.post("/v1/collections/v/search", {"vector": vector(59), "top_k": 1}).json["results"][0]
        self.assertAlmostEqual(found["score"], 1, places=5)

    def memory(self):
        with open(f"/proc/{self.server.process.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    def test_a_vector_as_base64_is_the_same(self):
        packed = base64.b64encode(struct.pack(f"<{DIM}f", *vector(5))).decode()
        self.add(json.dumps({"id": "packed", "vector": packed}) + "\n" + json.dumps({"id": "plain", "vector": vector(5)}))
        one, two = (self.server.get(f"/v1/collections/v/items/{name}?vector=true").json["vector"] for name in ("packed", "plain"))
        self.assertEqual(one, two)
        found = self.server.post("/v1/collections/v/search", {"vector": packed, "top_k": 2}).json["results"]
        self.assertAlmostEqual(found[0]["score"], 1, places=5)

    def test_a_line_over_the_bound(self):
        reply = self.add(line(1) + line(2, metadata={"x": "y" * (1 << 20)}) + line(3))
        self.assertEqual(reply.status, 413, reply.body[:300])
        results, last = rows(reply)
        self.assertEqual([row["id"] for row in results], ["item-0000001"])
        self.assertFalse(last["done"])
        self.assertEqual((last["lines"], last["error"]["code"]), (1, "body_too_large"))
        self.assertIn("max_body_mb", last["error"]["message"])
        self.assertEqual(self.count(), 1)

    def test_refusals(self):
        self.assertEqual(self.add("").status, 400)
        for body in (line(1), line(1) * 40000):
            reply = self.add(body, "/v1/collections/other/items")
            self.assertEqual(reply.status, 404, reply.body[:300])
            self.assertEqual(reply.error["code"], "not_found")
        self.assertEqual(self.add("{}", "/v1/collections/v/search").status, 415)
        results, last = rows(self.add("\n\n"))
        self.assertEqual((results, last["lines"], last["added"]), ([], 2, 0))

    def test_pictures_and_texts_are_embedded(self):
        self.server.request("DELETE", "/v1/collections/p")
        self.server.request("PUT", "/v1/collections/p", {"model": "clip"})
        path = "/v1/collections/p/items"
        lines = [json.dumps({"id": f"{i}", "image": image_b64()} if i % 2 else {"id": f"{i}", "text": f"picture {i}"})
                 for i in range(80)]
        lines[41] = json.dumps({"id": "41", "image": image_b64()[:1000]})
        results, last = rows(self.add("\n".join(lines), path))
        self.assertEqual(last, {"done": True, "lines": 80, "added": 79, "updated": 0, "failed": 1})
        self.assertEqual([row["id"] for row in results if not row["ok"]], ["41"])
        self.assertEqual(results[41]["error"]["code"], "broken_image")
        found = self.server.post("/v1/collections/p/search", {"image": image_b64(), "top_k": 39}).json["results"]
        self.assertEqual({int(row["id"]) % 2 for row in found}, {1})
        self.assertEqual(self.server.get(path + "/1/image").body, image_bytes())

    def test_a_picture_beside_its_vector_is_kept(self):
        results, _ = rows(self.add(line(1, image=image_b64())))
        self.assertTrue(results[0]["ok"], results)
        self.assertEqual(self.server.get("/v1/collections/v/items/item-0000001/image").body, image_bytes())

    def test_batches_answer_in_lines_where_asked(self):
        reply = self.server.post("/v1/collections/v/items?lines=true", {"items": [json.loads(line(1)), {"id": "b", "vector": [1]}]})
        results, last = rows(reply)
        self.assertEqual([row["ok"] for row in results], [True, False])
        self.assertEqual(last, {"done": True, "lines": 2, "added": 1, "updated": 0, "failed": 1})
        self.server.request("DELETE", "/v1/collections/p")
        self.server.request("PUT", "/v1/collections/p", {"model": "clip"})
        body, headers = multipart([("image", ("a.jpg", image_bytes())), ("image", ("b.jpg", image_bytes()[:700])), ("lines", "true")])
        results, last = rows(self.server.post("/v1/collections/p/items", body, headers))
        self.assertEqual([(row["id"], row["ok"]) for row in results], [("a.jpg", True), ("b.jpg", False)])

    def test_a_vector_without_direction_spares_its_batch(self):
        items = [json.loads(line(i)) for i in range(5)] + [{"id": "zero", "vector": [0] * DIM}]
        reply = self.server.post("/v1/collections/v/items", {"items": items})
        self.assertEqual((reply.status, reply.json["added"]), (200, 5), reply.body)
        self.assertEqual(reply.json["errors"][0]["id"], "zero")

    def test_a_client_that_leaves(self):
        # Into a collection of its own: what had arrived may still be added while the next test begins.
        self.server.request("PUT", "/v1/collections/left", {"dimensions": DIM})
        connection = self.server.connect()
        connection.putrequest("POST", "/v1/collections/left/items")
        connection.putheader("Content-Type", "application/x-ndjson")
        connection.putheader("Content-Length", str(1 << 30))
        connection.endheaders()
        connection.send("".join(line(i) for i in range(30000)).encode())
        connection.close()
        self.assertEqual(self.server.get("/readyz").status, 200)
        reply = self.add(line(1))
        self.assertEqual(reply.status, 200)


class Export(ServerTest):
    """What comes out goes in again, and is the same."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.request("PUT", "/v1/collections/from", {"model": "clip"})
        odd = ['a/b "c"\n\\', "ü€😀", "..", "' OR 1=1; DROP TABLE items; --", "%2F", "\x7f\u2028"]
        items = [{"id": each, "text": each, "metadata": {each: [each, {"deep": each}], "n": i}} for i, each in enumerate(odd)]
        items += [{"id": f"p{i}", "image": image_b64(name), "metadata": {"file": name}}
                  for i, name in enumerate(("photo_97x61.jpg", "tall_33x120.png"))]
        reply = cls.server.post("/v1/collections/from/items", {"items": items})
        assert reply.json["added"] == len(items), reply.body
        cls.items = {item["id"]: item for item in items}

    def export(self, name="from", **query):
        reply = self.server.get(f"/v1/collections/{name}/export?" + urllib.parse.urlencode(query))
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.headers["Content-Type"], "application/x-ndjson")
        return reply.body

    def test_there_and_back(self):
        for how in ({}, {"encoding": "base64"}, {"images": "true"}, {"encoding": "base64", "images": "true"}):
            with self.subTest(**how):
                body = self.export(**how)
                head, *items = [json.loads(text) for text in body.splitlines()]
                self.assertEqual((head["collection"]["name"], head["collection"]["count"]), ("from", len(self.items)))
                self.assertEqual([item["id"] for item in items], sorted(self.items, key=str.encode))
                for item in items:
                    self.assertEqual(item["metadata"], self.items[item["id"]]["metadata"])
                    self.assertEqual(item.get("image"), self.items[item["id"]].get("image") if "images" in how else None)
                self.server.request("DELETE", "/v1/collections/to")
                self.server.request("PUT", "/v1/collections/to", {"model": "clip"})
                results, last = rows(self.server.post("/v1/collections/to/items", body, LINES))
                self.assertTrue(all(row["ok"] for row in results))
                self.assertEqual((last["lines"], last["added"]), (len(items) + 1, len(items)))
                again = self.export("to", **how)
                self.assertEqual(again.split(b"\n", 1)[1], body.split(b"\n", 1)[1])

    def test_another_space_is_refused_with_both_named(self):
        self.server.request("PUT", "/v1/collections/other", {"dimensions": 8})
        reply = self.server.post("/v1/collections/other/items", self.export(), LINES)
        self.assertEqual((reply.status, reply.error["code"]), (422, "embedding_space_mismatch"), reply.body)
        self.assertIn("clip@", reply.error["message"])
        self.assertIn("external", reply.error["message"])

    def test_many_and_a_slow_reader(self):
        n = 20000
        server = Server(self.models)
        server.request("PUT", "/v1/collections/many", {"dimensions": DIM})
        _, last = rows(server.post("/v1/collections/many/items", "".join(line(i) for i in range(n)), LINES))
        self.assertEqual(last["added"], n)
        connection = server.connect()
        connection.request("GET", "/v1/collections/many/export")
        reply = connection.getresponse()
        first = reply.read(1000)
        # The rest waits in the store, not in memory; meanwhile others are served, and changes are let in.
        server.post("/v1/collections/many/items", {"items": [{"id": "zzz", "vector": vector(1)}]})
        parsed = [json.loads(text) for text in (first + reply.read()).splitlines()]
        self.assertEqual([row["id"] for row in parsed[1:n + 1]], [f"item-{i:07}" for i in range(n)])
        connection.close()
        for _ in range(20):  # and readers that leave
            connection = server.connect()
            connection.request("GET", "/v1/collections/many/export")
            connection.getresponse().read(10)
            connection.close()
        self.assertEqual(server.request("HEAD", "/v1/collections/many/export").status, 200)
        self.assertEqual(server.stop(), 0)

    def test_faults(self):
        self.assertEqual(self.server.get("/v1/collections/none/export").status, 404)
        self.assertEqual(self.server.get("/v1/collections/from/export?encoding=hex").status, 400)


class ExportCommands(unittest.TestCase):
    ALL = ["--model", f"clip={DATA}/checkpoints/clip-tiny"]

    def test_there_and_back(self):
        with tempfile.TemporaryDirectory() as directory:
            file = os.path.join(directory, "pets.jsonl")
            one, two = (["--store", f"sqlite:{directory}/{name}.db", *self.ALL] for name in "ab")
            body = "".join(json.dumps({"id": name, "image": image_b64(name), "metadata": {"n": i}}) + "\n"
                           for i, name in enumerate(("photo_97x61.jpg", "tall_33x120.png")))
            status, _, err = run("import", "my pets", "-", *one, stdin=body.encode(), check=False)
            self.assertEqual(status, 1)
            self.assertIn("collection", err)
            head = json.dumps({"collection": {"model": "clip", "space": "x", "dimensions": 16}})
            status, _, err = run("import", "my pets", "-", *one, stdin=(head + "\n" + body).encode(), check=False)
            self.assertEqual(status, 1)
            self.assertIn("clip@", err)
            status, out, _ = run("import", "my pets", "-", *one, stdin=(body + "{broken\n").encode(), check=False)
            self.assertEqual(status, 1)
            self.assertIn("3 lines: 2 added, 0 updated, 1 failed", out)
            self.assertIn("failed: line 3: ", out)
            run("export", "my pets", file, *one)
            self.assertEqual(os.listdir(directory).count("pets.jsonl.part"), 0)
            self.assertIn("2 added", run("import", "your/pets", file, *two)[1])
            again = run("export", "your/pets", "-", *two)[1]
            with open(file) as lines:
                self.assertEqual(again.split("\n", 1)[1], lines.read().split("\n", 1)[1])
            self.assertIn('"image":"', again)
            plain = run("export", "your/pets", "-", "--images", "false", "--encoding", "float", *two)[1]
            self.assertNotIn('"image"', plain)
            self.assertIn('"vector":[', plain)
            self.assertIn("2 updated", run("import", "your/pets", file, *two)[1])
            for arguments in (("export", "none", file), ("export", "your/pets", "/nonexistent/x"),
                              ("import", "your/pets", "/nonexistent/x"), ("export", "your/pets", "/dev/full/x")):
                self.assertEqual(run(*arguments, *two, check=False)[0], 1)
            with open(file) as lines:
                self.assertEqual(len(lines.readlines()), 3)


class FullQueue(unittest.TestCase):
    def test_a_full_queue_is_waited_for(self):
        """More lines than the queue takes, from several clients at once, are all taken in the end."""
        server = Server({"clip": "clip-tiny"}, max_queue=4, max_batch=2, feature_cache_mb=0)
        self.addCleanup(server.stop)
        server.request("PUT", "/v1/collections/p", {})
        body = [("".join(json.dumps({"id": f"{k}-{i}", "text": f"text {k} {i}"}) + "\n" for i in range(60))) for k in range(4)]
        replies = [None] * 4

        def send(k):
            replies[k] = server.post("/v1/collections/p/items", body[k], LINES)

        threads = [threading.Thread(target=send, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for reply in replies:
            results, last = rows(reply)
            self.assertEqual((reply.status, last["added"]), (200, 60), reply.body[-400:])
        self.assertEqual(server.get("/v1/collections/p").json["count"], 240)


if __name__ == "__main__":
    unittest.main()
