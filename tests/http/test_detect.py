"""test_detect.py: detection, grounding and segmentation over HTTP against the goldens, their options, and bad input."""
import base64
import json
import math
import os
import struct
import tempfile
import unittest
import zlib

from harness import DATA, IMAGES, ServerTest, image_b64, image_bytes, multipart, run

MODELS = {
    "owlvit": "owlvit-tiny",
    "owlv2": "owlv2-tiny",
    "clipseg": "clipseg-tiny",
    "clipseg-simple": "clipseg-simple-tiny",
    "clip": "clip-tiny",
}


def golden(name):
    with open(os.path.join(DATA, "goldens", name + ".json")) as file:
        return json.load(file)["cases"]


def golden_tensor(name, key):
    """(shape, bytes) of a uint8 tensor."""
    with open(os.path.join(DATA, "goldens", name + ".safetensors"), "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))[key]
        assert entry["dtype"] == "U8", entry
        start, end = entry["data_offsets"]
        file.seek(8 + size + start)
        return entry["shape"], file.read(end - start)


def read_grey_png(data):
    """(width, height, bytes) of an 8-bit grey PNG."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed = 8, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 0)
        if kind == b"IDAT":
            packed += body
        at += 12 + size
    raw, out, above = zlib.decompress(packed), bytearray(), bytes(width)
    for y in range(height):
        kind, row = raw[y * (width + 1)], bytearray(raw[y * (width + 1) + 1 : (y + 1) * (width + 1)])
        for x in range(width):
            a, b, c = row[x - 1] if x else 0, above[x], above[x - 1] if x else 0
            near = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[x] = (row[x] + (0, a, b, (a + b) // 2, near)[kind]) & 255
        out += row
        above = bytes(row)
    return width, height, bytes(out)


def mask_of(entry):
    head = "data:image/png;base64,"
    assert entry["mask"].startswith(head)
    width, height, pixels = read_grey_png(base64.b64decode(entry["mask"][len(head) :]))
    assert (width, height) == (entry["width"], entry["height"])
    return pixels


def cut(box, width, height):
    xmin, ymin, xmax, ymax = box
    return [min(max(v, 0), top) for v, top in ((xmin, width), (ymin, height), (xmax, width), (ymax, height))]


def corners(box):
    return [box[key] for key in ("xmin", "ymin", "xmax", "ymax")]


class Detect(ServerTest):
    models = MODELS

    def same_detections(self, got, want, case):
        """The same boxes, labels and scores; ours are sorted and cut at the picture's edges."""
        self.assertEqual(len(got), len(want), case["case"])
        scores = [row["score"] for row in got]
        self.assertEqual(scores, sorted(scores, reverse=True))
        left = list(want)
        for row in got:
            def distance(other):
                box = cut(other["box"], case["width"], case["height"])
                return max(abs(a - b) for a, b in zip(corners(row["box"]), box)) + abs(row["score"] - other["score"])
            best = min(left, key=distance)
            self.assertLess(distance(best), 1e-4 * max(case["width"], case["height"]), (case["case"], row))
            self.assertEqual(row["label"], best.get("label"), case["case"])
            left.remove(best)

    def test_queries_find_what_the_reference_finds(self):
        for model in ("owlvit", "owlv2"):
            for case in golden(MODELS[model]):
                if case["kind"] != "detect":
                    continue
                for result in case["results"]:
                    reply = self.server.post("/v1/detect", {
                        "image": image_b64(case["picture"]), "queries": case["queries"], "model": model,
                        "threshold": result["threshold"]})
                    self.assertEqual(reply.status, 200, reply.body[:300])
                    self.assertEqual(reply.json["model"], model)
                    self.same_detections(reply.json["detections"], result["detections"], case)
                self.assertEqual(reply.headers["X-Cache"], "hit")  # the picture, by the second threshold

    def test_examples_find_what_the_reference_finds(self):
        for model in ("owlvit", "owlv2"):
            for case in golden(MODELS[model]):
                if case["kind"] != "detect_by_example":
                    continue
                for i, result in enumerate(case["results"]):
                    body = {"image": image_b64(case["picture"]), "query_image": image_b64(case["query_picture"]),
                            "model": model}
                    if i:  # the first are the defaults
                        body.update(threshold=result["threshold"], nms_threshold=result["nms_threshold"])
                    reply = self.server.post("/v1/detect", body)
                    self.assertEqual(reply.status, 200, reply.body[:300])
                    self.same_detections(reply.json["detections"], result["detections"], case)

    def test_request_forms_are_equal(self):
        name = "photo_97x61.jpg"
        want = self.server.post("/v1/detect", {"image": image_b64(name), "queries": ["dog", "cat"]}).json["detections"]
        raw = self.server.post("/v1/detect?queries=dog&queries=cat", image_bytes(name), {"Content-Type": "image/jpeg"})
        self.assertEqual(raw.json["detections"], want)
        form = self.server.post("/v1/detect", *multipart(
            [("image", (name, image_bytes(name))), ("queries", "dog"), ("queries", "cat")]))
        self.assertEqual(form.json["detections"], want)
        example = self.server.post("/v1/detect", *multipart(
            [("image", (name, image_bytes(name))), ("query_image", ("q.jpg", image_bytes("wide_200x150.jpg")))]))
        self.assertTrue(example.json["detections"])

    def test_bounds_and_suppression(self):
        body = {"image": image_b64(), "queries": ["a", "b"], "threshold": 0, "model": "owlv2"}
        everything = self.server.post("/v1/detect", body).json
        self.assertEqual(len(everything["detections"]), 49)
        self.assertNotIn("warnings", everything)
        few = self.server.post("/v1/detect", {**body, "max_detections": 5}).json
        self.assertEqual(few["detections"], everything["detections"][:5])
        self.assertIn("49", few["warnings"][0])
        thin = self.server.post("/v1/detect", {**body, "nms_threshold": 0.2}).json["detections"]
        self.assertLess(len(thin), 49)
        self.assertEqual(thin[0], everything["detections"][0])
        for i, a in enumerate(thin):  # none covers another of its label in full
            for b in thin[:i]:
                if a["label"] == b["label"]:
                    self.assertNotEqual(a["box"], b["box"])
        self.assertEqual(self.server.post("/v1/detect", {**body, "threshold": 1}).json["detections"], [])

    def test_many_queries_and_long_ones(self):
        many = [f"thing {i}" for i in range(1000)]
        reply = self.server.post("/v1/detect", {"image": image_b64(), "queries": many, "threshold": 0.2})
        self.assertEqual(reply.status, 200, reply.body[:300])
        self.assertTrue({row["label"] for row in reply.json["detections"]} <= set(many))
        long = "a red circle " * 100
        for model, path, field in (("owlvit", "/v1/detect", "queries"), ("clipseg", "/v1/segment", "prompts")):
            cut_one = self.server.post(path, {"image": image_b64(), field: [long], "model": model})
            self.assertEqual(cut_one.status, 200, cut_one.body[:300])
            self.assertEqual(len(cut_one.json["warnings"]), 1)
            self.assertIn(field, cut_one.json["warnings"][0])

    def test_ground_is_the_best_box(self):
        for model in ("owlvit", "owlv2"):
            body = {"image": image_b64("wide_200x150.jpg"), "model": model}
            box = self.server.post("/v1/ground", {**body, "expression": "a red circle"})
            self.assertEqual(box.status, 200, box.body)
            found = self.server.post("/v1/detect", {**body, "queries": ["a red circle"], "threshold": 0}).json
            self.assertEqual(box.json["box"], found["detections"][0]["box"])
            self.assertEqual(box.json["score"], found["detections"][0]["score"])
            self.assertNotIn("mask", box.json)

    def test_prompts_and_examples_have_the_reference_s_masks(self):
        for model in ("clipseg", "clipseg-simple"):
            checked = 0
            for case in golden(MODELS[model]):
                if case["kind"] not in ("segment", "segment_by_example") or "mask" not in case["tensors"]:
                    continue
                body = {"image": image_b64(case["picture"]), "model": model}
                if case["kind"] == "segment":
                    body["prompts"] = case["prompt"]
                else:
                    body["query_image"] = image_b64(case["query_picture"])
                reply = self.server.post("/v1/segment", body)
                self.assertEqual(reply.status, 200, reply.body[:300])
                (entry,) = reply.json["masks"]
                self.assertEqual(entry["prompt"], case.get("prompt"))
                shape, want = golden_tensor(MODELS[model], case["case"] + "/mask")
                self.assertEqual([entry["height"], entry["width"]], shape)
                self.assertEqual(shape, [case["height"], case["width"]])
                got = mask_of(entry)
                self.assertLessEqual(max(abs(a - b) for a, b in zip(got, want)), 1, case["case"])
                self.assertLessEqual(abs(entry["area"] - sum(v > 127 for v in want)), 2)
                if entry["area"]:
                    rows = [y for y in range(shape[0]) if any(v > 127 for v in want[y * shape[1] : (y + 1) * shape[1]])]
                    self.assertAlmostEqual(entry["box"]["ymin"], rows[0], delta=1)
                    self.assertAlmostEqual(entry["box"]["ymax"], rows[-1] + 1, delta=1)
                checked += 1
            self.assertGreater(checked, 5)

    def test_several_prompts_keep_their_order(self):
        prompts = ["star", "dog", "star"]
        masks = self.server.post("/v1/segment", {"image": image_b64(), "prompts": prompts}).json["masks"]
        self.assertEqual([row["prompt"] for row in masks], prompts)
        self.assertLessEqual(max(abs(a - b) for a, b in zip(mask_of(masks[0]), mask_of(masks[2]))), 1)
        for row in masks:
            single = self.server.post("/v1/segment", {"image": image_b64(), "prompts": [row["prompt"]]}).json["masks"]
            self.assertLessEqual(max(abs(a - b) for a, b in zip(mask_of(single[0]), mask_of(row))), 1)
        none = self.server.post("/v1/segment", {"image": image_b64(), "prompts": "dog", "threshold": 1}).json["masks"][0]
        self.assertEqual((none["area"], none["box"]), (0, None))

    def test_boxes_first_masks_inside(self):
        picture = image_b64("wide_200x150.jpg")
        body = {"image": picture, "queries": ["dog", "a red circle"], "threshold": 0.5, "model": "owlv2",
                "max_detections": 20}
        plain = self.server.post("/v1/detect", body).json
        masked = self.server.post("/v1/detect", {**body, "segment_model": "clipseg"})
        self.assertEqual(masked.status, 200, masked.body[:300])
        self.assertEqual(masked.json["model"], "owlv2")
        self.assertEqual(masked.json["segment_model"], "clipseg")
        self.assertTrue(plain["detections"])
        whole = {row["prompt"]: row for row in self.server.post(
            "/v1/segment", {"image": picture, "prompts": body["queries"], "model": "clipseg"}).json["masks"]}
        for row, want in zip(masked.json["detections"], plain["detections"], strict=True):
            mask = row.pop("mask")
            self.assertEqual(row, want)
            xmin, ymin, xmax, ymax = corners(row["box"])
            if mask is None:
                self.assertTrue(xmin == xmax or ymin == ymax)
                continue
            self.assertEqual((mask["x"], mask["y"]), (int(xmin), int(ymin)))
            got, full = mask_of(mask), mask_of(whole[row["label"]])
            for y in range(mask["height"]):
                line = full[(mask["y"] + y) * 200 + mask["x"] :][: mask["width"]]
                for a, b in zip(got[y * mask["width"] : (y + 1) * mask["width"]], line):
                    self.assertLessEqual(abs(a - b), 1)
        ground = self.server.post("/v1/ground", {"image": picture, "expression": "dog", "segment_model": "clipseg"})
        self.assertEqual(ground.status, 200, ground.body[:300])
        self.assertEqual(ground.json["segment_model"], "clipseg")
        mask_of(ground.json["mask"])
        example = self.server.post("/v1/detect", {"image": picture, "query_image": image_b64(), "model": "owlvit",
                                                  "segment_model": "clipseg-simple"})
        self.assertEqual(example.status, 200, example.body[:300])
        self.assertTrue(any(row["mask"] for row in example.json["detections"]))
        empty = self.server.post("/v1/detect", {**body, "threshold": 1, "segment_model": "clipseg"})
        self.assertEqual(empty.json["detections"], [])

    def test_masks_stay_inside_the_boxes(self):
        body = {"image": image_b64("wide_200x150.jpg"), "prompts": ["dog", "a red circle"], "model": "clipseg"}
        plain = self.server.post("/v1/segment", body).json["masks"]
        boxed = self.server.post("/v1/segment", {**body, "detect_model": "owlv2", "box_threshold": 0.9})
        self.assertEqual(boxed.status, 200, boxed.body[:300])
        self.assertEqual((boxed.json["model"], boxed.json["detect_model"]), ("clipseg", "owlv2"))
        found = self.server.post("/v1/detect", {"image": body["image"], "queries": body["prompts"], "threshold": 0.9,
                                                "model": "owlv2"}).json["detections"]
        self.assertTrue(found)
        for mask, whole in zip(boxed.json["masks"], plain, strict=True):
            boxes = [row["box"] for row in found if row["label"] == mask["prompt"]]
            self.assertEqual([row["box"] for row in mask["boxes"]], boxes)
            inside = [any(int(b["xmin"]) <= x < math.ceil(b["xmax"]) and int(b["ymin"]) <= y < math.ceil(b["ymax"])
                          for b in boxes) for y in range(150) for x in range(200)]
            for a, b, kept in zip(mask_of(mask), mask_of(whole), inside):
                self.assertLessEqual(abs(a - (b if kept else 0)), 1)
            self.assertLessEqual(mask["area"], whole["area"])
        example = self.server.post("/v1/segment", {"image": body["image"], "query_image": image_b64(),
                                                   "detect_model": "owlvit", "model": "clipseg-simple"})
        self.assertEqual(example.status, 200, example.body[:300])
        self.assertTrue(example.json["masks"][0]["boxes"])

    def test_bad_input(self):
        good = image_b64()
        rows = [
            # name, path, body, status, code, param, words
            ("no queries", "/v1/detect", {"image": good}, 400, "missing_field", "queries", "query_image"),
            ("zero queries", "/v1/detect", {"image": good, "queries": []}, 422, None, "queries", "empty"),
            ("an empty query", "/v1/detect", {"image": good, "queries": ["a", ""]}, 422, None, "queries", "entry 1"),
            ("too many", "/v1/detect", {"image": good, "queries": ["a"] * 1025}, None, None, "queries", "1024"),
            ("both", "/v1/detect", {"image": good, "queries": ["a"], "query_image": good}, 400, None, "query_image", ""),
            ("threshold", "/v1/detect", {"image": good, "queries": ["a"], "threshold": 1.5}, 400, "out_of_range",
             "threshold", ""),
            ("nms", "/v1/detect", {"image": good, "queries": ["a"], "nms_threshold": -1}, 400, "out_of_range",
             "nms_threshold", ""),
            ("max", "/v1/detect", {"image": good, "queries": ["a"], "max_detections": 0}, 400, "out_of_range",
             "max_detections", ""),
            ("broken example", "/v1/detect", {"image": good, "query_image": "AAAA"}, 422, None, "query_image", ""),
            ("other task", "/v1/detect", {"image": good, "queries": ["a"], "model": "clip"}, 422, "task_not_supported",
             "model", "owlvit"),
            ("segmenter", "/v1/detect", {"image": good, "queries": ["a"], "segment_model": "owlvit"}, 422,
             "task_not_supported", "segment_model", "clipseg"),
            ("no segmenter", "/v1/detect", {"image": good, "queries": ["a"], "segment_model": "x"}, 404,
             "model_not_found", "segment_model", "clipseg"),
            ("empty segmenter", "/v1/ground", {"image": good, "expression": "a", "segment_model": ""}, 422, None,
             "segment_model", ""),
            ("no expression", "/v1/ground", {"image": good}, 400, "missing_field", "expression", ""),
            ("empty expression", "/v1/ground", {"image": good, "expression": ""}, 422, None, "expression", ""),
            ("ground by clip", "/v1/ground", {"image": good, "expression": "a", "model": "clip"}, 422,
             "task_not_supported", "model", "owlv2"),
            ("no prompts", "/v1/segment", {"image": good}, 400, "missing_field", "prompts", ""),
            ("zero prompts", "/v1/segment", {"image": good, "prompts": []}, 422, None, "prompts", ""),
            ("empty prompt", "/v1/segment", {"image": good, "prompts": [""]}, 422, None, "prompts", ""),
            ("1,000 prompts", "/v1/segment", {"image": good, "prompts": ["a"] * 1000}, None, None, "prompts", "100"),
            ("both prompts", "/v1/segment", {"image": good, "prompts": "a", "query_image": good}, 400, None,
             "query_image", ""),
            ("no detector", "/v1/segment", {"image": good, "prompts": "a", "detect_model": "clipseg"}, 422,
             "task_not_supported", "detect_model", "owlvit"),
            ("empty detector", "/v1/segment", {"image": good, "prompts": "a", "detect_model": ""}, 422, None,
             "detect_model", ""),
            ("segment by owl", "/v1/segment", {"image": good, "prompts": "a", "model": "owlvit"}, 422,
             "task_not_supported", "model", "clipseg"),
        ]
        for name, path, body, status, code, param, words in rows:
            with self.subTest(name):
                reply = self.server.post(path, body)
                if status is None:
                    self.assertIn(reply.status, (400, 422), reply.body)
                self.fails(reply, status or reply.status, code, param, words)

    def test_odd_pictures(self):
        def grey(width, height):
            rows = (b"\0" + b"\x40" * 3 * width) * height
            def chunk(kind, data):
                return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                                    + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")).decode()
        for width, height in ((1, 1), (1, 3000), (3000, 1), (2, 2), (70000, 1)):
            for model in ("owlvit", "owlv2"):
                for queries in ({"queries": ["a"]}, {"query_image": image_b64("wide_200x150.jpg")},
                                {"query_image": grey(1, 1)}):
                    reply = self.server.post("/v1/detect", {"image": grey(width, height), "model": model, "threshold": 0,
                                                            "segment_model": "clipseg", **queries})
                    self.assertIn(reply.status, (200, 422), reply.body[:300])
                    if width < 65536:
                        self.assertEqual(reply.status, 200, reply.body[:300])
                    for row in reply.json.get("detections", ()):
                        xmin, ymin, xmax, ymax = corners(row["box"])
                        self.assertTrue(0 <= xmin <= xmax <= width and 0 <= ymin <= ymax <= height, row)
            reply = self.server.post("/v1/segment", {"image": grey(width, height), "prompts": ["a"]})
            self.assertEqual(reply.status, 200, reply.body[:300])
            self.assertEqual((reply.json["masks"][0]["width"], reply.json["masks"][0]["height"]), (width, height))


class Commands(unittest.TestCase):
    photo = os.path.join(IMAGES, "wide_200x150.jpg")
    models = [word for name in ("owlv2", "clipseg")
              for word in ("--model", f"{name}={DATA}/checkpoints/{MODELS[name]}")]

    def test_detect_and_segment_print_and_draw(self):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "found.png")
            lines = run("detect", self.photo, "dog", "a red circle", "--threshold", "0.2", "--max-detections", "3",
                        "--segment-model", "clipseg", "--draw", out, *self.models)[1].splitlines()
            self.assertEqual(len(lines), 3)
            score, xmin, ymin, xmax, ymax, *label = lines[0].split()
            self.assertIn(" ".join(label), ("dog", "a red circle"))
            self.assertLess(float(xmin), float(xmax))
            with open(out, "rb") as file:
                head = file.read(24)
            self.assertEqual(struct.unpack(">II", head[16:24]), (200, 150))
            lines = run("segment", self.photo, "dog", "star", "--draw", out, *self.models)[1].splitlines()
            self.assertEqual([line.split()[-1] for line in lines], ["dog", "star"])
            example = run("detect", self.photo, "--query-image", os.path.join(IMAGES, "photo_97x61.jpg"), "--json",
                          *self.models)[1]
            self.assertTrue(json.loads(example)["detections"])
            status, _, err = run("detect", self.photo, "dog", "--draw", os.path.join(folder, "no/where.png"),
                                 *self.models, check=False)
            self.assertEqual(status, 1)
            self.assertIn("where.png", err)
        self.assertEqual(run("detect", self.photo, *self.models, check=False)[0], 1)
        self.assertEqual(run("detect", *self.models, check=False)[0], 2)


if __name__ == "__main__":
    unittest.main()
