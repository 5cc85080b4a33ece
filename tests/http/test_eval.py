"""test_eval.py: `vlmd eval` on sets whose truth is what the models themselves say, in part: so the figures are known."""
import base64
import json
import os
import struct
import tempfile
import unittest
import zlib

from harness import DATA, IMAGES, MODELS, run

PHOTO, WIDE = os.path.join(IMAGES, "photo_97x61.jpg"), os.path.join(IMAGES, "wide_200x150.jpg")
FINDERS = {"owl": "owlvit-tiny", "segmenter": "clipseg-tiny"}
ALL = [word for name, directory in {**MODELS, **FINDERS}.items()
       for word in ("--model", f"{name}={DATA}/checkpoints/{directory}")]


def grey_png(width, height, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    raw = b"".join(b"\0" + bytes(row) for row in rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


class Eval(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, rows, name="metadata.jsonl"):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        return path

    def report(self, rows, *options):
        path = self.write(rows)
        return json.loads(run("eval", path, "--json", *options, *ALL)[1])

    def test_vqa_counts_kinds_and_failures(self):
        answer = run("ask", PHOTO, "what is it?", *ALL)[1].strip()
        row = {"image": PHOTO, "question": "what is it?"}
        rows = [dict(row, answer="The " + answer.upper() + "!", kind="right"), dict(row, answer="zebra", kind="wrong"),
                dict(row, answers=[answer] * 2 + ["zebra"] * 8, kind="some"),
                {"image": "missing.jpg", "question": "what?", "answer": "x"}]
        out = os.path.join(self.folder, "rows.jsonl")
        report = self.report(rows, "--out", out)
        self.assertEqual((report["task"], report["rows"], report["failed"], report["model"]), ("vqa", 4, 1, "answerer"))
        some = (2 * 1 / 3 + 8 * 2 / 3) / 10
        self.assertAlmostEqual(report["figures"]["accuracy"], (1 + 0 + some) / 3, places=6)
        self.assertEqual(report["kinds"]["right"], {"rows": 1, "accuracy": 1.0})
        self.assertAlmostEqual(report["kinds"]["some"]["accuracy"], some, places=6)
        with open(out) as file:
            lines = [json.loads(line) for line in file]
        self.assertEqual(lines[0]["reply"]["answer"], answer)
        self.assertEqual([line["accuracy"] for line in lines[:2]], [1, 0])
        self.assertIsNone(lines[3]["accuracy"])
        text = run("eval", self.folder, "--limit", "1", *ALL)[1]  # a folder stands for its metadata.jsonl
        self.assertIn("vqa: 1 rows, 0 failed", text)
        self.assertIn("accuracy               1.0000", text)

    def test_classify_and_match(self):
        lines = run("classify", PHOTO, "cat", "dog", "pizza", *ALL)[1].splitlines()
        best, worst = lines[0].split("  ")[1], lines[2].split("  ")[1]
        labels = ["cat", "dog", "pizza"]
        report = self.report([{"file_name": PHOTO, "label": best, "labels": labels},
                              {"file_name": PHOTO, "label": worst, "labels": labels}])
        self.assertEqual(report["figures"], {"top-1": 0.5, "top-5": 1.0})
        texts = ["a cat", "a dog on a sofa", "blue"]
        scores = [float(line.split()[0]) for line in run("match", PHOTO, *texts, *ALL)[1].splitlines()]
        right = scores.index(max(scores))
        report = self.report([{"image": PHOTO, "texts": texts, "match": right},
                              {"image": PHOTO, "texts": texts, "match": (right + 1) % 3}])
        self.assertEqual(report["figures"], {"accuracy": 0.5})

    def test_captions_and_retrieval(self):
        own = [run("caption", path, *ALL)[1].strip() for path in (PHOTO, WIDE)]
        report = self.report([{"image": PHOTO, "captions": [own[0], "something else"]},
                              {"image": WIDE, "caption": own[1]}])
        self.assertEqual(report["task"], "caption")
        self.assertAlmostEqual(report["figures"]["BLEU-4"], 1, places=6)
        report = self.report([{"image": PHOTO, "caption": "a cat"}, {"image": WIDE, "caption": "a dog"}],
                             "--task", "retrieve")
        self.assertEqual(report["model"], "clip")
        self.assertEqual(report["figures"]["text to image R@5"], 1)
        self.assertIn(report["figures"]["text to image R@1"], (0, 0.5, 1))

    def test_detect_and_segment(self):
        found = json.loads(run("detect", PHOTO, "cat", "--threshold", "0.01", "--json", *ALL)[1])["detections"]
        box = found[0]["box"]
        far = {"xmin": 0, "ymin": 0, "xmax": 0.5, "ymax": 0.5}
        report = self.report([{"image": PHOTO, "boxes": [{"label": "cat", "box": box}]}])
        self.assertAlmostEqual(report["figures"]["AP50"], 1, places=6)
        report = self.report([{"image": PHOTO, "boxes": [{"label": "cat", "box": list(far.values())}]}])
        self.assertEqual(report["figures"], {"AP50": 0, "AP": 0})
        mask = json.loads(run("segment", PHOTO, "cat", "--json", *ALL)[1])["masks"][0]
        with open(os.path.join(self.folder, "same.png"), "wb") as file:
            file.write(base64.b64decode(mask["mask"].split(",")[1]))
        with open(os.path.join(self.folder, "all.png"), "wb") as file:
            file.write(grey_png(97, 61, [[255] * 97] * 61))
        report = self.report([{"image": PHOTO, "masks": [{"prompt": "cat", "mask": "same.png"}]},
                              {"image": PHOTO, "masks": [{"prompt": "cat", "mask": "all.png"}]}])
        area = mask["area"] / (97 * 61)
        self.assertAlmostEqual(report["figures"]["mIoU"], (1 + area) / 2, delta=0.02)

    def test_faults_are_sentences(self):
        for rows, words in (([], "no rows"), ([{"image": PHOTO}], "first row"), ([{"image": PHOTO, "label": 3}], "label"),
                            ([{"image": PHOTO, "boxes": [{"label": "cat"}]}], "boxes")):
            status, _, err = run("eval", self.write(rows), *ALL, check=False)
            self.assertEqual(status, 1, rows)
            self.assertIn(words, err)
        self.assertIn("line 1", run("eval", self.write([[]]), *ALL, check=False)[2])
        self.assertEqual(run("eval", "/nonexistent", *ALL, check=False)[0], 1)
        self.assertEqual(run("eval", self.write([{"image": PHOTO}]), "--limit", "-1", *ALL, check=False)[0], 2)
        self.assertIn("retrieve", run("eval", self.write([{"image": PHOTO}]), "--task", "sing", *ALL, check=False)[2])


if __name__ == "__main__":
    unittest.main()
