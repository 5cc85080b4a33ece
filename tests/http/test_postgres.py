"""test_postgres.py: collections shared by two real replicas through a real PostgreSQL with pgvector: what one has, the
other has; the database and a replica are killed under load; and a server that comes before its database.

What was acknowledged is there in the end, and whoever was refused was told to come again."""
import http.client
import json
import math
import os
import shutil
import signal
import threading
import time
import unittest
import urllib.parse

from balancer import Balancer, free_ports
from harness import PATIENCE_S, Server, ServerTest, image_b64, image_bytes, run, together, wait_until
from postgres import Postgres, Unavailable

database, reason = None, "?"


def setUpModule():
    global database, reason
    try:
        database = Postgres()
    except Unavailable as fault:
        raise unittest.SkipTest(str(fault)) from fault


def tearDownModule():
    database.stop()


def replica(**settings):
    return Server({"clip": "clip-tiny"}, store=database.uri, log_level="error", **settings)


def quoted(text):
    return urllib.parse.quote(text, safe="")


class Shared(ServerTest):
    """Two replicas that started together on an empty database."""

    @classmethod
    def setUpClass(cls):
        database.sql("DROP SCHEMA IF EXISTS vlmd CASCADE", "vlmd")
        cls.replicas = together(2, lambda i: replica(graph_from=5000))
        cls.server = cls.replicas[0]

    @classmethod
    def tearDownClass(cls):
        for each in cls.replicas:
            status = each.stop()
            log = each.log()
            assert status == 0, log[-4000:]
            assert Postgres.password not in log, log

    def ask(self, i, method, path, body=None, status=200):
        reply = self.replicas[i % 2].request(method, path, body)
        self.assertEqual(reply.status, status, reply.body[:500])
        return reply.json

    def test_what_one_adds_the_other_finds(self):
        self.ask(0, "PUT", "/v1/collections/ours", {"dimensions": 2}, 201)
        self.ask(1, "PUT", "/v1/collections/ours", {"dimensions": 2})
        for i in range(40):
            self.ask(i, "POST", "/v1/collections/ours/items",
                     {"items": [{"id": f"i{i}", "vector": [1, i], "metadata": {"i": i}}]})
            found = self.ask(i + 1, "POST", "/v1/collections/ours/search",
                             {"vector": [1, i], "top_k": 1, "filter": {"i": {"gte": i}}})
            self.assertEqual(found["results"][0]["id"], f"i{i}")
            self.assertAlmostEqual(found["results"][0]["score"], 1, 5)
        self.assertEqual(self.ask(1, "GET", "/v1/collections/ours")["count"], 40)
        self.ask(0, "DELETE", "/v1/collections/ours/items/i7")
        self.ask(1, "GET", "/v1/collections/ours/items/i7", status=404)
        listed = self.ask(1, "GET", "/v1/collections/ours/items?limit=100")["items"]
        self.assertEqual([item["id"] for item in listed], sorted(f"i{i}" for i in range(40) if i != 7))
        self.ask(1, "DELETE", "/v1/collections/ours")
        self.ask(0, "GET", "/v1/collections/ours", status=404)
        self.ask(0, "POST", "/v1/collections/ours/search", {"vector": [1, 2]}, 404)

    def test_pictures_and_words(self):
        self.ask(0, "PUT", "/v1/collections/pictures", {"model": "clip"}, 201)
        self.ask(0, "POST", "/v1/collections/pictures/items", {"items": [{"id": "photo", "image": image_b64()}]})
        found = self.ask(1, "POST", "/v1/collections/pictures/search", {"text": "a photo"})["results"]
        self.assertEqual([one["id"] for one in found], ["photo"])
        self.assertEqual(self.replicas[1].get("/v1/collections/pictures/items/photo/image").body, image_bytes())

    def test_hostile_texts_are_kept_literally_or_refused(self):
        names = ["'; DROP SCHEMA vlmd CASCADE; --", 'a"b\\c', "slash/and space", "\u2028 \U0001F418", "$1", "items_1"]
        for i, name in enumerate(names):
            where = "/v1/collections/" + quoted(name)
            self.ask(i, "PUT", where, {"dimensions": 1}, 201)
            metadata = {name: name, "nested": {"'": ["\\", '"']}, "long": "x" * 1000000}
            self.ask(i, "POST", where + "/items", {"items": [{"id": name, "vector": [1], "metadata": metadata}]})
            item = self.ask(i + 1, "GET", where + "/items/" + quoted(name))
            self.assertEqual((item["id"], item["metadata"]), (name, metadata))
            found = self.ask(i + 1, "POST", where + "/search", {"vector": [1], "filter": {name: name}})["results"]
            self.assertEqual([one["id"] for one in found], [name])
            none = self.ask(i, "POST", where + "/search", {"vector": [1], "filter": {name: name + "' OR ''='"}})["results"]
            self.assertEqual(none, [])
            self.ask(i, "DELETE", where + "/items/" + quoted(name))
            self.ask(i + 1, "DELETE", where)
        self.ask(0, "PUT", "/v1/collections/plain", {"dimensions": 1}, 201)
        for bad in ({"id": "a\u0000b", "vector": [1]}, {"id": "a", "vector": [1], "metadata": {"k": "a\u0000b"}},
                    {"id": "a", "vector": [1], "metadata": {"long": "x" * 1100000}}, {"id": "", "vector": [1]},
                    {"id": "x" * 513, "vector": [1]}):
            reply = self.server.post("/v1/collections/plain/items", {"items": [bad]})
            self.assertIn(reply.status, (400, 422), reply.body[:300])
        for path in ("a%00b", "%ff", "a%00'; DROP TABLE x"):
            self.assertIn(self.server.get("/v1/collections/" + path.replace(" ", "%20")).status, (400, 404))
            self.assertIn(self.server.get("/v1/collections/plain/items/" + path.replace(" ", "%20")).status, (400, 404))
        self.assertEqual(self.ask(1, "GET", "/v1/collections/plain")["count"], 0)

    def test_a_broken_connection_is_only_that(self):
        """The server ends every session; the next requests do not notice."""
        self.ask(0, "PUT", "/v1/collections/sessions", {"dimensions": 1}, 201)
        for i in range(3):
            database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vlmd'")
            self.ask(i, "POST", "/v1/collections/sessions/items", {"items": [{"id": str(i), "vector": [1]}]})
        self.assertEqual(self.ask(0, "GET", "/v1/collections/sessions")["count"], 3)

    def test_a_big_collection_gets_an_index_while_adds_go_on(self):
        self.ask(0, "PUT", "/v1/collections/big", {"dimensions": 4}, 201)
        key = database.sql("SELECT key FROM vlmd.collections WHERE name = 'big'", "vlmd").strip()

        def add(first):
            items = [{"id": f"{i:05}", "vector": [math.sin(i), math.cos(i), math.sin(i / 9), math.cos(i / 7)]}
                     for i in range(first, first + 1000)]
            self.ask(first // 1000, "POST", "/v1/collections/big/items", {"items": items})

        def has_index():
            return database.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = "
                                f"to_regclass('vlmd.items_{key}_vector')", "vlmd").strip() == "t"

        def ids(top_k):
            found = self.ask(1, "POST", "/v1/collections/big/search", {"vector": [0.3, -0.2, 0.5, 0.1], "top_k": top_k})
            return [one["id"] for one in found["results"][:100]]

        for first in range(0, 4000, 1000):
            add(first)
        time.sleep(2.5)
        self.assertFalse(has_index())
        add(4000)
        wait_until(has_index, "the index is built")
        self.assertEqual(self.ask(0, "GET", "/v1/collections/big")["indexed"], 5000)
        add(5000)
        self.assertEqual(len(ids(100)), 100)
        self.assertGreater(len(set(ids(100)) & set(ids(101))), 95)  # by the index; exactly
        plan = database.sql(f"EXPLAIN SELECT id FROM vlmd.items_{key} ORDER BY vector <#> '[1,2,3,4]' LIMIT 9", "vlmd")
        self.assertIn(f"items_{key}_vector", plan)
        self.ask(1, "DELETE", "/v1/collections/big")

    def test_the_password_is_shown_nowhere(self):
        for text in (run("config", "--set", f"store={database.uri}")[1], self.server.get("/info").body.decode(),
                     self.server.get("/metrics").body.decode(),
                     run("config", VLMD_STORE="postgres://u:open-sesame@h/d?sslpassword=open-sesame")[1]):
            self.assertNotIn(Postgres.password, text)


@unittest.skipUnless(shutil.which("haproxy"), "no haproxy here")
class Faults(unittest.TestCase):
    """Writers and searchers behind HAProxy, while things die."""

    WRITERS = 3

    def setUp(self):
        self.ports = free_ports(2)
        self.replicas = [self.start(i) for i in range(2)]
        self.balancer = Balancer(self.ports)
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.acknowledged, self.searches, self.refused, self.wrong, self.lost = [], 0, [], [], []
        reply = self.replicas[0].request("PUT", "/v1/collections/load", {"dimensions": 3})
        self.assertIn(reply.status, (200, 201))

    def tearDown(self):
        self.stop.set()
        self.balancer.stop()
        for each in self.replicas:
            each.process.kill()
            each.stop()

    def start(self, i):
        return replica(listen=f"127.0.0.1:{self.ports[i]}", overload_status=503)

    def send(self, connection, path, body):
        """(status, headers, body); 0 where the connection was lost."""
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        except (OSError, http.client.HTTPException) as fault:
            connection.close()
            return 0, {}, repr(fault).encode()

    def client(self, number):
        connection = http.client.HTTPConnection("127.0.0.1", self.balancer.port, timeout=PATIENCE_S)
        n = 0
        while not self.stop.is_set():
            n += 1
            ids = [f"{number}-{n}-{i}" for i in range(5)]
            items = [{"id": id, "vector": [number, n, i + 1], "metadata": {"n": n}} for i, id in enumerate(ids)]
            status, headers, body = self.send(connection, "/v1/collections/load/items", {"items": items})
            self.note(status, headers, body, ids if status == 200 else [])
            if status == 200:
                status, headers, body = self.send(connection, "/v1/collections/load/search",
                                                  {"vector": [number, n, 1], "top_k": 3, "filter": {"n": n}})
                if status == 200 and len(json.loads(body)["results"]) != 3:
                    with self.lock:
                        self.wrong.append((200, body))
                self.note(status, headers, body, [])
            if status != 200:
                time.sleep(0.05)
        connection.close()

    def note(self, status, headers, body, ids):
        with self.lock:
            self.acknowledged += ids
            if status == 200:
                self.searches += not ids
            elif status in (502, 503, 504) and headers.get("Retry-After"):
                self.refused.append((status, body))
            elif status == 0:
                self.lost.append(body)
            else:
                self.wrong.append((status, body))

    def more(self, n=60):
        goal = len(self.acknowledged) + n
        wait_until(lambda: len(self.acknowledged) >= goal or self.wrong, "items are added")
        self.assertEqual(self.wrong[:3], [])

    def test_nothing_acknowledged_is_lost(self):
        threads = [threading.Thread(target=self.client, args=(i + 1,)) for i in range(self.WRITERS)]
        for thread in threads:
            thread.start()
        self.more()
        for round in range(5):
            database.kill()
            wait_until(lambda: self.refused or self.wrong, "refusals")
            self.assertEqual(self.wrong[:3], [])
            database.start()
            self.more()
        self.assertGreater(sum(b"database" in body for _, body in self.refused), 0, self.refused[:3])

        self.assertEqual(self.lost, [])

        # A replica dies; the other goes on, alone and then beside the new one. Where the dead one resets a connection,
        # HAProxy closes the client's kept one, which by HTTP's rules asks it to send again: at most what was under way.
        self.replicas[0].process.send_signal(signal.SIGKILL)
        self.more()
        self.replicas[0].stop()
        self.replicas[0] = self.start(0)
        self.more()
        self.stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(self.wrong[:3], [])
        self.assertLessEqual(len(self.lost), self.WRITERS, self.lost)

        for each in self.replicas:
            there, after = set(), None
            while after is not None or not there:
                page = each.get("/v1/collections/load/items?limit=1000" + (f"&after={after}" if after else "")).json
                there |= {item["id"] for item in page["items"]}
                after = page["next"]
            self.assertEqual(set(self.acknowledged) - there, set())
            # Whole batches or nothing, and the count is the rows'.
            batches = {}
            for id in there:
                batches.setdefault(id.rpartition("-")[0], []).append(id)
            self.assertEqual([batch for batch in batches.values() if len(batch) != 5], [])
            self.assertEqual(each.get("/v1/collections/load").json["count"], len(there))
        if os.environ.get("VLMD_TEST_VERBOSE"):
            print(f"{len(self.acknowledged)} acknowledged, {self.searches} searches, {len(self.refused)} refused")


class Away(ServerTest):
    """Servers and commands that come before their database."""

    @classmethod
    def setUpClass(cls):
        database.kill()
        cls.server = replica()

    @classmethod
    def tearDownClass(cls):
        if database.process.poll() is not None:
            database.start()
        super().tearDownClass()

    def test_it_serves_what_it_can_and_finds_the_database_when_it_comes(self):
        ready = self.server.get("/readyz")
        self.assertEqual(ready.status, 200)
        self.assertRegex(ready.body.decode(), "^ready, but for collections: the collections' database: .+")
        self.assertIn("collections wait: ", self.server.log())
        self.assertEqual(self.server.metric("vlmd_collections_ready"), 0)
        classify = self.server.request("POST", "/v1/classify?labels=cat&labels=dog", image_bytes(),
                                       {"Content-Type": "image/jpeg"})
        self.assertEqual(classify.status, 200)
        begun = time.monotonic()
        for method, path, body in (("GET", "/v1/collections", None), ("PUT", "/v1/collections/x", {"dimensions": 1}),
                                   ("POST", "/v1/collections/x/items", {"items": [{"id": "a", "vector": [1]}]}),
                                   ("POST", "/v1/collections/x/search", {"vector": [1]}),
                                   ("GET", "/v1/collections/x/items/a", None), ("DELETE", "/v1/collections/x", None)):
            reply = self.server.request(method, path, body)
            self.fails(reply, 503, "unavailable", words="the collections' database")
            self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
            self.assertNotIn(Postgres.password, reply.body.decode())
        self.assertLess(time.monotonic() - begun, 5)

        status, out, err = run("search", "x", "a dog", "--model", "clip=tests/data/checkpoints/clip-tiny", "--store",
                               database.uri, check=False)
        self.assertEqual(status, 1)
        self.assertIn("the collections' database", err)
        self.assertNotIn(Postgres.password, out + err)

        database.start()
        wait_until(lambda: self.server.get("/readyz").body == b"ready\n", "the database is found")
        self.assertEqual(self.server.metric("vlmd_collections_ready"), 1)
        self.assertIn(self.server.request("PUT", "/v1/collections/late", {"dimensions": 1}).status, (200, 201))
        self.assertNotIn(Postgres.password, self.server.log())


class Unfit(unittest.TestCase):
    def test_a_database_that_will_not_do_is_refused_at_the_start(self):
        database.sql("CREATE DATABASE later")
        database.sql("CREATE SCHEMA vlmd; CREATE TABLE vlmd.format AS SELECT 99::bigint AS version", "later")
        database.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        database.sql("CREATE DATABASE taken")
        database.sql("CREATE SCHEMA vlmd; CREATE TABLE vlmd.collections(x int)", "taken")
        for name, words in (("later", "format 99"), ("latin", "UTF8"), ("taken", "cannot be made")):
            server = Server({"clip": "clip-tiny"}, wait=False, store=database.uri.replace("/vlmd?", f"/{name}?"))
            self.assertEqual(server.process.wait(PATIENCE_S), 1)
            self.assertIn(words, server.log())
            self.assertNotIn(Postgres.password, server.log())
            server.process.stdout.close()


if __name__ == "__main__":
    unittest.main()
