"""Encoders of random odd configurations that their config classes allow, against a running build. Not for CI.

    python tests/reference/odd_encoders.py BINARY [--seed N] [--rounds N] [--only KIND]

Each round makes one checkpoint of each kind in a temporary folder, serves them, and asks for what the reference
computed. A fault names the kind and the seed that makes it again.
"""

import argparse
import base64
import os
import random
import subprocess
import tempfile
import zlib

import torch
from common import PICTURES, open_rgb, scramble, write_json
from compare_real_size import ask
from make_clip import LABELS, TEMPLATE, TEXTS
from make_clip_kin import CHINESE, xlm_roberta
from make_clipseg import masks_of
from make_vilt import ANSWERS
from tokenizers_tiny import bert_vocab, clip_bpe, write_vocab_and_merges
from transformers import AltCLIPConfig, AltCLIPModel, BertTokenizer, ChineseCLIPConfig, ChineseCLIPModel, CLIPConfig
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer
from transformers import MetaClip2Config, MetaClip2Model, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil
from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil, PreTrainedTokenizerFast
from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, ViltConfig, ViltForImageAndTextRetrieval
from transformers import ViltForQuestionAnswering, ViltImageProcessorPil, ViltProcessor, ViTImageProcessorPil

ACTIVATIONS = ["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu"]
SOME_TEXTS = [t for t in TEXTS if t] + [CHINESE]


def tower(rng, activations=ACTIVATIONS):
    heads = rng.choice([1, 2, 3, 5, 6])
    return {
        "hidden_size": heads * rng.choice([4, 7, 10, 16]),
        "num_attention_heads": heads,
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "intermediate_size": rng.choice([1, 17, 64, 90]),
        "hidden_act": rng.choice(activations),
        "layer_norm_eps": rng.choice([1e-3, 1e-5, 1e-6, 1e-12]),
    }


def vision_tower(rng, **more):
    patch = rng.choice([3, 5, 8, 14])
    return {**tower(rng), "patch_size": patch, "image_size": patch * rng.choice([1, 2, 5]) + rng.randrange(patch), **more}


def statistics(rng):
    return {
        "image_mean": [round(rng.uniform(0.2, 0.7), 3) for _ in range(3)],
        "image_std": [round(rng.uniform(0.2, 0.6), 3) for _ in range(3)],
        "resample": rng.choice([0, 1, 2, 3, 4, 5]),
    }


def clip_images(rng, size):
    if rng.random() < 0.3:
        return CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False, **statistics(rng))
    edge = max(1, size + rng.choice([0, 9, -2]))
    return CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": size, "width": size}, **statistics(rng))


def write_dtype(rng, model, path):
    more = {"max_shard_size": "60KB"} if rng.random() < 0.3 else {}
    model.to(rng.choice([torch.float32, torch.float16, torch.bfloat16])).save_pretrained(path, **more)
    return type(model).from_pretrained(path, dtype=torch.float32).eval()


def write_clip_tokenizer(rng, path, length, pad="<|endoftext|>"):
    vocab, merges = clip_bpe(rng.choice([0, 60, 140]))
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, pad_token=pad)
    tokenizer.save_pretrained(path)
    if rng.random() < 0.4:
        os.remove(os.path.join(path, "tokenizer.json"))
        write_vocab_and_merges(path, vocab, merges)
    return vocab, CLIPTokenizer.from_pretrained(path)


def dual_requests(model, tokenizer, images, length, is_sigmoid=False, template=TEMPLATE):
    """What a pair of towers is asked for."""
    padding = "max_length" if is_sigmoid else True

    def read(texts):
        return tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")

    pixels = images([open_rgb(p) for p in PICTURES], return_tensors="pt")["pixel_values"]
    requests = []
    for text in SOME_TEXTS:
        vector = model.get_text_features(**read([text])).pooler_output[0]
        requests.append({"task": "embed", "text": text, "want": (vector / vector.norm()).tolist()})
    result = model(pixel_values=pixels, **read([template.format(label) for label in LABELS]))
    for picture, vector, row in zip(PICTURES, result.image_embeds, result.logits_per_image):
        requests.append({"task": "embed", "picture": picture, "want": vector.tolist()})
        scores = row.sigmoid() if is_sigmoid else row.softmax(-1)
        requests.append({"task": "classify", "picture": picture, "labels": LABELS, "want": dict(zip(LABELS, scores.tolist()))})
    return requests


def fill_scale(rng, model):
    with torch.no_grad():
        model.logit_scale.fill_(rng.uniform(0, 4))
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(rng.uniform(-3, 3))


def clip(rng, path):
    length = rng.choice([5, 16, 33])
    vocab, tokenizer = write_clip_tokenizer(rng, path, rng.choice([length, 77]))
    text = {**tower(rng), "vocab_size": len(vocab) + rng.randrange(3), "max_position_embeddings": length,
            "eos_token_id": rng.choice([2, vocab["<|endoftext|>"], 7])}
    vision = vision_tower(rng)
    model = scramble(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=rng.choice([1, 13, 32]))),
                     rng.random_seed)
    fill_scale(rng, model)
    images = clip_images(rng, vision["image_size"])
    images.save_pretrained(path)
    return dual_requests(write_dtype(rng, model, path), tokenizer, images, min(length, tokenizer.model_max_length))


def metaclip2(rng, path):
    length = rng.choice([6, 19])
    tokenizer = xlm_roberta(rng.choice([150, 230]), length, path)
    text = {**tower(rng), "vocab_size": len(tokenizer), "max_position_embeddings": length, "eos_token_id": rng.choice([2, 5])}
    vision = vision_tower(rng)
    config = MetaClip2Config(text_config=text, vision_config=vision, projection_dim=rng.choice([3, 24]))
    model = scramble(MetaClip2Model(config), rng.random_seed)
    fill_scale(rng, model)
    images = clip_images(rng, vision["image_size"])
    images.save_pretrained(path)
    return dual_requests(write_dtype(rng, model, path), tokenizer, images, length)


def chinese_clip(rng, path):
    length = rng.choice([4, 22])
    vocab = bert_vocab(rng.choice([120, 230]), extra=tuple(dict.fromkeys(CHINESE[::2])))
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=512, do_lower_case=rng.random() < 0.5)
    tokenizer.save_pretrained(path)
    text = {**tower(rng), "vocab_size": len(vocab), "max_position_embeddings": length, "type_vocab_size": rng.choice([1, 2])}
    vision = vision_tower(rng)
    config = ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=rng.choice([3, 24]))
    model = scramble(ChineseCLIPModel(config), rng.random_seed)
    fill_scale(rng, model)
    images = clip_images(rng, vision["image_size"])
    images.save_pretrained(path)
    return dual_requests(write_dtype(rng, model, path), tokenizer, images, length)


def altclip(rng, path):
    positions, pad = rng.choice([7, 30]), 1
    tokenizer = xlm_roberta(rng.choice([150, 230]), 512, path)
    text = {**tower(rng), "vocab_size": len(tokenizer), "max_position_embeddings": positions, "pad_token_id": pad,
            "project_dim": rng.choice([5, 18])}
    vision = vision_tower(rng)
    config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=rng.choice([3, 24]))
    model = scramble(AltCLIPModel(config), rng.random_seed)
    fill_scale(rng, model)
    images = clip_images(rng, vision["image_size"])
    images.save_pretrained(path)
    return dual_requests(write_dtype(rng, model, path), tokenizer, images, positions - pad - 1)


def siglip(rng, path):
    from tokenizers_tiny import unigram

    length = rng.choice([3, 12, 64])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram(rng.choice([150, 300])), eos_token="</s>", pad_token=rng.choice(["<pad>", "</s>"]),
        model_max_length=length, model_input_names=["input_ids"],
    )
    tokenizer.save_pretrained(path)
    vision = vision_tower(rng)
    text = {**tower(rng), "vocab_size": len(tokenizer), "max_position_embeddings": length,
            "projection_size": vision["hidden_size"]}
    model = scramble(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)), rng.random_seed)
    fill_scale(rng, model)
    size = vision["image_size"]
    images = SiglipImageProcessorPil(size={"height": size, "width": size}, **statistics(rng))
    images.save_pretrained(path)
    return dual_requests(write_dtype(rng, model, path), tokenizer, images, length, is_sigmoid=True)


def siglip2(rng, path):
    from tokenizers_tiny import unigram
    from transformers import Siglip2Config, Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    length = rng.choice([3, 12, 64])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram(rng.choice([150, 300])), eos_token="</s>", pad_token="<pad>",
                                        model_max_length=length, model_input_names=["input_ids"])
    tokenizer.save_pretrained(path)
    vision = {**tower(rng), "patch_size": rng.choice([1, 4, 9]), "num_patches": rng.choice([1, 9, 64])}
    text = {**tower(rng), "vocab_size": len(tokenizer), "max_position_embeddings": length,
            "projection_size": vision["hidden_size"]}
    model = scramble(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)), rng.random_seed)
    fill_scale(rng, model)
    images = Siglip2ImageProcessorPil(patch_size=vision["patch_size"], max_num_patches=rng.choice([1, 12, 90]), **statistics(rng))
    images.save_pretrained(path)
    model = write_dtype(rng, model, path)
    requests = []
    for text in SOME_TEXTS:
        ids = tokenizer([text], padding="max_length", truncation=True, return_tensors="pt")
        vector = model.get_text_features(**ids).pooler_output[0]
        requests.append({"task": "embed", "text": text, "want": (vector / vector.norm()).tolist()})
    for picture in PICTURES:
        vector = model.get_image_features(**images(open_rgb(picture), return_tensors="pt")).pooler_output[0]
        requests.append({"task": "embed", "picture": picture, "want": (vector / vector.norm()).tolist()})
    return requests


def open_clip_requests(path, config):
    from make_open_clip import load
    from open_clip.tokenizer import HFTokenizer

    model, preprocess, _ = load(path)
    reader = HFTokenizer(path, context_length=config["model_cfg"]["text_cfg"]["context_length"])
    requests = []
    for text in (t for t in SOME_TEXTS if t == " ".join(t.split())):
        requests.append({"task": "embed", "text": text, "want": model.encode_text(reader([text]), normalize=True)[0].tolist()})
    for picture in PICTURES:
        vector = model.encode_image(preprocess(open_rgb(picture))[None], normalize=True)[0]
        requests.append({"task": "embed", "picture": picture, "want": vector.tolist()})
    return requests


def open_clip(rng, path):
    from make_open_clip import build, scramble_norms
    from safetensors.torch import save_file

    length = rng.choice([8, 20])
    vocab, _ = write_clip_tokenizer(rng, path, length)
    if not os.path.exists(os.path.join(path, "tokenizer.json")):
        CLIPTokenizer.from_pretrained(path).save_pretrained(path)
    heads = rng.choice([1, 2, 3])
    text = {"context_length": length, "vocab_size": len(vocab), "width": heads * 10, "heads": heads,
            "layers": rng.choice([1, 3]), "mlp_ratio": rng.choice([1.7, 4])}
    if rng.random() < 0.5:
        text.update(pool_type="eos", eos_id=rng.choice([vocab["<|endoftext|>"], 2, 11]))
    if rng.random() < 0.6:  # a ResNet
        size = 32 * rng.choice([1, 2, 3]) + rng.randrange(4)
        vision = {"layers": [rng.choice([1, 2]) for _ in range(4)], "width": 2 * rng.choice([3, 5, 8]), "head_width": 16,
                  "image_size": size, "patch_size": None}
    else:
        patch = rng.choice([4, 7, 14])
        size = patch * rng.choice([1, 3, 4]) + rng.randrange(patch)
        vision = {"layers": rng.choice([1, 3]), "width": rng.choice([16, 48]), "head_width": 16, "image_size": size,
                  "patch_size": patch, "mlp_ratio": rng.choice([0.6, 4.3637]), "no_ln_pre": rng.random() < 0.5}
    config = {
        "model_cfg": {"embed_dim": rng.choice([5, 24]), "vision_cfg": vision, "text_cfg": text,
                      "quick_gelu": rng.random() < 0.5, "custom_text": rng.random() < 0.4},
        "preprocess_cfg": {"interpolation": rng.choice(["bicubic", "bilinear", "random"]),
                           "resize_mode": rng.choice(["shortest", "squash"]), "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
    }
    model = scramble(build(config["model_cfg"]), rng.random_seed)
    scramble_norms(model, rng.random_seed + 1)
    dtype = rng.choice([torch.float32, torch.float16])
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, os.path.join(path, "open_clip_model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(path, "open_clip_config.json"), config)
    return open_clip_requests(path, config)


def vilt(rng, path):
    vocab = bert_vocab(230)
    length = rng.choice([9, 40])
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=length)
    tokenizer.save_pretrained(path)
    patch = rng.choice([4, 8, 10])
    edge = patch * rng.choice([2, 4, 7]) + rng.randrange(patch)
    images = ViltImageProcessorPil(size={"shortest_edge": edge}, size_divisor=patch * rng.choice([1, 1, 2]), **statistics(rng))
    images.save_pretrained(path)
    is_vqa = rng.random() < 0.5
    more = {"id2label": dict(enumerate(ANSWERS)), "label2id": {a: i for i, a in enumerate(ANSWERS)}} if is_vqa else {}
    config = ViltConfig(vocab_size=len(vocab), max_position_embeddings=length, patch_size=patch,
                        image_size=patch * rng.choice([2, 6]), max_image_length=rng.choice([-1, -1, 12]),
                        qkv_bias=rng.random() < 0.5, pad_token_id=0, **tower(rng), **more)
    kind = ViltForQuestionAnswering if is_vqa else ViltForImageAndTextRetrieval
    config.max_image_length = -1  # fewer patches are picked at random: no result to compare
    model = write_dtype(rng, scramble(kind(config), rng.random_seed), path)
    processor = ViltProcessor(images, tokenizer)
    requests = []
    for i, picture in enumerate(PICTURES):
        text = SOME_TEXTS[i % len(SOME_TEXTS)]
        inputs = processor(images=open_rgb(picture), text=text, truncation=True, return_tensors="pt")
        logits = model(**inputs).logits[0]
        if is_vqa:
            scores = torch.sigmoid(logits)
            want = [{"answer": a, "score": s} for a, s in zip(ANSWERS, scores.tolist())]
            requests.append({"task": "vqa_scores", "picture": picture, "question": text, "want": want})
        else:
            requests.append({"task": "match_score", "picture": picture, "text": text, "want": torch.sigmoid(logits[0]).item()})
    return requests


def clipseg(rng, path):
    length = rng.choice([7, 20])
    vocab, tokenizer = write_clip_tokenizer(rng, path, length)
    heads, is_complex = rng.choice([1, 2, 3]), rng.random() < 0.5
    patch = rng.choice([4, 8, 16]) if is_complex else rng.choice([3, 7, 8])
    vision = {**tower(rng), "patch_size": patch, "image_size": patch * rng.choice([2, 4])}
    layers = vision["num_hidden_layers"]
    extract = sorted(rng.sample(range(layers), rng.randrange(1, layers + 1)))
    size = patch * rng.choice([3, 4, 6])
    images = ViTImageProcessorPil(size={"height": size, "width": size}, **statistics(rng))
    images.save_pretrained(path)
    text = {**tower(rng), "vocab_size": len(vocab), "max_position_embeddings": length,
            "eos_token_id": rng.choice([2, vocab["<|endoftext|>"]])}
    config = CLIPSegConfig(text_config=text, vision_config=vision, projection_dim=rng.choice([6, 21]), extract_layers=extract,
                           reduce_dim=heads * rng.choice([4, 8]), decoder_num_attention_heads=heads,
                           decoder_intermediate_size=rng.choice([5, 40]), conditional_layer=rng.randrange(len(extract) + 1),
                           decoder_hidden_act=rng.choice(["quick_gelu", "relu"]), use_complex_transposed_convolution=is_complex)
    model = write_dtype(rng, scramble(CLIPSegForImageSegmentation(config), rng.random_seed, gain=0.7), path)
    requests = []
    for picture in PICTURES[:3]:
        image = open_rgb(picture)
        pixels = images(image, return_tensors="pt")["pixel_values"]
        masks = []
        for prompt in SOME_TEXTS[:2]:
            logits = model(**tokenizer(prompt, truncation=True, return_tensors="pt"), pixel_values=pixels).logits
            mask = masks_of(logits.reshape(logits.shape[-2:]), (image.height, image.width))
            masks.append(base64.b64encode(zlib.compress(mask.numpy().tobytes())).decode())
        requests.append({"task": "segment", "picture": picture, "prompts": SOME_TEXTS[:2], "width": image.width,
                         "height": image.height, "want": masks})
    return requests


def owl(rng, path, config_kind, model_kind, image_kind):
    length = rng.choice([6, 16])
    vocab, tokenizer = write_clip_tokenizer(rng, path, length, pad="!")
    text = {**tower(rng), "vocab_size": len(vocab), "max_position_embeddings": length}
    vision = vision_tower(rng)
    size = vision["image_size"]
    images = image_kind(size={"height": size, "width": size}, **{**statistics(rng), "resample": rng.choice([2, 3])})
    images.save_pretrained(path)
    config = config_kind(text_config=text, vision_config=vision, projection_dim=text["hidden_size"])
    model = write_dtype(rng, scramble(model_kind(config), rng.random_seed), path)
    queries = LABELS + ["a"]
    batch = tokenizer(queries, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    requests = []
    for i, picture in enumerate(PICTURES):
        image = open_rgb(picture)
        pixels = images(image, return_tensors="pt")["pixel_values"]
        size = [(image.height, image.width)]
        outputs = model(**batch, pixel_values=pixels)
        found = images.post_process_object_detection(outputs, 0.0, size)[0]
        want = [{"label": queries[label], "score": score, "box": box} for score, label, box in
                zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist())]
        requests.append({"task": "detect", "picture": picture, "queries": queries, "threshold": 0, "width": image.width,
                         "height": image.height, "want": want})
        example = PICTURES[i - 1]
        outputs = model.image_guided_detection(pixel_values=pixels,
                                               query_pixel_values=images(open_rgb(example), return_tensors="pt")["pixel_values"])
        nms = rng.choice([0.2, 0.5, 1.0])
        found = images.post_process_image_guided_detection(outputs, 0.0, nms, torch.tensor(size))
        want = [{"label": None, "score": score, "box": box} for score, box in
                zip(found[0]["scores"].tolist(), found[0]["boxes"].tolist())]
        requests.append({"task": "detect", "picture": picture, "query_picture": example, "threshold": 0, "nms_threshold": nms,
                         "width": image.width, "height": image.height, "want": want})
    return requests


def blip2(rng, path):
    from transformers import Blip2Config, Blip2ForImageTextRetrieval, BlipImageProcessorPil

    vocab = bert_vocab(230)
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=512)
    tokenizer.save_pretrained(path)
    length, seen, text = rng.choice([6, 33]), vision_tower(rng), tower(rng)
    config = Blip2Config(
        vision_config={**seen, "qkv_bias": rng.random() < 0.5},
        qformer_config={**text, "vocab_size": len(vocab), "max_position_embeddings": length, "use_qformer_text_input": True,
                        "encoder_hidden_size": seen["hidden_size"], "cross_attention_frequency": rng.choice([1, 2, 3])},
        text_config={"model_type": "opt", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "ffn_dim": 8,
                     "word_embed_proj_dim": 8},
        num_query_tokens=rng.choice([1, 3, 8]), image_text_hidden_size=rng.choice([1, 22]),
    )
    model = scramble(Blip2ForImageTextRetrieval(config), rng.random_seed)
    with torch.no_grad():
        model.query_tokens.copy_(torch.randn(model.query_tokens.shape, generator=torch.Generator().manual_seed(rng.random_seed)))
    model = write_dtype(rng, model, path)
    size = seen["image_size"]
    images = BlipImageProcessorPil(size={"height": size, "width": size}, **statistics(rng))
    images.save_pretrained(path)
    requests = []
    for i, picture in enumerate(PICTURES):
        said = SOME_TEXTS[i % len(SOME_TEXTS)]
        ids = tokenizer(said, truncation=True, max_length=length, return_tensors="pt", return_token_type_ids=False)
        pixels = images(open_rgb(picture), return_tensors="pt")["pixel_values"]
        matched = model(pixel_values=pixels, **ids, use_image_text_matching_head=True).logits_per_image
        cosine = model(pixel_values=pixels, **ids).logits_per_image
        requests.append({"task": "match", "picture": picture, "text": said, "want": matched.softmax(-1)[0, 1].item(),
                         "cosine": cosine.reshape(-1)[0].item()})
    return requests


def caption_requests(loaded, settings):
    from generation import run

    model, images, tokenizer, _, start, generate = loaded
    requests = []
    for i, picture in enumerate(PICTURES):
        prompt = None if i % 2 else "a photo of"
        ids, pixels = start(prompt), images(open_rgb(picture), return_tensors="pt")["pixel_values"]
        made = run(model, lambda **kw: generate(pixels, ids, **kw), settings)
        begin, text = tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(made["sequences"][0], skip_special_tokens=True)
        if made.get("margin", 1) > 2e-3 and text.startswith(begin):
            requests.append({"task": "caption", "picture": picture, "settings": {**settings, **({"prompt": prompt} if prompt else {})},
                             "margin": made.get("margin"), "want": text[len(begin):]})
    return requests


def vit_gpt2(rng, path):
    from make_captioners import gpt2_tokenizer, load_vit_gpt2
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    _, end = gpt2_tokenizer(rng.choice([290, 330]), path)
    heads, seen = rng.choice([1, 2, 3]), vision_tower(rng)
    dim = seen["hidden_size"] if rng.random() < 0.4 and seen["hidden_size"] % heads == 0 else heads * rng.choice([8, 14])
    text = GPT2Config(n_embd=dim, n_layer=rng.choice([1, 2]), n_head=heads, n_inner=rng.choice([None, 17]), vocab_size=end + 1,
                      n_positions=40, activation_function=rng.choice(ACTIVATIONS), bos_token_id=end, eos_token_id=end,
                      scale_attn_weights=rng.random() < 0.5, scale_attn_by_inverse_layer_idx=rng.random() < 0.5,
                      layer_norm_epsilon=rng.choice([1e-3, 1e-5]))
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**seen, qkv_bias=rng.random() < 0.5), text)
    config.decoder_start_token_id = rng.choice([end, 7])
    config.pad_token_id = config.eos_token_id = config.bos_token_id = end
    model = scramble(VisionEncoderDecoderModel(config), rng.random_seed)
    size = seen["image_size"]
    ViTImageProcessorPil(size={"height": size, "width": size}, **statistics(rng)).save_pretrained(path)
    write_dtype(rng, model, path)
    loaded = load_vit_gpt2(path)
    if not hasattr(loaded[0], "enc_to_dec_proj"):
        loaded[0].enc_to_dec_proj = torch.nn.Identity()
    return caption_requests(loaded, rng.choice([{}, {"max_new_tokens": 7}, {"num_beams": 3}]))


def git(rng, path):
    from make_captioners import load_git
    from transformers import GitConfig, GitForCausalLM

    vocab = bert_vocab(230)
    BertTokenizer(vocab=vocab, model_max_length=512).save_pretrained(path)
    seen, heads = vision_tower(rng), rng.choice([1, 2, 3])
    patches = seen["image_size"] // seen["patch_size"]
    seen["image_size"] = patches * seen["patch_size"]  # the reference counts the patches wrong where there is a rest
    config = GitConfig(vision_config=seen, vocab_size=len(vocab), hidden_size=heads * rng.choice([8, 14]), num_attention_heads=heads,
                       num_hidden_layers=rng.choice([1, 2]), intermediate_size=rng.choice([11, 60]), max_position_embeddings=40,
                       hidden_act=rng.choice(ACTIVATIONS), layer_norm_eps=rng.choice([1e-3, 1e-12]), bos_token_id=vocab["[CLS]"],
                       eos_token_id=vocab["[SEP]"], pad_token_id=0)
    clip_images(rng, seen["image_size"]).save_pretrained(path)
    write_dtype(rng, scramble(GitForCausalLM(config), rng.random_seed), path)
    return caption_requests(load_git(path), rng.choice([{}, {"max_new_tokens": 7}, {"num_beams": 3}]))


KINDS = {
    "clip": clip,
    "metaclip2": metaclip2,
    "chinese-clip": chinese_clip,
    "altclip": altclip,
    "siglip": siglip,
    "siglip2": siglip2,
    "open-clip": open_clip,
    "vilt": vilt,
    "clipseg": clipseg,
    "blip2": blip2,
    "vit-gpt2": vit_gpt2,
    "git": git,
    "owlvit": lambda r, p: owl(r, p, OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil),
    "owlv2": lambda r, p: owl(r, p, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil),
}


def serve_and_compare(binary, made):
    """made: {name: (folder, requests)} → how many were wrong."""
    command = [binary, "serve", "--listen", "127.0.0.1:0", "--set", "store=memory:", "--set", "dtype=f32"]
    for name, (folder, _) in made.items():
        command += ["--model", f"{name}={folder}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wrong = 0
    try:
        line = server.stdout.readline()
        if " ready on " not in line:
            server.wait()
            print("FAULT: not served:", server.stderr.read())
            return 1
        url = line.split(" ready on ")[1].split()[0]
        for name, (_, requests) in made.items():
            worst, bad = 0.0, 0
            for request in requests:
                try:
                    off, right, note = ask(url, name, request)
                except OSError as fault:
                    body = fault.read().decode() if hasattr(fault, "read") else ""
                    off, right, note = 9.0, False, f"{fault}: {body[:200]}"
                worst = max(worst, off or 0)
                if not right:
                    bad += 1
                    print(f"  OFF {name} {request['task']} {off or 0:.2e} {note}")
            print(f"{name}: {len(requests)} asked, {bad} wrong, furthest off {worst:.1e}", flush=True)
            wrong += bad
    finally:
        server.terminate()
        server.wait()
    return wrong


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--only", choices=KINDS)
    given = arguments.parse_args()
    torch.set_grad_enabled(False)
    wrong = 0
    for seed in range(given.seed, given.seed + given.rounds):
        made = {}
        with tempfile.TemporaryDirectory() as root:
            for kind, make in KINDS.items():
                if given.only not in (None, kind):
                    continue
                rng = random.Random(f"{kind} {seed}")
                rng.random_seed = seed
                folder = os.path.join(root, f"{kind}-{seed}")
                os.makedirs(folder)
                made[f"{kind}-{seed}"] = folder, make(rng, folder)
            wrong += serve_and_compare(given.binary, made)
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
