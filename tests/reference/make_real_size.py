"""Builds a random-weight checkpoint at the size of the public one, with the reference's outputs. Not for CI.

    python tests/reference/make_real_size.py clip-b32|clip-l14|blip-caption|blip-vqa|blip-itm FOLDER [--dtype float16]

FOLDER becomes the checkpoint (its name is the model's name for the server); `reference.json` beside it
(`FOLDER.reference.json`) holds what compare_real_size.py asks the server for.
"""

import argparse
import os
import time

import torch
from common import PICTURES, open_rgb, parameters_of, scramble, tools, write_json
from generation import run
from make_blip import QUESTIONS, STATEMENTS, write_processor
from make_clip import LABELS, TEXTS
from tokenizers_tiny import bert_vocab, clip_bpe
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval
from transformers import BlipForQuestionAnswering, BlipImageProcessorPil, BlipProcessor, CLIPConfig
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

CLIP_SIZES = {
    "clip-b32": ({}, {}, 512),
    "clip-l14": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
        768,
    ),
}
BLIP_KINDS = {
    "blip-caption": BlipForConditionalGeneration,
    "blip-vqa": BlipForQuestionAnswering,
    "blip-itm": BlipForImageTextRetrieval,
}


def make_clip(kind, path, dtype):
    text, vision, width = CLIP_SIZES[kind]
    vocab, merges = clip_bpe(150)
    config = CLIPConfig(
        text_config={**text, "eos_token_id": vocab["<|endoftext|>"], "projection_dim": width},
        vision_config={**vision, "projection_dim": width},
        projection_dim=width,
    )
    model = scramble(CLIPModel(config), 1, gain=1.0)
    with torch.no_grad():
        model.logit_scale.fill_(4.6)
    model.to(dtype).save_pretrained(path)
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(path)
    CLIPImageProcessorPil().save_pretrained(path)


def clip_reference(path):
    model = CLIPModel.from_pretrained(path, dtype=torch.float32).eval()
    processor = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(path), CLIPTokenizer.from_pretrained(path))
    labels = [f"a photo of a {label}" for label in LABELS]
    batch = processor(
        text=TEXTS[:4] + labels,
        images=[open_rgb(p) for p in PICTURES],
        return_tensors="pt",
        padding=True,
        truncation=True,
    )
    with torch.no_grad():
        started = time.monotonic()
        result = model(**batch)
        took = time.monotonic() - started
    requests = []
    for picture, vector in zip(PICTURES, result.image_embeds):
        requests.append({"task": "embed", "picture": picture, "want": vector.tolist()})
    for text, vector in zip(TEXTS[:4], result.text_embeds):
        requests.append({"task": "embed", "text": text, "want": vector.tolist()})
    for picture, row in zip(PICTURES, result.logits_per_image):
        scores = row[4:].softmax(-1).tolist()
        requests.append({"task": "classify", "picture": picture, "labels": LABELS, "want": dict(zip(LABELS, scores))})
    return model, requests, took


def make_blip(kind, path, dtype):
    vocab = bert_vocab(430, n_unused=90)
    while len(vocab) < 30522:  # a random model says random words: let each have a spelling
        vocab[f"w{len(vocab)}"] = len(vocab)
    write_processor(path, vocab, 384)
    text = {"bos_token_id": 30522, "sep_token_id": vocab["[SEP]"], "num_attention_heads": 12}
    model = scramble(BLIP_KINDS[kind](BlipConfig(text_config=text, vision_config={})), 1, gain=1.0, embedding_std=0.2)
    if kind != "blip-itm":  # let the next word depend on more than the picture
        decoder = model.text_decoder.bert
        with torch.no_grad():
            decoder.embeddings.position_embeddings.weight.mul_(3)
            for layer in decoder.encoder.layer:
                layer.crossattention.output.dense.weight.mul_(0.4)
    model.to(dtype).save_pretrained(path)


def blip_reference(kind, path):
    model = BLIP_KINDS[kind].from_pretrained(path, dtype=torch.float32).eval()
    processor = BlipProcessor(BlipImageProcessorPil.from_pretrained(path), BertTokenizer.from_pretrained(path))
    requests = []
    started = time.monotonic()
    for i, picture in enumerate(PICTURES[:3]):
        image = open_rgb(picture)
        if kind == "blip-itm":
            for text in STATEMENTS:
                inputs = processor(images=image, text=text, return_tensors="pt")
                with torch.no_grad():
                    itm = model(**inputs).itm_score.softmax(-1)[0, 1].item()
                    itc = model(**inputs, use_itm_head=False).itm_score[0, 0].item()
                requests.append({"task": "match", "picture": picture, "text": text, "want": itm, "cosine": itc})
            continue
        text = QUESTIONS[i] if kind == "blip-vqa" else None
        inputs = processor(images=image, text=text, return_tensors="pt")
        for settings in ({"max_new_tokens": 12}, {"max_new_tokens": 8, "num_beams": 3}):
            made = run(model.text_decoder, lambda **kw: model.generate(**inputs, **kw), settings)
            made.pop("logits")
            want = processor.tokenizer.decode(made["sequences"][0], skip_special_tokens=True)
            request = {"task": "vqa" if text else "caption", "picture": picture, "question": text}
            requests.append({**request, "settings": settings, "want": want, "ids": made["sequences"][0],
                             "margin": made.get("margin"), "scores": made.get("scores")})
    return model, requests, time.monotonic() - started


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("kind", choices=[*CLIP_SIZES, *BLIP_KINDS])
    arguments.add_argument("folder")
    arguments.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    path = os.path.abspath(given.folder)
    os.makedirs(path, exist_ok=True)
    dtype = getattr(torch, given.dtype)
    if given.kind in CLIP_SIZES:
        make_clip(given.kind, path, dtype)
        model, requests, took = clip_reference(path)
    else:
        make_blip(given.kind, path, dtype)
        model, requests, took = blip_reference(given.kind, path)
    facts = {"kind": given.kind, "dtype": given.dtype, "parameters": parameters_of(model), "tools": tools()}
    facts.update({"reference_seconds": took, "requests": requests})
    write_json(path + ".reference.json", facts)
    print(f"{given.kind}: {facts['parameters']} parameters, {len(requests)} requests, {took:.1f} s in the reference")


if __name__ == "__main__":
    main()
