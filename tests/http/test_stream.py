"""test_stream.py: streamed replies, byte by byte: chunks, events, UTF-8, stop strings, clients that leave or dawdle,
and OpenAI's chat completions. Only sockets and the standard library: no client that would be lenient."""
import json
import os
import shutil
import socket
import struct
import tempfile
import time
import unittest

from harness import DATA, PATIENCE_S, ServerTest, image_b64, image_bytes, multipart, together, wait_until

LONG_TOKENS = 1500


def make_long_captioner(directory):
    """The tiny captioner with room for long texts: its position embeddings repeated."""
    shutil.copytree(os.path.join(DATA, "checkpoints", "blip-caption-tiny"), directory)
    path = os.path.join(directory, "model.safetensors")
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    header, tensors = json.loads(data[8:8 + size]), data[8 + size:]
    name = "text_decoder.bert.embeddings.position_embeddings.weight"
    begin, end = header[name]["data_offsets"]
    rows, dim = header[name]["shape"]
    times = LONG_TOKENS // rows + 2
    header[name] = {"dtype": "F32", "shape": [rows * times, dim],
                    "data_offsets": [len(tensors), len(tensors) + (end - begin) * times]}
    # No hole may be left where the tensor was: something has to own those bytes.
    header["unused"] = {"dtype": "F32", "shape": [rows, dim], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + tensors + tensors[begin:end] * times)
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["text_config"]["max_position_embeddings"] = rows * times
    with open(path, "w") as file:
        json.dump(config, file)


class Client:
    """One connection, read as it comes; what arrived is kept in .pieces with its time."""

    def __init__(self, address, receive_buffer=0, timeout=PATIENCE_S):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        self.data = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, method, path, body=None, headers=(), version="1.1"):
        data = json.dumps(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/{version}\r\nHost: x\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.socket.sendall(head.encode() + b"\r\n" + data)

    def more(self):
        piece = self.socket.recv(65536)
        self.data += piece
        return piece

    def take(self, n):
        while len(self.data) < n:
            if not self.more():
                raise AssertionError(f"the connection ended after {self.data!r}")
        taken, self.data = self.data[:n], self.data[n:]
        return taken

    def line(self):
        while b"\r\n" not in self.data:
            if not self.more():
                raise AssertionError(f"the connection ended after {self.data!r}")
        line, self.data = self.data.split(b"\r\n", 1)
        return line

    def head(self):
        """→ status, headers (names in lower case)."""
        status = int(self.line().split()[1])
        headers = {}
        while line := self.line():
            name, value = line.decode().split(":", 1)
            headers[name.lower()] = value.strip()
        return status, headers

    def chunk(self):
        """One chunk of a chunked body; b"" is its end."""
        size = int(self.line(), 16)
        data = self.take(size)
        if self.take(2) != b"\r\n":
            raise AssertionError("a chunk does not end with CR LF")
        return data

    def chunks(self):
        """[(time, bytes)] until the end."""
        out = []
        while data := self.chunk():
            out.append((time.monotonic(), data))
        return out


def events(body):
    """A stream's bytes → [(name, data)]; everything in it must be an event of one or two lines."""
    text = body.decode("utf-8")  # strict: a cut character fails
    if text and not text.endswith("\n\n"):
        raise AssertionError(f"the stream does not end with an empty line: {text[-40:]!r}")
    out = []
    for block in text.split("\n\n")[:-1]:
        name, lines = None, block.split("\n")
        if lines[0].startswith("event: "):
            name = lines.pop(0)[len("event: "):]
        if len(lines) != 1 or not lines[0].startswith("data: "):
            raise AssertionError(f"not an event: {block!r}")
        out.append((name, lines[0][len("data: "):]))
    return out


class StreamTest(ServerTest):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp()
        long = os.path.join(cls.directory, "long")
        make_long_captioner(long)
        cls.models = {"captioner": "blip-caption-tiny", "answerer": "blip-vqa-tiny", "long": long,
                      "labeller": "vilt-vqa-tiny", "clip": "clip-tiny"}
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.directory)

    def stream(self, path, body, status=200):
        """→ headers, [(time, chunk)], events"""
        with Client(self.server.address) as client:
            client.send("POST", path, {**body, "stream": True})
            found, headers = client.head()
            self.assertEqual(found, status, client.data)
            self.assertEqual(headers["content-type"], "text/event-stream")
            self.assertEqual(headers["cache-control"], "no-cache")
            self.assertEqual(headers["transfer-encoding"], "chunked")
            chunks = client.chunks()
            return headers, chunks, events(b"".join(data for _, data in chunks))

    def deltas(self, found):
        """The texts of all events but the last, which is the usual reply."""
        for name, data in found[:-1]:
            self.assertIsNone(name)
            self.assertEqual(set(json.loads(data)), {"delta"})
        return [json.loads(data)["delta"] for _, data in found[:-1]], json.loads(found[-1][1])


class Captions(StreamTest):
    def test_deltas_add_up_to_the_text_that_is_given_whole(self):
        for fields in ({}, {"prompt": "a photo of"}, {"temperature": 3, "seed": 4, "min_tokens": 20},
                       {"temperature": 10, "seed": 5, "min_tokens": 30, "max_tokens": 34}):
            request = {"image": image_b64(), "model": "captioner", **fields}
            whole = self.server.post("/v1/caption", request).json
            _, _, found = self.stream("/v1/caption", request)
            deltas, last = self.deltas(found)
            self.assertEqual("".join(deltas), whole["caption"])
            self.assertNotIn("", deltas)
            self.assertEqual(last["usage"]["total_tokens"],
                             last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"])
            self.assertEqual(set(last), set(whole) | {"usage"})
            for key in ("caption", "finish_reason", "model"):
                self.assertEqual(last[key], whole[key])

    def test_the_cache_is_told_of(self):
        for fields in ({}, {"num_beams": 2}):
            request = {"image": image_b64("wide_200x150.jpg"), "model": "captioner" if fields else "long", "max_tokens": 8, **fields}
            said = [self.stream("/v1/caption", request)[0]["x-cache"] for _ in range(2)]
            self.assertEqual(said, ["miss", "hit"], fields)

    def test_characters_are_never_cut(self):
        request = {"image": image_b64(), "model": "long", "temperature": 10, "min_tokens": 900, "max_tokens": 900}
        several = 0
        for seed in range(3):
            _, chunks, found = self.stream("/v1/caption", {**request, "seed": seed})
            deltas, last = self.deltas(found)
            self.assertEqual("".join(deltas), last["caption"])
            self.assertFalse(last["caption"].isascii())
            for _, data in chunks:
                data.decode("utf-8")
            several += len(deltas) > 5
        self.assertTrue(several)

    def test_tokens_come_while_the_rest_is_computed(self):
        request = {"image": image_b64(), "model": "long", "temperature": 2, "seed": 1,
                   "min_tokens": LONG_TOKENS, "max_tokens": LONG_TOKENS}
        _, chunks, found = self.stream("/v1/caption", request)
        deltas, last = self.deltas(found)
        self.assertEqual("".join(deltas), last["caption"])
        self.assertEqual(last["finish_reason"], "length")
        self.assertEqual(last["usage"]["completion_tokens"], LONG_TOKENS)
        self.assertGreater(len(deltas), 50)
        first, end = chunks[0][0], chunks[-1][0]
        self.assertGreater(end - first, last["timings"]["forward_ms"] / 1e3 / 2)

    def test_stop_strings_hold_across_token_borders(self):
        request = {"image": image_b64(), "model": "captioner"}
        text = self.server.post("/v1/caption", request).json["caption"]
        self.assertGreater(len(text), 20)
        for begin in range(1, len(text) - 6):
            stop = text[begin:begin + 6]
            whole = self.server.post("/v1/caption", {**request, "stop": stop}).json
            self.assertEqual(whole["caption"], text[:text.index(stop)].rstrip())
            _, _, found = self.stream("/v1/caption", {**request, "stop": stop})
            deltas, last = self.deltas(found)
            self.assertEqual("".join(deltas), whole["caption"], stop)
            self.assertEqual(last["finish_reason"], "stop")
        never = {**request, "stop": [text[-4:] + "!", "zzz"]}
        deltas, _ = self.deltas(self.stream("/v1/caption", never)[2])
        self.assertEqual("".join(deltas), text)

    def test_beams_and_several_texts_come_at_once(self):
        for fields in ({"num_beams": 3, "n": 2}, {"temperature": 2, "seed": 1, "n": 3}):
            request = {"image": image_b64(), "model": "captioner", **fields}
            whole = self.server.post("/v1/caption", request).json
            deltas, last = self.deltas(self.stream("/v1/caption", request)[2])
            self.assertEqual(deltas, [whole["caption"]])
            self.assertEqual(last["captions"], whole["captions"])

    def test_questions(self):
        for model in ("answerer", "labeller"):
            request = {"image": image_b64(), "question": "what is it?", "model": model}
            whole = self.server.post("/v1/vqa", request).json
            deltas, last = self.deltas(self.stream("/v1/vqa", request)[2])
            self.assertEqual("".join(deltas), whole["answer"])
            for key in ("answer", "score", "answers", "model"):
                self.assertEqual(last[key], whole[key])

    def test_other_body_forms(self):
        whole = self.server.post("/v1/caption", {"image": image_b64(), "model": "captioner"}).json["caption"]
        body, headers = multipart([("image", ("a.jpg", image_bytes())), ("model", "captioner"), ("stream", "true")])
        raw = self.server.post("/v1/caption?model=captioner&stream=true", image_bytes(),
                               {"Content-Type": "image/jpeg"})
        for reply in (self.server.post("/v1/caption", body, headers), raw):
            self.assertEqual(reply.headers["Content-Type"], "text/event-stream")
            self.assertEqual("".join(self.deltas(events(reply.body))[0]), whole)

    def test_many_streams_at_once(self):
        texts = {}

        def one(i):
            request = {"image": image_b64(), "model": "long", "temperature": 2, "seed": i % 4, "min_tokens": 200,
                       "max_tokens": 200}
            deltas, last = self.deltas(self.stream("/v1/caption", request)[2])
            self.assertEqual("".join(deltas), last["caption"])
            self.assertEqual(texts.setdefault(i % 4, last["caption"]), last["caption"])

        together(16, one)
        self.assertEqual(len(set(texts.values())), 4)


class Faults(StreamTest):
    settings = {"body_timeout_s": 1, "request_timeout_s": 120}
    FOREVER = {"image": image_b64(), "model": "long", "temperature": 2, "min_tokens": LONG_TOKENS,
               "max_tokens": LONG_TOKENS, "stream": True}

    def test_an_error_before_the_first_byte_is_an_ordinary_one(self):
        for path, body, status, code in (
                ("/v1/caption", {"image": "bm8="}, 422, "unsupported_image_format"),
                ("/v1/caption", {"image": image_b64(), "model": "none"}, 404, "model_not_found"),
                ("/v1/caption", {"image": image_b64(), "temperature": -1}, 400, "out_of_range"),
                ("/v1/chat/completions", {"messages": []}, 422, "unprocessable")):
            reply = self.server.post(path, {**body, "stream": True})
            self.fails(reply, status, code)
            self.assertEqual(reply.headers["Content-Type"], "application/json")

    def test_an_error_after_it_is_the_last_event(self):
        reply = self.server.post("/v1/caption", {**self.FOREVER, "timeout_ms": 60})
        if reply.status == 200:  # it may also have been too slow for a first token
            found = events(reply.body)
            self.assertEqual(found[-1][0], "error")
            self.assertEqual(json.loads(found[-1][1])["error"]["code"], "deadline_exceeded")
            self.assertTrue(all(name is None for name, _ in found[:-1]))
            self.assertGreater(len(found), 1)
        else:
            self.fails(reply, 504, "deadline_exceeded")

    def test_the_connection_lives_on(self):
        with Client(self.server.address) as client:
            for _ in range(3):
                client.send("POST", "/v1/caption", {"image": image_b64(), "model": "captioner", "stream": True})
                self.assertEqual(client.head()[0], 200)
                self.assertIn(b'"caption"', b"".join(data for _, data in client.chunks()))
                client.send("HEAD", "/healthz")
                status, headers = client.head()
                self.assertEqual(status, 200)
                self.assertEqual(client.data, b"")
                client.send("GET", "/healthz")
                _, headers = client.head()
                self.assertEqual(client.take(int(headers["content-length"])), b"ok\n")

    def test_http_1_0_gets_the_events_unchunked(self):
        with Client(self.server.address) as client:
            client.send("POST", "/v1/caption", {"image": image_b64(), "model": "captioner", "stream": True},
                        version="1.0")
            status, headers = client.head()
            self.assertEqual(status, 200)
            self.assertNotIn("transfer-encoding", headers)
            while client.more():
                pass
            self.assertIn("caption", json.loads(events(client.data)[-1][1]))

    def test_a_client_that_leaves_is_not_computed_for(self):
        before = self.server.metric("vlmd_items_cancelled_total")
        for how in ("close", "reset", "shut"):
            client = Client(self.server.address)
            client.send("POST", "/v1/caption", self.FOREVER)
            self.assertEqual(client.head()[0], 200)
            client.chunk()
            if how == "reset":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how == "shut":
                client.socket.shutdown(socket.SHUT_WR)
            else:
                client.socket.close()
            before += 1
            wait_until(lambda: self.server.metric("vlmd_items_cancelled_total") >= before, f"the cancel ({how})")
            client.socket.close()
        self.assertEqual(self.server.post("/v1/caption", {"image": image_b64(), "model": "captioner"}).status, 200)
        wait_until(lambda: self.server.log().count(" 499 POST /v1/caption") >= 3, "three lines in the log")

    def test_a_slow_reader_gets_everything_and_a_dead_one_does_not_stay(self):
        with Client(self.server.address, receive_buffer=4096) as slow:
            slow.send("POST", "/v1/caption", {**self.FOREVER, "seed": 1})
            self.assertEqual(slow.head()[0], 200)
            time.sleep(1)  # reads nothing meanwhile
            found = events(b"".join(data for _, data in slow.chunks()))
            deltas, last = self.deltas(found)
            self.assertEqual("".join(deltas), last["caption"])
        with Client(self.server.address, receive_buffer=2048) as dead:
            dead.send("POST", "/v1/chat/completions", {
                **{k: v for k, v in self.FOREVER.items() if k != "image"},
                "messages": user(picture())})
            wait_until(lambda: " 499 POST /v1/chat/completions" in self.server.log()
                       or " 200 POST /v1/chat/completions" in self.server.log(), "the end of a request nobody reads")


def picture(name="photo_97x61.jpg"):
    return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + image_b64(name), "detail": "auto"}}


def words(text):
    return {"type": "text", "text": text}


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


class Chat(StreamTest):
    PATH = "/v1/chat/completions"

    def ask(self, messages, **fields):
        reply = self.server.post(self.PATH, {"messages": messages, **fields})
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json

    def caption(self, name="photo_97x61.jpg", **fields):
        return self.server.post("/v1/caption", {"image": image_b64(name), **fields}).json["caption"]

    def answer(self, question, name="photo_97x61.jpg", **fields):
        return self.server.post("/v1/vqa", {"image": image_b64(name), "question": question, **fields}).json["answer"]

    def test_a_reply_is_openais(self):
        reply = self.ask(user(words("what is it?"), picture()), user="me", frequency_penalty=0, presence_penalty=0,
                         response_format={"type": "text"}, logit_bias={}, tools=[], tool_choice="none", metadata={})
        self.assertTrue(reply["id"].startswith("chatcmpl-"))
        self.assertEqual(reply["object"], "chat.completion")
        self.assertLess(abs(reply["created"] - time.time()), 60)
        self.assertEqual(reply["model"], "answerer")
        choice, = reply["choices"]
        self.assertEqual(choice, {"index": 0, "logprobs": None, "finish_reason": "stop", "message": {
            "role": "assistant", "content": self.answer("what is it?"), "refusal": None}})
        usage = reply["usage"]
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertGreater(usage["completion_tokens"], 0)

    def test_last_picture_last_text(self):
        say = lambda messages, **fields: self.ask(messages, **fields)["choices"][0]["message"]["content"]
        self.assertEqual(say(user(picture())), self.caption())
        self.assertEqual(say(user(picture(), words(""))), self.caption())
        self.assertEqual(say(user(picture("wide_200x150.jpg"), picture())), self.caption())
        self.assertEqual(say(user(picture(), picture("wide_200x150.jpg"))), self.caption("wide_200x150.jpg"))
        talk = [{"role": "system", "content": "Be brief."}, *user(picture(), words("what is it?")),
                {"role": "assistant", "content": "a cat"}, {"role": "user", "content": "what colour is it?"}]
        self.assertEqual(say(talk), self.answer("what colour is it?"))
        self.assertEqual(say(user(words("a photo of"), picture()), model="captioner"),
                         self.caption(prompt="a photo of"))
        self.assertEqual(say(user(words("what is it?"), picture()), model="labeller"),
                         self.answer("what is it?", model="labeller"))

    def test_choices_seeds_stops_and_lengths(self):
        one = self.ask(user(picture()), n=3, seed=5, temperature=2.0)["choices"]
        self.assertEqual([c["index"] for c in one], [0, 1, 2])
        self.assertEqual(one, self.ask(user(picture()), n=3, seed=5, temperature=2.0)["choices"])
        self.assertEqual(len(self.ask(user(picture()), n=2)["choices"]), 2)
        same = self.ask(user(picture()), n=2, temperature=0)["choices"]
        self.assertEqual(same[0]["message"], same[1]["message"])
        short = self.ask(user(picture()), max_completion_tokens=2)
        self.assertEqual(short["choices"][0]["finish_reason"], "length")
        self.assertEqual(short["usage"]["completion_tokens"], 2)
        self.assertEqual(short["choices"], self.ask(user(picture()), max_tokens=2)["choices"])
        text = self.caption()
        stopped = self.ask(user(picture()), stop=[text[5:9]])["choices"][0]
        self.assertEqual(stopped["message"]["content"], text[:text.index(text[5:9])].rstrip())
        self.assertEqual(stopped["finish_reason"], "stop")

    def test_logprobs(self):
        reply = self.ask(user(picture()), logprobs=True, top_logprobs=4, max_tokens=6)
        tokens = reply["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(tokens), reply["usage"]["completion_tokens"])
        for token in tokens:
            self.assertLessEqual(token["logprob"], 0)
            self.assertEqual(bytes(token["bytes"]).decode(), token["token"])
            top = token["top_logprobs"]
            self.assertEqual(len(top), 4)
            self.assertEqual((top[0]["token"], top[0]["logprob"], top[0]["bytes"]),
                             (token["token"], token["logprob"], token["bytes"]))  # greedy
            values = [other["logprob"] for other in top]
            self.assertEqual(values, sorted(values, reverse=True))
        joined = "".join(t["token"] for t in tokens)
        self.assertEqual(joined, reply["choices"][0]["message"]["content"])
        plain = self.ask(user(picture()), logprobs=True, max_tokens=6)["choices"][0]["logprobs"]
        self.assertEqual(plain, {"refusal": None, "content": [{**t, "top_logprobs": []} for t in tokens]})
        self.assertIsNone(self.ask(user(picture()), max_tokens=6)["choices"][0]["logprobs"])

    def test_logprobs_of_a_stream_are_those_of_the_whole(self):
        for fields in ({"max_tokens": 6}, {"n": 3, "temperature": 2.0, "seed": 9}, {"stop": ["e"]}):
            fields = {**fields, "logprobs": True, "top_logprobs": 2}
            whole = self.ask(user(picture()), **fields)["choices"]
            tokens = [[] for _ in whole]
            for _, data in self.stream(self.PATH, {"messages": user(picture()), **fields})[2][:-1]:
                choice, = json.loads(data)["choices"]
                tokens[choice["index"]] += (choice["logprobs"] or {"content": []})["content"]
            self.assertEqual(tokens, [choice["logprobs"]["content"] for choice in whole])

    def test_chunks_are_openais(self):
        request = {"messages": user(picture()), "stream_options": {"include_usage": True}}
        whole = self.ask(user(picture()))
        _, _, found = self.stream(self.PATH, request)
        self.assertEqual(found[-1], (None, "[DONE]"))
        chunks = [json.loads(data) for _, data in found[:-1]]
        for chunk in chunks:
            self.assertEqual(chunk["object"], "chat.completion.chunk")
            self.assertEqual((chunk["id"], chunk["created"], chunk["model"]),
                             (chunks[0]["id"], chunks[0]["created"], "captioner"))
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"], whole["usage"])
        self.assertTrue(all(chunk["usage"] is None for chunk in chunks[:-1]))
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        self.assertEqual([c["delta"].get("role") for c in choices], ["assistant"] + [None] * (len(choices) - 1))
        self.assertEqual([c["finish_reason"] for c in choices], [None] * (len(choices) - 1) + ["stop"])
        self.assertEqual("".join(c["delta"].get("content", "") for c in choices),
                         whole["choices"][0]["message"]["content"])
        plain = self.stream(self.PATH, {"messages": user(picture())})[2]
        self.assertTrue(all("usage" not in json.loads(data) for _, data in plain[:-1]))

    def test_several_choices_in_one_stream(self):
        fields = {"n": 3, "temperature": 2.0, "seed": 9}
        whole = self.ask(user(picture()), **fields)["choices"]
        texts, reasons = [""] * 3, [None] * 3
        for _, data in self.stream(self.PATH, {"messages": user(picture()), **fields})[2][:-1]:
            choice, = json.loads(data)["choices"]
            texts[choice["index"]] += choice["delta"].get("content", "")
            reasons[choice["index"]] = choice["finish_reason"]
        self.assertEqual(texts, [c["message"]["content"] for c in whole])
        self.assertEqual(reasons, [c["finish_reason"] for c in whole])

    def test_what_cannot_be_done_is_refused_by_name(self):
        good = user(words("what is it?"), picture())
        audio = {"type": "input_audio", "input_audio": {}}
        url = {"type": "image_url", "image_url": {"url": "http://x/y.jpg"}}
        for messages, fields, status, param in (
                ("hello", {}, 400, "messages"),
                ([1], {}, 400, "messages[0]"),
                ([{"role": "user"}], {}, 400, "messages[0].content"),
                ([{"role": "tool", "content": "x"}], {}, 422, "messages[0]"),
                (user(words("hello")), {}, 422, "messages"),
                (user(1), {}, 400, "messages[0].content[0]"),
                (user({"type": "text"}), {}, 400, "messages[0].content[0].text"),
                (user(picture(), audio), {}, 422, "messages[0].content[1]"),
                (user({"type": "image_url"}), {}, 400, "messages[0].content[0].image_url"),
                (user(url), {}, 422, "messages[0].content[0].image_url"),
                (user(*[picture()] * 2000), {}, 400, "messages"),
                (good, {"model": "gpt-4o"}, 404, "model"),
                (good, {"model": "clip"}, 422, "model"),
                (user(picture()), {"model": "answerer"}, 422, "model"),
                (good, {"frequency_penalty": 0.5}, 422, "frequency_penalty"),
                (good, {"top_logprobs": 3}, 422, "top_logprobs"),
                (good, {"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
                (good, {"logprobs": True, "num_beams": 2}, 422, "logprobs"),
                (good, {"response_format": {"type": "json_object"}}, 422, "response_format"),
                (good, {"tools": [{}]}, 422, "tools"),
                (good, {"stream_options": {}}, 422, "stream_options"),
                (good, {"max_tokens": 3, "max_completion_tokens": 3}, 400, "max_completion_tokens"),
                (good, {"temperature": 11}, 400, "temperature"),
                (good, {"nonsense": 1}, 400, "nonsense")):
            reply = self.server.post(self.PATH, {"messages": messages, **fields})
            with self.subTest(param=param, fields=fields):
                self.fails(reply, status, param=param)


del StreamTest  # a base, not a case

if __name__ == "__main__":
    unittest.main()
