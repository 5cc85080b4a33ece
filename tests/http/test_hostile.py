"""test_hostile.py: clients that mean harm, on the wire and in the fields: headers that never end, bodies whose end is
doubtful, broken requests between good ones on one connection, pictures that are bombs, and in every field of every endpoint (from openapi.json)
what does not belong there. Nothing of it may hang, end in a 5xx, or make the process grow; errors name the field."""
import json
import re
import socket
import struct
import time
import unittest
import zlib

from harness import MEMORY_TELLS, MODELS, PATIENCE_S, Reply, Server, ServerTest, image_b64, image_bytes, wait_until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def statuses(data):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", data)]


class SlowHeaders(unittest.TestCase):
    def test_connections_that_send_no_request_end_in_time(self):
        n = 16
        server = Server({"captioner": "blip-caption-tiny"}, body_timeout_s=1, max_connections=n)
        self.addCleanup(server.stop)
        for first in (b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", b"GET /nothing HTTP/1.1\r\nHost: x\r\n",
                      b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
                      HEALTH.replace(b"Connection: close\r\n", b"") + b"GET /h"):
            with self.subTest(first=first):
                clients = [socket.create_connection(server.address) for _ in range(n)]
                for client in clients:
                    client.sendall(first)
                open_ones, until = set(clients), time.monotonic() + PATIENCE_S
                while open_ones and time.monotonic() < until:
                    time.sleep(0.2)
                    for client in list(open_ones):
                        try:
                            if first:
                                client.sendall(b"a")  # a byte every now and then: never idle
                            client.setblocking(False)
                            while client.recv(65536):
                                pass
                            open_ones.discard(client)
                        except BlockingIOError:
                            client.setblocking(True)
                        except OSError:
                            open_ones.discard(client)
                self.assertFalse(open_ones, "they hold their connections")
                for client in clients:
                    client.close()
                self.assertEqual(server.get("/healthz").status, 200)

    def test_one_address_cannot_take_every_connection(self):
        server = Server({"captioner": "blip-caption-tiny"}, max_connections_per_client=4)
        self.addCleanup(server.stop)
        clients = [socket.create_connection(server.address) for _ in range(4)]
        wait_until(lambda: server.raw(HEALTH) == b"", "the fifth is closed")
        for client in clients:
            client.close()
        wait_until(lambda: statuses(server.raw(HEALTH)) == [200], "there is room again")


class Framing(ServerTest):
    models = {"captioner": "blip-caption-tiny"}
    settings = {"body_timeout_s": 5}

    def ask(self, headers, body=b"abcde"):
        return self.server.raw(b"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n" + headers +
                               b"Connection: close\r\n\r\n" + body, timeout=PATIENCE_S)

    def test_where_the_body_ends_must_be_certain(self):
        for headers in (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n",
                        b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n",
                        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"):
            reply = self.ask(headers)
            self.assertEqual(statuses(reply), [400], headers)
            self.assertIn(b"Connection: close", reply)
            self.assertIn("where the body ends", json.loads(reply.split(b"\r\n\r\n", 1)[1])["error"]["message"])
        for headers in (b"Content-Length: -1\r\n", b"Content-Length: 5x\r\n", b"Content-Length: +5\r\n"):
            self.assertEqual(set(statuses(self.ask(headers))), {400}, headers)
        reply = self.ask(b"Content-Encoding: gzip\r\nContent-Length: 5\r\n")
        self.assertEqual(statuses(reply), [415])
        self.assertIn(b"Content-Encoding", reply)

    def test_chunks_that_are_none(self):
        for body in (b"zz\r\nabc\r\n0\r\n\r\n", b"-1\r\nabc\r\n", b"3\r\nabcX\r\n0\r\n\r\n"):
            self.assertEqual(statuses(self.ask(b"Transfer-Encoding: chunked\r\n", body)), [400], body)

    def test_a_body_without_end_is_hung_up_on(self):
        before = self.server.resident_bytes()
        with socket.create_connection(self.server.address, timeout=PATIENCE_S) as client:
            client.sendall(b"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n")
            sent = 0
            with self.assertRaises(OSError):
                while sent < 1 << 30:
                    client.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
                    sent += 65536
        self.assertLess(sent, 256 << 20)
        if MEMORY_TELLS:
            wait_until(lambda: self.server.resident_bytes() < before + (16 << 20), "its memory is given back")

    def test_broken_requests_between_good_ones(self):
        picture = image_bytes()
        head = b"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        good = head % (b"image/jpeg", len(picture)) + picture
        requests = [(good, 200), (head % (b"image/jpeg", 3) + b"abc", 422), (good, 200),
                    (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404), (head % (b"application/json", 4) + b'{"a"', 400),
                    (b"DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 405), (good, 200),
                    (b"POST /v1/caption HTTP/1.1\r\nHost: x\r\n\r\n", 411),
                    (b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 404), (HEALTH, 200)]
        reply = self.server.raw(b"".join(data for data, _ in requests), timeout=PATIENCE_S)
        self.assertEqual(statuses(reply), [status for _, status in requests])

    def test_the_timeout_header_is_checked(self):
        for value in ("abc", "-5", "50x", "1e3", "1.5", " ", "999999999999", "9" * 60):
            reply = self.server.post("/v1/caption", {"image": image_b64()}, {"X-Request-Timeout-Ms": value})
            if value.strip():
                self.fails(reply, 400, "out_of_range", "X-Request-Timeout-Ms", words="milliseconds")
        for value in ("0", "60000"):
            self.assertEqual(self.server.post("/v1/caption", {"image": image_b64()}, {"X-Request-Timeout-Ms": value}).status, 200)


def png(width, height, depth=8, colour=2, data=b"", before=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*each) for each in before) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(width, height):
    data = bytearray(image_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5:at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


class Pictures(ServerTest):
    models = {"captioner": "blip-caption-tiny"}
    settings = {"max_pixels": "1M"}

    def test_bombs_and_stumps(self):
        bomb = zlib.compress(bytes(32 << 20), 1)  # far more than its size can hold
        small = zlib.compress(bytes(10 * 31))
        good, before = image_bytes(), self.server.resident_bytes()
        for name, data, allowed in (
                ("huge PNG", png(60000, 60000), {422}), ("huge PNG with data", png(60000, 60000, data=bomb), {422}),
                ("PNG of 2^31 - 1", png(2**31 - 1, 2**31 - 1), {422}), ("PNG without pixels", png(0, 0), {422}),
                ("one long row", png(2**31 - 1, 1, 8, 0, bomb), {422}), ("PNG without data", png(10, 10), {422}),
                ("more data than pixels", png(10, 10, data=bomb), {200, 422}),
                ("a bomb as a comment", png(10, 10, data=small, before=[(b"zTXt", b"k\0\0" + bomb)]), {200, 422}),
                ("a bomb as a profile", png(10, 10, data=small, before=[(b"iCCP", b"k\0\0" + bomb)]), {200, 422}),
                ("many comments", png(10, 10, data=small, before=[(b"tEXt", b"k\0v")] * 20000), {200, 422}),
                ("no such depth", png(10, 10, 3, data=small), {422}), ("no such colours", png(10, 10, 8, 7, small), {422}),
                ("palette without one", png(10, 10, 8, 3, small), {422}),
                ("huge JPEG", jpeg(65535, 65535), {422}), ("JPEG without pixels", jpeg(0, 0), {422}),
                ("long JPEG", jpeg(1, 65535), {422}), ("JPEG past the bound", jpeg(2000, 2000), {422}),
                ("half a JPEG", good[:len(good) // 2], {200, 422}), ("two bytes", good[:2], {422}), ("nothing", b"", {400, 422}),
                ("RIFF that lies", b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 50, {422})):
            with self.subTest(name):
                reply = self.server.request("POST", "/v1/caption", data, {"Content-Type": "image/jpeg"})
                self.assertIn(reply.status, allowed, reply.body[:300])
                if reply.status != 200 and data:
                    self.assertEqual(reply.error["param"], "image")
        self.assertEqual(self.server.post("/v1/caption", {"image": image_b64()}).status, 200)
        self.assertLess(self.server.resident_bytes() - before, 24 << 20)


# What does not belong into most fields: raw JSON. Those of NAMED must be answered with the field's name.
NUMBERS = ["1e999", "-1e999", "9223372036854775808", "-9223372036854775809", "1" * 400, "1e" + "9" * 400]
TEXTS = [r'"\u0000"', r'"a\u0000b"', r'"\ud800"']
NAMED = NUMBERS + TEXTS + ["NaN", "Infinity", "01"]
ODD = NAMED + ["-0", "-0.0", "0.5", "1e-400", "9223372036854775807", '""', '"x"', '"' + "a" * 70000 + '"', "[]", "[[]]",
               "{}", '{"a":1}', "[null]", "[1]", '[""]', "null", "true", "[true]", "[" * 31 + "]" * 31, "[" * 100000,
               "[" + ",".join(['"a"'] * 2000) + "]"]


class Fields(ServerTest):
    models = {**MODELS, "filler": "vilt-mlm-tiny", "detector": "owlvit-tiny", "segmenter": "clipseg-tiny"}
    settings = {"log_level": "error"}

    def good(self, path):
        """The fields of a request that is right; every other field of the endpoint is optional beside them."""
        image, words = image_b64(), ["a cat", "a dog"]
        return {
            "/v1/caption": {"image": image}, "/v1/vqa": {"image": image, "question": "what?"},
            "/v1/match": {"image": image, "texts": words}, "/v1/classify": {"image": image, "labels": words},
            "/v1/detect": {"image": image, "queries": words}, "/v1/segment": {"image": image, "prompts": words},
            "/v1/ground": {"image": image, "expression": "a cat"}, "/v1/fill": {"image": image, "text": "a [MASK]"},
            "/v1/embeddings": {"input": words}, "/predict": {"entries": {"clip": {"textual": {"modelName": "clip"}}}, "text": "a"},
            "/v1/chat/completions": {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + image}}]}]},
            "/v1/collections/{collection}/items": {"items": [{"id": "a", "vector": [1, 2]}]},
            "/v1/collections/{collection}/search": {"vector": [1, 2]},
            "/v1/collections/{collection}/duplicates": {"min_score": 0.9},
            "/v1/collections/{collection}": {"dimensions": 2}}[path]

    def send(self, method, path, text):
        """The reply, which must not be a failure of the server; errors have their shape."""
        self.client.request(method, path, text, {"Content-Type": "application/json"})
        response = self.client.getresponse()
        reply = Reply(response.status, response.headers, response.read())
        self.assertLess(reply.status, 500, (path, text[:200], reply.body[:300]))
        if reply.status >= 400:
            self.assertEqual(set(reply.error), {"type", "code", "message", "param"})
        return reply

    def test_every_field_of_every_endpoint(self):
        self.client = self.server.connect()
        self.addCleanup(self.client.close)
        described = self.server.get("/openapi.json").json
        schemas = described["components"]["schemas"]
        self.server.request("PUT", "/v1/collections/odd", {"dimensions": 2})
        before, n = self.server.resident_bytes(), 0
        for path, methods in described["paths"].items():
            for method, operation in methods.items():
                content = operation.get("requestBody", {}).get("content", {}).get("application/json")
                if not content:
                    continue
                schema = content["schema"]
                if "$ref" in schema:
                    schema = schemas[schema["$ref"].rsplit("/", 1)[1]]
                good, url, method = self.good(path), path.replace("{collection}", "odd"), method.upper()
                self.assertLess(self.send(method, url, json.dumps(good)).status, 300, path)
                for field in [*schema["properties"], "nonsense"]:
                    rest = json.dumps({k: v for k, v in good.items() if k != field})[:-1]
                    head = rest + (", " if len(rest) > 1 else "") + json.dumps(field) + ": "
                    for value in ODD:
                        reply = self.send(method, url, head + value + "}")
                        n += 1
                        if value in NAMED:
                            self.assertEqual(reply.status, 400, (path, field, value[:40], reply.body[:200]))
                            self.assertEqual(reply.error["param"], field, (path, value[:40], reply.error))
                            self.assertNotIn("JSON_", reply.error["message"])
                    reply = self.send(method, url, f'{head}1, {json.dumps(field)}: "x"}}')
                    self.assertEqual((reply.status, reply.error["param"]), (400, field), (path, field, reply.body))
                for text in (b"", b"null", b"[]", b"1", b"{", b"}", b'{"image":}', b'{"a":1}x', b"\xef\xbb\xbf{}", b"{'a':1}",
                             b"\x00", b'{"image":"\xff\xfe"}', b'{"\xc0\x80":1}', b'{"image":"\xed\xa0\x80"}'):
                    allowed = (400, 409, 200) if text == b"" else (400, 409)  # some bodies are optional
                    self.assertIn(self.send(method, url, text).status, allowed, (path, text))
        self.assertGreater(n, 3000)
        if MEMORY_TELLS:
            self.assertLess(self.server.resident_bytes() - before, 32 << 20)
        self.assertEqual(self.server.get("/readyz").status, 200)


if __name__ == "__main__":
    unittest.main()
