"""Measures the exported models on scenes whose seeds are never trained on.

usage: python evaluate.py --sprites sprites.npz --models models/ [--pictures 400] [--out figures.json]

Runs transformers' own code on the directories as they are shipped (bf16 weights, f32 arithmetic):
answers by question kind; captions that name every kind of thing shown (and no other), and with the right
numbers; true and almost-true statements told apart; retrieval of one of 100 pictures by its caption;
naming of single things among all words. Chance levels are printed beside the figures.
"""
import argparse
import json
import os

import numpy as np
import torch
from PIL import Image
from transformers import (AutoProcessor, BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipForQuestionAnswering,
                          CLIPModel)

import language
import things
from scenes import WORDS, Composer

SEED = 900_000_000          # training seeds are small lists; these are never drawn there


def load(kind, folder):
    return kind.from_pretrained(folder, dtype=torch.float32).eval(), AutoProcessor.from_pretrained(folder)


def pixels(processor, pictures):
    return processor.image_processor(pictures, return_tensors="pt").pixel_values


def in_batches(items, size):
    return [items[i:i + size] for i in range(0, len(items), size)]


def vqa(folder, scenes, pictures, rng, per_kind):
    model, processor = load(BlipForQuestionAnswering, folder)
    asked = []
    for kind, ask in language.QUESTIONS.items():
        n = 0
        for i in rng.permutation(len(scenes)):
            made = ask(scenes[i], rng)
            if made and n < per_kind:
                asked.append((kind, int(i), made[0], str(made[1])))
                n += 1
    right, total, often = {}, {}, {}
    by_length = {}
    for row in asked:                        # one length at a time: generate() does not mask padded questions
        by_length.setdefault(len(processor.tokenizer(row[2]).input_ids), []).append(row)
    wrong = []
    for rows in by_length.values():
        for part in in_batches(rows, 64):
            ids = processor.tokenizer([r[2] for r in part], return_tensors="pt")
            with torch.no_grad():
                out = model.generate(input_ids=ids.input_ids, attention_mask=ids.attention_mask,
                                     pixel_values=pixels(processor, [pictures[r[1]] for r in part]), max_new_tokens=4)
            for (kind, i, question, answer), text in zip(part, processor.batch_decode(out, skip_special_tokens=True)):
                total[kind] = total.get(kind, 0) + 1
                right[kind] = right.get(kind, 0) + (text.strip() == answer)
                often.setdefault(kind, {}).setdefault(answer, 0)
                often[kind][answer] += 1
                if text.strip() != answer:
                    wrong.append((kind, question, answer, text))
    figures = {kind: {"right": right[kind] / total[kind], "commonest answer": max(often[kind].values()) / total[kind], "n": total[kind]}
               for kind in total}
    shares = dict(zip(language.QUESTIONS, language.SHARES))
    figures["overall"] = {"right": sum(shares[k] * figures[k]["right"] for k in shares), "n": sum(total.values())}
    return figures, wrong


def nouns():
    table = {}
    for i, word in enumerate(WORDS):
        table[word] = i
        table[things.plural(word)] = i
    return table


def caption(folder, scenes, pictures):
    model, processor = load(BlipForConditionalGeneration, folder)
    table, numbers = nouns(), {n: i for i, n in enumerate(language.NUMBERS)}
    all_named = exact = counted = 0
    found = present = 0
    texts = []
    for part in in_batches(list(range(len(scenes))), 50):
        with torch.no_grad():
            out = model.generate(pixel_values=pixels(processor, [pictures[i] for i in part]), max_new_tokens=40)
        texts += processor.batch_decode(out, skip_special_tokens=True)
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
    n = len(scenes)
    return {"names every kind shown": all_named / n, "names exactly the kinds shown": exact / n,
            "kinds and numbers right": counted / n, "kinds found": found / present, "n": n}, texts


def itm(folder, scenes, pictures, rng):
    model, processor = load(BlipForImageTextRetrieval, folder)
    right = {"true": 0, "almost true": 0, "of another picture": 0}
    texts = {"true": [language.caption(s, rng) for s in scenes], "almost true": [language.false_caption(s, rng) for s in scenes]}
    texts["of another picture"] = [language.caption(scenes[(i + 1) % len(scenes)], rng) for i in range(len(scenes))]
    for kind in right:
        for part in in_batches(list(range(len(scenes))), 50):
            ids = processor.tokenizer([texts[kind][i] for i in part], return_tensors="pt", padding=True)
            with torch.no_grad():
                fits = model(input_ids=ids.input_ids, attention_mask=ids.attention_mask,
                             pixel_values=pixels(processor, [pictures[i] for i in part])).itm_score.argmax(1)
            right[kind] += int((fits == (kind == "true")).sum())
    figures = {kind + " judged right": n / len(scenes) for kind, n in right.items()}
    hits = 0
    for part in in_batches(list(range(len(scenes))), 100):
        ids = processor.tokenizer([texts["true"][i] for i in part], return_tensors="pt", padding=True)
        with torch.no_grad():
            cosine = model(input_ids=ids.input_ids, attention_mask=ids.attention_mask, use_itm_head=False,
                           pixel_values=pixels(processor, [pictures[i] for i in part])).itm_score
        hits += int((cosine.argmax(0) == torch.arange(len(part))).sum())
    figures["retrieval by cosine R@1 of 100"] = hits / len(scenes)
    return figures


def clip(folder, scenes, pictures, singles, single_pictures, rng):
    model, processor = load(CLIPModel, folder)

    def embed(images=None, texts=None):
        with torch.no_grad():
            if texts is not None:
                out = model.get_text_features(**processor.tokenizer(texts, return_tensors="pt", padding=True))
            else:
                out = model.get_image_features(pixels(processor, images))
        out = getattr(out, "pooler_output", out)
        return torch.nn.functional.normalize(out, dim=-1)

    hits = []
    for part in in_batches(list(range(len(scenes))), 100):
        a, b = embed(images=[pictures[i] for i in part]), embed(texts=[language.caption(scenes[i], rng) for i in part])
        cosine = b @ a.T
        marks = [language.signature(scenes[i]) for i in part]
        hits += [marks[int(k)] == marks[i] for i, k in enumerate(cosine.argmax(1))]
    labels = embed(texts=[f"a photo of {things.article(w)} {w}" for w in WORDS])
    named = five = 0
    for part in in_batches(list(range(len(singles))), 100):
        top = (embed(images=[single_pictures[i] for i in part]) @ labels.T).topk(5).indices
        goal = torch.tensor([singles[i].things[0].cls for i in part])
        named += int((top[:, 0] == goal).sum())
        five += int((top == goal[:, None]).any(1).sum())
    return {"retrieval R@1 of 100": float(np.mean(hits)), "naming among all words": named / len(singles),
            "naming, among the first five": five / len(singles), "chance of naming": 1 / len(WORDS)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--per-kind", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng, composer = np.random.default_rng(SEED), Composer(args.sprites)
    scenes = [composer.compose(rng) for _ in range(args.pictures)]
    singles = [composer.compose(rng, single=1.) for _ in range(args.pictures)]
    pictures = [Image.fromarray(s.pixels) for s in scenes]
    single_pictures = [Image.fromarray(s.pixels) for s in singles]
    figures = {}

    def here(name):
        folder = os.path.join(args.models, name)
        return folder if os.path.exists(os.path.join(folder, "model.safetensors")) else None

    if here("vlmd-vqa"):
        figures["vqa"], wrong = vqa(here("vlmd-vqa"), scenes, pictures, rng, args.per_kind)
        print("some wrong answers:", *wrong[::max(1, len(wrong) // 10)], sep="\n  ")
    if here("vlmd-caption"):
        figures["caption"], texts = caption(here("vlmd-caption"), scenes, pictures)
        for scene, text in list(zip(scenes, texts))[:10]:
            print(f"  {text}   [{language.caption(scene, rng, plain=True)}]")
    if here("vlmd-itm"):
        figures["itm"] = itm(here("vlmd-itm"), scenes, pictures, rng)
    if here("vlmd-clip"):
        figures["clip"] = clip(here("vlmd-clip"), scenes, pictures, singles, single_pictures, rng)
    text = json.dumps(figures, indent=1)
    print(text)
    if args.out:
        open(args.out, "w", encoding="utf-8").write(text + "\n")


if __name__ == "__main__":
    main()
