"""test_chat.py: conversations with models that converse (Qwen2.5-VL, IDEFICS), over HTTP: the goldens' texts, mixed and one by
one, in streams and from OpenAI's own client; captions and answers by instruction; what is refused."""
import json
import os
import subprocess
import unittest

from clients import python_with
from harness import DATA, PATIENCE_S, ServerTest, image_b64, together

CONVERSING = {"qwen": "qwen2.5-vl-tiny", "flat": "qwen2.5-vl-flat-tiny", "dialogue": "idefics-tiny",
              "pages": "idefics-base-tiny", "one-table": "idefics-flat-tiny"}
MODELS = {**CONVERSING, "captioner": "blip-caption-tiny"}


def picture(name):
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + image_b64(name)}}


def openai_messages(messages):
    """A golden's messages as OpenAI's clients send them."""
    def part(each):
        return picture(each["picture"]) if each["type"] == "image" else each
    return [{**message, "content": [part(each) for each in message["content"]]}
            if isinstance(message["content"], list) else message for message in messages]


def cases(model, run):
    with open(os.path.join(DATA, "goldens", MODELS[model] + ".json")) as file:
        found = [case for case in json.load(file)["cases"] if case["kind"] == "chat" and case["run"] == run]
    assert len(found) >= 6
    return found


class Chat(ServerTest):
    models = MODELS
    settings = {"prefill_chunk": 16, "caption_instruction": "Describe this image."}

    def chat(self, model, messages, **fields):
        body = {"model": model, "messages": openai_messages(messages), **fields}
        return self.server.post("/v1/chat/completions", body)

    def text(self, model, messages, **fields):
        reply = self.chat(model, messages, **fields)
        self.assertEqual(reply.status, 200, reply.body[:500])
        return reply.json["choices"][0]["message"]["content"]

    def test_conversations_get_the_reference_s_texts(self):
        for model in CONVERSING:
            for case in cases(model, "greedy"):
                reply = self.chat(model, case["messages"]).json
                self.assertEqual(reply["choices"][0]["message"]["content"], case["texts"][0], case["case"])
                self.assertEqual(reply["usage"]["prompt_tokens"], len(case["start_ids"]))
            for case in cases(model, "beam3"):
                self.assertEqual(self.text(model, case["messages"], num_beams=3), case["texts"][0], case["case"])

    def test_mixed_batches_are_as_one_by_one(self):
        # Long and short prompts, beams among them, with prompts run in pieces between others' tokens.
        work = [(model, case, beams) for model in CONVERSING for beams in (1, 3)
                for case in cases(model, "beam3" if beams > 1 else "greedy")] * 2
        got = together(len(work), lambda i: self.text(work[i][0], work[i][1]["messages"], num_beams=work[i][2]))
        for (_, case, _), text in zip(work, got):
            self.assertEqual(text, case["texts"][0], case["case"])

    def test_a_string_is_as_a_list_of_one_text(self):
        case = cases("qwen", "greedy")[-1]
        self.assertIsInstance(case["messages"][0]["content"], str)
        listed = [{"role": "user", "content": [{"type": "text", "text": case["messages"][0]["content"]}]}]
        self.assertEqual(self.text("qwen", listed), case["texts"][0])

    def test_order_and_turns_matter(self):
        photo, words = picture("photo_97x61.jpg"), {"type": "text", "text": "what is it?"}
        texts = []
        for content in [photo, words], [words, photo], [photo, photo, words]:
            body = {"model": "qwen", "messages": [{"role": "user", "content": content}], "logprobs": True}
            reply = self.server.post("/v1/chat/completions", body).json
            texts.append((reply["usage"]["prompt_tokens"], reply["choices"][0]["logprobs"]["content"][0]["logprob"]))
        self.assertEqual(texts[0][0], texts[1][0])
        self.assertNotEqual(texts[0][1], texts[1][1])
        self.assertGreater(texts[2][0], texts[0][0])
        said = {"role": "developer", "content": "Answer in one word."}
        case = [case for case in cases("qwen", "greedy") if "system" in case["case"]][0]
        self.assertEqual(self.text("qwen", [said, case["messages"][1]]), case["texts"][0])

    def test_n_stop_seed_and_length(self):
        messages = cases("qwen", "greedy")[0]["messages"]
        whole = self.text("qwen", messages)
        reply = self.chat("qwen", messages, max_completion_tokens=3).json
        self.assertEqual(reply["choices"][0]["finish_reason"], "length")
        self.assertEqual(reply["usage"]["completion_tokens"], 3)
        self.assertEqual(self.text("qwen", messages, stop=" of a"), whole[:whole.index(" of a")])
        drawn = [self.chat("qwen", messages, n=3, seed=seed, temperature=1.3).json["choices"] for seed in (7, 7, 8)]
        texts = [[choice["message"]["content"] for choice in choices] for choices in drawn]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])
        self.assertEqual([choice["index"] for choice in drawn[0]], [0, 1, 2])

    def test_streams_have_the_same_text(self):
        for model, case in [(model, case) for model in ("flat", "dialogue", "pages") for case in cases(model, "greedy")[:3]]:
            reply = self.chat(model, case["messages"], stream=True, stream_options={"include_usage": True})
            events = [line[6:] for line in reply.body.decode().split("\n") if line.startswith("data: ")]
            self.assertEqual(events[-1], "[DONE]")
            chunks = [json.loads(event) for event in events[:-1]]
            self.assertEqual(chunks[-1]["usage"]["prompt_tokens"], len(case["start_ids"]))
            deltas = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
            self.assertEqual("".join(deltas), case["texts"][0])
            self.assertGreaterEqual(len(deltas), 2)

    def test_captions_and_answers_are_instructions(self):
        describe = cases("qwen", "greedy")[0]
        reply = self.server.post("/v1/caption", {"model": "qwen", "image": image_b64("photo_97x61.jpg")})
        self.assertEqual(reply.json["caption"], describe["texts"][0])
        reply = self.server.post("/v1/caption", {"model": "qwen", "image": image_b64("photo_97x61.jpg"),
                                                 "prompt": "Describe this image."})
        self.assertEqual(reply.json["caption"], describe["texts"][0])
        ask = [case for case in cases("qwen", "greedy") if "tall" in case["case"]][0]
        fields = {"model": "qwen", "image": image_b64("tall_33x120.png"), "question": "how many cats are there?"}
        self.assertEqual(self.server.post("/v1/vqa", fields).json["answer"], ask["texts"][0])
        fields["images"] = [fields.pop("image")] * 2
        self.assertEqual(self.server.post("/v1/vqa", fields).status, 200)

    def test_idefics_captions_and_answers(self):
        for model in "dialogue", "pages", "one-table":
            found = {case["case"].split("|")[0]: case["texts"][0] for case in cases(model, "greedy")}
            reply = self.server.post("/v1/caption", {"model": model, "image": image_b64("photo_97x61.jpg")})
            self.assertEqual(reply.json["caption"], found["chat:describe"])
            fields = {"model": model, "images": [image_b64("wide_200x150.jpg"), image_b64("grey_64x48.jpg")],
                      "question": "what is the difference?"}
            self.assertEqual(self.server.post("/v1/vqa", fields).json["answer"], found["chat:two"])

    def test_examples_change_the_answer(self):
        case = [case for case in cases("dialogue", "greedy") if "examples" in case["case"]][0]
        self.assertEqual(len(case["pictures"]), 3)
        self.assertEqual(self.text("dialogue", case["messages"]), case["texts"][0])
        self.assertNotEqual(self.text("dialogue", case["messages"][-1:]), case["texts"][0])

    def test_the_model_says_what_it_is(self):
        model = self.server.get("/v1/models/qwen").json
        self.assertEqual(model["tasks"], ["caption", "vqa", "detect", "ground", "chat"])
        self.assertIn("{question}", model["prompt"])
        self.assertTrue(model["prompt"].startswith("<|im_start|>system"))
        self.assertEqual(self.server.get("/v1/models/pages").json["prompt"],
                         "<s><fake_token_around_image><image><fake_token_around_image>Question: {question} Answer:")
        self.assertEqual(self.server.get("/info").json["defaults"]["chat"], "qwen")

    def test_without_a_name_a_model_that_converses_answers(self):
        case = cases("qwen", "greedy")[-1]
        reply = self.server.post("/v1/chat/completions", {"messages": openai_messages(case["messages"])}).json
        self.assertEqual(reply["model"], "qwen")
        self.assertEqual(reply["choices"][0]["message"]["content"], case["texts"][0])

    def test_what_cannot_be_is_refused(self):
        def user(*content):
            return [{"role": "user", "content": list(content)}]
        words = {"type": "text", "text": "hi"}
        self.fails(self.chat("captioner", user(words)), 422, "unprocessable", "messages", "no user message has a picture")
        self.fails(self.chat("qwen", user({"type": "text", "text": "<|image_pad|>"})), 422, words="picture token")
        self.fails(self.chat("qwen", user(*[{"type": "image", "picture": "photo_97x61.jpg"}] * 20, words)), 422,
                   "input_too_long", words="fewer or smaller pictures")
        self.fails(self.chat("pages", user({"type": "text", "text": "<image>"})), 422, words="picture token")
        self.fails(self.chat("pages", user(*[{"type": "image", "picture": "photo_97x61.jpg"}] * 100, words)), 422,
                   "input_too_long", words="takes 200")
        self.fails(self.chat("qwen", [{"role": "tool", "content": "x"}]), 422, words="role")
        self.fails(self.chat("qwen", [{"role": "system", "content": [picture("photo_97x61.jpg")]}]), 422,
                   words="text is understood")
        self.fails(self.chat("qwen", [{"role": "user", "content": None}]), 400, "wrong_type")
        self.fails(self.chat("qwen", user({"type": "text", "text": "x" * 200000})), 422, "input_too_long", "messages")
        reply = self.chat("qwen", user(words), max_tokens=4000)  # cut at what the model has room for
        self.assertEqual(reply.status, 200, reply.body[:300])

    def test_thin_and_tiny_pictures(self):
        import struct
        import zlib

        def png(width, height):
            def chunk(kind, data):
                return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            rows = b"".join(b"\0" + b"\x80\x40\x20" * width for _ in range(height))
            head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
            return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        for width, height, status in (1, 1, 200), (200, 1, 200), (1, 200, 200), (201, 1, 422), (1, 4000, 422):
            reply = self.server.post("/v1/caption?model=qwen", png(width, height), {"Content-Type": "image/png"})
            self.assertEqual(reply.status, status, (width, height, reply.body[:300]))
            if status == 422:
                self.assertIn("200 times", reply.error["message"])

    def test_openai_client(self):
        python = python_with("openai==3.57.0")
        case = [case for case in cases("qwen", "greedy") if "turns" in case["case"]][0]
        code = """
import json, sys
from openai import OpenAI
url, messages = json.load(sys.stdin)
client = OpenAI(base_url=url + "/v1", api_key="none")
reply = client.chat.completions.create(model="qwen", messages=messages)
parts = client.chat.completions.create(model="qwen", messages=messages, stream=True)
streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
print(json.dumps([reply.choices[0].message.content, streamed, reply.usage.total_tokens]))
"""
        url = "http://%s:%d" % self.server.address
        done = subprocess.run([python, "-c", code], input=json.dumps([url, openai_messages(case["messages"])]),
                              capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        whole, streamed, _ = json.loads(done.stdout)
        self.assertEqual(whole, case["texts"][0])
        self.assertEqual(streamed, case["texts"][0])


if __name__ == "__main__":
    unittest.main()
