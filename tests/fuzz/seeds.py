"""seeds.py OUT: what the fuzzers start from, a directory a target, made of tests/data and of what follows."""
import base64
import json
import os
import struct
import sys

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")
# The order of `checkpoints` in fuzz_config.c.
CHECKPOINTS = ["blip-caption-tiny", "blip-itm-tiny", "blip-vqa-tiny", "clip-tiny", "clipseg-tiny", "owlv2-tiny",
               "openclip-rn-tiny", "openclip-vit-tiny", "owlvit-tiny", "siglip-tiny", "vilt-mlm-tiny", "vilt-vqa-tiny",
               "idefics-flat-tiny", "paligemma2-tiny"]


def read(*path):
    with open(os.path.join(DATA, *path), "rb") as file:
        return file.read()


def images():
    for folder in "images", "image":
        for name in sorted(os.listdir(os.path.join(DATA, folder))):
            if name.endswith((".jpg", ".png", ".webp")) and not name.startswith("bench"):
                yield name, read(folder, name)


def safetensors():
    for name, header, data in [
        ("plain", {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}, bytes(24)),
        ("two", {"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
                 "b.c": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]}}, bytes(16)),
        ("empty", {"a": {"dtype": "F16", "shape": [0, 7], "data_offsets": [0, 0]}}, b""),
        ("deep", {"a": {"dtype": "U8", "shape": [1] * 8, "data_offsets": [0, 1]}}, b"x"),
    ]:
        text = json.dumps(header).encode()
        yield name, struct.pack("<Q", len(text)) + text + data


def tokenizers():
    text = "A photo of 2 cats, naïve café 🐈 <|endoftext|> [MASK]".encode()
    for name in sorted(os.listdir(os.path.join(DATA, "tokenizers"))):
        path = os.path.join(DATA, "tokenizers", name, "tokenizer.json")
        if os.path.exists(path):
            yield name, text + b"\0" + read("tokenizers", name, "tokenizer.json")


def configs():
    for i, name in enumerate(CHECKPOINTS):
        file = "open_clip_config.json" if name.startswith("openclip") else "config.json"
        yield name, bytes([i]) + read("checkpoints", name, file)


def calls():
    picture = base64.b64encode(read("images", "photo_97x61.jpg")).decode()
    raw = read("images", "photo_97x61.jpg")
    grey = read("images", "grey16_31x17.png")

    def multipart(fields, files):
        parts = [f'--xYx\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields]
        parts += [f'--xYx\r\nContent-Disposition: form-data; name="{k}"; filename="a.png"\r\n'
                  f'Content-Type: image/png\r\n\r\n'.encode() + v + b"\r\n" for k, v in files]
        return b"".join(parts) + b"--xYx--\r\n"

    form = "multipart/form-data; boundary=xYx"
    rows = [
        ("POST", "/v1/caption", "", "application/json", {"image": picture, "num_beams": 2, "max_tokens": 3}),
        ("POST", "/v1/caption", "max_tokens=2&temperature=0.7&seed=3&top_p=0.9", "image/jpeg", raw),
        ("POST", "/v1/vqa", "question=what+is%20it", "image/png", grey),
        ("POST", "/v1/match", "", form, multipart([("texts", "a cat"), ("texts", "a dog")], [("image", grey)])),
        ("POST", "/v1/classify", "", "application/json", {"image": picture, "labels": ["a", "b"], "template": "my {}"}),
        ("POST", "/v1/embeddings", "", "application/json",
         {"input": ["a", {"image": picture}, {"text": "b"}], "encoding_format": "base64", "dimensions": 4}),
        ("POST", "/v1/detect", "", "application/json", {"image": picture, "queries": ["cat"], "threshold": 0.01}),
        ("POST", "/v1/segment", "", form, multipart([("prompts", "a cat")], [("image", grey), ("query_image", grey)])),
        ("POST", "/v1/ground", "", "application/json", {"image": picture, "expression": "the cat"}),
        ("POST", "/v1/fill", "", "application/json", {"image": picture, "text": "a [MASK] here"}),
        ("POST", "/v1/chat/completions", "", "application/json",
         {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [
             {"type": "text", "text": "what?"},
             {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + picture}}]}],
          "n": 2, "stop": ["."], "logprobs": True, "max_completion_tokens": 2}),
        ("PUT", "/v1/collections/a%20b", "", "application/json", {"dimensions": 3, "metric": "dot"}),
        ("POST", "/v1/collections/a%20b/items", "", "application/json",
         {"items": [{"id": "x/y", "vector": [1, 2, 3], "metadata": {"n": 1, "t": {"u": "v"}}}]}),
        ("POST", "/v1/collections/a%20b/search", "", "application/json",
         {"vector": [1, 0, 0], "top_k": 2, "min_score": 0.1, "filter": {"and": [
             {"n": {"gte": 0, "lt": 9}}, {"or": [{"t.u": {"prefix": "v"}}, {"not": {"n": {"in": [1, 2]}}}]},
             {"n": {"exists": True, "ne": 4}}]}}),
        ("GET", "/v1/collections/a%20b/items", "limit=3&after=a", "", b""),
        ("GET", "/v1/collections/a%20b/items/x%2Fy", "vector=1", "", b""),
        ("DELETE", "/v1/collections/a%20b/items/x%2Fy", "", "", b""),
        ("GET", "/v1/collections", "", "", b""),
        ("GET", "/v1/models", "", "", b""),
    ]
    for i, (method, path, query, kind, body) in enumerate(rows):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        yield f"{i:02}", f"{method}\n{path}\n{query}\n{kind}\n".encode() + body


def templates():
    golden = json.loads(read("goldens", "templates.json"))
    for name, source in sorted(golden["templates"].items()):
        yield name.replace("/", "-"), source.encode()
    for i, case in enumerate(golden["cases"]):
        if "of" not in case:
            yield f"{i:03}", case["case"].encode()


def boxes():
    yield "locations", b"<loc0256><loc0128><loc0512><loc0896> cat ; <loc0000><loc0100><loc0700><loc1023><seg012> a red dog"
    yield "damaged", b"<loc0256><loc0128><loc0512> cat ; <loc0000><loc0100><loc0700><loc1024> dog ;<loc00"
    for case in json.loads(read("goldens", "qwen2.5-vl-boxes-tiny.json"))["cases"]:
        yield case["case"].replace(":", "-"), case["text"].encode()
    yield "odd", b'[{"bbox": [1.5, -2, 3e2, 1e999]}, {"label": "\\u00e9\\"{", "bbox_2d": [1, 2, 3, 4]}'


def main():
    for target, make in [("image", images), ("safetensors", safetensors), ("tokenizer", tokenizers),
                         ("config", configs), ("call", calls), ("template", templates), ("boxes", boxes)]:
        directory = os.path.join(sys.argv[1], target)
        os.makedirs(directory, exist_ok=True)
        for name, data in make():
            with open(os.path.join(directory, name), "wb") as file:
                file.write(data)


main()
