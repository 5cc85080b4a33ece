"""test_pull.py: `vlmd pull` against an imitation of the hub: its listing, redirects to another host, ranges, broken
connections, wrong bytes, tokens; and that what was pulled can be served."""
import ctypes.util
import glob
import hashlib
import http.server
import json
import os
import re
import tempfile
import threading
import unittest

from harness import DATA, ROOT, Server, run

CHECKPOINT = os.path.join(DATA, "checkpoints/clip-tiny")
OPEN_CLIP = os.path.join(DATA, "checkpoints/openclip-rn-tiny")
SHARDED = os.path.join(DATA, "checkpoints/clip-gelu-f16-sharded")


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Hub:
    """Two servers: the hub, which redirects weights, and the host that has them."""

    def __init__(self):
        self.repositories = {}  # name → {path: bytes}
        self.requests = []      # (host, method path, headers)
        self.token = None
        self.break_after = []   # how many bytes of the next weights to send before hanging up
        self.ranges = True
        self.spoil = False
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def send(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                host = "store" if self.server is hub.store else "hub"
                hub.requests.append((host, self.path, dict(self.headers)))
                if host == "store":
                    return self.weights(hub.repositories[self.path.split("/")[1].replace("__", "/")][self.path.split("/")[2]])
                if hub.token and self.headers.get("Authorization") != "Bearer " + hub.token:
                    return self.send(401, b"{}")
                parts = self.path.lstrip("/").split("/")
                if parts[:2] == ["api", "models"] and parts[-2] == "tree":
                    name = "/".join(parts[2:-2])
                    if name not in hub.repositories:
                        return self.send(404, b"{}")
                    return self.send(200, json.dumps(hub.tree(name)).encode(), Content_Type="application/json")
                at = parts.index("resolve")
                name, file = "/".join(parts[:at]), parts[-1]
                if file.endswith(".safetensors"):
                    place = "http://localhost:%d/%s/%s" % (hub.store.server_port, name.replace("/", "__"), file)
                    return self.send(302, b"", Location=place, X_Linked_Etag='"x"')
                self.send(200, hub.repositories[name][file])

            def weights(self, body):
                if hub.spoil:
                    body = bytes([body[0] ^ 1]) + body[1:]
                start = 0
                if hub.ranges and (wanted := self.headers.get("Range")):
                    start = int(wanted[6:].rstrip("-"))
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                if hub.break_after:
                    self.wfile.write(body[start:start + hub.break_after.pop(0)])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                self.wfile.write(body[start:])

        self.store = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        for server in (self.store, self.hub):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = "http://127.0.0.1:%d" % self.hub.server_port

    def tree(self, name):
        rows = [{"type": "directory", "path": "onnx", "oid": "0" * 40, "size": 0}]
        for path, body in self.repositories[name].items():
            row = {"type": "file", "path": path, "oid": "1" * 40, "size": len(body)}
            if path.endswith((".safetensors", ".bin")):
                row["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
            rows.append(row)
        return rows

    def fetched(self, host="hub"):
        return [path.split("/")[-1] for where, path, _ in self.requests if where == host and "/tree/" not in path]

    def close(self):
        for server in (self.store, self.hub):
            server.shutdown()
            server.server_close()


@unittest.skipUnless(ctypes.util.find_library("curl"), "no libcurl here")
class Pull(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        self.addCleanup(self.hub.close)
        files = {name: read(os.path.join(CHECKPOINT, name)) for name in os.listdir(CHECKPOINT)}
        self.weights = files["model.safetensors"]
        self.hub.repositories["openai/tiny"] = {
            **files, "pytorch_model.bin": b"pickle", "tf_model.h5": b"x", "onnx/model.onnx": b"x", "README.md": b"# tiny",
            "model.fp16.safetensors": b"x", "..": b"x", "../config.json": b"{}"}
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.to = os.path.join(directory.name, "tiny")

    def pull(self, *more, name="openai/tiny", check=True, **env):
        return run("pull", name, "--to", self.to, "--set", "hub_url=" + self.hub.url, *more, check=check, **env)

    def test_fetches_what_is_needed_and_serves_it(self):
        _, out, _ = self.pull()
        self.assertIn(f"vlmd serve --model tiny={self.to}", out)
        got = set(os.listdir(self.to))
        self.assertEqual(got, set(os.listdir(CHECKPOINT)) | {"README.md"})
        for name in os.listdir(CHECKPOINT):
            self.assertEqual(read(os.path.join(self.to, name)), read(os.path.join(CHECKPOINT, name)))
        server = Server({}, model="tiny=" + self.to)
        try:
            self.assertEqual(server.get("/v1/models").json["data"][0]["id"], "tiny")
        finally:
            self.assertEqual(server.stop(), 0)
        self.hub.requests.clear()
        self.pull()  # what is there is not fetched again
        self.assertEqual(self.hub.fetched("store"), [])

    def test_a_broken_download_goes_on_where_it_broke(self):
        self.hub.break_after = [1000, 500]
        self.pull()
        self.assertEqual(read(self.to + "/model.safetensors"), self.weights)
        ranges = [headers.get("Range") for host, _, headers in self.hub.requests if host == "store"]
        self.assertEqual(ranges, [None, "bytes=1000-", "bytes=1500-"])

    def test_a_later_pull_goes_on_too(self):
        os.makedirs(self.to)
        with open(self.to + "/model.safetensors.part", "wb") as file:
            file.write(self.weights[:777])
        self.pull()
        self.assertEqual(read(self.to + "/model.safetensors"), self.weights)
        self.assertFalse(os.path.exists(self.to + "/model.safetensors.part"))
        self.assertEqual([h.get("Range") for host, _, h in self.hub.requests if host == "store"], ["bytes=777-"])

    def test_servers_without_ranges_and_stale_parts(self):
        os.makedirs(self.to)
        self.hub.ranges = False
        for stale in (b"other bytes", self.weights + b"more than there is"):
            with open(self.to + "/model.safetensors.part", "wb") as file:
                file.write(stale)
            self.pull()
            self.assertEqual(read(self.to + "/model.safetensors"), self.weights)
            os.remove(self.to + "/model.safetensors")

    def test_wrong_bytes_are_not_kept(self):
        self.hub.spoil = True
        status, _, err = self.pull(check=False)
        self.assertEqual(status, 1)
        self.assertIn("SHA-256", err)
        self.assertNotIn("model.safetensors", os.listdir(self.to))
        self.assertNotIn("model.safetensors.part", os.listdir(self.to))
        self.hub.spoil = False
        self.pull()

    def test_the_token_goes_to_the_hub_alone(self):
        self.hub.token = "hf_secret"
        status, _, err = self.pull(check=False)
        self.assertEqual(status, 1)
        self.assertIn("HF_TOKEN", err)
        status, out, err = self.pull(HF_TOKEN="hf_secret")
        self.assertNotIn("hf_secret", out + err)
        self.assertTrue(self.hub.fetched("store"))
        for host, _, headers in self.hub.requests:
            if host == "store":
                self.assertNotIn("Authorization", headers)

    def test_pickles_and_incomplete_checkpoints_are_refused(self):
        for files, words in (({"config.json": b"{}", "pytorch_model.bin": b"x"}, "pickle"),
                             ({"config.json": b"{}"}, "no model.safetensors"),
                             ({"model.safetensors": b"x"}, "no config.json")):
            self.hub.repositories["a/b"] = files
            status, _, err = self.pull(name="a/b", check=False)
            self.assertEqual(status, 1)
            self.assertIn(words, err)
        self.assertEqual(self.hub.fetched("hub") + self.hub.fetched("store"), [])
        self.assertFalse(os.path.exists(self.to))
        status, _, err = self.pull(name="no/such", check=False)
        self.assertEqual((status, "404" in err), (1, True))

    def test_shards(self):
        self.hub.repositories["s"] = {name: read(os.path.join(SHARDED, name)) for name in os.listdir(SHARDED)}
        self.pull("--revision", "refs/pr/1", name="s")
        self.assertEqual(set(os.listdir(self.to)), set(os.listdir(SHARDED)))
        self.assertIn("/s/resolve/refs%2Fpr%2F1/config.json", [path for _, path, _ in self.hub.requests])

    def test_open_clip(self):
        """timm's repositories have a picture tower's weights too; those of LAION the whole model twice."""
        files = {name: read(os.path.join(OPEN_CLIP, name)) for name in os.listdir(OPEN_CLIP)}
        self.assertIn("open_clip_model.safetensors", files)
        self.hub.repositories["timm/rn"] = {**files, "config.json": b'{"architecture": "resnet50_clip"}', "model.safetensors": b"tower"}
        self.pull(name="timm/rn")
        self.assertIn("open_clip_model.safetensors", os.listdir(self.to))
        self.assertNotIn("model.safetensors", os.listdir(self.to))
        self.assertIn("OpenCLIP", run("inspect", self.to)[1])
        self.hub.repositories["laion/b"] = {**self.hub.repositories["openai/tiny"], "open_clip_config.json": b"{}",
                                            "open_clip_model.safetensors": b"x"}
        self.to += "2"
        self.pull(name="laion/b")
        self.assertNotIn("open_clip_model.safetensors", os.listdir(self.to))
        self.assertIn("CLIPModel", run("inspect", self.to)[1])

    def test_the_list(self):
        head, *rows = run("pull", "--list")[1].splitlines()
        self.assertEqual(head.split(), ["name", "weights", "licence", "architecture", "tasks"])
        starts = [head.index(word) for word in head.split()]
        known = set()
        for path in glob.glob(os.path.join(ROOT, "core/models/*.c")):
            known |= set(re.findall(r"\.name = \"(\w+)\"", read(path).decode()))
        names = [row.split()[0] for row in rows]
        self.assertGreater(len(names), 15)
        self.assertEqual(len(set(names)), len(names))
        for row in rows:
            name, weights, _, architecture, tasks = [row[start:end].strip() for start, end in zip(starts, [*starts[1:], None])]
            self.assertRegex(name, r"^[\w.-]+/[\w.-]+$")
            self.assertRegex(weights, r"^(-|[\d.]+ [MG])$")
            self.assertIn(architecture, known, name)
            self.assertTrue(tasks, name)
        self.assertEqual(run("pull", check=False)[0], 2)

    def test_names_that_are_none(self):
        for name in ("../x", "a/../b", "a/b/c", "", "a b", "/a", "a/", "a?b"):
            self.assertEqual(self.pull(name=name, check=False)[0], 2, name)
        for more in (("--revision", "../.."), ("--frobnicate", "1")):
            self.assertEqual(self.pull(*more, check=False)[0], 2, more)
        self.assertEqual(self.hub.requests, [])


if __name__ == "__main__":
    unittest.main()
