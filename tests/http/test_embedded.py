"""test_embedded.py: the models that ship answer truly about the sample pictures, through the server.

The bars are what the cards promise, less room for small samples; chance is far below each of them."""
import os
import unittest

from harness import ROOT, Server

SAMPLES = os.path.join(ROOT, "models/samples")

# What each sample shows, as its name says: the things, and one question with its answer.
SHOWN = {
    "a-butterfly-and-two-tulips.jpg": ["butterfly", "tulip"],
    "a-dog.jpg": ["dog"],
    "a-guitar-and-a-trumpet.jpg": ["guitar", "trumpet"],
    "a-red-circle-right-of-a-green-triangle.png": ["circle", "triangle"],
    "a-rocket-below-the-moon.png": ["rocket", "moon"],
    "an-elephant-above-a-car.jpg": ["elephant", "car"],
    "three-strawberries-and-a-banana.png": ["strawberry", "banana"],
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
        self.assertLessEqual({"caption", "vqa", "match", "classify", "embed"}, tasks)

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


# Of 8 pictures, 15 things named, 11 questions, 8 searches, 8 pairs of texts.
LABELS_RIGHT = 5
CAPTIONS_RIGHT = 10
ANSWERS_RIGHT = 8
SEARCH_RIGHT = 7
MATCH_RIGHT = 7

if __name__ == "__main__":
    unittest.main()
