"""test_embedded.py: the models that ship answer truly about the sample pictures, through the server.

The bars are what the cards promise, less room for small samples; chance is far below each of them. And the server says what
transformers says with the same weights (tests/data/embedded.json, made by tests/reference/make_embedded.py)."""
import base64
import json
import os
import unittest
from unittest import mock
from urllib.parse import quote

from harness import DATA, ROOT, Server

SAMPLES = os.path.join(ROOT, "models/samples")

# What each sample shows, as its name says: the things, and one question with its answer.
SHOWN = {
    "a-bus-two-cars-and-a-bicycle.jpg": ["bus", "car", "bicycle"],
    "a-butterfly-and-two-tulips.jpg": ["butterfly", "tulip"],
    "a-cat-a-dog-and-a-rabbit.jpg": ["cat", "dog", "rabbit"],
    "a-dog.jpg": ["dog"],
    "a-guitar-and-a-trumpet.jpg": ["guitar", "trumpet"],
    "a-red-circle-right-of-a-green-triangle.png": ["circle", "triangle"],
    "a-rocket-below-the-moon.png": ["rocket", "moon"],
    "an-elephant-above-a-car.jpg": ["elephant", "car"],
    "three-strawberries-and-a-banana.png": ["strawberry", "banana"],
    "two-apples-a-pear-a-lemon-and-a-pineapple.jpg": ["apple", "pear", "lemon", "pineapple"],
    "two-cats-left-of-a-pizza.png": ["cat", "pizza"],
}
BACKGROUNDS = {
    "a-butterfly-and-two-tulips.jpg": "pink",
    "a-guitar-and-a-trumpet.jpg": "purple",
    "a-red-circle-right-of-a-green-triangle.png": "gray",
    "a-rocket-below-the-moon.png": "black",
    "an-elephant-above-a-car.jpg": "yellow",
    "three-strawberries-and-a-banana.png": "white",
    "two-cats-left-of-a-pizza.png": "blue",
}
QUESTIONS = [
    ("a-guitar-and-a-trumpet.jpg", "what is to the left of the trumpet?", "guitar"),
    ("a-red-circle-right-of-a-green-triangle.png", "what is to the right of the triangle?", "circle"),
    ("a-red-circle-right-of-a-green-triangle.png", "what color is the circle?", "red"),
    ("a-dog.jpg", "what is this?", "dog"),
]
# Where the middle of some things lies, in parts of the picture, as models/train/samples.py laid them out.
BOXES = {
    "a-bus-two-cars-and-a-bicycle.jpg": {"bus": (.29, .29), "bicycle": (.73, .74)},
    "a-cat-a-dog-and-a-rabbit.jpg": {"cat": (.24, .3), "dog": (.74, .33), "rabbit": (.48, .76)},
    "a-guitar-and-a-trumpet.jpg": {"guitar": (.28, .4), "trumpet": (.72, .62)},
    "a-rocket-below-the-moon.png": {"moon": (.5, .24), "rocket": (.5, .7)},
    "an-elephant-above-a-car.jpg": {"elephant": (.5, .27), "car": (.5, .76)},
    "two-apples-a-pear-a-lemon-and-a-pineapple.jpg": {"pear": (.5, .48), "lemon": (.78, .25), "pineapple": (.78, .72)},
}
SIDES = {"a-bus-two-cars-and-a-bicycle.jpg": 480, "a-cat-a-dog-and-a-rabbit.jpg": 256, "a-guitar-and-a-trumpet.jpg": 400,
         "a-rocket-below-the-moon.png": 384, "an-elephant-above-a-car.jpg": 640, "two-apples-a-pear-a-lemon-and-a-pineapple.jpg": 512}
PLURALS = {"strawberry": "strawberries", "butterfly": "butterflies"}


def picture(name):
    with open(os.path.join(SAMPLES, name), "rb") as file:
        return file.read()


def media(name):
    return {"Content-Type": "image/png" if name.endswith(".png") else "image/jpeg"}


class Embedded(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(models={})

    @classmethod
    def tearDownClass(cls):
        if cls.server.stop() != 0:
            raise AssertionError(cls.server.log()[-2000:])

    def post(self, path, name):
        reply = self.server.post(path, picture(name), media(name))
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json

    def test_every_task_has_a_model(self):
        tasks = {task for model in self.server.get("/v1/models").json["data"] for task in model["tasks"]}
        self.assertLessEqual({"caption", "vqa", "match", "classify", "embed", "detect", "segment"}, tasks)

    def test_labels(self):
        labels = sorted({thing for things in SHOWN.values() for thing in things})
        query = "&".join(f"labels={label}" for label in labels)
        right = 0
        for name, things in SHOWN.items():
            best = self.post("/v1/classify?" + query, name)["labels"][0]["label"]
            right += best in things
        print(f"labels: {right} of {len(SHOWN)}")
        self.assertGreaterEqual(right, LABELS_RIGHT)

    def test_captions_name_what_is_shown(self):
        named = total = 0
        for name, things in SHOWN.items():
            caption = self.post("/v1/caption", name)["caption"]
            for thing in things:
                named += thing in caption or PLURALS.get(thing, thing) in caption
                total += 1
            print(f"{name}: {caption}")
        print(f"captions: {named} of {total}")
        self.assertGreaterEqual(named, CAPTIONS_RIGHT)

    def test_answers(self):
        right = 0
        for name, color in BACKGROUNDS.items():
            right += self.post("/v1/vqa?question=what+color+is+the+background%3F", name)["answer"] == color
        for name, question, want in QUESTIONS:
            answer = self.post("/v1/vqa?question=" + question.replace(" ", "+").replace("?", "%3F"), name)["answer"]
            right += answer == want
        print(f"answers: {right} of {len(BACKGROUNDS) + len(QUESTIONS)}")
        self.assertGreaterEqual(right, ANSWERS_RIGHT)

    def test_search_finds_the_picture_by_its_words(self):
        self.server.request("PUT", "/v1/collections/samples", {})
        for name in SHOWN:
            reply = self.server.post(f"/v1/collections/samples/items?id={name}", picture(name), media(name))
            self.assertEqual(reply.json["added"], 1, reply.body)
        right = 0
        for name in SHOWN:
            text = name.rsplit(".", 1)[0].replace("-", " ")
            results = self.server.post("/v1/collections/samples/search", {"text": text, "top_k": 1}).json["results"]
            right += results[0]["id"] == name
        print(f"search: {right} of {len(SHOWN)}")
        self.assertGreaterEqual(right, SEARCH_RIGHT)

    def test_match_prefers_the_true_text(self):
        names = list(SHOWN)
        right = 0
        for i, name in enumerate(names):
            true = name.rsplit(".", 1)[0].replace("-", " ")
            other = names[(i + 3) % len(names)].rsplit(".", 1)[0].replace("-", " ")
            query = f"texts={true}&texts={other}".replace(" ", "+")
            scores = self.post("/v1/match?" + query, name)["scores"]
            right += scores[0] > scores[1]
        print(f"match: {right} of {len(SHOWN)}")
        self.assertGreaterEqual(right, MATCH_RIGHT)

    def test_boxes_lie_on_what_is_asked_for(self):
        right = total = 0
        for name, things in BOXES.items():
            query = "&".join(f"queries={thing}" for thing in things) + "&queries=toilet"
            found = self.post("/v1/detect?threshold=0.3&" + query, name)["detections"]
            for thing, (x, y) in things.items():
                total += 1
                best = next((d["box"] for d in found if d["label"] == thing), None)
                side = SIDES[name]
                if best:
                    middle = [(best["xmin"] + best["xmax"]) / 2 / side, (best["ymin"] + best["ymax"]) / 2 / side]
                    right += abs(middle[0] - x) < .08 and abs(middle[1] - y) < .08
            self.assertFalse([d for d in found if d["label"] == "toilet"])
        print(f"boxes: {right} of {total}")
        self.assertGreaterEqual(right, BOXES_RIGHT)

    def test_an_example_picture_finds_its_kind(self):
        with open(os.path.join(SAMPLES, "a-dog.jpg"), "rb") as file:
            example = base64.b64encode(file.read()).decode()
        scene = base64.b64encode(picture("a-cat-a-dog-and-a-rabbit.jpg")).decode()
        best = self.server.post("/v1/detect", {"image": scene, "query_image": example}).json["detections"][0]["box"]
        self.assertGreater((best["xmin"] + best["xmax"]) / 2, 128)        # the dog is at the top right, of 256 x 256
        self.assertLess((best["ymin"] + best["ymax"]) / 2, 128)

    def test_the_server_says_what_transformers_says(self):
        with open(os.path.join(DATA, "embedded.json"), encoding="utf-8") as file:
            recorded = json.load(file)
        exact = Server(models={}, dtype="f32")        # what transformers computes in; the default follows the files, bf16
        self.addCleanup(exact.stop)
        self.enterContext(mock.patch.object(self, "server", exact))
        labels = "&".join(f"labels={label}" for label in recorded["labels"])
        self.assertEqual({entry["picture"] for entry in recorded["pictures"]}, set(SHOWN))
        for entry in recorded["pictures"]:
            name = entry["picture"]
            with self.subTest(picture=name):
                self.assertEqual(self.post("/v1/caption", name)["caption"], entry["caption"])
                self.assertEqual(self.post("/v1/classify?" + labels, name)["labels"][0]["label"], entry["label"])
                for question, answer in entry["answers"].items():
                    self.assertEqual(self.post("/v1/vqa?question=" + quote(question), name)["answer"], answer)
                for text, fits in entry["match"].items():
                    self.assertEqual(self.post("/v1/match?texts=" + quote(text), name)["scores"][0] > .5, fits)
                best = self.post("/v1/detect?threshold=0&queries=" + entry["word"], name)["detections"][0]
                self.assertAlmostEqual(best["score"], entry["score"], delta=.001)
                for got, want in zip(best["box"].values(), entry["box"]):
                    self.assertAlmostEqual(got, want, delta=.1)
                mask = self.post("/v1/segment?prompts=" + entry["word"], name)["masks"][0]
                self.assertAlmostEqual(mask["area"] / mask["width"] / mask["height"], entry["mask_share"], delta=.002)


# Of 11 pictures, 25 things named, 11 questions, 14 boxes, 11 searches, 11 pairs of texts.
LABELS_RIGHT = 10
CAPTIONS_RIGHT = 22
ANSWERS_RIGHT = 10
SEARCH_RIGHT = 10
MATCH_RIGHT = 10
BOXES_RIGHT = 11

if __name__ == "__main__":
    unittest.main()
