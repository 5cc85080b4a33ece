"""Tiny checkpoints in OpenCLIP's layout and their goldens: openclip-rn-tiny and openclip-vit-tiny.

    python tests/reference/make_open_clip.py [checkpoint …]

Needs open_clip_torch 3 (and torchvision). The text goes through the tokenizer.json that the layout's public directories
carry, as open_clip's HFTokenizer reads it.
"""

import os
import sys

import open_clip
import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, read_json, report_checkpoint
from common import scramble, write_json
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file, save_file
from tokenizers_tiny import clip_bpe, probe
from transformers import CLIPTokenizer, XLMRobertaTokenizer

TEXTS = [
    "a photo of a cat",
    "a",
    "a picture of three red umbrellas under the bridge.",
    "Is there a BLUE teapot in the garden? yes, no, maybe; it's 2024 & café 😀",
    "",
]
LABELS = ["red square", "dog", "a very purple elephant"]
TEMPLATE = "a photo of a {}"


def write_tokenizer(path, n_merges, length):
    vocab, merges = clip_bpe(n_merges)
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length).save_pretrained(path)
    return vocab


def build(model_cfg):
    known = {k: v for k, v in model_cfg.items() if k not in ("custom_text",)}
    kind = open_clip.CustomTextCLIP if model_cfg.get("custom_text") else open_clip.CLIP
    return kind(**known)


def scramble_norms(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, module in sorted(model.named_modules()):
            if isinstance(module, torch.nn.BatchNorm2d):
                shape = module.weight.shape
                module.weight.copy_(1 + 0.2 * torch.randn(shape, generator=generator))
                module.bias.copy_(0.2 * torch.randn(shape, generator=generator))
                module.running_mean.copy_(0.3 * torch.randn(shape, generator=generator))
                module.running_var.copy_(0.6 + torch.rand(shape, generator=generator))
                module.num_batches_tracked.fill_(7)


def load(path):
    """The model of a directory in float32, and what makes its pixels."""
    config = read_json(os.path.join(path, "open_clip_config.json"))
    if os.path.exists(os.path.join(path, "text_config.json")):
        from transformers import XLMRobertaConfig

        model = with_roberta(config["model_cfg"], XLMRobertaConfig(**read_json(os.path.join(path, "text_config.json"))))
    else:
        model = build(config["model_cfg"])
    state = load_file(os.path.join(path, "open_clip_model.safetensors"))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    preprocess = image_transform_v2(PreprocessCfg(**{**config["preprocess_cfg"], "size": size}), is_train=False)
    return model.eval(), preprocess, config


def real_size(path, name, dtype):
    """A model of open_clip's own list at its size; for make_real_encoders.py."""
    write_tokenizer(path, 150, 77)
    config = {"model_cfg": {**open_clip.get_model_config(name), "quick_gelu": True}, "preprocess_cfg": {}}
    model = scramble(build(config["model_cfg"]), 1, gain=1.0)
    scramble_norms(model, 2)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, os.path.join(path, "open_clip_model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(path, "open_clip_config.json"), config)
    del model, state
    model, preprocess, _ = load(path)
    reader = open_clip.tokenizer.HFTokenizer(path, context_length=77)
    texts = TEXTS[:3] + [TEMPLATE.format(label) for label in LABELS]
    embeds = model.encode_text(reader(texts), normalize=True)
    requests = [{"task": "embed", "text": t, "want": v.tolist()} for t, v in zip(texts[:3], embeds)]
    for picture in PICTURES:
        image = model.encode_image(preprocess(open_rgb(picture))[None], normalize=True)
        scores = (model.logit_scale.exp() * image @ embeds[3:].T).softmax(-1)[0]
        requests.append({"task": "embed", "picture": picture, "want": image[0].tolist()})
        want = dict(zip(LABELS, scores.tolist()))
        requests.append({"task": "classify", "picture": picture, "labels": LABELS, "want": want})
    return model, requests


def resnet_tiny(path):
    """As timm's uploads of OpenAI's ResNets: QuickGELU, a config.json that is not ours, half precision."""
    vocab = write_tokenizer(path, 130, 21)
    config = {
        "model_cfg": {
            "embed_dim": 20,
            "vision_cfg": {"image_size": 97, "layers": [1, 2, 1, 2], "width": 6, "head_width": 16, "patch_size": None},
            "text_cfg": {
                "context_length": 21,
                "vocab_size": len(vocab),
                "width": 36,
                "heads": 3,
                "layers": 2,
            },
            "quick_gelu": True,
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }
    model = scramble(build(config["model_cfg"]), 303)
    scramble_norms(model, 304)
    with torch.no_grad():
        model.logit_scale.fill_(3.1)
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()},
        os.path.join(path, "open_clip_model.safetensors"),
        metadata={"format": "pt"},
    )
    write_json(os.path.join(path, "open_clip_config.json"), config)
    write_json(os.path.join(path, "config.json"), {"architecture": "resnet50_clip", "num_classes": 20})


def vit_tiny(path):
    """A ViT with a text tower of its own ("text."), GELU, another mlp_ratio, squashed pictures."""
    vocab = write_tokenizer(path, 97, 19)
    config = {
        "model_cfg": {
            "embed_dim": 24,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 45,
                "patch_size": 7,
                "layers": 3,
                "width": 60,
                "head_width": 12,
                "mlp_ratio": 2.3637,
            },
            "text_cfg": {
                "context_length": 19,
                "vocab_size": len(vocab) + 2,
                "width": 40,
                "heads": 4,
                "layers": 3,
                "mlp_ratio": 3,
                "pool_type": "eos",
                "eos_id": vocab["<|endoftext|>"],
                "proj_bias": True,
                "norm_kwargs": {"eps": 1e-6},
                "act_kwargs": {"approximate": "tanh"},
            },
        },
        "preprocess_cfg": {
            "size": [45, 45],
            "mode": "RGB",
            "mean": [0.5, 0.45, 0.4],
            "std": 0.3,
            "interpolation": "bilinear",
            "resize_mode": "squash",
        },
    }
    model = scramble(build(config["model_cfg"]), 404)
    with torch.no_grad():
        model.logit_scale.fill_(2.7)
    save_file(model.state_dict(), os.path.join(path, "open_clip_model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(path, "open_clip_config.json"), config)


def roberta_tiny(path):
    """A multilingual model's layout (xlm-roberta-base-ViT-B-32): mean pooling, an MLP as projection."""
    from make_clip_kin import xlm_roberta
    from open_clip.hf_model import HFTextEncoder
    from transformers import XLMRobertaConfig

    tokenizer = xlm_roberta(190, 512, path)
    config = {
        "model_cfg": {
            "embed_dim": 22,
            "custom_text": True,
            "vision_cfg": {"image_size": 30, "patch_size": 7, "layers": 2, "width": 48, "head_width": 16},
            "text_cfg": {"hf_model_name": "xlm-roberta-base", "hf_tokenizer_name": "xlm-roberta-base",
                         "hf_pooler_type": "mean_pooler", "context_length": 20},
        },
        "preprocess_cfg": {},
    }
    text = XLMRobertaConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=1,
                            intermediate_size=70, max_position_embeddings=31, type_vocab_size=1, layer_norm_eps=1e-5)
    model = with_roberta(config["model_cfg"], text)
    model = scramble(model, 505)
    with torch.no_grad():
        model.logit_scale.fill_(2.6)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, os.path.join(path, "open_clip_model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(path, "open_clip_config.json"), config)
    write_json(os.path.join(path, "text_config.json"), text.to_dict())  # for this script: open_clip asks the hub


def with_roberta(model_cfg, text):
    """open_clip's model with a text tower of these sizes, which it would ask the hub for."""
    from open_clip.hf_model import HFTextEncoder

    known = {k: v for k, v in model_cfg.items() if k != "custom_text"}
    model = open_clip.CustomTextCLIP(**{**known, "text_cfg": {"width": 8, "heads": 1, "layers": 1, "vocab_size": 9}})
    given = model_cfg["text_cfg"]
    model.text = HFTextEncoder(given["hf_model_name"], model_cfg["embed_dim"], config=text,
                               pooler_type=given["hf_pooler_type"], proj_type=given.get("hf_proj_type", "mlp"))
    model.text.transformer.pooler = None
    return model


def golden(name, path, seed):
    model, preprocess, config = load(path)
    length = config["model_cfg"]["text_cfg"]["context_length"]
    tokenizer = (XLMRobertaTokenizer if "roberta" in name else CLIPTokenizer).from_pretrained(path)
    reader = open_clip.tokenizer.HFTokenizer(path, context_length=length)
    scale = model.logit_scale.exp().item()
    out = Golden(name, seed, parameters=parameters_of(model), logit_scale_exp=scale)
    out.head["tools"]["open_clip"] = open_clip.__version__
    out.head["tokenizer_probes"] = probe(tokenizer)

    image_embeds, text_embeds = [], []
    for picture in PICTURES:
        pixels = preprocess(open_rgb(picture))[None]
        with torch.no_grad():
            unit = model.encode_image(pixels, normalize=True)
        image_embeds.append(unit)
        out.case(
            f"image:{picture}", {"pixel_values": pixels[0], "image_embeds": unit[0]}, kind="image", picture=picture
        )
    texts = TEXTS + [TEMPLATE.format(label) for label in LABELS]
    for i, text in enumerate(texts):
        ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        padded = reader([text])
        assert padded[0, : len(ids)].tolist() == ids or text != " ".join(text.split()), text
        with torch.no_grad():
            unit = model.encode_text(padded, normalize=True)
        text_embeds.append(unit)
        out.case(f"text:{i}", {"text_embeds": unit[0]}, kind="text", text=text, input_ids=ids)
    logits = scale * torch.cat(image_embeds) @ torch.cat(text_embeds)[len(TEXTS) :].T
    for row, picture in enumerate(PICTURES):
        scores = logits[row].softmax(-1)
        out.case(
            f"classify:{picture}",
            kind="classify",
            picture=picture,
            template=TEMPLATE,
            labels=LABELS,
            best_first=[
                {"label": LABELS[i], "score": scores[i].item()} for i in scores.argsort(descending=True).tolist()
            ],
        )
    out.write()


ALL = {"openclip-rn-tiny": (resnet_tiny, 303), "openclip-vit-tiny": (vit_tiny, 404), "openclip-roberta-tiny": (roberta_tiny, 505)}


def main():
    for name in sys.argv[1:] or ALL:
        make, seed = ALL[name]
        path = checkpoint_dir(name)
        make(path)
        report_checkpoint(path)
        golden(name, path, seed)


if __name__ == "__main__":
    main()
