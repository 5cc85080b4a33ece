"""test_immich.py: POST /predict and GET /ping as an Immich server sends and reads them."""
import json
import unittest

from harness import ServerTest, image_b64, image_bytes


def form(entries, **fields):
    """The body that Immich's server makes (Node's FormData): a picture is an unnamed blob."""
    boundary = "----formdata-undici-012345678901"
    body = b""
    for name, value in [("entries", json.dumps(entries)), *fields.items()]:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            body += f'{head}; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode() + value
        else:
            body += f"{head}\r\n\r\n{value}".encode()
        body += b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


class Immich(ServerTest):
    def predict(self, entries, **fields):
        return self.server.post("/predict", *form(entries, **fields))

    def embedding(self, value):
        return self.server.post("/v1/embeddings", {"input": [value]}).json["data"][0]["embedding"]

    def test_ping(self):
        reply = self.server.get("/ping")
        self.assertEqual((reply.status, reply.body), (200, b"pong"))

    def test_visual(self):
        reply = self.predict({"clip": {"visual": {"modelName": "clip"}}}, image=image_bytes())
        self.assertEqual(reply.status, 200, reply.body)
        self.assertIsInstance(reply.json["clip"], str)
        self.assertEqual(json.loads(reply.json["clip"]), self.embedding({"image": image_b64()}))
        self.assertEqual((reply.json["imageWidth"], reply.json["imageHeight"]), (97, 61))
        self.assertNotIn("warnings", reply.json)

    def test_textual(self):
        entries = {"clip": {"textual": {"modelName": "immich-app/clip", "options": {"language": "en-GB"}}}}
        reply = self.predict(entries, text="a cat")
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(json.loads(reply.json["clip"]), self.embedding("a cat"))
        self.assertNotIn("imageWidth", reply.json)

    def test_another_model_name_gets_the_default_and_a_warning(self):
        reply = self.predict({"clip": {"textual": {"modelName": "ViT-B-32__openai"}}}, text="a cat")
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(json.loads(reply.json["clip"]), self.embedding("a cat"))
        self.assertIn("ViT-B-32__openai", reply.json["warnings"][0])

    def test_what_is_refused(self):
        visual = {"clip": {"visual": {"modelName": "clip"}}}
        faces = {"facial-recognition": {"detection": {"modelName": "buffalo_l", "options": {"minScore": 0.7}},
                                        "recognition": {"modelName": "buffalo_l"}}}
        ocr = {"ocr": {"detection": {"modelName": "PP-OCRv5"}, "recognition": {"modelName": "PP-OCRv5"}}}
        for entries, fields, status, word in (
                (faces, {"image": image_bytes()}, 422, "facial-recognition"),
                (ocr, {"image": image_bytes()}, 422, "ocr"),
                (visual, {"text": "a cat"}, 400, "image"),
                ({"clip": {"textual": {"modelName": "clip"}}}, {"image": image_bytes()}, 400, "text"),
                (visual, {"image": b"no picture"}, 422, "image"),
                ({"clip": {"textual": {"modelName": "captioner"}}}, {"text": "a"}, 422, "captioner"),
                ({"clip": {"visual": 5}}, {"image": image_bytes()}, 400, "modelName"),
                ({"clip": {"visual": {"modelName": 5}}}, {"image": image_bytes()}, 400, "modelName"),
                ({"clip": {"sideways": {"modelName": "clip"}}}, {"text": "a"}, 422, "visual"),
                ({"clip": {"visual": {}, "textual": {}}}, {"text": "a"}, 422, "one"),
                ({}, {"text": "a"}, 422, "clip")):
            with self.subTest(entries=entries, fields=list(fields)):
                reply = self.predict(entries, **fields)
                self.assertEqual(reply.status, status, reply.body)
                self.assertIn(word, reply.error["message"])
        self.assertEqual(self.server.post("/predict", *form([], text="a")).status, 400)


if __name__ == "__main__":
    unittest.main()
