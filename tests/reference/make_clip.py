"""Tiny CLIP checkpoints and their goldens: clip-tiny and clip-gelu-f16-sharded.

    python tests/reference/make_clip.py [checkpoint …]
"""

import os
import sys

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, read_json, report_checkpoint
from common import scramble, write_json
from safetensors.torch import load_file, save_file
from tokenizers_tiny import clip_bpe, probe, write_vocab_and_merges
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTextConfig
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

TEXTS = [
    "a photo of a cat",
    "a",
    "a picture of three red umbrellas under the bridge.",
    "Is there a BLUE teapot in the garden? yes, no, maybe; it's 2024 & café 😀",
    "",
]
LABELS = ["red square", "dog", "a very purple elephant"]
TEMPLATE = "a photo of a {}"


def clip_tiny(path):
    """The layout of openai/clip-vit-base-patch32 as first published: eos_token_id 2, position_ids in the file."""
    vocab, merges = clip_bpe(150)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=24)
    tokenizer.save_pretrained(path)
    write_vocab_and_merges(path, vocab, merges)
    config = CLIPConfig(
        text_config={
            "vocab_size": len(vocab),
            "hidden_size": 40,
            "intermediate_size": 100,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 24,
            "hidden_act": "quick_gelu",
            "projection_dim": 24,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": 60,
            "intermediate_size": 136,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "image_size": 49,
            "patch_size": 7,
            "hidden_act": "quick_gelu",
            "projection_dim": 24,
        },
        projection_dim=24,
    )
    model = scramble(CLIPModel(config), 101)
    with torch.no_grad():
        model.logit_scale.fill_(3.3)
    model.save_pretrained(path)

    # Old files carry the position ids as tensors; a loader has to pass over them.
    weights = load_file(os.path.join(path, "model.safetensors"))
    weights["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    save_file(weights, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})

    # Old config.json: no dtype, keys that mean nothing to the tower, a second copy of the sub-configs.
    raw = read_json(os.path.join(path, "config.json"))
    raw.pop("dtype", None)
    for part in ("text_config", "vision_config"):
        raw[part].pop("dtype", None)
        raw[part].update({"max_length": 20, "num_beams": 1, "repetition_penalty": 1.0, "torch_dtype": None})
    raw["text_config_dict"] = None
    raw["vision_config_dict"] = None
    write_json(os.path.join(path, "config.json"), raw)
    write_json(
        os.path.join(path, "preprocessor_config.json"),
        {
            "crop_size": 49,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": 49,
        },
    )


def clip_gelu(path):
    """The 5.x layout: float16 shards, processor_config.json, vocab.json + merges.txt only, true eos id."""
    vocab, merges = clip_bpe(97)
    write_vocab_and_merges(path, vocab, merges)
    eos = vocab["<|endoftext|>"]
    config = CLIPConfig(
        text_config={
            "vocab_size": len(vocab) + 3,
            "hidden_size": 36,
            "intermediate_size": 90,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "max_position_embeddings": 19,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "projection_dim": 20,
            "bos_token_id": vocab["<|startoftext|>"],
            "pad_token_id": 1,
            "eos_token_id": eos,
        },
        vision_config={
            "hidden_size": 44,
            "intermediate_size": 88,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 40,
            "patch_size": 9,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "projection_dim": 20,
        },
        projection_dim=20,
    )
    model = scramble(CLIPModel(config), 202)
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    model.half().save_pretrained(path, max_shard_size="120KB")
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 46},
        crop_size={"height": 40, "width": 40},
        resample=2,
        image_mean=[0.5, 0.45, 0.4],
        image_std=[0.25, 0.5, 0.3],
    )
    write_json(
        os.path.join(path, "processor_config.json"),
        {"image_processor": processor.to_dict(), "processor_class": "CLIPProcessor"},
    )
    write_json(
        os.path.join(path, "tokenizer_config.json"),
        {
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "errors": "replace",
            "model_max_length": 19,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": "<|endoftext|>",
        },
    )


def golden(name, path, seed):
    """Reads the checkpoint back as anyone would and writes down what the reference makes of it."""
    model = CLIPModel.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(path), CLIPTokenizer.from_pretrained(path)
    )
    out = Golden(name, seed, parameters=parameters_of(model), logit_scale_exp=model.logit_scale.exp().item())
    out.head["tokenizer_probes"] = probe(processor.tokenizer)

    image_embeds, text_embeds = [], []
    for picture in PICTURES:
        pixels = processor.image_processor(open_rgb(picture), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            embedded = model.vision_model.pre_layrnorm(model.vision_model.embeddings(pixels))
            vision = model.vision_model(pixels, output_hidden_states=True)
            projected = model.visual_projection(vision.pooler_output)
        unit = projected / projected.norm(dim=-1, keepdim=True)
        image_embeds.append(unit)
        tensors = {
            "pixel_values": pixels[0],
            "embedded": embedded[0],
            "pooled": vision.pooler_output[0],
            "projected": projected[0],
            "image_embeds": unit[0],
        }
        # hidden_states[0] is the layers' input (after pre_layrnorm), hidden_states[i] layer i's output
        assert torch.equal(vision.hidden_states[0], embedded)
        for i, hidden in enumerate(vision.hidden_states[1:], 1):
            tensors[f"layer{i}"] = hidden[0]
        out.case(f"image:{picture}", tensors, kind="image", picture=picture)

    texts = TEXTS + [TEMPLATE.format(label) for label in LABELS]
    for i, text in enumerate(texts):
        ids = processor.tokenizer(text, return_tensors="pt", truncation=True)
        with torch.no_grad():
            result = model.text_model(**ids, output_hidden_states=True)
            projected = model.text_projection(result.pooler_output)
        unit = projected / projected.norm(dim=-1, keepdim=True)
        text_embeds.append(unit)
        tensors = {
            "input_ids": ids["input_ids"][0],
            "last_hidden_state": result.last_hidden_state[0],
            "pooled": result.pooler_output[0],
            "projected": projected[0],
            "text_embeds": unit[0],
        }
        for k, hidden in enumerate(result.hidden_states[1:], 1):
            tensors[f"layer{k}"] = hidden[0]
        out.case(f"text:{i}", tensors, kind="text", text=text, input_ids=ids["input_ids"][0].tolist())

    # All pictures and all texts in one padded call: the same as one by one.
    batch = processor(
        text=texts, images=[open_rgb(p) for p in PICTURES], return_tensors="pt", padding=True, truncation=True
    )
    with torch.no_grad():
        result = model(**batch)
    assert torch.allclose(result.image_embeds, torch.cat(image_embeds), atol=1e-5)
    assert torch.allclose(result.text_embeds, torch.cat(text_embeds), atol=1e-5)
    out.case(
        "batch",
        {
            "logits_per_image": result.logits_per_image,
            "image_embeds": result.image_embeds,
            "text_embeds": result.text_embeds,
            "padded_input_ids": batch["input_ids"],
        },
        kind="batch",
        pictures=PICTURES,
        texts=texts,
    )
    columns = slice(len(TEXTS), len(texts))
    for row, picture in enumerate(PICTURES):
        scores = result.logits_per_image[row, columns].softmax(-1)
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


def vision_tower(path):
    """A picture tower alone, with its config at the top level, as image encoders of other systems are kept."""
    config = CLIPVisionConfig(hidden_size=42, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3, image_size=37,
                              patch_size=8, projection_dim=19, hidden_act="gelu")
    scramble(CLIPVisionModelWithProjection(config), 203).save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": 37}, crop_size={"height": 37, "width": 37}).save_pretrained(path)


def text_tower(path):
    """A text tower alone, in a whole CLIP's config, whose part counts."""
    vocab, merges = clip_bpe(88)
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=21).save_pretrained(path)
    config = CLIPTextConfig(vocab_size=len(vocab), hidden_size=36, intermediate_size=70, num_hidden_layers=2, num_attention_heads=4,
                            max_position_embeddings=21, projection_dim=17, eos_token_id=vocab["<|endoftext|>"])
    scramble(CLIPTextModelWithProjection(config), 204).save_pretrained(path)
    raw = read_json(os.path.join(path, "config.json"))
    head = {key: raw.pop(key) for key in ("architectures", "dtype", "transformers_version")}
    write_json(os.path.join(path, "config.json"), {**head, "model_type": "clip", "projection_dim": 99, "text_config": raw})


def golden_tower(name, path, seed):
    if name == "clip-vision-tiny":
        model = CLIPVisionModelWithProjection.from_pretrained(path, dtype=torch.float32).eval()
        images = CLIPImageProcessorPil.from_pretrained(path)
        out = Golden(name, seed, parameters=parameters_of(model))
        for picture in PICTURES:
            pixels = images(open_rgb(picture), return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                unit = torch.nn.functional.normalize(model(pixels).image_embeds, dim=-1)
            out.case(f"image:{picture}", {"pixel_values": pixels[0], "image_embeds": unit[0]}, kind="image", picture=picture)
    else:
        model = CLIPTextModelWithProjection.from_pretrained(path, dtype=torch.float32).eval()
        tokenizer = CLIPTokenizer.from_pretrained(path)
        out = Golden(name, seed, parameters=parameters_of(model))
        out.head["tokenizer_probes"] = probe(tokenizer)
        for i, text in enumerate(TEXTS):
            ids = tokenizer(text, return_tensors="pt", truncation=True)
            with torch.no_grad():
                unit = torch.nn.functional.normalize(model(**ids).text_embeds, dim=-1)
            out.case(f"text:{i}", {"text_embeds": unit[0]}, kind="text", text=text, input_ids=ids["input_ids"][0].tolist())
    out.write()


ALL = {
    "clip-tiny": (clip_tiny, 101, golden),
    "clip-gelu-f16-sharded": (clip_gelu, 202, golden),
    "clip-vision-tiny": (vision_tower, 203, golden_tower),
    "clip-text-tiny": (text_tower, 204, golden_tower),
}


def main():
    for name in sys.argv[1:] or ALL:
        make, seed, write = ALL[name]
        path = checkpoint_dir(name)
        make(path)
        report_checkpoint(path)
        write(name, path, seed)


if __name__ == "__main__":
    main()
