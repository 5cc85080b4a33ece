"""test_endpoints.py: what each endpoint promises, in each body form, against the checked-in goldens."""
import base64
import json
import math
import os
import struct
import unittest

from harness import DATA, ServerTest, image_b64, image_bytes, multipart, together


def golden(name):
    with open(os.path.join(DATA, "goldens", name + ".json")) as file:
        return json.load(file)


class Endpoints(ServerTest):
    def test_caption_is_the_same_in_all_body_forms(self):
        picture = image_bytes()
        body, headers = multipart([("image", ("a.jpg", picture)), ("max_tokens", "8")])
        replies = [
            self.server.post("/v1/caption", {"image": image_b64(), "max_tokens": 8}),
            self.server.post("/v1/caption", {"image": {"b64": image_b64()}, "max_tokens": 8}),
            self.server.post("/v1/caption", {"image": "data:image/jpeg;base64," + image_b64(), "max_tokens": 8}),
            self.server.post("/v1/caption", body, headers),
            self.server.post("/v1/caption?max_tokens=8", picture, {"Content-Type": "image/jpeg"}),
        ]
        for reply in replies:
            self.assertEqual(reply.status, 200, reply.body)
            self.assertEqual(reply.json["caption"], replies[0].json["caption"])
            self.assertEqual(reply.json["model"], "captioner")
            self.assertEqual(set(reply.json["timings"]),
                             {"queue_ms", "preprocess_ms", "forward_ms", "total_ms", "batch_size"})
            self.assertIn("total", reply.headers["Server-Timing"])
        self.assertTrue(replies[0].json["caption"])

    def test_caption_beams_samples_and_seeds(self):
        ask = lambda **fields: self.server.post("/v1/caption", {"image": image_b64(), **fields})
        beams = ask(num_beams=3, n=2).json
        self.assertEqual(len(beams["captions"]), 2)
        self.assertEqual(beams["captions"][0]["caption"], beams["caption"])
        self.assertGreaterEqual(beams["captions"][0]["score"], beams["captions"][1]["score"])
        first = ask(temperature=2.0, seed=7, n=4).json["captions"]
        self.assertEqual(first, ask(temperature=2.0, seed=7, n=4).json["captions"])
        self.assertGreater(len({c["caption"] for c in first}), 1)
        self.assertNotEqual(first, ask(temperature=2.0, seed=8, n=4).json["captions"])
        greedy = ask().json["caption"]
        self.assertEqual(greedy, ask(temperature=0).json["caption"])

    def test_vqa_answers(self):
        reply = self.server.post("/v1/vqa", {"image": image_b64(), "question": "what is it?"})
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.json["answer"], reply.json["answers"][0]["answer"])
        self.assertTrue(0 <= reply.json["score"] <= 1)
        raw = self.server.post("/v1/vqa?question=what+is+it%3F", image_bytes(), {"Content-Type": "image/jpeg"})
        self.assertEqual(raw.json["answer"], reply.json["answer"])

    def test_match_scores_each_text(self):
        texts = ["a cat", "two dogs on a red sofa", ""]
        reply = self.server.post("/v1/match", {"image": image_b64(), "texts": texts[:2]})
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(len(reply.json["scores"]), 2)
        self.assertEqual(len(reply.json["cosine"]), 2)
        for i, text in enumerate(texts[:2]):
            alone = self.server.post("/v1/match", {"image": image_b64(), "texts": text}).json
            self.assertAlmostEqual(alone["scores"][0], reply.json["scores"][i], places=5)
        self.assertTrue(all(0 <= s <= 1 for s in reply.json["scores"]))

    def test_classify_is_a_softmax_best_first(self):
        labels = ["cat", "dog", "red car"]
        reply = self.server.post("/v1/classify", {"image": image_b64(), "labels": labels})
        self.assertEqual(reply.status, 200, reply.body)
        scores = [row["score"] for row in reply.json["labels"]]
        self.assertAlmostEqual(sum(scores), 1, places=5)
        self.assertEqual(scores, sorted(scores, reverse=True))
        self.assertEqual({row["label"] for row in reply.json["labels"]}, set(labels))
        body, headers = multipart([("image", ("a.jpg", image_bytes()))] + [("labels", label) for label in labels])
        self.assertEqual(self.server.post("/v1/classify", body, headers).json["labels"], reply.json["labels"])

    def test_labels_and_pictures_are_computed_once(self):
        """The second question with the same labels costs the new picture only, and with the same picture nothing."""
        def classify(name, *labels):
            before = [self.server.metric(f"vlmd_feature_cache_{kind}_total", model="clip") for kind in ("hits", "misses")]
            reply = self.server.post("/v1/classify", {"image": image_b64(name), "labels": labels, "template": "once {}"})
            self.assertEqual(reply.status, 200, reply.body)
            after = [self.server.metric(f"vlmd_feature_cache_{kind}_total", model="clip") for kind in ("hits", "misses")]
            hits, misses = (now - then for now, then in zip(after, before))
            return hits, misses, reply.headers["X-Cache"], {each["label"]: each["score"] for each in reply.json["labels"]}

        labels = [f"thing {i}" for i in range(40)]
        hits, misses, cache, first = classify("exif6_60x90.jpg", *labels)
        self.assertEqual((misses, cache), (41, "miss"))
        self.assertEqual(classify("grey_64x48.jpg", *labels)[:3], (40, 1, "miss"))
        hits, misses, cache, again = classify("exif6_60x90.jpg", *labels)
        self.assertEqual((hits, misses, cache), (41, 0, "hit"))
        self.assertEqual(again, first)
        hits, misses, cache, _ = classify("exif6_60x90.jpg", *labels, "and another")
        self.assertEqual((hits, misses, cache), (41, 1, "hit"))

    def test_embeddings_as_bytes(self):
        inputs = ["a cat", {"image": image_b64()}, "a cat " * 200]
        plain = self.server.post("/v1/embeddings", {"input": inputs}).json
        vectors = [row["embedding"] for row in plain["data"]]
        accept = {"Accept": "application/octet-stream, */*;q=0.1"}
        for dtype, letter in (("f32", "f"), ("f16", "e")):
            reply = self.server.post("/v1/embeddings", {"input": inputs, "dtype": dtype}, accept)
            self.assertEqual((reply.status, reply.headers["Content-Type"]), (200, "application/octet-stream"))
            self.assertEqual(reply.headers["X-Embedding-Shape"], f"3,{len(vectors[0])}")
            self.assertEqual(reply.headers["X-Embedding-Dtype"], dtype)
            self.assertEqual(reply.headers["X-Embedding-Space"], plain["space"])
            self.assertEqual(reply.headers["X-Embedding-Truncated"], "1")
            n = len(vectors[0])
            for i, vector in enumerate(vectors):
                size = struct.calcsize(letter)
                got = struct.unpack_from(f"<{n}{letter}", reply.body, i * n * size)
                for a, b in zip(got, vector):
                    self.assertAlmostEqual(a, b, delta=1e-6 if dtype == "f32" else abs(b) * 2**-10 + 1e-6)
            self.assertEqual(len(reply.body), 3 * n * struct.calcsize(letter))
        short = self.server.post("/v1/embeddings?dimensions=8&dtype=f16", image_bytes(),
                                 {"Content-Type": "image/jpeg", "Accept": "application/octet-stream"})
        self.assertEqual((len(short.body), short.headers["X-Embedding-Shape"]), (16, "1,8"))
        for unwanted in ("*/*", "application/octet-stream;q=0", "application/json, application/octet-stream",
                         "application/octet-streams"):
            reply = self.server.post("/v1/embeddings", {"input": "a cat"}, {"Accept": unwanted})
            self.assertEqual(reply.headers["Content-Type"], "application/json", unwanted)
        broken = self.server.post("/v1/embeddings", {"input": ["a cat", {"image": "AAAA"}]}, accept)
        self.fails(broken, 422, param="input[1]")
        self.assertEqual(broken.headers["Content-Type"], "application/json")

    def test_embeddings_are_openais_and_normalised(self):
        inputs = ["a cat", {"text": "a cat"}, {"image": image_b64()}]
        reply = self.server.post("/v1/embeddings", {"input": inputs})
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.json["object"], "list")
        vectors = [row["embedding"] for row in reply.json["data"]]
        self.assertEqual([row["index"] for row in reply.json["data"]], [0, 1, 2])
        self.assertEqual(vectors[0], vectors[1])
        for vector in vectors:
            self.assertAlmostEqual(math.sqrt(sum(x * x for x in vector)), 1, places=5)
        self.assertIn("clip@", reply.json["space"])
        packed = self.server.post("/v1/embeddings", {"input": "a cat", "encoding_format": "base64"}).json
        raw = base64.b64decode(packed["data"][0]["embedding"])
        for a, b in zip(struct.unpack(f"<{len(raw) // 4}f", raw), vectors[0]):
            self.assertAlmostEqual(a, b, places=6)
        half = self.server.post("/v1/embeddings", {"input": "a cat", "encoding_format": "base64", "dtype": "f16"}).json
        self.assertEqual(struct.unpack(f"<{len(vectors[0])}e", base64.b64decode(half["data"][0]["embedding"])),
                         struct.unpack(f"<{len(vectors[0])}e", struct.pack(f"<{len(vectors[0])}e", *vectors[0])))
        self.fails(self.server.post("/v1/embeddings", {"input": "a cat", "dtype": "f16"}), 422, param="dtype", words="octet-stream")
        self.fails(self.server.post("/v1/embeddings", {"input": "a cat", "dtype": "f64"}), 400, param="dtype", words="f16")
        short = self.server.post("/v1/embeddings", {"input": "a cat", "dimensions": 8}).json["data"][0]["embedding"]
        self.assertEqual(len(short), 8)
        self.assertAlmostEqual(math.sqrt(sum(x * x for x in short)), 1, places=5)

    def test_a_broken_picture_leaves_the_others_alone(self):
        inputs = [{"image": image_b64()}, {"image": base64.b64encode(b"no picture").decode()}, "a cat"]
        reply = self.server.post("/v1/embeddings", {"input": inputs})
        self.assertEqual(reply.status, 200, reply.body)
        self.assertIn("error", reply.json["data"][1])
        self.assertEqual(len(reply.json["data"][0]["embedding"]), len(reply.json["data"][2]["embedding"]))

    def test_many_at_once_share_batches_and_answer_the_same(self):
        names = ["photo_97x61.jpg", "wide_200x150.jpg", "tall_33x120.png", "grey_64x48.jpg"]
        alone = [self.server.post("/v1/embeddings", {"input": [{"image": image_b64(n)}]}).json for n in names]
        # Without the cache in the way: every request has a picture of its own.
        def one(i):
            return self.server.post("/v1/caption", {"image": image_b64(names[i % 4]), "max_tokens": 10}).json
        replies = together(32, one)
        for i, reply in enumerate(replies):
            self.assertEqual(reply["caption"], replies[i % 4]["caption"])
        self.assertGreater(max(reply["timings"]["batch_size"] for reply in replies), 1)
        self.assertGreater(self.server.metric("vlmd_batch_size_count", model="captioner"), 0)
        at_most_one = self.server.metric("vlmd_batch_size_bucket", model="captioner", le="1")
        self.assertLess(at_most_one, self.server.metric("vlmd_batch_size_count", model="captioner"))
        again = together(8, lambda i: self.server.post("/v1/embeddings",
                                                       {"input": [{"image": image_b64(names[i % 4])}]}).json)
        for i, reply in enumerate(again):
            for a, b in zip(reply["data"][0]["embedding"], alone[i % 4]["data"][0]["embedding"]):
                self.assertAlmostEqual(a, b, places=5)

    def test_collections_from_making_to_dropping(self):
        request = self.server.request
        self.assertIn(request("PUT", "/v1/collections/my%20pets", {}).status, (200, 201))
        self.assertIn(request("PUT", "/v1/collections/my%20pets", {}).status, (200, 201))
        names = ["photo_97x61.jpg", "wide_200x150.jpg", "tall_33x120.png"]
        items = [{"id": n, "image": image_b64(n), "metadata": {"n": i}} for i, n in enumerate(names)]
        items.append({"id": "broken", "image": base64.b64encode(b"no").decode()})
        reply = request("POST", "/v1/collections/my%20pets/items", {"items": items})
        self.assertEqual((reply.json["added"], reply.json["updated"], len(reply.json["errors"])), (3, 0, 1))
        body, headers = multipart([("image", ("photo_97x61.jpg", image_bytes()))])
        reply = request("POST", "/v1/collections/my%20pets/items", body, headers)
        self.assertEqual((reply.json["added"], reply.json["updated"]), (0, 1))
        self.assertEqual(request("GET", "/v1/collections/my%20pets").json["count"], 3)
        found = request("POST", "/v1/collections/my%20pets/search", {"image": image_b64("wide_200x150.jpg")}).json
        self.assertEqual(found["results"][0]["id"], "wide_200x150.jpg")
        self.assertAlmostEqual(found["results"][0]["score"], 1, places=4)
        self.assertEqual(len(found["results"]), 3)
        by_text = request("POST", "/v1/collections/my%20pets/search",
                          {"text": "a cat", "top_k": 2, "filter": {"n": {"gte": 1}}}).json
        self.assertEqual({r["id"] for r in by_text["results"]}, {"wide_200x150.jpg", "tall_33x120.png"})
        several = request("POST", "/v1/collections/my%20pets/search", {"top_k": 1, "queries": [
            {"image": image_b64("wide_200x150.jpg")},
            [{"image": image_b64("tall_33x120.png")}, {"text": "a cat", "weight": -0.01}]]}).json["queries"]
        self.assertEqual([one["results"][0]["id"] for one in several], ["wide_200x150.jpg", "tall_33x120.png"])
        alike = request("POST", "/v1/collections/my%20pets/duplicates", {"min_score": -1}).json
        self.assertEqual([len(group["items"]) for group in alike["groups"]], [3])
        ranked = request("POST", "/v1/collections/my%20pets/search", {"text": "a cat", "rerank": True})
        self.assertEqual(ranked.status, 200, ranked.body)
        self.assertEqual(len(ranked.json["results"]), 3)
        self.assertEqual(request("GET", "/v1/collections/my%20pets/items/tall_33x120.png").json["id"],
                         "tall_33x120.png")
        self.assertEqual(request("DELETE", "/v1/collections/my%20pets/items/tall_33x120.png").status, 200)
        self.fails(request("GET", "/v1/collections/my%20pets/items/tall_33x120.png"), 404)
        self.assertIn("my pets", [c["name"] for c in self.server.get("/v1/collections").json["collections"]])
        self.assertEqual(request("DELETE", "/v1/collections/my%20pets").status, 200)
        self.fails(request("GET", "/v1/collections/my%20pets"), 404)

    def test_vectors_made_elsewhere(self):
        request = self.server.request
        request("PUT", "/v1/collections/own", {"dimensions": 3})
        reply = request("POST", "/v1/collections/own/items",
                        {"items": [{"id": "x", "vector": [1, 0, 0]}, {"id": "y", "vector": [0, 2, 0]}]})
        self.assertEqual(reply.json["added"], 2, reply.body)
        found = request("POST", "/v1/collections/own/search", {"vector": [0.1, 1, 0], "top_k": 1}).json
        self.assertEqual(found["results"][0]["id"], "y")
        self.fails(request("POST", "/v1/collections/own/search", {"vector": [1, 0]}), 422)

    def test_metrics_know_each_part_of_a_request(self):
        self.server.post("/v1/caption", {"image": image_b64()})
        task = {"model": "captioner", "task": "caption"}
        for name, labels in (("request", {"path": "/v1/caption"}), ("preprocess", task), ("queue", task), ("forward", task),
                             ("time_to_first_token", task), ("inter_token", task), ("total", task)):
            self.assertGreater(self.server.metric(f"vlmd_{name}_seconds_count", **labels), 0, name)
            self.assertGreater(self.server.metric(f"vlmd_{name}_seconds_sum", **labels), 0, name)

    def test_models_info_version_health(self):
        models = {m["id"]: m for m in self.server.get("/v1/models").json["data"]}
        self.assertEqual(set(models), {"clip", "captioner", "answerer", "matcher"})
        self.assertEqual(models["captioner"]["architecture"], "BlipForConditionalGeneration")
        self.assertIn("caption", models["captioner"]["tasks"])
        self.assertIn("models", self.server.get("/info").json)
        self.assertIn("version", self.server.get("/version").json)
        for path in ("/healthz", "/health", "/livez", "/ping", "/readyz"):
            self.assertEqual(self.server.get(path).status, 200)
        self.assertEqual(self.server.request("HEAD", "/healthz").body, b"")
        openapi = self.server.get("/openapi.json").json
        self.assertEqual(openapi["openapi"][:3], "3.1")
        self.assertIn("/v1/caption", openapi["paths"])
        reply = openapi["paths"]["/v1/match"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        self.assertLessEqual({"scores", "warnings", "model", "timings"}, set(reply["properties"]))

    def test_goldens_through_http(self):
        """Texts that the reference generated come out of the server unchanged."""
        seen = 0
        for model, file in (("captioner", "blip-caption-tiny"), ("answerer", "blip-vqa-tiny")):
            for case in golden_generations(file):
                path = "/v1/caption" if model == "captioner" else "/v1/vqa"
                reply = self.server.post(path, {"image": image_b64(case["image"]), **case["fields"]})
                self.assertEqual(reply.status, 200, reply.body)
                text = reply.json["caption" if model == "captioner" else "answer"]
                self.assertEqual(text, case["text"], case)
                seen += 1
        self.assertGreater(seen, 5)


# A golden's generate() settings as the request fields that mean the same.
FIELDS = {"num_beams": "num_beams", "num_return_sequences": "n", "repetition_penalty": "repetition_penalty",
          "length_penalty": "length_penalty", "max_new_tokens": "max_tokens"}


def golden_generations(file):
    """The goldens' greedy and beam texts as requests: [{image, fields, text}]."""
    for case in golden(file)["cases"]:
        if case["kind"] not in ("caption", "vqa") or not set(case["settings"]) <= set(FIELDS):
            continue
        fields = {FIELDS[key]: value for key, value in case["settings"].items()}
        if case["kind"] == "vqa":
            fields["question"] = case["question"]
        elif case["prompt"]:
            fields["prompt"] = case["prompt"]
        yield {"image": case["picture"], "fields": fields, "text": case["texts_without_prompt"][0]}


if __name__ == "__main__":
    unittest.main()
