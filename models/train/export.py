"""Writes the six model directories from the checkpoints of the runs: bf16 weights, configuration, tokenizer.

usage: python export.py --run DIR --to models/ [--only blip|clip]
"""
import argparse
import json
import os

import torch
from transformers import CLIPModel, CLIPSegForImageSegmentation, GenerationConfig, OwlViTForObjectDetection

from scenes import SIZE
from towers import IMAGE_MEAN, IMAGE_STD
from train_blip import Joint
from train_clip import Clip, clip_config, owl_config, seg_config
from vocabulary import bert_tokenizer, clip_tokenizer, wordpiece


def write_json(folder, name, content):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


def preprocessor(folder, image, family):
    write_json(folder, "preprocessor_config.json", {
        "do_center_crop": False, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": list(IMAGE_MEAN), "image_processor_type": image + "ImageProcessor", "image_std": list(IMAGE_STD),
        "processor_class": family + "Processor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"height": SIZE, "width": SIZE}})


def save(model, folder):
    os.makedirs(folder, exist_ok=True)
    model = model.to(torch.bfloat16).eval()
    model.save_pretrained(folder)
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    print(folder, f"{os.path.getsize(os.path.join(folder, 'model.safetensors')) / 1e6:.1f} MB")


def renamed(state, *pairs):
    """The tensors whose names begin with the first of a pair, with the second in its place; the first pair that fits counts."""
    out = {}
    for name, value in state.items():
        for old, new in pairs:
            if name.startswith(old):
                out[new + name[len(old):]] = value
                break
    return out


def saved(run, name, common):
    """A model's own checkpoint (`--name itm.pt`) where there is one, else the common one."""
    own = os.path.join(run, name + ".pt")
    return torch.load(own if os.path.exists(own) else os.path.join(run, common))["model"]


def blip(run, to):
    """Each with the tower of its run."""
    joint, vocab = Joint(), wordpiece()
    for name, tokens in (("caption", 40), ("vqa", 8), ("itm", 0)):
        model = getattr(joint, name)
        model.load_state_dict(renamed(saved(run, name, "blip.pt"), (name + ".", "")))
        folder = os.path.join(to, "vlmd-" + name)
        if tokens:
            special = dict(bos_token_id=vocab["[DEC]"], eos_token_id=vocab["[SEP]"], pad_token_id=vocab["[PAD]"])
            model.generation_config = GenerationConfig(max_new_tokens=tokens, num_beams=1, do_sample=False, **special)
        save(model, folder)
        bert_tokenizer().save_pretrained(folder)
        with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
            file.writelines(token + "\n" for token in vocab)
        preprocessor(folder, "Blip", "Blip")


def clip(run, to):
    """CLIP, and the detector and the segmenter, each with its own copy of the towers."""
    tokenizer = clip_tokenizer()
    model = CLIPModel(clip_config(tokenizer))
    model.load_state_dict(renamed(torch.load(os.path.join(run, "clip.pt"))["model"], ("clip.", "")))
    finder = Clip(tokenizer)
    finder.load_state_dict(saved(run, "detect", "find.pt"))
    detector = OwlViTForObjectDetection(owl_config(tokenizer))
    parts = renamed(finder.state_dict(), ("clip.vision_model.pre_layrnorm.", "owlvit.vision_model.pre_layernorm."),
                    ("clip.vision_model.post_layernorm.", "unused."), ("clip.", "owlvit."),
                    ("owl_post.", "owlvit.vision_model.post_layernorm."), ("owl_norm.", "layer_norm."),
                    ("class_head.", "class_head."), ("box_head.", "box_head."))
    detector.load_state_dict({name: value for name, value in parts.items() if not name.startswith("unused.")})
    segmenter = CLIPSegForImageSegmentation(seg_config(tokenizer))
    finder.load_state_dict(saved(run, "segment", "find.pt"))
    segmenter.load_state_dict(renamed(finder.state_dict(), ("clip.", "clip."), ("decoder.", "decoder.")))
    for name, each, image, family in (("clip", model, "CLIP", "CLIP"), ("detect", detector, "OwlViT", "OwlViT"),
                                       ("segment", segmenter, "ViT", "CLIPSeg")):
        folder = os.path.join(to, "vlmd-" + name)
        save(each, folder)
        tokenizer.save_pretrained(folder)
        parts = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        write_json(folder, "vocab.json", parts["vocab"])
        with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as file:
            file.write("#version: 0.2\n")
            file.writelines((m if isinstance(m, str) else " ".join(m)) + "\n" for m in parts["merges"])
        preprocessor(folder, image, family)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--only", choices=["blip", "clip"])
    arguments = parser.parse_args()
    if arguments.only != "clip":
        blip(arguments.run, arguments.to)
    if arguments.only != "blip":
        clip(arguments.run, arguments.to)
