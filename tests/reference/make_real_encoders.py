"""make_real_size.py's other half: encoders at public size. Not for CI.

    python tests/reference/make_real_encoders.py KIND FOLDER [--dtype …]      (--help lists the kinds)

Writes FOLDER and FOLDER.reference.json, for compare_real_size.py.
"""

import argparse
import base64
import os
import tempfile
import time
import zlib

import torch
from common import PICTURES, open_rgb, parameters_of, scramble, tools, write_json
from make_clip import LABELS, TEXTS
from make_clipseg import PROMPTS, masks_of
from make_owl import QUERIES
from make_vilt import QUESTIONS
from tokenizers_tiny import bert_vocab, clip_bpe, sentencepiece_unigram
from transformers import BertTokenizer, CLIPImageProcessorPil, CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer
from transformers import GitConfig, GitForCausalLM, GPT2Config, Owlv2Config, VisionEncoderDecoderConfig
from transformers import VisionEncoderDecoderModel, ViTConfig
from transformers import Owlv2ForObjectDetection, Owlv2ImageProcessorPil, OwlViTConfig, OwlViTForObjectDetection
from transformers import OwlViTImageProcessorPil, PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessorPil
from transformers import SiglipModel, ViltConfig, ViltForImageAndTextRetrieval, ViltForImagesAndTextClassification
from transformers import ViltForMaskedLM, ViltForQuestionAnswering, ViltImageProcessorPil, ViltProcessor
from transformers import ViTImageProcessorPil


def with_clip_tokenizer(path, length, pad_token="<|endoftext|>"):
    vocab, merges = clip_bpe(150)
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, pad_token=pad_token).save_pretrained(path)
    return {"bos_token_id": vocab["<|startoftext|>"], "eos_token_id": vocab["<|endoftext|>"]}


def pixels_of(images, picture):
    return images(open_rgb(picture), return_tensors="pt")["pixel_values"]


def siglip(path, save, **text):
    """text: what differs from the defaults of the text config (SigLIP 2: a vocabulary of Gemma's size)."""
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece_unigram(folder, 420)[0].save(os.path.join(path, "tokenizer.json"))
    settings = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "model_max_length": 64}
    settings.update({"tokenizer_class": "SiglipTokenizer", "model_input_names": ["input_ids"]})
    write_json(os.path.join(path, "tokenizer_config.json"), settings)
    SiglipImageProcessorPil().save_pretrained(path)
    model = scramble(SiglipModel(SiglipConfig(text_config=text)), 1, gain=1.0)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
        model.logit_bias.fill_(-2.0)
    model = save(model, SiglipModel)
    tokenizer, images = PreTrainedTokenizerFast.from_pretrained(path), SiglipImageProcessorPil.from_pretrained(path)
    texts = TEXTS[:4] + [f"a photo of a {label}" for label in LABELS]
    ids = tokenizer(texts, padding="max_length", max_length=64, truncation=True, return_tensors="pt")["input_ids"]
    result = model(input_ids=ids, pixel_values=torch.cat([pixels_of(images, p) for p in PICTURES]))
    requests = [{"task": "embed", "picture": p, "want": v.tolist()} for p, v in zip(PICTURES, result.image_embeds)]
    requests += [{"task": "embed", "text": t, "want": v.tolist()} for t, v in zip(texts[:4], result.text_embeds)]
    for picture, row in zip(PICTURES, torch.sigmoid(result.logits_per_image[:, 4:])):
        requests.append({"task": "classify", "picture": picture, "labels": LABELS, "want": dict(zip(LABELS, row.tolist()))})
    return model, requests


def vilt(path, save, kind, **more):
    """The model, and what gives its logits for a picture (or several) and a text."""
    vocab = bert_vocab(430, n_unused=90)
    BertTokenizer(vocab=vocab, model_max_length=40).save_pretrained(path)
    ViltImageProcessorPil().save_pretrained(path)
    model = scramble(kind(ViltConfig(**more)), 1, gain=1.0)
    for head in ("classifier", "rank_output"):  # answers that differ between pictures and texts
        if hasattr(model, head):
            layer = getattr(model, head)
            (layer[-1] if head == "classifier" else layer).weight.mul_(4)
    model = save(model, kind)
    processor = ViltProcessor(ViltImageProcessorPil.from_pretrained(path), BertTokenizer.from_pretrained(path))

    def logits(pictures, text):
        inputs = processor(images=[open_rgb(p) for p in pictures], text=text, return_tensors="pt")
        if len(pictures) > 1:
            inputs = {**inputs, "pixel_values": inputs["pixel_values"][None], "pixel_mask": inputs["pixel_mask"][None]}
        return model(**inputs).logits[0]

    return model, processor.tokenizer, logits


def vilt_vqa(path, save):
    labels = {i: f"answer {i}" for i in range(3129)}
    more = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    model, _, logits = vilt(path, save, ViltForQuestionAnswering, **more)
    requests = []
    for i, picture in enumerate(PICTURES):
        question = QUESTIONS[i % len(QUESTIONS)]
        scores = torch.sigmoid(logits([picture], question))
        best = scores.topk(3)
        want = [{"answer": labels[k], "score": s} for k, s in zip(best.indices.tolist(), best.values.tolist())]
        requests.append({"task": "vqa_scores", "picture": picture, "question": question, "want": want})
    return model, requests


def vilt_retrieval(path, save):
    model, _, logits = vilt(path, save, ViltForImageAndTextRetrieval)
    requests = []
    for picture in PICTURES:
        for text in QUESTIONS[:2]:
            want = torch.sigmoid(logits([picture], text)[0]).item()
            requests.append({"task": "match_score", "picture": picture, "text": text, "want": want})
    return model, requests


def vilt_nlvr2(path, save):
    labels = {0: "False", 1: "True"}
    more = {"num_images": 2, "modality_type_vocab_size": 3, "id2label": labels, "label2id": {"False": 0, "True": 1}}
    model, _, logits = vilt(path, save, ViltForImagesAndTextClassification, **more)
    requests = []
    for first, second in zip(PICTURES, PICTURES[1:]):
        scores = logits([first, second], QUESTIONS[0]).softmax(-1)
        want = [{"answer": labels[i], "score": s} for i, s in enumerate(scores.tolist())]
        requests.append({"task": "vqa_scores", "pictures": [first, second], "question": QUESTIONS[0], "want": want})
    return model, requests


def vilt_mlm(path, save):
    model, tokenizer, logits = vilt(path, save, ViltForMaskedLM)
    text = "a [MASK] photo of a cat"
    at = tokenizer(text)["input_ids"].index(tokenizer.mask_token_id)
    requests = []
    for picture in PICTURES:
        want = logits([picture], text)[at].softmax(-1).max().item()
        requests.append({"task": "fill", "picture": picture, "text": text, "want": want})
    return model, requests


def clipseg(path, save):
    ids = with_clip_tokenizer(path, 77)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    ViTImageProcessorPil(size={"height": 352, "width": 352}, image_mean=mean, image_std=std).save_pretrained(path)
    config = CLIPSegConfig(text_config=ids, vision_config={"patch_size": 16}, use_complex_transposed_convolution=True)
    model = save(scramble(CLIPSegForImageSegmentation(config), 1, gain=1.0), CLIPSegForImageSegmentation)
    tokenizer, images = CLIPTokenizer.from_pretrained(path), ViTImageProcessorPil.from_pretrained(path)
    requests = []
    for picture in PICTURES[:3]:
        image = open_rgb(picture)
        masks = []
        for prompt in PROMPTS[:2]:
            logits = model(**tokenizer(prompt, return_tensors="pt"), pixel_values=pixels_of(images, picture)).logits
            mask = masks_of(logits.reshape(logits.shape[-2:]), (image.height, image.width))
            masks.append(base64.b64encode(zlib.compress(mask.numpy().tobytes())).decode())
        requests.append({"task": "segment", "picture": picture, "prompts": PROMPTS[:2], "width": image.width,
                         "height": image.height, "want": masks})
    return model, requests


def owl(path, save, config_kind, model_kind, image_kind, vision):
    ids = with_clip_tokenizer(path, 16, pad_token="!")
    images = image_kind()
    images.save_pretrained(path)
    model = save(scramble(model_kind(config_kind(text_config=ids, vision_config=vision)), 1, gain=1.0), model_kind)
    tokenizer = CLIPTokenizer.from_pretrained(path)
    queries = tokenizer(QUERIES, padding="max_length", truncation=True, return_tensors="pt")
    requests = []
    for picture in PICTURES[:3]:
        image = open_rgb(picture)
        outputs = model(**queries, pixel_values=pixels_of(images, picture))
        scores = torch.sigmoid(outputs.logits[0].max(-1).values).sort(descending=True).values
        threshold = (scores[20] + scores[21]).item() / 2  # some twenty boxes, none of them on the edge
        found = images.post_process_object_detection(outputs, threshold, [(image.height, image.width)])[0]
        want = []
        for score, label, box in zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist()):
            want.append({"label": QUERIES[label], "score": score, "box": box})
        requests.append({"task": "detect", "picture": picture, "queries": QUERIES, "threshold": threshold,
                         "width": image.width, "height": image.height, "want": want})
    return model, requests


def vit_gpt2(path, save):
    """ViT-B/16 and GPT-2 small, but for its vocabulary."""
    from make_captioners import gpt2_tokenizer, load_vit_gpt2
    from odd_encoders import caption_requests

    _, end = gpt2_tokenizer(330, path)
    text = GPT2Config(vocab_size=end + 1, bos_token_id=end, eos_token_id=end)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), text)
    config.decoder_start_token_id = config.pad_token_id = config.bos_token_id = config.eos_token_id = end
    ViTImageProcessorPil().save_pretrained(path)
    save(scramble(VisionEncoderDecoderModel(config), 1, gain=1.0), VisionEncoderDecoderModel)
    loaded = load_vit_gpt2(path)
    loaded[0].enc_to_dec_proj = torch.nn.Identity()  # the widths are equal: there is none
    return loaded[0], caption_requests(loaded, {"max_new_tokens": 8}) + caption_requests(loaded, {"num_beams": 3, "max_new_tokens": 6})


def git(path, save):
    """git-base, but for its vocabulary."""
    from make_captioners import load_git
    from odd_encoders import caption_requests

    vocab = bert_vocab(430, n_unused=90)
    BertTokenizer(vocab=vocab, model_max_length=512).save_pretrained(path)
    CLIPImageProcessorPil().save_pretrained(path)
    config = GitConfig(vocab_size=len(vocab), bos_token_id=vocab["[CLS]"], eos_token_id=vocab["[SEP]"], pad_token_id=0)
    save(scramble(GitForCausalLM(config), 1, gain=1.0), GitForCausalLM)
    loaded = load_git(path)
    return loaded[0], caption_requests(loaded, {"max_new_tokens": 8}) + caption_requests(loaded, {"num_beams": 3, "max_new_tokens": 6})


def open_clip(path, save, name):
    from make_open_clip import real_size  # needs open_clip_torch

    return real_size(path, name, save.dtype)


KINDS = {
    "siglip-b16": siglip,
    "siglip2-b16": lambda p, s: siglip(p, s, vocab_size=256000),
    "vilt-vqa": vilt_vqa,
    "vilt-retrieval": vilt_retrieval,
    "vilt-nlvr2": vilt_nlvr2,
    "vilt-mlm": vilt_mlm,
    "clipseg": clipseg,
    "owlvit-b32": lambda p, s: owl(p, s, OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil, {}),
    "owlv2-b16": lambda p, s: owl(p, s, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil,
                                  {"image_size": 960, "patch_size": 16}),
    "vit-gpt2": vit_gpt2,
    "git": git,
    "openclip-rn50": lambda p, s: open_clip(p, s, "RN50"),
    "openclip-rn101": lambda p, s: open_clip(p, s, "RN101"),
    "openclip-rn50x4": lambda p, s: open_clip(p, s, "RN50x4"),
    "openclip-rn50x16": lambda p, s: open_clip(p, s, "RN50x16"),
    "openclip-b32": lambda p, s: open_clip(p, s, "ViT-B-32"),
    "openclip-b16-plus": lambda p, s: open_clip(p, s, "ViT-B-16-plus-240"),  # text width 640, pictures of 240
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("kind", choices=KINDS)
    arguments.add_argument("folder")
    arguments.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    path = os.path.abspath(given.folder)
    os.makedirs(path, exist_ok=True)

    def save(model, kind):
        model.to(getattr(torch, given.dtype)).save_pretrained(path)
        return kind.from_pretrained(path, dtype=torch.float32).eval()

    save.dtype = getattr(torch, given.dtype)
    started = time.monotonic()
    model, requests = KINDS[given.kind](path, save)
    facts = {"kind": given.kind, "dtype": given.dtype, "parameters": parameters_of(model), "tools": tools()}
    write_json(path + ".reference.json", {**facts, "requests": requests})
    print(f"{given.kind}: {facts['parameters']} parameters, {len(requests)} requests, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
