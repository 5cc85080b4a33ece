"""A tiny SigLIP checkpoint and its golden: siglip-tiny.

    python tests/reference/make_siglip.py
"""

import os

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint
from common import scramble, write_json
from make_clip import LABELS, TEMPLATE, TEXTS
from tokenizers_tiny import probe, unigram
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessorPil, SiglipModel

NAME, SEED = "siglip-tiny", 600
LENGTH = 14


def make(path):
    """Bfloat16, square pictures, and (as in SigLIP 2) a pad token that text_config does not name: its default is 1."""
    tokenizer = unigram(300)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=LENGTH,
        model_input_names=["input_ids"],
    )
    fast.save_pretrained(path)
    config = SiglipConfig(
        text_config={
            "vocab_size": len(fast),
            "hidden_size": 30,
            "intermediate_size": 70,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": LENGTH,
            "projection_size": 42,
        },
        vision_config={
            "hidden_size": 42,
            "intermediate_size": 76,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 35,
            "patch_size": 8,
        },
    )
    model = scramble(SiglipModel(config), SEED)
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
        model.logit_bias.fill_(-1.25)
    model.bfloat16().save_pretrained(path)
    SiglipImageProcessorPil(size={"height": 35, "width": 35}).save_pretrained(path)


def golden(path):
    model = SiglipModel.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
    processor = SiglipImageProcessorPil.from_pretrained(path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    out = Golden(
        NAME,
        SEED,
        parameters=parameters_of(model),
        logit_scale_exp=model.logit_scale.exp().item(),
        logit_bias=model.logit_bias.item(),
    )
    out.head["tokenizer_probes"] = probe(tokenizer)

    for picture in PICTURES:
        pixels = processor(open_rgb(picture), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            vision = model.vision_model(pixels)
        unit = vision.pooler_output / vision.pooler_output.norm(dim=-1, keepdim=True)
        tensors = {
            "pixel_values": pixels[0],
            "last_hidden_state": vision.last_hidden_state[0],
            "pooled": vision.pooler_output[0],
            "image_embeds": unit[0],
        }
        out.case(f"image:{picture}", tensors, kind="image", picture=picture)

    texts = TEXTS + [TEMPLATE.format(label) for label in LABELS]
    for i, text in enumerate(texts):
        padded = tokenizer(text, return_tensors="pt", truncation=True, padding="max_length")
        assert list(padded) == ["input_ids"]
        with torch.no_grad():
            result = model.text_model(**padded)
        unit = result.pooler_output / result.pooler_output.norm(dim=-1, keepdim=True)
        tensors = {
            "padded_input_ids": padded["input_ids"][0],
            "last_hidden_state": result.last_hidden_state[0],
            "pooled": result.pooler_output[0],
            "text_embeds": unit[0],
        }
        ids = tokenizer(text, truncation=True)["input_ids"]
        out.case(f"text:{i}", tensors, kind="text", text=text, input_ids=ids)

    batch = tokenizer(texts, return_tensors="pt", truncation=True, padding="max_length")
    batch["pixel_values"] = processor([open_rgb(p) for p in PICTURES], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        result = model(**batch)
    out.case(
        "batch",
        {
            "logits_per_image": result.logits_per_image,
            "image_embeds": result.image_embeds,
            "text_embeds": result.text_embeds,
        },
        kind="batch",
        pictures=PICTURES,
        texts=texts,
    )
    columns = slice(len(TEXTS), len(texts))
    for row, picture in enumerate(PICTURES):
        scores = result.logits_per_image[row, columns].sigmoid()
        order = scores.argsort(descending=True).tolist()
        out.case(
            f"classify:{picture}",
            kind="classify",
            picture=picture,
            template=TEMPLATE,
            labels=LABELS,
            best_first=[{"label": LABELS[i], "score": scores[i].item()} for i in order],
        )
    out.write()


if __name__ == "__main__":
    folder = checkpoint_dir(NAME)
    make(folder)
    report_checkpoint(folder)
    golden(folder)
