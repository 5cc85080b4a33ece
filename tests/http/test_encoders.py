"""test_encoders.py: OpenCLIP's layout, CLIP's kin, masked words and pairs of pictures over HTTP, against the goldens."""
import json
import os
import shutil
import struct
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor

from harness import DATA, ServerTest, image_b64, image_bytes, multipart, run

MODELS = {
    "clip": "clip-tiny",
    "resnet": "openclip-rn-tiny",
    "vit": "openclip-vit-tiny",
    "roberta": "openclip-roberta-tiny",
    "naflex": "siglip2-naflex-tiny",
    "pictures": "clip-vision-tiny",
    "texts": "clip-text-tiny",
    "metaclip2": "metaclip2-tiny",
    "chinese": "chinese-clip-tiny",
    "altclip": "altclip-tiny",
    "siglip": "siglip-tiny",
    "answerer": "vilt-vqa-tiny",
    "matcher": "vilt-itr-tiny",
    "blip-caption": "blip-caption-tiny",
    "blip-vqa": "blip-vqa-tiny",
    "blip-itm": "blip-itm-tiny",
    "blip2": "blip2-itm-tiny",
    "owlvit": "owlvit-tiny",
    "clipseg": "clipseg-tiny",
    "git": "git-tiny",
    "vit-gpt2": "vit-gpt2-tiny",
    "magic": "magic-tiny",
    "paligemma": "paligemma-tiny",
    "paligemma2": "paligemma2-tiny",
    "filler": "vilt-mlm-tiny",
    "reasoner": "vilt-nlvr2-tiny",
}


DUAL_ENCODERS = ("resnet", "vit", "roberta", "naflex", "metaclip2", "chinese", "altclip")


def golden(name):
    with open(os.path.join(DATA, "goldens", name + ".json")) as file:
        return json.load(file)["cases"]


def cases(name, kind):
    found = [case for case in golden(name) if case["kind"] == kind]
    assert found, (name, kind)
    return found


def golden_floats(name, key):
    with open(os.path.join(DATA, "goldens", name + ".safetensors"), "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))[key]
        start, end = entry["data_offsets"]
        file.seek(8 + size + start)
        return list(struct.unpack(f"<{(end - start) // 4}f", file.read(end - start)))


class Encoders(ServerTest):
    models = MODELS

    def test_dual_encoders_embed_as_the_reference(self):
        for model in DUAL_ENCODERS:
            name = MODELS[model]
            for case in cases(name, "image"):
                reply = self.server.post(
                    "/v1/embeddings", {"model": model, "input": [{"image": image_b64(case["picture"])}]})
                self.assertEqual(reply.status, 200, reply.body)
                self.compare(reply.json["data"][0]["embedding"], golden_floats(name, case["case"] + "/image_embeds"))
            for case in cases(name, "text"):
                if not case["text"]:
                    continue
                reply = self.server.post("/v1/embeddings", {"model": model, "input": case["text"]})
                self.assertEqual(reply.status, 200, reply.body)
                self.compare(reply.json["data"][0]["embedding"], golden_floats(name, case["case"] + "/text_embeds"))

    def compare(self, got, want):
        self.assertEqual(len(got), len(want))
        for a, b in zip(got, want):
            self.assertAlmostEqual(a, b, delta=1e-4)

    def test_dual_encoders_classify_as_the_reference(self):
        for model in DUAL_ENCODERS:
            for case in cases(MODELS[model], "classify"):
                reply = self.server.post("/v1/classify", {
                    "model": model, "image": image_b64(case["picture"]), "labels": case["labels"]})
                self.assertEqual(reply.status, 200, reply.body)
                for got, want in zip(reply.json["labels"], case["best_first"]):
                    self.assertEqual(got["label"], want["label"])
                    self.assertAlmostEqual(got["score"], want["score"], delta=1e-4)

    def test_dual_encoders_find_pictures_by_words(self):
        """The order of a collection's results is that of the reference's cosines."""
        for model in DUAL_ENCODERS:
            name = MODELS[model]
            pictures = {case["picture"]: golden_floats(name, case["case"] + "/image_embeds")
                        for case in cases(name, "image")}
            path = f"/v1/collections/by-{model}"
            self.assertEqual(self.server.request("PUT", path, {"model": model}).status, 201)
            added = self.server.post(path + "/items", {
                "items": [{"id": picture, "image": image_b64(picture)} for picture in pictures]})
            self.assertEqual(added.json["added"], len(pictures), added.body)
            case = cases(name, "text")[0]
            text = golden_floats(name, case["case"] + "/text_embeds")
            want = {picture: sum(a * b for a, b in zip(text, vector)) for picture, vector in pictures.items()}
            found = self.server.post(path + "/search", {"text": case["text"], "top_k": 99}).json["results"]
            self.assertEqual([hit["id"] for hit in found], sorted(want, key=want.get, reverse=True))
            for hit in found:
                self.assertAlmostEqual(hit["score"], want[hit["id"]], delta=1e-4)

    def test_masked_words_are_filled_one_by_one(self):
        for case in cases("vilt-mlm-tiny", "fill"):
            if not case["masks"]:
                continue
            body, headers = multipart([("image", ("a.jpg", image_bytes(case["picture"]))), ("text", case["text"])])
            for reply in (self.server.post("/v1/fill", {"image": image_b64(case["picture"]), "text": case["text"]}),
                          self.server.post("/v1/fill", body, headers)):
                self.assertEqual(reply.status, 200, reply.body)
                self.assertEqual(reply.json["model"], "filler")
                self.assertEqual(reply.json["text"], case["filled_one_by_one"])
                want = sorted(case["one_by_one"], key=lambda step: step["position"])
                self.assertEqual(len(reply.json["tokens"]), len(want))
                names = {i: t for m in case["masks"] for i, t in zip(m["ids"], m["tokens"])}
                for got, step in zip(reply.json["tokens"], want):
                    self.assertAlmostEqual(got["score"], step["score"], delta=1e-4)
                    if step["id"] in names:
                        self.assertEqual(got["token"], names[step["id"]])

    def test_a_tower_alone_embeds_its_half(self):
        for model, kind, other in (("pictures", "image", {"text": "a"}), ("texts", "text", {"image": image_b64()})):
            for case in cases(MODELS[model], kind):
                if case.get("text") == "":
                    continue
                given = {"image": image_b64(case["picture"])} if kind == "image" else {"text": case["text"]}
                reply = self.server.post("/v1/embeddings", {"model": model, "input": [given]})
                self.assertEqual(reply.status, 200, reply.body)
                self.compare(reply.json["data"][0]["embedding"],
                             golden_floats(MODELS[model], f"{case['case']}/{kind}_embeds"))
            self.fails(self.server.post("/v1/embeddings", {"model": model, "input": [other]}), 422, words=model)
            self.fails(self.server.post("/v1/classify", {"model": model, "image": image_b64(), "labels": ["a", "b"]}), 422,
                       "task_not_supported", "model", "clip")
            mixed = self.server.post("/v1/embeddings", {"model": model, "input": [given, other]}).json["data"]
            self.assertNotIn("error", mixed[0])
            self.assertIn("error", mixed[1])

    def test_blip2_matches_as_the_reference(self):
        found = cases("blip2-itm-tiny", "match")
        for picture in {case["picture"] for case in found}:
            of_it = [case for case in found if case["picture"] == picture]
            reply = self.server.post("/v1/match", {"model": "blip2", "image": image_b64(picture),
                                                   "texts": [case["text"] for case in of_it]})
            self.assertEqual(reply.status, 200, reply.body)
            for case, score, cosine in zip(of_it, reply.json["scores"], reply.json["cosine"], strict=True):
                self.assertAlmostEqual(score, case["probability"], delta=1e-4)
                self.assertAlmostEqual(cosine, case["cosine"], delta=1e-4)

    def test_captioners_write_what_the_reference_writes(self):
        """Greedy and with beams, with and without a prompt; GIT's answers come without their questions."""
        asked = 0
        for model in ("git", "vit-gpt2", "paligemma", "paligemma2"):
            for case in golden(MODELS[model]):
                if case.get("run") not in ("greedy", "beam3"):
                    continue
                field = "question" if case["kind"] == "vqa" else "prompt"
                body = {"model": model, "image": image_b64(case["picture"]), **case["settings"]}
                if case[field]:
                    body[field] = case[field]
                reply = self.server.post("/v1/" + case["kind"], body)
                self.assertEqual(reply.status, 200, reply.body)
                text = reply.json["answer" if case["kind"] == "vqa" else "caption"]
                self.assertEqual(text, case["texts_without_prompt"][0], case["case"])
                asked += 1
        self.assertGreater(asked, 30)

    def test_magic_is_guided_as_the_request_says(self):
        """Every run of the golden by request fields, all at once and streamed; what it cannot do, and what others cannot."""
        found = cases("magic-tiny", "caption")
        bodies = []
        for case in found:
            settings = {{"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}.get(k, k): v
                        for k, v in case["settings"].items()}
            bodies.append({"model": "magic", "image": image_b64(case["picture"]), "prompt": case["prompt"] or "", **settings})
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda body: self.server.post("/v1/caption", body), bodies))
        for case, reply in zip(found, replies, strict=True):
            self.assertEqual(reply.status, 200, reply.body)
            self.assertEqual(reply.json["caption"], case["texts_without_prompt"][0], case["case"])
        self.assertGreater(max(reply.json["timings"]["batch_size"] for reply in replies), 1)
        long = next(case for case in found if case["run"] == "long")
        text = long["texts_without_prompt"][0]
        reply = self.server.post("/v1/caption", {**bodies[found.index(long)], "stop": text[8:11]})
        self.assertEqual(reply.json["caption"], text[:text.index(text[8:11])].strip())
        streamed = self.server.post("/v1/caption", {**bodies[found.index(long)], "stream": True})
        self.assertEqual(streamed.status, 200)
        deltas = [json.loads(line[6:]) for line in streamed.body.decode().splitlines() if line.startswith("data: {")]
        self.assertEqual("".join(delta.get("delta", "") for delta in deltas), text)
        self.assertGreater(len(deltas), 10)
        plain = {"model": "magic", "image": image_b64()}
        self.fails(self.server.post("/v1/caption", {**plain, "num_beams": 2}), 422, words="num_beams")
        self.fails(self.server.post("/v1/caption", {**plain, "top_k": 65}), 400, words="64")
        self.fails(self.server.post("/v1/caption", {**plain, "top_k": 0}), 400, words="candidates")
        self.fails(self.server.post("/v1/caption", {**plain, "alpha": 1.5}), 400, words="alpha")
        self.fails(self.server.post("/v1/caption", {**plain, "model": "git", "beta": 1}), 422, words="MaGiC")
        self.fails(self.server.post("/v1/embeddings", {"model": "magic", "input": "a"}), 422, words="magic")
        sampled = self.server.post("/v1/caption", {**plain, "temperature": 0.5, "n": 3, "seed": 1})
        self.assertEqual(len(sampled.json["captions"]), 3)

    def test_long_texts_are_cut_with_a_warning(self):
        """300 tokens, wherever a text goes in: what the model takes of it is answered, and the reply says so."""
        long, picture = "star " * 300, image_b64()
        dual = ("clip", "resnet", "siglip", "chinese", "altclip")
        asked = [("/v1/embeddings", {"model": model, "input": ["a", long]}, "input[1]") for model in dual]
        asked += [("/v1/classify", {"model": model, "image": picture, "template": "{}",
                                     "labels": ["a", long]}, "labels") for model in dual]
        asked += [
            ("/v1/caption", {"model": "blip-caption", "image": picture, "prompt": long}, "prompt"),
            ("/v1/caption", {"model": "vit-gpt2", "image": picture, "prompt": long}, "prompt"),
            ("/v1/caption", {"model": "magic", "image": picture, "prompt": long}, "prompt"),
            ("/v1/vqa", {"model": "git", "image": picture, "question": long}, "question"),
            ("/v1/vqa", {"model": "blip-vqa", "image": picture, "question": long}, "question"),
            ("/v1/vqa", {"model": "answerer", "image": picture, "question": long}, "question"),
            ("/v1/vqa", {"model": "reasoner", "images": [picture, picture], "question": long}, "question"),
            ("/v1/match", {"model": "blip-itm", "image": picture, "texts": ["a", long]}, "texts"),
            ("/v1/match", {"model": "matcher", "image": picture, "texts": [long]}, "texts"),
            ("/v1/match", {"model": "blip2", "image": picture, "texts": [long]}, "texts"),
            ("/v1/fill", {"image": picture, "text": "[MASK] " + long}, "text"),
            ("/v1/detect", {"image": picture, "queries": [long]}, "queries"),
            ("/v1/ground", {"image": picture, "expression": long}, "expression"),
            ("/v1/segment", {"image": picture, "prompts": [long]}, "prompts"),
            ("/v1/collections/long/items", {"items": [{"id": "1", "text": long}]}, "items[0].text"),
            ("/v1/collections/long/search", {"text": long}, "text"),
            ("/v1/chat/completions", {"model": "blip-vqa", "messages": [{"role": "user", "content": [
                {"type": "text", "text": long},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + picture}}]}]}, "messages[0].content"),
        ]
        self.server.request("PUT", "/v1/collections/long", {"model": "clip"})
        for path, body, param in asked:
            with self.subTest(path=path, model=body.get("model")):
                reply = self.server.post(path, body)
                self.assertEqual(reply.status, 200, reply.body[:300])
                (warning,) = reply.json["warnings"]
                self.assertIn(f"'{param}': a text was cut to the ", warning)
                short = json.loads(json.dumps(body).replace(long.strip(), "star").replace(long, "star"))
                self.assertNotIn("warnings", self.server.post(path, short).json)

    def test_what_cannot_be_filled(self):
        ask = lambda **fields: self.server.post("/v1/fill", {"image": image_b64(), **fields})
        for fields, status, code, param in [
            ({"text": "no mask"}, 422, "unprocessable", "text"),
            ({"text": ""}, 422, "unprocessable", "text"),
            ({"text": "word " * 300 + "[MASK]"}, 422, "unprocessable", "text"),
            ({}, 400, "missing_field", "text"),
            ({"text": "a [MASK]", "model": "resnet"}, 422, "task_not_supported", "model"),
            ({"text": "a [MASK]", "model": "none"}, 404, "model_not_found", "model"),
        ]:
            reply = ask(**fields)
            self.assertEqual((reply.status, reply.error["code"], reply.error["param"]), (status, code, param), reply.body)
        self.assertIn("filler", ask(text="a [MASK]", model="resnet").error["message"])
        self.assertIn("[MASK]", ask(text="no mask").error["message"])

    def test_a_statement_about_two_pictures(self):
        for case in cases("vilt-nlvr2-tiny", "nlvr2"):
            reply = self.server.post("/v1/vqa", {
                "model": "reasoner", "images": [image_b64(name) for name in case["pictures"]],
                "question": case["text"]})
            self.assertEqual(reply.status, 200, reply.body)
            got = {answer["answer"]: answer["score"] for answer in reply.json["answers"]}
            self.assertAlmostEqual(sum(got.values()), 1, places=4)
            for label, score in case["scores"].items():
                self.assertAlmostEqual(got[label], score, delta=1e-4)
        for n in (1, 3):
            reply = self.server.post("/v1/vqa", {
                "model": "reasoner", "images": [image_b64()] * n, "question": "is it true?"})
            self.assertEqual(reply.status, 422, reply.body)

    def test_layouts_side_by_side(self):
        """A directory with both layouts; one that lacks its weights; options that we don't have."""
        source = os.path.join(DATA, "checkpoints", "openclip-vit-tiny")
        with tempfile.TemporaryDirectory() as root:
            both = os.path.join(root, "both")
            shutil.copytree(source, both)
            with open(os.path.join(both, "config.json"), "w") as file:
                json.dump({"architectures": ["CLIPModel"]}, file)  # its model.safetensors is not here
            self.assertIn("OpenCLIP", run("inspect", both)[1])

            with open(os.path.join(both, "open_clip_config.json")) as file:
                config = json.load(file)
            for part, key, value, word in [
                ("vision_cfg", "timm_model_name", "vit_base", "timm_model_name"),
                ("vision_cfg", "layers", [1, 2], "layers"),
                ("vision_cfg", "head_width", 7, "heads"),
                ("vision_cfg", "image_size", 0, "image_size"),
                ("vision_cfg", "image_size", 53, "positional_embedding"),
                ("text_cfg", "hf_model_name", "google/mt5-base", "hf_model_name"),
                ("text_cfg", "hf_model_name", "xlm-roberta-base", "text.transformer.embeddings"),
                ("text_cfg", "pool_type", "last", "pool_type"),
                ("text_cfg", "mlp_ratio", -1, "mlp_ratio"),
                ("text_cfg", "width", 41, "width"),
            ]:
                broken = json.loads(json.dumps(config))
                broken["model_cfg"][part][key] = value
                with open(os.path.join(both, "open_clip_config.json"), "w") as file:
                    json.dump(broken, file)
                status, out, _ = run("inspect", both, check=False)
                self.assertEqual(status, 1, (key, value))
                self.assertIn(word, out, (key, value))

            os.remove(os.path.join(both, "open_clip_model.safetensors"))
            status, _, err = run("inspect", both, check=False)
            self.assertEqual(status, 1)
            self.assertIn("open_clip_model.safetensors", err)


if __name__ == "__main__":
    unittest.main()
