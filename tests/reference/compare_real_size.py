"""Asks a running server for what make_real_size.py or make_real_encoders.py had the reference compute, and reports
the differences.

    vlmd serve --model big=FOLDER &
    python tests/reference/compare_real_size.py FOLDER.reference.json --model big [--url http://127.0.0.1:8080]

Uses the HTTP interface alone (and Pillow to read masks). Exit status 1 if anything is further off than the design allows in float32.
"""

import argparse
import base64
import io
import json
import math
import os
import sys
import urllib.request
import zlib

IMAGES = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "images"))


def picture_of(request):
    with open(os.path.join(IMAGES, request["picture"]), "rb") as source:
        return base64.b64encode(source.read()).decode()


def post(url, path, body):
    call = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=600) as reply:
        return json.load(reply)


def fields_of(settings):
    """The server's names for what generate() was given."""
    return {{"max_new_tokens": "max_tokens"}.get(key, key): value for key, value in settings.items()}


def relative(got, want):
    """Largest difference, as a share of the reference's root mean square."""
    if len(got) != len(want):
        return math.inf
    scale = math.sqrt(sum(w * w for w in want) / len(want)) or 1.0
    return max(abs(g - w) for g, w in zip(got, want)) / scale


def compare_masks(masks, request):
    """Largest difference of any pixel, as a probability."""
    from PIL import Image

    worst = 0
    for mask, want in zip(masks, request["want"], strict=True):
        want = zlib.decompress(base64.b64decode(want))
        with Image.open(io.BytesIO(base64.b64decode(mask["mask"].split(",", 1)[1]))) as picture:
            got = picture.convert("L").tobytes()
        if len(got) != len(want):
            return math.inf, False, f"{request['picture']}: {len(got)} pixels, expected {len(want)}"
        worst = max(worst, max(abs(a - b) for a, b in zip(got, want)))
    return worst / 255, worst <= 2, request["picture"]


def compare_boxes(found, request):
    """Largest difference of a score, or of an edge as a share of the picture; boxes are cut at the picture's edge."""
    if len(found) != len(request["want"]):
        return math.inf, False, f"{request['picture']}: {len(found)} boxes, expected {len(request['want'])}"
    worst = 0.0
    bounds = [request["width"], request["height"]] * 2
    for want in request["want"]:
        cut = [min(max(edge, 0), most) for edge, most in zip(want["box"], bounds)]

        def distance(row):
            edges = [row["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")]
            far = max(abs(a - b) / most for a, b, most in zip(edges, cut, bounds))
            return max(far, abs(row["score"] - want["score"]), 0 if row["label"] == want["label"] else 1)

        worst = max(worst, min(map(distance, found)))
    return worst, worst < 1e-3, request["picture"]


def ask(url, model, request):
    """Returns (difference as a number, or None for texts; whether it is right; a word on it)."""
    task = request["task"]
    if task == "embed":
        item = {"image": picture_of(request)} if "picture" in request else {"text": request["text"]}
        got = post(url, "/v1/embeddings", {"model": model, "input": [item]})["data"][0]["embedding"]
        off = relative(got, request["want"])
        return off, off < 1e-3, request.get("picture") or request["text"]
    if "pictures" in request:
        body = {"model": model, "images": [picture_of({"picture": name}) for name in request["pictures"]]}
    else:
        body = {"model": model, "image": picture_of(request)}
    if task == "classify":
        reply = post(url, "/v1/classify", {**body, "labels": request["labels"]})
        got = {row["label"]: row["score"] for row in reply["labels"]}
        off = max(abs(got[label] - score) for label, score in request["want"].items())
        return off, off < 2e-3, request["picture"]
    if task == "match":
        reply = post(url, "/v1/match", {**body, "texts": [request["text"]]})
        off = abs(reply["scores"][0] - request["want"])
        off = max(off, abs(reply["cosine"][0] - request["cosine"]))
        return off, off < 1e-3, request["text"]
    if task == "match_score":
        got = post(url, "/v1/match", {**body, "texts": [request["text"]]})["scores"][0]
        off = abs(got - request["want"])
        return off, off < 1e-3, request["text"]
    if task == "vqa_scores":
        reply = post(url, "/v1/vqa", {**body, "question": request["question"], "top_k": len(request["want"])})
        got = {row["answer"]: row["score"] for row in reply["answers"]}
        off = max(abs(got.get(row["answer"], math.inf) - row["score"]) for row in request["want"])
        return off, off < 1e-3, request["question"]
    if task == "fill":
        (token,) = post(url, "/v1/fill", {**body, "text": request["text"]})["tokens"]
        off = abs(token["score"] - request["want"])
        return off, off < 1e-3, request["text"]
    if task == "segment":
        return compare_masks(post(url, "/v1/segment", {**body, "prompts": request["prompts"]})["masks"], request)
    if task == "detect":
        asked = {key: request[key] for key in ("queries", "threshold", "nms_threshold") if key in request}
        if "query_picture" in request:
            asked["query_image"] = picture_of({"picture": request["query_picture"]})
        return compare_boxes(post(url, "/v1/detect", {**body, **asked})["detections"], request)
    if task == "vqa":
        got = post(url, "/v1/vqa", {**body, "question": request["question"], **fields_of(request["settings"])})["answer"]
    else:
        got = post(url, "/v1/caption", {**body, **fields_of(request["settings"])})["caption"]
    right = got.strip() == request["want"].strip()
    note = f"margin {request['margin']:.4f}" if request.get("margin") is not None else "beams"
    return None, right, note if right else f"{note}: got {got!r}, want {request['want']!r}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("reference")
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--url", default="http://127.0.0.1:8080")
    given = arguments.parse_args()
    with open(given.reference, encoding="utf-8") as source:
        facts = json.load(source)
    wrong = 0
    for request in facts["requests"]:
        off, right, note = ask(given.url, given.model, request)
        wrong += not right
        print(f"{'ok ' if right else 'OFF'} {request['task']:8} {'' if off is None else f'{off:.2e}'} {note}")
    print(f"{facts['kind']} {facts['dtype']}: {len(facts['requests']) - wrong} of {len(facts['requests'])} right")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
