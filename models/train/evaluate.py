"""Measures the models on scenes whose seeds are never trained on, and on sets that are never trained on.

usage: python evaluate.py --art DIR (--models models/ | --server HOST:PORT) [--pictures 400] [--easy-vqa] [--out figures.json]
       python evaluate.py --art DIR --models models/ --server HOST:PORT --agree 200      do the two give the same answers?

DIR is what art.py wrote: sprites.npz, photos.npz; where fluent.npz (fluent.py) lies there, too, the same is measured on that
style, which no model ever saw.

Answers by question kind; captions that name every kind of thing shown (and no other), and with the right numbers; true and
almost-true statements told apart; retrieval of one of 100 pictures by its caption; naming of single things among all words; boxes
(average precision at an overlap of .5, over all boxes of all words together; each picture is asked for what it shows and for five
things that it does not show) and masks (mean overlap, over pictures and words shown). Chance levels are given beside the figures.
"""
import argparse
import json
import os

import numpy as np
from PIL import Image

import language
import things
from backends import Local, Remote, in_batches
from scenes import N_CLASSES, WORDS, Composer

SEED = 900_000_000          # training seeds are small lists; these are never drawn there


def vqa(backend, scenes, pictures, rng, per_kind):
    asked = []
    for kind, ask in language.QUESTIONS.items():
        n = 0
        for i in rng.permutation(len(scenes)):
            made = ask(scenes[i], rng)
            if made and n < per_kind:
                asked.append((kind, int(i), made[0], str(made[1])))
                n += 1
    figures, wrong = {}, []
    for (kind, _, question, answer), text in zip(asked, backend.answers([(pictures[i], q) for _, i, q, _ in asked])):
        entry = figures.setdefault(kind, {"right": 0, "n": 0, "often": {}})
        entry["n"] += 1
        entry["right"] += text == answer
        entry["often"][answer] = entry["often"].get(answer, 0) + 1
        if text != answer:
            wrong.append((kind, question, answer, text))
    print("some wrong answers:", *wrong[::max(1, len(wrong) // 10)], sep="\n  ")
    figures = {kind: {"right": e["right"] / e["n"], "commonest answer": max(e["often"].values()) / e["n"], "n": e["n"]} for kind, e in figures.items()}
    shares = {kind: share for kind, share in zip(language.QUESTIONS, language.SHARES) if kind in figures}
    figures["overall"] = {"right": sum(shares[k] * figures[k]["right"] for k in shares) / sum(shares.values()), "n": sum(f["n"] for f in figures.values())}
    return figures


def nouns():
    table = {}
    for i, word in enumerate(WORDS):
        table[word] = i
        table[things.plural(word)] = i
    return table


def caption(backend, scenes, pictures, rng):
    table, numbers = nouns(), {n: i for i, n in enumerate(language.NUMBERS)}
    all_named = exact = counted = found = present = 0
    texts = backend.captions(pictures)
    for scene, text in zip(scenes, texts):
        said, number = {}, 1
        for word in text.replace(",", " ").split():
            if word in numbers:
                number = numbers[word]
            elif word in ("a", "an"):
                number = 1
            elif word in table:
                said[table[word]] = said.get(table[word], 0) + number
        shown = {}
        for t in scene.things:
            shown[t.cls] = shown.get(t.cls, 0) + 1
        all_named += set(shown) <= set(said)
        exact += set(shown) == set(said)
        counted += shown == said
        found += len(set(shown) & set(said))
        present += len(shown)
    for scene, text in list(zip(scenes, texts))[:10]:
        print(f"  {text}   [{language.caption(scene, rng, plain=True)}]")
    n = len(scenes)
    return {"names every kind shown": all_named / n, "names exactly the kinds shown": exact / n,
            "kinds and numbers right": counted / n, "kinds found": found / present, "n": n}


def itm(backend, scenes, pictures, rng):
    texts = {"true": [language.caption(s, rng) for s in scenes], "almost true": [language.false_caption(s, rng) for s in scenes]}
    texts["of another picture"] = [language.caption(scenes[(i + 1) % len(scenes)], rng) for i in range(len(scenes))]
    return {kind + " judged right": float(np.mean([fits == (kind == "true") for fits in backend.fits(list(zip(pictures, said)))]))
            for kind, said in texts.items()}


def clip(backend, scenes, pictures, singles, single_pictures, rng):
    hits = []
    for part in in_batches(list(range(len(scenes))), 100):
        cosine = backend.embed_texts([language.caption(scenes[i], rng) for i in part]) @ backend.embed_pictures([pictures[i] for i in part]).T
        marks = [language.signature(scenes[i]) for i in part]
        hits += [marks[k] == marks[i] for i, k in enumerate(cosine.argmax(1))]
    labels = backend.embed_texts([f"a photo of {things.article(w)} {w}" for w in WORDS])
    order = np.argsort(-backend.embed_pictures(single_pictures) @ labels.T, 1)
    goal = np.array([[s.things[0].cls] for s in singles])
    return {"retrieval R@1 of 100": float(np.mean(hits)), "naming among all words": float((order[:, :1] == goal).mean()),
            "naming, among the first five": float((order[:, :5] == goal).any(1).mean()), "chance of naming": 1 / len(WORDS)}


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / max(1e-9, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def detection(backend, scenes, pictures, rng):
    asked, found = [], []
    for scene, picture in zip(scenes, pictures):
        kinds = sorted({t.cls for t in scene.things})
        asked.append(kinds + list(dict.fromkeys(c for c in rng.integers(N_CLASSES, size=5).tolist() if c not in kinds)))
        found.append(backend.detect(picture, [WORDS[c] for c in asked[-1]]))
    plain, recall, complete = precision(scenes, asked, found)
    apart = []
    for boxes in found:
        kept = []
        for box in boxes:
            if all(box[1] != other[1] or overlap(box[2], other[2]) <= .3 for other in kept):
                kept.append(box)
        apart.append(kept)
    return {"AP50": plain, "AP50 with nms_threshold 0.3": precision(scenes, asked, apart)[0], "things boxed right at any score": recall,
            "pictures with all things boxed": complete, "boxes": sum(len(s.things) for s in scenes)}


def precision(scenes, asked, found):
    """Average precision, the share of things that any box fits, the share of pictures in which all do."""
    marks, complete, total = [], [], sum(len(s.things) for s in scenes)
    for scene, kinds, boxes in zip(scenes, asked, found):
        left = list(scene.things)
        for score, query, box in boxes:
            fit = max((t for t in left if t.cls == kinds[query]), key=lambda t: overlap(t.box, box), default=None)
            hit = fit is not None and overlap(fit.box, box) >= .5
            if hit:
                left = [t for t in left if t is not fit]
            marks.append((score, hit))
        complete.append(not left)
    hits = np.array([hit for _, hit in sorted(marks, key=lambda m: -m[0])], float)
    recall, right = hits.cumsum() / total, hits.cumsum() / np.arange(1, len(hits) + 1)
    right = np.maximum.accumulate(right[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * right).sum()), float(hits.sum() / total), float(np.mean(complete))


def segmentation(backend, scenes, pictures):
    overlaps = []
    for scene, picture in zip(scenes, pictures):
        kinds = sorted({t.cls for t in scene.things})
        if not kinds:
            continue
        for cls, mask in zip(kinds, backend.segment(picture, [WORDS[c] for c in kinds])):
            want = np.isin(scene.owner, [k for k, t in enumerate(scene.things) if t.cls == cls])
            overlaps.append((mask & want).sum() / max(1, (mask | want).sum()))
    return {"mIoU": float(np.mean(overlaps)), "masks": len(overlaps)}


def easy_vqa(backend):
    import easyvqa
    pictures, asked = easyvqa.load("test")
    pictures = [Image.fromarray(p) for p in pictures]
    rows = [(pictures[i], q, a) for i, pairs in enumerate(asked) for q, a in pairs]
    return {"right": float(np.mean([text == a for text, (_, _, a) in zip(backend.answers([r[:2] for r in rows]), rows)])), "n": len(rows)}


def measure(backend, composer, n, per_kind):
    rng = np.random.default_rng(SEED)
    scenes, singles = [composer.compose(rng) for _ in range(n)], [composer.compose(rng, single=1.) for _ in range(n)]
    pictures, alone = ([Image.fromarray(s.pixels) for s in group] for group in (scenes, singles))
    figures = {}
    for task, name, parts in (("vqa", "vqa", lambda: vqa(backend, scenes, pictures, rng, per_kind)),
                              ("caption", "caption", lambda: caption(backend, scenes, pictures, rng)),
                              ("match", "itm", lambda: itm(backend, scenes, pictures, rng)),
                              ("embed", "clip", lambda: clip(backend, scenes, pictures, singles, alone, rng)),
                              ("detect", "detect", lambda: detection(backend, scenes, pictures, rng)),
                              ("segment", "segment", lambda: segmentation(backend, scenes, pictures))):
        if backend.has(task):
            figures[name] = parts()
    return figures


def agreement(local, remote, composer, n):
    """The share of n pictures for which both give the same: each text, top label, judgement, best box, mask (an overlap of .99)."""
    rng = np.random.default_rng(SEED + 1)
    scenes = [composer.compose(rng) for _ in range(n)]
    pictures = [Image.fromarray(s.pixels) for s in scenes]
    asked = [(picture, language.question(scene, rng)[1]) for picture, scene in zip(pictures, scenes)]
    said = [(picture, language.statement(scene, scenes[0], rng)[0]) for picture, scene in zip(pictures, scenes)]
    queries = [list(dict.fromkeys([WORDS[t.cls] for t in scene.things] + [WORDS[int(rng.integers(N_CLASSES))]])) for scene in scenes]
    labels = [f"a photo of a {w}" for w in WORDS]

    def top(backend):
        return (backend.embed_pictures(pictures) @ backend.embed_texts(labels).T).argmax(1).tolist()

    def best(backend):
        return [[(d[1], tuple(round(min(max(x, 0), p.width) / 2) for x in d[2])) for d in backend.detect(p, q)[:1]] for p, q in zip(pictures, queries)]

    def same_box(a, b):
        return len(a) == len(b) and all(x[0] == y[0] and np.abs(np.subtract(x[1], y[1])).max() <= 1 for x, y in zip(a, b))

    masks = [[backend.segment(p, q[:1])[0] for p, q in zip(pictures, queries)] for backend in (local, remote)]
    return {"captions": float(np.mean([a == b for a, b in zip(local.captions(pictures), remote.captions(pictures))])),
            "answers": float(np.mean([a == b for a, b in zip(local.answers(asked), remote.answers(asked))])),
            "judgements": float(np.mean([a == b for a, b in zip(local.fits(said), remote.fits(said))])),
            "top label": float(np.mean([a == b for a, b in zip(top(local), top(remote))])),
            "best box": float(np.mean([same_box(a, b) for a, b in zip(best(local), best(remote))])),
            "mask": float(np.mean([(a & b).sum() >= .99 * (a | b).sum() for a, b in zip(*masks)])), "pictures": n}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--art", required=True)
    parser.add_argument("--models")
    parser.add_argument("--server")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--per-kind", type=int, default=200)
    parser.add_argument("--agree", type=int, help="compare the server with transformers on so many pictures")
    parser.add_argument("--easy-vqa", action="store_true", help="easy-vqa's test split, too (PyPI easy-vqa)")
    parser.add_argument("--out")
    args = parser.parse_args()

    def art(name):
        path = os.path.join(args.art, name)
        return path if os.path.exists(path) else None

    composer = Composer(art("sprites.npz"), art("photos.npz"))
    if args.agree:
        figures = agreement(Local(args.models), Remote(args.server), composer, args.agree)
    else:
        backend = Remote(args.server) if args.server else Local(args.models)
        figures = measure(backend, composer, args.pictures, args.per_kind)
        if art("fluent.npz"):
            figures["unseen style"] = measure(backend, Composer(art("fluent.npz"), art("photos.npz")), args.pictures // 2, args.per_kind // 2)
        if args.easy_vqa and backend.has("vqa"):
            figures["easy-vqa"] = easy_vqa(backend)
    text = json.dumps(figures, indent=1)
    print(text)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
