"""What transformers answers with the models that ship, about the sample pictures: tests/data/embedded.json, for test_embedded.py.

    python tests/reference/make_embedded.py

Run it again whenever weights in models/ change.
"""

import json
import os
import re
import sys

import torch
import transformers
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "models/train"))

from backends import Local  # noqa: E402

LABELS = ["bicycle", "butterfly", "cat", "circle", "dog", "elephant", "guitar", "pineapple", "rocket", "strawberry", "triangle"]
QUESTIONS = ["what is in the picture?", "how many things are there?", "what color is the background?"]


def main():
    torch.set_num_threads(1)
    models = Local(os.path.join(ROOT, "models"))
    folder = os.path.join(ROOT, "models/samples")
    names = sorted(os.listdir(folder))
    out = {"tools": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
           "command": "python tests/reference/make_embedded.py", "labels": LABELS, "pictures": []}
    pictures = [Image.open(os.path.join(folder, name)).convert("RGB") for name in names]
    top = (models.embed_pictures(pictures) @ models.embed_texts([f"a photo of a {label}" for label in LABELS]).T).argmax(1)
    for name, picture, text, best in zip(names, pictures, models.captions(pictures), top):
        kinds = [w[:-3] + "y" if w.endswith("ies") else w.removesuffix("s") for w in re.findall("[a-z]+", name.rsplit(".", 1)[0])]
        word = [w for w in kinds if w in LABELS][-1]
        said = name.rsplit(".", 1)[0].replace("-", " ")
        boxes = models.detect(picture, [word])
        mask = models.segment(picture, [word])[0]
        out["pictures"].append({
            "picture": name, "caption": text, "label": LABELS[int(best)],
            "answers": dict(zip(QUESTIONS, models.answers([(picture, q) for q in QUESTIONS]))),
            "match": {said: models.fits([(picture, said)])[0], "a clock below two snakes": models.fits([(picture, "a clock below two snakes")])[0]},
            "word": word, "score": round(boxes[0][0], 4), "box": [round(min(max(float(x), 0), side), 2) for x, side in zip(boxes[0][2], picture.size * 2)],
            "mask_share": round(float(mask.mean()), 4)})
    with open(os.path.join(ROOT, "tests/data/embedded.json"), "w", encoding="utf-8") as file:
        json.dump(out, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
