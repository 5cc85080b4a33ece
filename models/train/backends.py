"""The same questions to the models in two ways: transformers on the directories, or a running vlmd.

Both classes give the same methods; evaluate.py measures with either, or with both whether they agree.
Pictures are PIL images of the models' size; boxes are in pixels.

  has(task)                     whether there is a model for caption, vqa, match, embed, detect, segment
  captions(pictures)            [text]
  answers([(picture, question)])  [text]
  fits([(picture, text)])       [whether the text is judged to fit]
  embed_pictures(pictures), embed_texts(texts)   [n, d], of length 1
  detect(picture, queries)      [(score, number of the query, (x0, y0, x1, y1))], best first, of a score above THRESHOLD
  segment(picture, queries)     bool [queries, height, width]
"""
import base64
import http.client
import io
import json
import os

import numpy as np
from PIL import Image

THRESHOLD = .05
FOLDER = {"caption": "vlmd-caption", "vqa": "vlmd-vqa", "match": "vlmd-itm", "embed": "vlmd-clip", "detect": "vlmd-detect", "segment": "vlmd-segment"}


def in_batches(items, size):
    return [items[i:i + size] for i in range(0, len(items), size)]


class Local:
    """transformers' own code on the directories as they are shipped: bf16 weights, f32 arithmetic."""

    def __init__(self, models):
        import torch
        import transformers
        self.torch, self.transformers, self.models, self.loaded = torch, transformers, models, {}

    def has(self, task):
        return os.path.exists(os.path.join(self.models, FOLDER[task], "model.safetensors"))

    def load(self, task):
        if task not in self.loaded:
            kind = {"caption": "BlipForConditionalGeneration", "vqa": "BlipForQuestionAnswering", "match": "BlipForImageTextRetrieval",
                    "embed": "CLIPModel", "detect": "OwlViTForObjectDetection", "segment": "CLIPSegForImageSegmentation"}[task]
            folder = os.path.join(self.models, FOLDER[task])
            self.loaded[task] = (getattr(self.transformers, kind).from_pretrained(folder, dtype=self.torch.float32).eval(),
                                 self.transformers.AutoProcessor.from_pretrained(folder))
        return self.loaded[task]

    @staticmethod
    def pixels(processor, pictures):
        return processor.image_processor(pictures, return_tensors="pt").pixel_values

    def captions(self, pictures):
        model, processor = self.load("caption")
        out = []
        for part in in_batches(pictures, 50):
            with self.torch.no_grad():
                ids = model.generate(pixel_values=self.pixels(processor, part), max_new_tokens=40)
            out += processor.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in out]

    def answers(self, asked):
        model, processor = self.load("vqa")
        out, by_length = [None] * len(asked), {}
        for i, (_, question) in enumerate(asked):      # one length at a time: generate() does not mask padded questions
            by_length.setdefault(len(processor.tokenizer(question).input_ids), []).append(i)
        for rows in by_length.values():
            for part in in_batches(rows, 64):
                ids = processor.tokenizer([asked[i][1] for i in part], return_tensors="pt")
                with self.torch.no_grad():
                    got = model.generate(input_ids=ids.input_ids, attention_mask=ids.attention_mask,
                                         pixel_values=self.pixels(processor, [asked[i][0] for i in part]), max_new_tokens=8)
                for i, text in zip(part, processor.batch_decode(got, skip_special_tokens=True)):
                    out[i] = text.strip()
        return out

    def fits(self, said):
        model, processor = self.load("match")
        out = []
        for part in in_batches(said, 50):
            ids = processor.tokenizer([text for _, text in part], return_tensors="pt", padding=True)
            with self.torch.no_grad():
                scores = model(input_ids=ids.input_ids, attention_mask=ids.attention_mask,
                               pixel_values=self.pixels(processor, [picture for picture, _ in part])).itm_score
            out += (scores.argmax(1) == 1).tolist()
        return out

    def embedded(self, rows):
        rows = getattr(rows, "pooler_output", rows)
        return self.torch.nn.functional.normalize(rows, dim=-1).numpy()

    def embed_pictures(self, pictures):
        model, processor = self.load("embed")
        with self.torch.no_grad():
            return np.concatenate([self.embedded(model.get_image_features(self.pixels(processor, part))) for part in in_batches(pictures, 50)])

    def embed_texts(self, texts):
        model, processor = self.load("embed")
        with self.torch.no_grad():
            return np.concatenate([self.embedded(model.get_text_features(**processor.tokenizer(part, return_tensors="pt", padding=True)))
                                   for part in in_batches(texts, 100)])

    def detect(self, picture, queries):
        model, processor = self.load("detect")
        with self.torch.no_grad():
            out = model(**processor(text=[queries], images=picture, return_tensors="pt"))
        scores, labels = self.torch.sigmoid(out.logits[0]).max(-1)
        boxes = out.pred_boxes[0].numpy() * np.array([picture.width, picture.height] * 2)
        found = [(float(scores[i]), int(labels[i]), (boxes[i, 0] - boxes[i, 2] / 2, boxes[i, 1] - boxes[i, 3] / 2, boxes[i, 0] + boxes[i, 2] / 2,
                                                     boxes[i, 1] + boxes[i, 3] / 2)) for i in range(len(scores)) if scores[i] > THRESHOLD]
        return sorted(found, reverse=True)

    def segment(self, picture, queries):
        model, processor = self.load("segment")
        ids = processor.tokenizer(queries, return_tensors="pt", padding=True)
        with self.torch.no_grad():
            logits = model(**ids, pixel_values=self.pixels(processor, [picture] * len(queries))).logits
        logits = logits.reshape(1, len(queries), *logits.shape[-2:])
        return (self.torch.nn.functional.interpolate(logits, (picture.height, picture.width), mode="bilinear", align_corners=False)[0] > 0).numpy()


class Remote:
    """A running vlmd, host:port."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address, timeout=60)
        self.tasks = {task for model in self.ask("GET", "/v1/models")["data"] for task in model["tasks"]}

    def ask(self, method, path, body=None):
        self.connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {text[:300]}")
        return json.loads(text)

    @staticmethod
    def png(picture):
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        return base64.b64encode(file.getvalue()).decode()

    def has(self, task):
        return task in self.tasks

    def captions(self, pictures):
        return [self.ask("POST", "/v1/caption", {"image": self.png(p)})["caption"] for p in pictures]

    def answers(self, asked):
        return [self.ask("POST", "/v1/vqa", {"image": self.png(p), "question": q})["answer"] for p, q in asked]

    def fits(self, said):
        return [self.ask("POST", "/v1/match", {"image": self.png(p), "texts": [t]})["scores"][0] > .5 for p, t in said]

    def embed(self, inputs):
        out = []
        for part in in_batches(inputs, 16):
            out += [entry["embedding"] for entry in self.ask("POST", "/v1/embeddings", {"input": part})["data"]]
        return np.array(out, np.float32)

    def embed_pictures(self, pictures):
        return self.embed([{"image": self.png(p)} for p in pictures])

    def embed_texts(self, texts):
        return self.embed([{"text": t} for t in texts])

    def detect(self, picture, queries):
        got = self.ask("POST", "/v1/detect", {"image": self.png(picture), "queries": queries, "threshold": THRESHOLD})["detections"]
        return [(d["score"], queries.index(d["label"]), tuple(d["box"].values()) if isinstance(d["box"], dict) else tuple(d["box"])) for d in got]

    def segment(self, picture, queries):
        got = self.ask("POST", "/v1/segment", {"image": self.png(picture), "prompts": queries})["masks"]
        masks = [np.asarray(Image.open(io.BytesIO(base64.b64decode(m["mask"].split(",", 1)[1])))) for m in got]
        return np.stack(masks) > 127
