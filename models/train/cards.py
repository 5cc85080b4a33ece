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
* Art: OpenMoji (CC BY-SA 4.0), Twemoji (CC BY 4.0), Noto Emoji (Apache 2.0), Tux Paint's stamps and desktop wallpapers of Debian (GPL, CC BY-SA){more}:
  see `../NOTICE.md`. Fluent Emoji was never used in training; it is the unseen style below.

## What it knows

{n} things, in the drawing styles of those three sets and {stamped} of them as photographed cut-outs, one to six in a picture, on plain, gradient,
striped, textured and photographic backgrounds; {shapes}
in the colours {colours}; numbers from one to six; left, right, above and below.

{words}

## Measured

{measured}

Pictures composed as in training, from seeds never trained on (`../train/evaluate.py`, transformers, f32 arithmetic on the bf16 weights).
*Unseen style*: the same scenes drawn with Fluent Emoji, a set that no training ever used.

## What it does not know

{limits}
"""

# Trained with the styles of icons.py, too.
MORE = {"vlmd-clip", "vlmd-detect"}
MORE_ART = ", later also\n  EmojiOne 1 and 2, Noto Emoji v1, FxEmoji and Streamline Emojis (CC BY, CC BY-SA, Apache 2.0)"

LIMITS = """* Anything else: real photographs, text in pictures, people, actions; drawings of a style far from those above. It has no way to say
  "I don't know" and answers such pictures with the nearest word it has.
* Words outside its vocabulary are read letter by letter and mean nothing to it.
* Small, crowded or half covered things are often taken for others of a like shape and colour; of numbers, those above
  two are the least sure."""


def percent(x):
    return f"{100 * x:.0f} %"


def percent1(x):
    return f"{100 * x:.1f} %"


def table(rows):
    """[(what, figure, the unseen style's figure or None)]"""
    return "\n".join(["| | trained styles | unseen style |", "|---|---|---|"] + [f"| {a} | {b} | {c if c is not None else ''} |" for a, b, c in rows])


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

    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "stamps.txt"), encoding="utf-8") as file:
        stamped = sum(" = " in line and not line.startswith("#") for line in file)

    def card(name, arch, tag, what, measured, more_limits=""):
        folder = os.path.join(args.models, name)
        path = os.path.join(folder, "model.safetensors")
        if not os.path.exists(path):
            return
        text = HEAD.format(name=name, what=what, arch=arch, tag=tag, vision=VISION_LAYERS, width=WIDTH, heads=HEADS, inner=VISION_INNER,
                           text=TEXT_LAYERS, tinner=TEXT_INNER, size=os.path.getsize(path) / 1e6, n=N_CLASSES - len(things.SHAPES),
                           shapes=", ".join(s + "s" if not s.endswith("s") else s + "es" for s in things.SHAPES),
                           colours=", ".join(things.COLOURS), words=words, measured=measured, stamped=stamped, limits=LIMITS + more_limits,
                           more=MORE_ART if name in MORE else "")
        with open(os.path.join(folder, "README.md"), "w", encoding="utf-8") as file:
            file.write(text)

    unseen = f.get("unseen style", {})

    def rows_of(part, *names):
        """One row for each (text, key): its percentage in both styles."""
        return [(text, percent(f[part][key]), percent(unseen[part][key]) if part in unseen else None) for text, key in names]

    if "vqa" in f:
        v, u = f["vqa"], unseen.get("vqa", {})
        rows = [(f"**{'all kinds, in the share they are trained in' if kind == 'overall' else kind}**" if kind == "overall" else
                 f"{kind} ({e['n']} questions; always the commonest answer: {percent(e['commonest answer'])})",
                 percent(e["right"]), percent(u[kind]["right"]) if kind in u else None) for kind, e in v.items()]
        if "easy-vqa" in f:
            rows.append((f"easy-vqa, its official test split ({f['easy-vqa']['n']:,} questions; its train split was trained on)", percent1(f["easy-vqa"]["right"]), None))
        weak = [k for k, e in v.items() if k != "overall" and e["right"] < e["commonest answer"] + .15]
        weak = f"\n* Hardly better than always giving the commonest answer: {', '.join(weak)}. Don't rely on these." if weak else ""
        card("vlmd-vqa", "BlipForQuestionAnswering", "visual-question-answering",
             "Answers questions about a picture in one word: `what is this?`, `which animal is in the picture?`, `what is to the left of the cat?`, `how many\n"
             "pizzas are there?`, `what color is the circle?`, `where is the dog?`, `is there a car?`, `are there more cats than dogs?`",
             table(rows), "\n* Questions worded otherwise than in `../train/language.py` may be misread. Answers are single words or digits." + weak)
    if "caption" in f:
        card("vlmd-caption", "BlipForConditionalGeneration", "image-to-text",
             "Says in one sentence what a picture shows: `two cats to the left of a pizza on a blue background`.",
             table(rows_of("caption", ("captions that name every kind of thing shown", "names every kind shown"),
                           ("captions that name these and no other", "names exactly the kinds shown"),
                           ("kinds and numbers all right", "kinds and numbers right"), ("kinds of things found, of all shown", "kinds found"))),
             "\n* With transformers pass `max_new_tokens=40`: the default of `generate()` cuts long captions.")
    if "itm" in f:
        card("vlmd-itm", "BlipForImageTextRetrieval", "zero-shot-image-classification",
             "Judges whether a sentence fits a picture (probability), and gives a cosine for quick retrieval.",
             table(rows_of("itm", ("true captions judged to fit", "true judged right"),
                           ("almost true captions (one thing, number, colour or side changed) judged not to fit", "almost true judged right"),
                           ("captions of another picture judged not to fit", "of another picture judged right"))))
    if "clip" in f:
        card("vlmd-clip", "CLIPModel", "zero-shot-image-classification",
             f"Embeds pictures and texts in one space ({WIDTH} dimensions): classification by labels, retrieval.",
             table(rows_of("clip", ("retrieval by caption, right picture first of 100", "retrieval R@1 of 100"),
                           (f"naming a single thing among all {len(WORDS)} words (chance {percent1(f['clip']['chance of naming'])})", "naming among all words"),
                           ("the right word among the first five", "naming, among the first five"))))
    if "detect" in f:
        card("vlmd-detect", "OwlViTForObjectDetection", "zero-shot-object-detection",
             "Finds what words, or an example picture, name: a box and a score for each.",
             table(rows_of("detect", ("average precision at an overlap of 0.5 (AP50), over all boxes together; each picture is asked for what it shows\n"
                                      "and for five other things".replace("\n", " "), "AP50"),
                           ("the same with `nms_threshold` 0.3", "AP50 with nms_threshold 0.3"),
                           ("things with a right box at any score", "things boxed right at any score"),
                           ("pictures in which everything has a right box", "pictures with all things boxed"))),
             "\n* Ask with the word alone (`cat`), in the singular or plural, or with `a photo of a cat`; a colour before a shape is understood (`red circle`).\n"
             "* One thing sometimes gets two boxes that overlap, the second of a lower score: ask with `nms_threshold` 0.3. Boxes may be off by a\n"
             "  tenth of the picture.")
    if "segment" in f:
        card("vlmd-segment", "CLIPSegForImageSegmentation", "image-segmentation",
             "Marks the pixels of what words, or an example picture, name.",
             table(rows_of("segment", ("mean overlap of the mask with the thing (mIoU), of what is shown", "mIoU"))),
             "\n* Asked for what is not there it may mark something of a like look; look at the probabilities.")


if __name__ == "__main__":
    main()
