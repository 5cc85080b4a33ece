"""eval_measures.py: tests/data/goldens/eval.json: made-up captions and boxes with the figures that the field's own
tools give them (pycocoevalcap, pycocotools). Words are lower case without punctuation, so that tokenizers don't matter."""
import contextlib
import io
import json
import os
import random

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "goldens", "eval.json")
WORDS = "a an the cat dog red blue big small sits on sofa field near two three of and".split()


def captions(rng):
    references, candidates = {}, {}
    for i in range(40):
        references[i] = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12))) for _ in range(rng.randint(1, 5))]
        words = rng.choice(references[i]).split()
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        candidates[i] = [" ".join(words)]
    with contextlib.redirect_stdout(io.StringIO()):
        cider = Cider().compute_score(references, candidates)[0]
        bleu = Bleu(4).compute_score(references, candidates, verbose=0)[0][3]
    rows = [{"candidate": candidates[i][0], "references": references[i]} for i in references]
    return {"rows": rows, "cider": float(cider), "bleu": float(bleu)}


def boxes(rng, images=20, labels=3):
    truth, found = [], []
    for image in range(images):
        for label in range(labels):
            for _ in range(rng.randint(0, 3)):
                box = [rng.uniform(0, 60), rng.uniform(0, 60), rng.uniform(5, 30), rng.uniform(5, 30)]
                truth.append((image, label, 0, box))
                if rng.random() < 0.8:
                    found.append((image, label, rng.random(), [v + rng.uniform(-3, 3) for v in box]))
            if rng.random() < 0.5:
                found.append((image, label, rng.random(), [rng.uniform(0, 60), rng.uniform(0, 60), 20, 20]))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(images)], "categories": [{"id": i} for i in range(labels)],
            "annotations": [{"id": k + 1, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
                            for k, (i, c, _, b) in enumerate(truth)]}
        coco.createIndex()
        result = coco.loadRes([{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, s, b in found])
        judge = COCOeval(coco, result, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()

    def corners(list_):
        return [[i, c, s, b[0], b[1], b[0] + b[2], b[1] + b[3]] for i, c, s, b in list_]

    return {"truth": corners(truth), "found": corners(found), "ap": float(judge.stats[0]), "ap50": float(judge.stats[1])}


rng = random.Random(5)
with open(OUT, "w") as file:
    json.dump({"captions": captions(rng), "boxes": boxes(rng)}, file)
