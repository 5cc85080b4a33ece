"""test_process.py: the process: limits, keys, leaving clients, draining, start-up faults."""
import json
import os
import signal
import shutil
import socket
import struct
import tempfile
import threading
import time
import unittest

from harness import (DATA, MODELS, PATIENCE_S, Server, ServerTest, image_b64, image_bytes, run, together,
                     wait_until)

SLOW = {"image": image_b64(), "num_beams": 8, "max_tokens": 200, "min_tokens": 200}


class Keys(ServerTest):
    models = {"clip": "clip-tiny"}
    settings = {"api_key": "web:s3cret-key;slow:another-key", "key_rate_per_minute": 30}

    def test_keys(self):
        self.fails(self.server.get("/v1/models"), 401, "invalid_api_key")
        self.fails(self.server.get("/v1/models", {"Authorization": "Bearer nope"}), 401)
        self.fails(self.server.get("/v1/nothing"), 401)  # nobody learns paths without a key
        self.assertEqual(self.server.get("/v1/models", {"Authorization": "Bearer s3cret-key"}).status, 200)
        self.assertEqual(self.server.get("/v1/models", {"X-API-Key": "s3cret-key"}).status, 200)
        self.assertEqual(self.server.get("/healthz").status, 200)
        self.assertEqual(self.server.get("/readyz").status, 200)
        statuses = [self.server.get("/v1/models", {"X-API-Key": "another-key"}) for _ in range(40)]
        refused = [r for r in statuses if r.status == 429]
        self.assertTrue(refused)
        self.assertGreaterEqual(int(refused[0].headers["Retry-After"]), 1)
        self.assertNotIn("s3cret", self.server.log())


class Reload(unittest.TestCase):
    def write(self, text):
        with open(self.path, "w") as file:
            file.write(text)

    def reload(self, text, word="settings are read again"):
        before = self.server.log().count(word)
        self.write(text)
        self.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.server.log().count(word) > before, f"{word!r} in the log")

    def status(self, key):
        return self.server.get("/v1/models", {"Authorization": f"Bearer {key}"}).status

    def test_sighup_takes_keys_rates_and_log_level_and_drops_nothing(self):
        with tempfile.TemporaryDirectory() as directory:
            self.path = f"{directory}/vlmd.conf"
            self.write("api_key = web:first-secret\nlog_level = error\n")
            server = self.server = Server({"captioner": "blip-caption-tiny"}, arguments=["--config", self.path])
            self.addCleanup(server.stop)
            self.assertEqual((self.status("first-secret"), self.status("second-secret")), (200, 401))
            replies = []
            thread = threading.Thread(target=lambda: replies.append(
                server.post("/v1/caption", SLOW, {"Authorization": "Bearer first-secret"})))
            thread.start()
            wait_until(lambda: server.request("GET", "/metrics", headers={"Authorization": "Bearer first-secret"}).body
                       .find(b"vlmd_requests_in_flight 1") > 0 or replies, "the request is under way")
            # While log_level is error the reload itself leaves no line but that of its new level.
            self.reload("api_key = web:second-secret\napi_key = app:third-secret\nlog_level = info\n")
            self.assertEqual([self.status(f"{key}-secret") for key in ("first", "second", "third")], [401, 200, 200])
            thread.join()
            self.assertEqual(replies[0].status, 200, replies[0].body)
            wait_until(lambda: "app" in server.log(), "a request's line, which comes after its reply, names the key")

            self.reload("api_key = short:x\n", "nothing is changed")
            self.assertIn("api_key", server.log())
            self.reload("nonsense = 1\n", "nothing is changed")
            self.reload("log_level = loud\n", "nothing is changed")
            self.assertEqual([self.status(f"{key}-secret") for key in ("first", "second", "third")], [401, 200, 200])

            self.reload("api_key = web:second-secret\nkey_rate_per_minute = 3\nmax_batch = 5\n")
            self.assertIn("max_batch is different now and waits for a restart", server.log())
            self.assertEqual([self.status("second-secret") for _ in range(4)], [200, 200, 200, 429])
            # What a key has used up is not given back by reading the same settings again.
            self.reload("api_key = web:second-secret\nkey_rate_per_minute = 3\nmax_batch = 5\n")
            self.assertEqual(self.status("second-secret"), 429)
            self.reload("")
            self.assertEqual(server.get("/v1/models").status, 200)  # no key, nothing to check
            self.assertNotIn("secret", server.log())
            self.assertEqual(server.stop(), 0)


class Overload(ServerTest):
    models = {"captioner": "blip-caption-tiny"}
    settings = {"max_queue": 4, "max_batch": 1, "max_sequences": 8, "feature_cache_mb": 0, "max_inflight": 12}

    def test_full_queues_refuse_at_once_and_say_when(self):
        replies = together(40, lambda i: self.server.post("/v1/caption", SLOW))
        statuses = {r.status for r in replies}
        self.assertLessEqual(statuses, {200, 429})
        self.assertEqual(statuses, {200, 429})
        for reply in replies:
            if reply.status == 429:
                self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
                self.assertEqual(reply.error["type"], "rate_limit_error")
        self.assertEqual(self.server.post("/v1/caption", {"image": image_b64()}).status, 200)


class Priorities(ServerTest):
    models = {"captioner": "blip-caption-tiny"}
    settings = {"max_batch": 8, "max_sequences": 8, "prefill_chunk": 0}

    def test_interactive_ones_come_first_and_batches_have_their_share(self):
        n = 24
        order, lock = [], threading.Lock()

        def one(i):
            priority = "batch" if i < n else "interactive"
            if i >= n:
                wait_until(lambda: self.server.metric("vlmd_queue_depth") > n // 2 or order, "the batch waits")
            self.assertEqual(self.server.post("/v1/caption", {**SLOW, "priority": priority}).status, 200)
            with lock:
                order.append(priority)

        together(n + 4, one)
        self.assertEqual(order.count("interactive"), 4)
        last = max(i for i, priority in enumerate(order) if priority == "interactive")
        self.assertLess(last, len(order) - n // 4, order)

    def test_it_is_one_of_two(self):
        reply = self.server.post("/v1/caption", {"image": image_b64(), "priority": "urgent"})
        self.fails(reply, 400, "out_of_range", "priority", words="interactive or batch")


class Clients(ServerTest):
    models = {"captioner": "blip-caption-tiny"}
    settings = {"body_timeout_s": 2}

    def test_a_client_that_leaves_is_not_computed_for(self):
        before = self.server.metric("vlmd_items_cancelled_total")
        body = json.dumps(SLOW).encode()
        head = (f"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()
        gone = []
        for _ in range(60):                 # more than are done while they are awaited
            connection = socket.create_connection(self.server.address)
            connection.sendall(head + body)
            gone.append(connection)
        time.sleep(0.05)
        for connection in gone:
            connection.close()
        wait_until(lambda: self.server.metric("vlmd_requests_in_flight") == 0, "all requests are done")
        hangups = self.server.metric("vlmd_hangups_total") + self.server.metric("vlmd_items_cancelled_total") - before
        self.assertGreater(hangups, 0)
        self.assertEqual(self.server.post("/v1/caption", {"image": image_b64()}).status, 200)

    def test_a_body_that_dawdles_gets_408(self):
        with socket.create_connection(self.server.address, timeout=PATIENCE_S) as connection:
            connection.sendall(b"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
                               b"Content-Length: 1000\r\n\r\n")
            reply = b""
            stop = time.monotonic() + 20
            connection.settimeout(0.2)
            while time.monotonic() < stop:
                try:
                    connection.sendall(b"x")
                    piece = connection.recv(4096)
                    if not piece:
                        break
                    reply += piece
                except socket.timeout:
                    continue
                except OSError:
                    break
            self.assertIn(b"408 Request Timeout", reply)
            json.loads(reply.split(b"\r\n\r\n", 1)[1])

    def test_keep_alive_and_pipelining(self):
        connection = self.server.connect()
        for _ in range(5):
            connection.request("POST", "/v1/caption", image_bytes(), {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            response.read()
        connection.close()
        two = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        self.assertEqual(self.server.raw(two).count(b"HTTP/1.1 200"), 2)


class Drain(unittest.TestCase):
    def test_sigterm_finishes_what_is_under_way(self):
        server = Server({"captioner": "blip-caption-tiny"})
        replies = []
        thread = threading.Thread(target=lambda: replies.append(server.post("/v1/caption", SLOW)))
        thread.start()
        wait_until(lambda: server.metric("vlmd_requests_in_flight") > 0 or replies, "the request is under way")
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        self.assertEqual(server.process.wait(PATIENCE_S), 0)
        self.assertEqual(replies[0].status, 200, replies[0].body)
        server.stop()

    def test_idle_server_stops_at_once(self):
        server = Server({"clip": "clip-tiny"})
        started = time.monotonic()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.monotonic() - started, 10)


class Engines(unittest.TestCase):
    def test_every_engine_gives_the_same_caption(self):
        captions = set()
        for engine in ("portable", "openblas", "auto"):
            server = Server({"captioner": "blip-caption-tiny"}, engine=engine)
            captions.add(server.post("/v1/caption", {"image": image_b64()}).json["caption"])
            self.assertIn("engine", server.get("/info").json)
            server.stop()
        self.assertEqual(len(captions), 1)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def make_slow_model(directory, n_words=2_000_000):
    """The tiny CLIP with so large a vocabulary (a hole in the file) that widening its BF16 takes a while."""
    shutil.copytree(os.path.join(DATA, "checkpoints/clip-tiny"), directory)
    path = os.path.join(directory, "model.safetensors")
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    header, tensors = json.loads(data[8:8 + size]), data[8 + size:]
    name = "text_model.embeddings.token_embedding.weight"
    header["unused"] = dict(header[name])
    dim = header[name]["shape"][1]
    n_bytes = n_words * dim * 2
    header[name] = {"dtype": "BF16", "shape": [n_words, dim], "data_offsets": [len(tensors), len(tensors) + n_bytes]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + tensors)
        file.truncate(8 + len(text) + len(tensors) + n_bytes)
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["text_config"]["vocab_size"] = n_words
    with open(path, "w") as file:
        json.dump(config, file)


class Loading(unittest.TestCase):
    def start(self, *arguments):
        port = free_port()
        server = Server({}, wait=False, arguments=["--listen", f"127.0.0.1:{port}", *arguments])
        server.address = ("127.0.0.1", port)
        self.addCleanup(server.stop)

        def answers():
            try:
                return server.get("/healthz").status == 200
            except OSError:
                return False
        wait_until(answers, "the socket is open", every=0.001)
        return server

    def test_it_answers_while_models_load(self):
        with tempfile.TemporaryDirectory() as directory:
            make_slow_model(f"{directory}/slow")
            quick = f"quick={DATA}/checkpoints/blip-caption-tiny"
            server = self.start("--model", quick, "--model", f"slow={directory}/slow")
            ready = server.get("/readyz")
            self.assertEqual((ready.status, ready.error["code"]), (503, "loading"), ready.body)
            self.assertGreaterEqual(int(ready.headers["Retry-After"]), 1)
            self.assertRegex(ready.error["message"], r"quick \d+ %, slow \d+ %")
            reply = server.post("/v1/embeddings", {"input": "a", "model": "slow"})
            self.assertEqual((reply.status, reply.error["code"], reply.error["param"]), (503, "loading", "model"))
            self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
            reply = server.post("/v1/embeddings", {"input": "a"})  # whoever does it is yet to come
            self.assertEqual((reply.status, reply.error["code"]), (503, "loading"))
            reply = server.post("/v1/embeddings", {"input": "a", "model": "nobody"})
            self.assertEqual(reply.status, 404)
            shares, states = [], set()
            while server.get("/readyz").status == 503:
                for model in server.get("/info").json["missing_models"]:
                    states.add(model["state"])
                    if model["id"] == "slow":
                        shares.append(model["progress"])
                if server.get("/v1/models").json["data"]:  # the first is there: it answers already
                    self.assertEqual(server.post("/v1/caption", {"image": image_b64()}).status, 200)
            self.assertIn("loading", states)
            self.assertEqual(shares, sorted(shares))
            self.assertEqual(server.get("/info").json["missing_models"], [])
            self.assertEqual(server.post("/v1/embeddings", {"input": "a", "model": "slow"}).status, 200)
            self.assertIn(" with 2 models in ", server.process.stdout.readline())

    def test_sigterm_while_loading(self):
        with tempfile.TemporaryDirectory() as directory:
            make_slow_model(f"{directory}/slow")
            server = self.start("--model", f"slow={directory}/slow")
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(PATIENCE_S), 0)
            self.assertEqual(server.process.stdout.read(), "")

    def test_one_that_does_not_load_is_left_out(self):
        with tempfile.TemporaryDirectory() as directory:
            for name in ("aaa", "good"):
                shutil.copytree(os.path.join(DATA, "checkpoints/blip-caption-tiny"), f"{directory}/{name}")
            os.truncate(f"{directory}/aaa/model.safetensors", 5000)
            server = Server({}, arguments=["--models-dir", directory])
            self.addCleanup(server.stop)
            self.assertEqual(server.get("/readyz").status, 200)
            self.assertEqual(server.post("/v1/caption", {"image": image_b64()}).json["model"], "good")
            missing, = server.get("/info").json["missing_models"]
            self.assertEqual((missing["id"], missing["state"]), ("aaa", "failed"))
            self.assertIn("truncated", missing["error"])
            reply = server.post("/v1/caption", {"image": image_b64(), "model": "aaa"})
            self.assertEqual((reply.status, reply.error["param"]), (503, "model"))
            self.assertIn("truncated", reply.error["message"])
            self.assertIn("left out: model 'aaa'", server.log())
            _, out, err = run("models", "--models-dir", directory)
            self.assertIn("good", out)
            self.assertIn("left out: model 'aaa'", err)
            shutil.rmtree(f"{directory}/good")
            status, _, err = run("serve", "--listen", "127.0.0.1:0", "--store", "memory:", "--models-dir", directory,
                                 check=False)
            self.assertEqual(status, 1)
            self.assertIn("truncated", err)


class Dtypes(unittest.TestCase):
    def test_a_setting_gives_each_model_its_dtype(self):
        server = Server({"a": "clip-tiny", "b": "clip-tiny", "half": "clip-gelu-f16-sharded"},
                        dtype="b=int8; bf16; half=auto")
        models = {model["id"]: model for model in server.get("/v1/models").json["data"]}
        self.assertEqual([models[name]["dtype"] for name in "ab"], ["bf16", "int8"])
        self.assertEqual(models["half"]["dtype"], "f32")  # small enough to be exact
        self.assertGreater(models["a"]["layers"]["bf16"], 5)
        self.assertGreater(models["b"]["layers"]["int8"], 5)
        vectors = [server.post("/v1/embeddings", {"model": name, "input": "a cat"}).json["data"][0]["embedding"]
                   for name in "ab"]
        self.assertGreater(sum(x * y for x, y in zip(*vectors)), 0.99)
        server.stop()

    def test_f32_checkpoints_stay_f32(self):
        server = Server({"clip": "clip-tiny"})
        model = server.get("/info").json["models"][0]
        self.assertEqual(model["dtype"], "f32")
        self.assertEqual(list(model["layers"]), ["f32"])
        server.stop()


class StartUp(unittest.TestCase):
    def refused(self, *arguments, words=()):
        status, out, err = run("serve", "--listen", "127.0.0.1:0", "--store", "memory:", *arguments, check=False)
        self.assertIn(status, (1, 2), (out, err))
        for word in words:
            self.assertIn(word, err)

    def test_faults_are_named(self):
        self.refused("--model", "x=/nonexistent", words=["x"])
        self.refused("--models-dir", "/nonexistent", words=["/nonexistent"])
        self.refused("--set", "max_batch=many", words=["max_batch"])
        self.refused("--set", "no_such=1", words=["no_such"])
        self.refused("--set", "engine=abacus", words=["engine", "portable"])
        self.refused("--set", "dtype=fp7", words=["dtype", "int8", "fp7"])
        self.refused("--set", "dtype=absent=fp7", words=["dtype", "int8", "fp7"])
        self.refused("--set", "listen=nowhere", "--listen", "nowhere", words=["listen"])
        self.refused("--config", "/nonexistent", words=["/nonexistent"])

    def test_a_damaged_checkpoint_is_refused_by_tensor(self):
        source = os.path.join(DATA, "checkpoints/clip-tiny")
        with tempfile.TemporaryDirectory() as directory:
            for name in os.listdir(source):
                with open(os.path.join(source, name), "rb") as file:
                    data = file.read()
                if name == "model.safetensors":
                    data = data[: len(data) // 2]
                with open(os.path.join(directory, name), "wb") as file:
                    file.write(data)
            self.refused("--model", f"x={directory}", words=["model.safetensors", "truncated"])
            shutil.copy(os.path.join(source, "model.safetensors"), directory)
            config_path = os.path.join(directory, "config.json")
            with open(config_path) as file:
                config = json.load(file)
            config["architectures"] = ["MysteryModel"]
            with open(config_path, "w") as file:
                json.dump(config, file)
            self.refused("--model", f"x={directory}", words=["MysteryModel"])

    def test_a_port_in_use(self):
        server = Server({"clip": "clip-tiny"})
        self.refused_address(server.address)
        server.stop()

    def refused_address(self, address):
        status, _, err = run("serve", "--store", "memory:", "--listen", f"{address[0]}:{address[1]}", "--model",
                             f"clip={DATA}/checkpoints/clip-tiny", check=False)
        self.assertEqual(status, 1)
        self.assertIn("listen", err)

    def test_collections_outlive_the_process(self):
        with tempfile.TemporaryDirectory() as directory:
            store = f"sqlite:{directory}/sub/c.db"
            server = Server({"clip": "clip-tiny"}, store=store)
            server.request("PUT", "/v1/collections/pets", {})
            reply = server.post("/v1/collections/pets/items", {"items": [{"id": "p", "image": image_b64()}]})
            self.assertEqual(reply.json["added"], 1)
            server.process.kill()
            server.stop()
            server = Server({"clip": "clip-tiny"}, store=store)
            found = server.post("/v1/collections/pets/search", {"image": image_b64()}).json["results"]
            self.assertEqual(found[0]["id"], "p")
            self.assertEqual(server.stop(), 0)
