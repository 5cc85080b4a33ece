"""Tiny OWL-ViT and OWLv2 checkpoints and their goldens: owlvit-tiny, owlv2-tiny.

    python tests/reference/make_owl.py [checkpoint …]      (owlv2-tiny needs scipy: its resizing is scipy's)
    python tests/reference/make_owl.py --search NAME        tries seeds until no decision is near
"""

import os
import sys
import tempfile

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint, scramble, write_json
from tokenizers_tiny import clip_bpe, probe
from transformers import CLIPTokenizer, OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil, OwlViTProcessor
from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor
from transformers.image_transforms import center_to_corners_format

QUERIES = ["a photo of a red circle", "dog", "the yellow triangle under the bridge"]
THRESHOLDS = [0.1, 0.4, 0.6]
EXAMPLES = [(0, 3), (2, 0), (4, 1)]  # picture, query picture
EXAMPLE_SETTINGS = [{"threshold": 0.0, "nms_threshold": 0.3}, {"threshold": 0.45, "nms_threshold": 0.6}]


def make(config_kind, model_kind, path, seed, n_merges, text, vision, preprocessor):
    vocab, merges = clip_bpe(n_merges)
    length = text["max_position_embeddings"]
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, pad_token="!").save_pretrained(path)
    config = config_kind(
        text_config={
            "vocab_size": len(vocab),
            "bos_token_id": vocab["<|startoftext|>"],
            "eos_token_id": vocab["<|endoftext|>"],
            **text,
        },
        vision_config=vision,
        projection_dim=text["hidden_size"],
    )
    model = scramble(model_kind(config), seed)
    with torch.no_grad():
        heads = [model.box_head] + ([model.objectness_head] if hasattr(model, "objectness_head") else [])
        for head in heads:
            head.dense2.weight.mul_(0.7)
        model.box_head.dense2.bias[2:] += 1.2  # larger boxes, so that some overlap
    model.save_pretrained(path)
    write_json(os.path.join(path, "preprocessor_config.json"), preprocessor)
    return model


def owlvit(path, seed):
    make(
        OwlViTConfig, OwlViTForObjectDetection, path, seed, 130,
        {"hidden_size": 34, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 11},
        {"hidden_size": 45, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": 57, "patch_size": 8},
        {
            "crop_size": {"height": 57, "width": 57},
            "do_center_crop": False,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "OwlViTImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": {"height": 57, "width": 57},
        },
    )


def owlv2(path, seed):
    """Saved as bfloat16."""
    make(
        Owlv2Config, Owlv2ForObjectDetection, path, seed, 110,
        {"hidden_size": 36, "intermediate_size": 84, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 13},
        {"hidden_size": 40, "intermediate_size": 90, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56, "patch_size": 8},
        {
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "Owlv2ImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 56, "width": 56},
        },
    ).to(torch.bfloat16).save_pretrained(path)


KINDS = {
    "owlvit-tiny": (owlvit, 908, OwlViTForObjectDetection, OwlViTImageProcessorPil, OwlViTProcessor),
    "owlv2-tiny": (owlv2, 910, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor),
}


def rows(result, labels=None):
    """The reference's detections as plain rows, in its order (by patch)."""
    made = []
    for i, (score, box) in enumerate(zip(result["scores"].tolist(), result["boxes"].tolist())):
        row = {"score": score, "box": box}
        if labels is not None:
            row["label"] = labels[result["labels"][i]]
        made.append(row)
    return made


def iou_margin(boxes, scores, limit):
    """How near any two boxes come to the limit, among those with a score: a guard against near-ties."""
    from transformers.models.owlvit.image_processing_pil_owlvit import box_iou

    ious = box_iou(boxes, boxes)[0]
    return (ious - limit).abs().min().item()


def golden(name, path, seed, kind, image_kind, processor_kind):
    model = kind.from_pretrained(path, dtype=torch.float32).eval()
    images, tokenizer = image_kind.from_pretrained(path), CLIPTokenizer.from_pretrained(path)
    processor = processor_kind(images, tokenizer)
    backbone = model.owlvit if hasattr(model, "owlvit") else model.owlv2
    out = Golden(name, seed, parameters=parameters_of(model))
    out.head["tokenizer_probes"] = probe(tokenizer)
    out.head["box_bias"] = "tensor"
    out.tensor("box_bias", model.box_bias)
    margins = []

    with torch.no_grad():
        batch = tokenizer(QUERIES, padding="max_length", truncation=True, return_tensors="pt")
        for i, query in enumerate(QUERIES):
            ids = tokenizer(query, truncation=True, return_tensors="pt")
            pooled = backbone.text_model(**ids).pooler_output
            projected = backbone.text_projection(pooled)
            tensors = {"pooled": pooled[0], "text_embeds": (projected / projected.norm(dim=-1, keepdim=True))[0]}
            out.case(f"text:{i}", tensors, kind="text", text=query, input_ids=ids["input_ids"][0].tolist(),
                     padded_input_ids=batch["input_ids"][i].tolist())

        for picture in PICTURES:
            image = open_rgb(picture)
            pixels = images(image, return_tensors="pt")["pixel_values"]
            vision = backbone.vision_model(pixels, output_hidden_states=True)
            outputs = model(**batch, pixel_values=pixels)
            tensors = {
                "pixel_values": pixels[0],
                "embedded": vision.hidden_states[0][0],
                "image_embeds": outputs.image_embeds[0].flatten(0, 1),
                "class_embeds": outputs.class_embeds[0],
                "logits": outputs.logits[0],
                "pred_boxes": outputs.pred_boxes[0],
            }
            if hasattr(outputs, "objectness_logits"):
                tensors["objectness_logits"] = outputs.objectness_logits[0]
            for i, hidden in enumerate(vision.hidden_states[1:], 1):
                tensors[f"layer{i}"] = hidden[0]
            found = []
            for threshold in THRESHOLDS:
                result = processor.post_process_grounded_object_detection(
                    outputs, threshold=threshold, target_sizes=[(image.height, image.width)]
                )[0]
                found.append({"threshold": threshold, "detections": rows(result, QUERIES)})
                best = torch.sigmoid(outputs.logits[0].max(-1).values)
                margins.append((best - threshold).abs().min().item())
            two = outputs.logits[0].topk(2, dim=-1).values
            margins.append((two[:, 0] - two[:, 1]).abs().min().item())
            out.case(f"detect:{picture}", tensors, kind="detect", picture=picture, queries=QUERIES, width=image.width,
                     height=image.height, results=found)

        for a, b in EXAMPLES:
            image = open_rgb(PICTURES[a])
            pixels = images(image, return_tensors="pt")["pixel_values"]
            query = images(open_rgb(PICTURES[b]), return_tensors="pt")["pixel_values"]
            outputs = model.image_guided_detection(pixel_values=pixels, query_pixel_values=query)
            features = model.image_embedder(query)[0].flatten(1, 2)
            embedding, index, _ = model.embed_image_query(features, model.image_embedder(query)[0])
            found = []
            for settings in EXAMPLE_SETTINGS:
                result = processor.post_process_image_guided_detection(
                    outputs, target_sizes=torch.tensor([[image.height, image.width]]), **settings
                )
                found.append({**settings, "detections": rows(result[0]) if result else []})
                corners = center_to_corners_format(outputs.target_pred_boxes)[0]
                margins.append(iou_margin(corners, None, settings["nms_threshold"]))
            tensors = {
                "logits": outputs.logits[0],
                "pred_boxes": outputs.target_pred_boxes[0],
                "query_pred_boxes": outputs.query_pred_boxes[0],
                "query_embedding": embedding.reshape(-1),
            }
            out.case(f"example:{a}:{b}", tensors, kind="detect_by_example", picture=PICTURES[a], query_picture=PICTURES[b],
                     query_box_index=int(index.reshape(-1)[0]), width=image.width, height=image.height, results=found)
    print(f"{name}, seed {seed}: nearest to any decision: {min(margins):.2e}", flush=True)
    out.head["least_margin"] = min(margins)
    return out


def main():
    if sys.argv[1:2] == ["--search"]:
        name = sys.argv[2]
        create, first, *kinds = KINDS[name]
        with tempfile.TemporaryDirectory() as path:
            for seed in range(first, first + 40):
                create(path, seed)
                if golden(name, path, seed, *kinds).head["least_margin"] > 3e-4:
                    return
    for name in sys.argv[1:] or KINDS:
        create, seed, *kinds = KINDS[name]
        path = checkpoint_dir(name)
        create(path, seed)
        report_checkpoint(path)
        golden(name, path, seed, *kinds).write()


if __name__ == "__main__":
    main()
