"""A tiny Qwen2.5-VL that writes boxes, and its golden: qwen2.5-vl-boxes-tiny.

    python tests/reference/make_qwen_boxes.py

Laid out as qwen2.5-vl-flat-tiny. Taught to answer a few requests for boxes, as the published models do: a list in a
code fence, one that is cut off, one with damaged and unasked objects, none. Each case has the text that generate()
writes greedily and the boxes that json.loads finds in its whole objects, scaled to the picture, each with the geometric
mean of the probabilities of the tokens that its numbers are written with.
"""

import json
import math
import os
import re

import make_qwen2_5_vl as qwen
import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint
from generation import run

NAME = "qwen2.5-vl-boxes-tiny"
LESSONS = [  # task, picture, queries, answer
    ("detect", 2, ["cat", "red dog"],
     '```json\n[\n\t{"bbox_2d": [12, 5, 60, 41], "label": "cat"},\n\t{"bbox_2d": [3, 20, 29, 47], "label": "red dog"}\n]\n```'),
    ("detect", 0, ["cat", "dog"],
     '[{"bbox_2d": [1, 2, 3], "label": "cat"}, {"bbox_2d": [9, 8, 61, 30], "label": "bird"}, '
     '{"bbox_2d": [7, 6, 200, 28], "label": "Dogs"}, {"bbox_2d": [4, 1, 1'),
    ("detect", 3, ["cat"], "There are no cats."),
    ("ground", 1, ["the cat"], '{"bbox_2d": [3, 31, 17, 88], "label": "cat"}'),
    ("ground", 4, ["a bird"], "None."),
]


def prompt_of(task, queries):
    if task == "ground":
        return f"Locate {queries[0]}, output its bbox coordinates using JSON format."
    each = ", ".join(f"each {query}" for query in queries)
    return f"Outline the position of {each} and output all the coordinates in JSON format."


def messages_of(task, picture, queries):
    return [qwen.user(qwen.picture(picture), qwen.text(prompt_of(task, queries)))]


def boxes_of(loaded, picture, queries, new, logits):
    """[{label, score, box}] in the order written."""
    decode = lambda ids: loaded.tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    text, ends = decode(new), [len(decode(new[:i + 1])) for i in range(len(new))]
    sure = torch.log_softmax(logits, dim=-1)
    seen = loaded.see([PICTURES[picture]])
    edge = loaded.images.patch_size
    height, width = (int(n) * edge for n in seen["image_grid_thw"][0][1:])
    full = open_rgb(PICTURES[picture])
    found = []
    for match in re.finditer(r"\{[^{}]*\}", text):
        row = json.loads(match.group())
        box = row["bbox_2d"]
        label = next((q for q in queries if q.lower() in row["label"].lower()), queries[0] if len(queries) == 1 else None)
        if len(box) != 4 or label is None:
            continue
        begin, end = (match.start() + match.group().index(c) for c in "[]")
        tokens = [i for i in range(len(new)) if ends[i] > begin + 1 and (ends[i - 1] if i else 0) < end]
        score = math.exp(sum(sure[i, new[i]].item() for i in tokens) / len(tokens))
        corners = [min(max(v / (height if i % 2 else width), 0), 1) * (full.height if i % 2 else full.width)
                   for i, v in enumerate(box)]
        found.append({"label": label, "score": score, "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), corners))})
    return found


def main():
    qwen.CONVERSATIONS = {str(i): messages_of(*lesson[:3]) for i, lesson in enumerate(LESSONS)}
    qwen.LESSONS = [lesson[3] for lesson in LESSONS]
    whole = qwen.teach
    qwen.teach = lambda model, loaded: whole(model, loaded, steps=500, stop_loss=0.02)
    for seed in range(2601, 2606):
        path = checkpoint_dir(NAME)
        qwen.make("flat", path, seed)
        loaded = qwen.Loaded(path)
        results = []
        for task, picture, queries, answer in LESSONS:
            inputs = loaded.inputs(messages_of(task, picture, queries))[2]
            start = inputs["input_ids"].shape[1]
            loaded.model.model.rope_deltas = None
            made = run(loaded.model, lambda **kw: loaded.model.generate(**inputs, **kw), {"max_new_tokens": 256})
            new = made["sequences"][0][start:]
            new = new[:-1] if new[-1] in loaded.model.generation_config.eos_token_id else new
            text = loaded.tokenizer.decode(new, skip_special_tokens=True)
            results.append((text, boxes_of(loaded, picture, queries, new, made["logits"]), made["margin"]))
        fault = None
        if any(text != lesson[3] for (text, _, _), lesson in zip(results, LESSONS)):
            fault = "a lesson was not learnt: " + repr([text for text, _, _ in results])
        elif min(margin for _, _, margin in results) < 2e-2:
            fault = "a near-tie"
        print(f"seed {seed}: {fault or 'good'}", flush=True)
        if not fault:
            break
    else:
        raise SystemExit("no seed will do")
    report_checkpoint(path)
    out = Golden(NAME, seed, parameters=parameters_of(loaded.model))
    for (task, picture, queries, _), (text, boxes, margin) in zip(LESSONS, results):
        out.case(f"{task}:{PICTURES[picture]}", kind=task, picture=PICTURES[picture], queries=queries, text=text,
                 detections=boxes, margin=margin)
    out.write()


if __name__ == "__main__":
    main()
