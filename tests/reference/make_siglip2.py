"""A tiny SigLIP 2 for pictures of any shape (NaFlex) and its golden: siglip2-naflex-tiny.

    python tests/reference/make_siglip2.py
"""

import os

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint, scramble, write_json
from make_clip import LABELS, TEMPLATE, TEXTS
from tokenizers_tiny import probe, unigram
from transformers import PreTrainedTokenizerFast, Siglip2Config, Siglip2Model
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

NAME, SEED = "siglip2-naflex-tiny", 620
LENGTH = 13


def make(path):
    """Positions of a 6 × 6 square for pictures of up to 23 patches: stretched one way, shrunk the other."""
    tokenizer = unigram(260)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", model_max_length=LENGTH, model_input_names=["input_ids"]
    )
    fast.save_pretrained(path)
    config = Siglip2Config(
        text_config={
            "vocab_size": len(fast), "hidden_size": 33, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 3, "max_position_embeddings": LENGTH, "projection_size": 40,
        },
        vision_config={
            "hidden_size": 40, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 7,
            "num_patches": 36,
        },
    )
    model = scramble(Siglip2Model(config), SEED)
    with torch.no_grad():
        model.logit_scale.fill_(2.2)
        model.logit_bias.fill_(-0.75)
    model.save_pretrained(path)
    Siglip2ImageProcessorPil(patch_size=7, max_num_patches=23).save_pretrained(path)


def planar(patches, shape, patch):
    """The processor's rows of patches as the picture they were cut from."""
    height, width = shape.tolist()
    picture = patches[: height * width].reshape(height, width, patch, patch, 3)
    return picture.permute(4, 0, 2, 1, 3).reshape(3, height * patch, width * patch)


def golden(path):
    model = Siglip2Model.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
    images = Siglip2ImageProcessorPil.from_pretrained(path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    out = Golden(
        NAME, SEED, parameters=parameters_of(model), logit_scale_exp=model.logit_scale.exp().item(),
        logit_bias=model.logit_bias.item(),
    )
    out.head["tokenizer_probes"] = probe(tokenizer)
    embeds = []
    for picture in PICTURES:
        inputs = images(open_rgb(picture), return_tensors="pt")
        with torch.no_grad():
            unit = torch.nn.functional.normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
        embeds.append(unit[0])
        pixels = planar(inputs["pixel_values"][0], inputs["spatial_shapes"][0], images.patch_size)
        tensors = {"pixel_values": pixels, "image_embeds": unit[0]}
        out.case(f"image:{picture}", tensors, kind="image", picture=picture, shape=inputs["spatial_shapes"][0].tolist())
    texts, vectors = TEXTS + [TEMPLATE.format(label) for label in LABELS], []
    for i, text in enumerate(texts):
        padded = tokenizer(text, return_tensors="pt", truncation=True, padding="max_length")
        with torch.no_grad():
            unit = torch.nn.functional.normalize(model.get_text_features(**padded).pooler_output, dim=-1)
        vectors.append(unit[0])
        out.case(f"text:{i}", {"text_embeds": unit[0]}, kind="text", text=text, input_ids=tokenizer(text, truncation=True)["input_ids"])
    logits = torch.stack(embeds) @ torch.stack(vectors[len(TEXTS):]).T * model.logit_scale.exp().item() + model.logit_bias.item()
    for picture, row in zip(PICTURES, logits.sigmoid()):
        order = row.argsort(descending=True).tolist()
        out.case(f"classify:{picture}", kind="classify", picture=picture, template=TEMPLATE, labels=LABELS,
                 best_first=[{"label": LABELS[i], "score": row[i].item()} for i in order])
    out.write()


if __name__ == "__main__":
    folder = checkpoint_dir(NAME)
    make(folder)
    report_checkpoint(folder)
    golden(folder)
