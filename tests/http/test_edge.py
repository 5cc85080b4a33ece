"""test_edge.py: what stands between the api and the outside: CORS, compression, local sockets, TLS, addresses and
traces in the log."""
import gzip
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import unittest
import zlib

from harness import PATIENCE_S, Server, ServerTest, image_b64, image_bytes, run, wait_until

PAGE = "https://app.example"


class Cors(ServerTest):
    models = {"clip": "clip-tiny"}
    settings = {"cors_allow_origins": f"{PAGE};http://localhost:3000", "api_key": "web:s3cret-key"}

    def preflight(self, origin, path="/v1/classify"):
        return self.server.request("OPTIONS", path, headers={
            "Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"})

    def test_preflights_need_no_key(self):
        reply = self.preflight(PAGE)
        self.assertEqual((reply.status, reply.body), (204, b""))
        self.assertEqual(reply.headers["Access-Control-Allow-Origin"], PAGE)
        self.assertIn("POST", reply.headers["Access-Control-Allow-Methods"])
        for name in ("authorization", "content-type", "x-api-key", "traceparent"):
            self.assertIn(name, reply.headers["Access-Control-Allow-Headers"].lower())
        self.assertGreater(int(reply.headers["Access-Control-Max-Age"]), 0)
        self.assertEqual(reply.headers["Vary"], "Origin")
        self.assertEqual(self.preflight("http://localhost:3000").status, 204)

    def test_other_pages_learn_nothing(self):
        for origin in ("https://evil.example", "null", PAGE + ".evil.example", ""):
            reply = self.preflight(origin)
            self.assertEqual(reply.status // 100, 4, origin)
            self.assertNotIn("Access-Control-Allow-Origin", reply.headers)

    def test_replies_and_errors_can_be_read(self):
        key = {"X-API-Key": "s3cret-key"}
        for path, headers, status in (("/v1/models", key, 200), ("/v1/models", {}, 401), ("/v1/nothing", key, 404)):
            reply = self.server.get(path, {"Origin": PAGE, **headers})
            self.assertEqual(reply.status, status)
            self.assertEqual(reply.headers["Access-Control-Allow-Origin"], PAGE)
            for name in ("X-Request-Id", "Server-Timing", "Retry-After"):
                self.assertIn(name, reply.headers["Access-Control-Expose-Headers"])
        self.assertNotIn("Access-Control-Allow-Origin", self.server.get("/healthz").headers)


class CorsForAll(ServerTest):
    models = {"captioner": "blip-caption-tiny"}
    settings = {"cors_allow_origins": "*"}

    def test_any_page_and_streams(self):
        reply = self.server.post("/v1/caption", {"image": image_b64(), "stream": True}, {"Origin": "http://any"})
        self.assertTrue(reply.headers["Content-Type"].startswith("text/event-stream"))
        self.assertEqual(reply.headers["Access-Control-Allow-Origin"], "*")


class NoCors(ServerTest):
    models = {"clip": "clip-tiny"}

    def test_off_by_default(self):
        reply = self.server.request("OPTIONS", "/v1/classify", headers={
            "Origin": PAGE, "Access-Control-Request-Method": "POST"})
        self.fails(reply, 405)
        self.assertNotIn("Access-Control-Allow-Origin", self.server.get("/healthz", {"Origin": PAGE}).headers)


class Gzip(ServerTest):
    models = {"clip": "clip-tiny"}

    def test_long_texts_are_compressed(self):
        inputs = {"input": ["a cat"] * 40}
        for method, path, body in (("GET", "/", None), ("GET", "/page/app.js", None), ("GET", "/openapi.json", None),
                                   ("POST", "/v1/embeddings", inputs)):
            plain = self.server.request(method, path, body)
            self.assertNotIn("Content-Encoding", plain.headers)
            packed = self.server.request(method, path, body, {"Accept-Encoding": "deflate, gzip;q=0.8"})
            self.assertEqual(packed.headers["Content-Encoding"], "gzip", path)
            self.assertIn("Accept-Encoding", packed.headers["Vary"])
            self.assertLess(len(packed.body), len(plain.body) * 0.7)
            self.assertEqual(int(packed.headers["Content-Length"]), len(packed.body))
            other = self.server.request(method, path, body, {"Accept-Encoding": "deflate, gzip;q=0"})
            self.assertEqual(other.headers["Content-Encoding"], "deflate", path)
            for text in gzip.decompress(packed.body), zlib.decompress(other.body):
                if method == "GET":
                    self.assertEqual(text, plain.body)
                else:
                    self.assertEqual(json.loads(text)["data"], plain.json["data"])

    def test_what_is_short_unwanted_or_a_picture_is_not(self):
        for path, accept in (("/version", "gzip"), ("/openapi.json", "gzip;q=0"), ("/openapi.json", "br, *;q=0"),
                             ("/openapi.json", "identity"), ("/openapi.json", "gzipped"), ("/metrics", "gzip"),
                             ("/page/a-dog.jpg", "gzip")):
            reply = self.server.get(path, {"Accept-Encoding": accept})
            self.assertEqual(reply.status, 200)
            self.assertNotIn("Content-Encoding", reply.headers, (path, accept))
        self.assertEqual(self.server.get("/openapi.json", {"Accept-Encoding": "*"}).headers["Content-Encoding"], "gzip")

    def test_pipelined_and_head(self):
        request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
        last = b"HEAD / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        got = self.server.raw(request * 3 + last)
        self.assertEqual(got.count(b"HTTP/1.1 200"), 4)
        self.assertEqual(got.count(b"Content-Encoding: gzip"), 4)

    def test_expect_100_continue(self):
        with socket.create_connection(self.server.address, timeout=PATIENCE_S) as connection:
            body = json.dumps({"input": "a cat"}).encode()
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                               b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n"))
            connection.sendall(body)
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 200"))


class Logs(unittest.TestCase):
    def test_addresses_and_traces(self):
        trace = "0af7651916cd43dd8448eb211c80319c"
        for trusted, client in (("off", "127.0.0.1"), ("on", "2001:db8::7")):
            server = Server({"clip": "clip-tiny"}, log_format="json", trust_forwarded=trusted)
            try:
                server.get("/version", {"X-Forwarded-For": "10.0.0.1, 2001:db8::7", "X-Request-Id": "one",
                                        "traceparent": f"00-{trace}-b7ad6b7169203331-01"})
                for bad in (f"00-{'0' * 32}-b7ad6b7169203331-01", "ff" + f"-{trace}-b7ad6b7169203331-01", "junk", f"00-{trace}",
                            f"00-{trace}-b7ad6b7169203331-01x", f"00-{trace.upper()}-b7ad6b7169203331-01"):
                    server.get("/version", {"X-Forwarded-For": "no address\", \"x\": \"", "traceparent": bad})
                wait_until(lambda: server.log().count('"path"') == 7, "the lines are there")
                lines = [json.loads(line) for line in server.log().splitlines() if '"path"' in line]
                self.assertEqual((lines[0]["client"], lines[0]["trace"], lines[0]["id"]), (client, trace, "one"))
                for line in lines[1:]:
                    self.assertEqual((line["client"], line["trace"]), ("127.0.0.1", ""))
            finally:
                self.assertEqual(server.stop(), 0)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self.path)


class LocalSocket(unittest.TestCase):
    def test_serves_checks_and_cleans_up(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "vlmd.sock")
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(path)  # left behind: nobody listens
            server = Server({"clip": "clip-tiny"}, wait=False, listen="unix:" + path)
            try:
                self.assertIn(f"ready on unix:{path} ", server.process.stdout.readline())
                connection = UnixConnection(path)
                connection.request("POST", "/v1/classify?labels=cat&labels=dog", image_bytes(), {"Content-Type": "image/jpeg"})
                reply = connection.getresponse()
                self.assertEqual((reply.status, len(json.load(reply)["labels"])), (200, 2))
                connection.close()
                self.assertEqual(run("healthcheck", "--listen", "unix:" + path)[0], 0)
                self.assertEqual(run("serve", "--listen", "unix:" + path, "--set", "store=memory:", check=False)[0], 1)
                self.assertTrue(os.path.exists(path))  # the second one left it alone
                wait_until(lambda: "client=unix" in server.log(), "the line")
            finally:
                self.assertEqual(server.stop(), 0)
            self.assertFalse(os.path.exists(path))
            self.assertEqual(run("healthcheck", "--listen", "unix:" + path, check=False)[0], 1)


@unittest.skipUnless(shutil.which("openssl"), "no openssl to make a certificate with")
class Tls(unittest.TestCase):
    def test_https(self):
        with tempfile.TemporaryDirectory() as directory:
            cert, key = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                            "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost", "-addext",
                            "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
            server = Server({"captioner": "blip-caption-tiny"}, wait=False, tls_cert=cert, tls_key=key)
            try:
                line = server.process.stdout.readline()
                self.assertIn(" ready on https://127.0.0.1:", line)
                port = int(line.split("https://127.0.0.1:")[1].split()[0])
                context = ssl.create_default_context(cafile=cert)
                for stream in (False, True):
                    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=PATIENCE_S)
                    connection.request("POST", "/v1/caption", json.dumps({"image": image_b64(), "stream": stream}),
                                       {"Content-Type": "application/json"})
                    reply = connection.getresponse()
                    self.assertEqual(reply.status, 200)
                    self.assertIn(b'"caption"', reply.read())
                    connection.close()
                self.assertEqual(run("healthcheck", "--listen", f"127.0.0.1:{port}", "--set", f"tls_cert={cert}")[0], 0)
            finally:
                self.assertEqual(server.stop(), 0)
            for settings in ({"tls_cert": cert}, {"tls_cert": cert, "tls_key": "/none"}, {"tls_cert": key, "tls_key": key}):
                arguments = [part for pair in settings.items() for part in ("--set", "=".join(pair))]
                status, _, err = run("serve", "--listen", "127.0.0.1:0", "--set", "store=memory:", *arguments, check=False)
                self.assertEqual(status, 1)
                self.assertIn("vlmd", err)


if __name__ == "__main__":
    unittest.main()
