"""Tiny CLIPSeg checkpoints and their goldens: clipseg-tiny (complex upsampling), clipseg-simple-tiny.

    python tests/reference/make_clipseg.py [checkpoint …]
"""

import os
import sys

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint, scramble, write_json
from tokenizers_tiny import clip_bpe, probe
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessorPil

PROMPTS = ["a red circle", "the dog under the bridge", "star", "a glass of water on the table, next to a wall in the garden"]
EXAMPLES = [(0, 2), (1, 4), (2, 0)]  # picture, example picture


def make(path, seed, text, vision, size, n_merges, **more):
    vocab, merges = clip_bpe(n_merges)
    length = text["max_position_embeddings"]
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length).save_pretrained(path)
    eos = more.pop("eos_token_id", None) or vocab["<|endoftext|>"]
    config = CLIPSegConfig(text_config={"vocab_size": len(vocab), "eos_token_id": eos, **text}, vision_config=vision, **more)
    model = scramble(CLIPSegForImageSegmentation(config), seed)
    model.save_pretrained(path)
    write_json(
        os.path.join(path, "preprocessor_config.json"),
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_processor_type": "ViTImageProcessor",
            "image_std": [0.229, 0.224, 0.225],
            "processor_class": "CLIPSegProcessor",
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": size, "width": size},
        },
    )


def clipseg_tiny(path, seed):
    """As clipseg-rd64-refined: complex upsampling; pictures larger than image_size, so positions are interpolated."""
    make(
        path,
        seed,
        {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 18},
        {
            "hidden_size": 42,
            "intermediate_size": 90,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 40,
            "patch_size": 8,
        },
        size=56,
        n_merges=120,
        eos_token_id=2,
        projection_dim=26,
        extract_layers=[0, 1, 3],
        reduce_dim=20,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=50,
        use_complex_transposed_convolution=True,
    )


def clipseg_simple(path, seed):
    """As clipseg-rd64: one transposed convolution; the condition comes in at the second decoder layer."""
    make(
        path,
        seed,
        {"hidden_size": 30, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 14},
        {
            "hidden_size": 36,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 35,
            "patch_size": 7,
            "layer_norm_eps": 1e-6,
        },
        size=35,
        n_merges=90,
        projection_dim=22,
        extract_layers=[0, 2],
        reduce_dim=18,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=44,
        conditional_layer=1,
    )


def masks_of(logits, size):
    """Design §5: logits resized bilinearly to the picture, then probabilities; kept in 8 bits."""
    large = torch.nn.functional.interpolate(logits[None, None], size=size, mode="bilinear", align_corners=False)
    return torch.round(torch.sigmoid(large[0, 0]) * 255).to(torch.uint8)


def golden(name, path, seed):
    model = CLIPSegForImageSegmentation.from_pretrained(path, dtype=torch.float32).eval()
    images, tokenizer = ViTImageProcessorPil.from_pretrained(path), CLIPTokenizer.from_pretrained(path)
    out = Golden(name, seed, parameters=parameters_of(model))
    out.head["tokenizer_probes"] = probe(tokenizer)
    activations = {}
    for picture in PICTURES:
        pixels = images(open_rgb(picture), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            vision = model.clip.vision_model(pixels, output_hidden_states=True)
            projected = model.clip.visual_projection(vision.pooler_output)
        activations[picture] = pixels, vision
        tensors = {"pixel_values": pixels[0], "embedded": vision.hidden_states[0][0], "projected": projected[0]}
        for i, hidden in enumerate(vision.hidden_states[1:], 1):
            tensors[f"layer{i}"] = hidden[0]
        out.case(f"image:{picture}", tensors, kind="image", picture=picture)

    exact = CLIPSegForImageSegmentation.from_pretrained(path, dtype=torch.float32).double().eval()
    single = []
    for p, picture in enumerate(PICTURES):
        image = open_rgb(picture)
        for k, prompt in enumerate(PROMPTS):
            ids = tokenizer(prompt, return_tensors="pt", truncation=True)
            with torch.no_grad():
                result = model(**ids, pixel_values=activations[picture][0], output_hidden_states=True)
            logits = result.logits.reshape(result.logits.shape[-2:])
            single.append(logits)
            with torch.no_grad():
                truth = exact(**ids, pixel_values=activations[picture][0].double()).logits.reshape(logits.shape)
            error = (truth - logits).abs().max() / truth.abs().max()
            assert error < 3e-5, f"{picture} {k}: float32 itself is {error:.1e} off: take another seed"
            tensors = {"logits": logits}
            if p == k:
                tensors["conditional_embedding"] = result.conditional_embeddings[0]
                for i, hidden in enumerate(result.decoder_output.hidden_states or []):
                    tensors[f"decoder{i}"] = hidden[0]
            if p % 2 == 0 and k < 2:
                tensors["mask"] = masks_of(logits, (image.height, image.width))
            out.case(f"segment:{picture}:{k}", tensors, kind="segment", picture=picture, prompt=prompt,
                     input_ids=ids["input_ids"][0].tolist(), width=image.width, height=image.height)
    # One picture with all prompts in one padded batch: the same.
    ids = tokenizer(PROMPTS, return_tensors="pt", truncation=True, padding=True)
    with torch.no_grad():
        together = model(**ids, pixel_values=activations[PICTURES[0]][0].repeat(len(PROMPTS), 1, 1, 1)).logits
    assert torch.allclose(together, torch.stack(single[: len(PROMPTS)]), atol=1e-4)

    for a, b in EXAMPLES:
        image = open_rgb(PICTURES[a])
        with torch.no_grad():
            result = model(pixel_values=activations[PICTURES[a]][0], conditional_pixel_values=activations[PICTURES[b]][0])
        logits = result.logits.reshape(result.logits.shape[-2:])
        tensors = {
            "logits": logits,
            "conditional_embedding": result.conditional_embeddings[0],
            "mask": masks_of(logits, (image.height, image.width)),
        }
        out.case(f"example:{a}:{b}", tensors, kind="segment_by_example", picture=PICTURES[a], query_picture=PICTURES[b],
                 width=image.width, height=image.height)
    out.write()


ALL = {"clipseg-tiny": (clipseg_tiny, 801), "clipseg-simple-tiny": (clipseg_simple, 810)}


def main():
    for name in sys.argv[1:] or ALL:
        create, seed = ALL[name]
        path = checkpoint_dir(name)
        create(path, seed)
        report_checkpoint(path)
        golden(name, path, seed)


if __name__ == "__main__":
    main()
