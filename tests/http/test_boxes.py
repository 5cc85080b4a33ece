"""test_boxes.py: detection and grounding by models that write their boxes (PaliGemma, Qwen2.5-VL): the goldens' boxes and scores, the
endpoints' options, masks, mixed with other work, and checkpoints and requests that it cannot be done with."""
import json
import math
import os
import shutil
import struct
import tempfile

from harness import DATA, Server, ServerTest, image_b64, run, together

MODELS = {"paligemma": "paligemma-tiny", "paligemma2": "paligemma2-tiny", "qwen": "qwen2.5-vl-boxes-tiny", "clipseg": "clipseg-tiny", "owlvit": "owlvit-tiny"}
WIDE = "wide_200x150.jpg"  # for "cat ; dog" paligemma2-tiny writes:
BOXES = "<loc0256><loc0128><loc0512><loc0896> cat ; <loc0000><loc0100><loc0700><loc1023> dog"
TALL = "tall_33x120.png"  # paligemma-tiny writes <loc0000><loc0512><loc1023><loc0512> cat


def golden_run(name, case):
    """A case of a golden, and its logits in rows."""
    path = os.path.join(DATA, "goldens", name)
    with open(path + ".json") as file:
        (found,) = [each for each in json.load(file)["cases"] if each["case"] == case]
    with open(path + ".safetensors", "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))[case + "/logits"]
        n, width = entry["shape"]
        file.seek(8 + size + entry["data_offsets"][0])
        return found, [struct.unpack(f"<{width}f", file.read(4 * width)) for _ in range(n)]


class Boxes(ServerTest):
    models = MODELS

    def post(self, path, **body):
        reply = self.server.post(path, body)
        self.assertEqual(reply.status, 200, reply.body[:500])
        return reply.json

    def test_locations_are_boxes_of_the_picture(self):
        found = self.post("/v1/detect", image=image_b64(TALL), queries=["cat"], model="paligemma", threshold=0)
        self.assertEqual(found["model"], "paligemma")
        (row,) = found["detections"]
        self.assertEqual(row["label"], "cat")
        for key, want in {"xmin": 16.5, "ymin": 0, "xmax": 16.5, "ymax": 120 * 1023 / 1024}.items():
            self.assertAlmostEqual(row["box"][key], want, places=4)
        case, logits = golden_run("paligemma-tiny", f"caption:{TALL}:detect cat|greedy")
        ids = case["sequences"][0][len(case["start_ids"]):]
        sure = [row[i] - math.log(sum(math.exp(each) for each in row)) for row, i in zip(logits[:4], ids)]
        self.assertAlmostEqual(row["score"], math.exp(sum(sure) / 4), places=5)
        ground = self.post("/v1/ground", image=image_b64(TALL), expression="cat", model="paligemma")
        self.assertEqual((ground["box"], ground["score"]), (row["box"], row["score"]))

    def test_json_is_read_as_the_reference_reads_it(self):
        """A list in a code fence; one with damaged, unasked and cut off objects; none; one thing: text, boxes, scores."""
        with open(os.path.join(DATA, "goldens", "qwen2.5-vl-boxes-tiny.json")) as file:
            cases = json.load(file)["cases"]
        self.assertEqual([len(case["detections"]) for case in cases], [2, 1, 0, 1, 0])
        def ask(case):
            body = {"image": image_b64(case["picture"]), "model": "qwen"}
            if case["kind"] == "ground":
                return self.post("/v1/ground", **body, expression=case["queries"][0])
            return self.post("/v1/detect", **body, queries=case["queries"], threshold=0)
        for i, reply in enumerate(together(len(cases) * 3, lambda i: ask(cases[i % len(cases)]))):
            case = cases[i % len(cases)]
            want = sorted(case["detections"], key=lambda row: -row["score"])
            if case["kind"] == "ground":
                found = [{**reply, "label": case["queries"][0]}] if reply["box"] else []
            else:
                found = reply["detections"]
            self.assertEqual([row["label"] for row in found], [row["label"] for row in want])
            for got, row in zip(found, want):
                self.assertAlmostEqual(got["score"], row["score"], places=4)
                for key, value in row["box"].items():
                    self.assertAlmostEqual(got["box"][key], value, delta=1e-3, msg=case["case"])
        unasked = ask(cases[1])
        self.assertIn("not asked for", unasked["warnings"][0])

    def test_texts_are_bounded_and_say_so(self):
        server = Server({"qwen": "qwen2.5-vl-boxes-tiny"}, max_tokens=30)
        try:
            reply = server.post("/v1/detect", {"image": image_b64("wide_200x150.jpg"), "queries": ["cat", "red dog"]})
        finally:
            self.assertEqual(server.stop(), 0)
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.json["detections"], [])
        self.assertIn("cut after 30 tokens", reply.json["warnings"][0])

    def test_two_queries_are_asked_and_told_apart(self):
        body = {"image": image_b64(WIDE), "queries": ["cat", "dog"], "model": "paligemma2", "threshold": 0}
        rows = {row["label"]: row for row in self.post("/v1/detect", **body)["detections"]}
        self.assertEqual(set(rows), {"cat", "dog"})
        case, logits = golden_run("paligemma2-tiny", f"caption:{WIDE}:detect cat ; dog|greedy")
        self.assertEqual(case["texts_without_prompt"][0], BOXES)
        ids = case["sequences"][0][len(case["start_ids"]):]
        sure = [row[i] - math.log(sum(math.exp(each) for each in row)) for row, i in zip(logits, ids)]
        for label, at, (ymin, xmin, ymax, xmax) in (("cat", 0, (256, 128, 512, 896)), ("dog", 10, (0, 100, 700, 1023))):
            want = {"xmin": xmin * 200 / 1024, "ymin": ymin * 150 / 1024, "xmax": xmax * 200 / 1024, "ymax": ymax * 150 / 1024}
            for key, value in want.items():
                self.assertAlmostEqual(rows[label]["box"][key], value, places=4)
            self.assertAlmostEqual(rows[label]["score"], math.exp(sum(sure[at:at + 4]) / 4), places=4)
        ground = self.post("/v1/ground", image=body["image"], expression="cat ; dog", model="paligemma2")
        self.assertEqual(ground["box"], max(rows.values(), key=lambda row: row["score"])["box"])
        both = self.post("/v1/detect", **{**body, "nms_threshold": 0.1})["detections"]
        self.assertEqual(len(both), 2)  # they overlap, but are of two labels

    def test_a_config_as_the_first_published_ones(self):
        """Without layer_types, which then alternate."""
        with tempfile.TemporaryDirectory() as folder:
            plain = os.path.join(folder, "plain")
            shutil.copytree(os.path.join(DATA, "checkpoints", "paligemma2-tiny"), plain)
            path = os.path.join(plain, "config.json")
            with open(path) as file:
                config = json.load(file)
            del config["text_config"]["layer_types"]
            with open(path, "w") as file:
                json.dump(config, file)
            found = json.loads(run("detect", os.path.join(DATA, "images", WIDE), "cat", "dog", "--json", "--model", plain)[1])
        want = self.post("/v1/detect", image=image_b64(WIDE), queries=["cat", "dog"], model="paligemma2")
        self.assertEqual(found["detections"], want["detections"])

    def test_thresholds_and_bounds_hold(self):
        body = {"image": image_b64(TALL), "queries": ["cat"], "model": "paligemma"}
        (row,) = self.post("/v1/detect", **body)["detections"]
        self.assertEqual(self.post("/v1/detect", **body, threshold=row["score"] + 0.001)["detections"], [])
        self.assertEqual(self.post("/v1/detect", **body, threshold=row["score"] - 0.001)["detections"], [row])
        self.assertEqual(self.post("/v1/detect", **body, nms_threshold=0, max_detections=1)["detections"], [row])

    def test_masks_follow_written_boxes(self):
        reply = self.post("/v1/detect", image=image_b64(TALL), queries=["cat"], model="paligemma", segment_model="clipseg")
        self.assertEqual((reply["model"], reply["segment_model"]), ("paligemma", "clipseg"))
        mask = reply["detections"][0]["mask"]
        self.assertEqual([mask[key] for key in ("x", "y", "width", "height")], [16, 0, 1, 120])
        reply = self.post("/v1/segment", image=image_b64(TALL), prompts=["cat"], model="clipseg", detect_model="paligemma")
        self.assertEqual(len(reply["masks"][0]["boxes"]), 1)

    def test_a_text_without_boxes_is_no_fault(self):
        body = {"image": image_b64("photo_97x61.jpg"), "model": "paligemma"}
        self.assertEqual(self.post("/v1/detect", **body, queries=["x"], threshold=0)["detections"], [])
        ground = self.post("/v1/ground", **body, expression="x", segment_model="clipseg")
        self.assertEqual((ground["box"], ground["score"]), (None, 0))
        self.assertNotIn("mask", ground)

    def test_at_once_with_other_work_it_is_the_same(self):
        asked = [("/v1/detect", {"image": image_b64(TALL), "queries": ["cat"], "model": "paligemma"}),
                 ("/v1/ground", {"image": image_b64(TALL), "expression": "cat", "model": "paligemma"}),
                 ("/v1/caption", {"image": image_b64("photo_97x61.jpg"), "model": "paligemma"}),
                 ("/v1/detect", {"image": image_b64(TALL), "queries": ["cat"], "model": "owlvit"})] * 6
        def answer(row):
            reply = self.post(row[0], **row[1])
            return {key: reply.get(key) for key in ("detections", "box", "caption")}
        want = [answer(row) for row in asked[:4]]
        for i, got in enumerate(together(len(asked), lambda i: answer(asked[i]))):
            for key, value in want[i % 4].items():
                if key == "detections" and value:
                    self.assertEqual([row["label"] for row in got[key]], [row["label"] for row in value])
                    for a, b in zip(got[key], value):
                        self.assertAlmostEqual(a["score"], b["score"], places=5)
                elif key != "box":
                    self.assertEqual(got[key], value)

    def test_what_it_cannot_do_is_refused(self):
        picture = image_b64(TALL)
        self.fails(self.server.post("/v1/detect", {"image": picture, "query_image": picture, "model": "paligemma"}), 422,
                   None, "query_image", "finds things by text only")
        self.fails(self.server.post("/v1/detect", {"image": picture, "queries": ["cat", ""], "model": "paligemma"}), 422,
                   None, "queries", "entry 1")
        self.fails(self.server.post("/v1/detect", {"image": picture, "queries": ["cat " * 100] * 1000, "model": "paligemma"}),
                   422, None, "queries", "asked for all of it at once")
        self.fails(self.server.post("/v1/ground", {"image": "AAAA", "expression": "cat", "model": "paligemma"}), 422, None,
                   "image")
        long = self.server.post("/v1/detect", {"image": picture, "queries": ["a red cat"] * 100, "model": "paligemma"})
        self.assertEqual(long.status, 200, long.body)
        self.assertIn("cut", long.json["warnings"][0])

    def test_the_task_is_listed(self):
        tasks = {row["id"]: row["tasks"] for row in self.server.get("/v1/models").json["data"]}
        self.assertEqual({"detect", "ground"} & set(tasks["paligemma"]), {"detect", "ground"})

    def test_a_checkpoint_without_locations_has_no_such_task(self):
        with tempfile.TemporaryDirectory() as folder:
            plain = os.path.join(folder, "plain")
            shutil.copytree(os.path.join(DATA, "checkpoints", "paligemma-tiny"), plain)
            path = os.path.join(plain, "tokenizer.json")
            with open(path) as file:
                tokenizer = json.load(file)
            tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if not t["content"].startswith("<loc")]
            with open(path, "w") as file:
                json.dump(tokenizer, file)
            tasks = [line.split() for line in run("inspect", plain)[1].splitlines() if line.startswith("tasks")]
            self.assertEqual(tasks, [["tasks", "caption,vqa"]])
            status, _, err = run("detect", os.path.join(DATA, "images", TALL), "cat", "--model", plain, check=False)
            self.assertEqual(status, 1)
            self.assertIn("detect", err)

    def test_the_command_draws_them(self):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "found.png")
            lines = run("detect", os.path.join(DATA, "images", TALL), "cat", "--draw", out, "--model",
                        os.path.join(DATA, "checkpoints", "paligemma-tiny"))[1].splitlines()
            self.assertEqual(lines[0].split()[-1], "cat")
            self.assertGreater(os.path.getsize(out), 100)


if __name__ == "__main__":
    import unittest

    unittest.main()
