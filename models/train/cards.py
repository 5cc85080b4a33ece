"""Writes the model cards (README.md of each directory) from the figures that evaluate.py measured.

usage: python cards.py --figures figures.json --models ..
"""
import argparse
import json
import os

import things
from scenes import N_CLASSES, WORDS
from towers import HEADS, TEXT_INNER, TEXT_LAYERS, VISION_INNER, VISION_LAYERS, WIDTH

HEAD = """---
license: cc-by-sa-4.0
language: en
pipeline_tag: {tag}
library_name: transformers
---

# {name}

{what}

It is one of the small models that vlmd ships, so that a first run shows true answers without a download. It was trained from nothing,
on pictures that the scripts in `../train` compose from openly licensed drawings; it is no general model.

* Architecture: `{arch}`, vision {vision} layers of width {width} ({heads} heads, MLP {inner}), pictures of 128x128 in patches of 16; text
  {text} layers of width {width} (MLP {tinner}). Weights bf16, {size:.1f} MB. It loads with `from_pretrained`.
* Pictures are squeezed to 128x128 (bicubic), scaled to 0..1, normalised with CLIP's mean and deviation.
* Art: OpenMoji (CC BY-SA 4.0), Twemoji (CC BY 4.0), Noto Emoji (Apache 2.0): see `../NOTICE.md`. Fluent Emoji was never used.

## What it knows

{n} things, in the drawing styles of those three sets, one to six in a picture, on plain, gradient, striped and textured backgrounds; {shapes}
in the colours {colours}; numbers from one to six; left, right, above and below.

{words}

## Measured

{measured}

Pictures composed as in training, from seeds never trained on (`../train/evaluate.py`, transformers, f32 arithmetic on the bf16 weights).

## What it does not know

{limits}
"""

LIMITS = """* Anything else: photographs, text in pictures, people, actions, other drawing styles (Fluent Emoji was not even looked at). It has no way to say
  "I don't know" and answers such pictures with the nearest word it has.
* Words outside its vocabulary are read letter by letter and mean nothing to it.
* Small, crowded or half covered things are often taken for others of a like shape and colour; numbers above two and the way things lie to each
  other are often wrong."""


def percent(x):
    return f"{100 * x:.0f} %"


def table(rows):
    return "\n".join(["| | |", "|---|---|"] + [f"| {a} | {b} |" for a, b in rows])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--figures", required=True)
    parser.add_argument("--models", required=True)
    args = parser.parse_args()
    f = json.load(open(args.figures, encoding="utf-8"))
    by_category = {}
    for word, category, _ in things.load():
        by_category.setdefault(category, []).append(word)
    words = "\n".join(f"* {c}: {', '.join(w)}" for c, w in by_category.items() if c != "shape")

    def card(name, arch, tag, what, measured, more=""):
        folder = os.path.join(args.models, name)
        path = os.path.join(folder, "model.safetensors")
        if not os.path.exists(path):
            return
        text = HEAD.format(name=name, what=what, arch=arch, tag=tag, vision=VISION_LAYERS, width=WIDTH, heads=HEADS, inner=VISION_INNER,
                           text=TEXT_LAYERS, tinner=TEXT_INNER, size=os.path.getsize(path) / 1e6, n=N_CLASSES - len(things.SHAPES),
                           shapes=", ".join(s + "s" if not s.endswith("s") else s + "es" for s in things.SHAPES),
                           colours=", ".join(things.COLOURS), words=words, measured=measured, limits=LIMITS + more)
        with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as file:
            file.write(text)

    if "vqa" in f:
        rows = [("**all kinds, in the share they are trained in**", f"**{percent(f['vqa']['overall']['right'])}**")]
        rows += [(f"{kind} ({v['n']} questions)", f"{percent(v['right'])} (always the commonest answer: {percent(v['commonest answer'])})")
                 for kind, v in f["vqa"].items() if kind != "overall"]
        weak = [k for k, v in f["vqa"].items() if k != "overall" and v["right"] < v["commonest answer"] + .15]
        weak = f"\n* Hardly better than always giving the commonest answer: {', '.join(weak)}. Don't rely on these." if weak else ""
        card("vlmd-vqa", "BlipForQuestionAnswering", "visual-question-answering",
             "Answers questions about a picture in one word: `what is this?`, `which animal is in the picture?`, `what is to the left of the cat?`, `how many\n"
             "pizzas are there?`, `what color is the circle?`, `where is the dog?`, `is there a car?`, `are there more cats than dogs?`",
             table(rows), "\n* Questions worded otherwise than in `../train/language.py` may be misread. Answers are single words or digits." + weak)
    if "caption" in f:
        c = f["caption"]
        card("vlmd-caption", "BlipForConditionalGeneration", "image-to-text",
             "Says in one sentence what a picture shows: `two cats to the left of a pizza on a blue background`.",
             table([("captions that name every kind of thing shown", percent(c["names every kind shown"])),
                    ("captions that name these and no other", percent(c["names exactly the kinds shown"])),
                    ("kinds and numbers all right", percent(c["kinds and numbers right"])),
                    ("kinds of things found, of all shown", percent(c["kinds found"])), ("pictures", c["n"])]),
             "\n* With transformers pass `max_new_tokens=40`: the default of `generate()` cuts long captions.")
    if "itm" in f:
        i = f["itm"]
        card("vlmd-itm", "BlipForImageTextRetrieval", "zero-shot-image-classification",
             "Judges whether a sentence fits a picture (probability), and gives a cosine for quick retrieval.",
             table([("true captions judged to fit", percent(i["true judged right"])),
                    ("almost true captions (one thing, number, colour or side changed) judged not to fit", percent(i["almost true judged right"])),
                    ("captions of another picture judged not to fit", percent(i["of another picture judged right"])),
                    ("retrieval by cosine, right picture first of 100", percent(i["retrieval by cosine R@1 of 100"]))]))
    if "clip" in f:
        c = f["clip"]
        card("vlmd-clip", "CLIPModel", "zero-shot-image-classification",
             "Embeds pictures and texts in one space (128 dimensions): classification by labels, retrieval.",
             table([("retrieval by caption, right picture first of 100", percent(c["retrieval R@1 of 100"])),
                    (f"naming a single thing among all {len(WORDS)} words (chance {percent(c['chance of naming'])})", percent(c["naming among all words"])),
                    ("the right word among the first five", percent(c["naming, among the first five"]))]))


if __name__ == "__main__":
    main()
