"""A tiny BLIP-2 matcher and its golden: blip2-itm-tiny.

    python tests/reference/make_blip2.py
"""

import os

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint, scramble
from make_blip import STATEMENTS
from tokenizers_tiny import bert_vocab, probe
from transformers import BertTokenizer, Blip2Config, Blip2ForImageTextRetrieval, BlipImageProcessorPil

NAME, SEED = "blip2-itm-tiny", 1400


def make(path):
    """Three layers, of which the first and the last look at the picture; float16."""
    vocab = bert_vocab(300, n_unused=6)
    BertTokenizer(vocab=vocab, model_max_length=512).save_pretrained(path)
    config = Blip2Config(
        vision_config={
            "hidden_size": 48, "intermediate_size": 90, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 39,
            "patch_size": 8,
        },
        qformer_config={
            "vocab_size": len(vocab), "hidden_size": 36, "intermediate_size": 70, "num_hidden_layers": 3, "num_attention_heads": 4,
            "max_position_embeddings": 31, "encoder_hidden_size": 48, "use_qformer_text_input": True,
        },
        text_config={"model_type": "opt", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "ffn_dim": 8,
                     "word_embed_proj_dim": 8},
        num_query_tokens=5,
        image_text_hidden_size=22,
    )
    model = scramble(Blip2ForImageTextRetrieval(config), SEED, gain=1.6)
    with torch.no_grad():
        model.query_tokens.copy_(torch.randn(model.query_tokens.shape, generator=torch.Generator().manual_seed(SEED)))
    model.half().save_pretrained(path)
    BlipImageProcessorPil(size={"height": 39, "width": 39}).save_pretrained(path)


def golden(path):
    model = Blip2ForImageTextRetrieval.from_pretrained(path, dtype=torch.float32).eval()
    images, tokenizer = BlipImageProcessorPil.from_pretrained(path), BertTokenizer.from_pretrained(path)
    out = Golden(NAME, SEED, parameters=parameters_of(model))
    out.head["tokenizer_probes"] = probe(tokenizer, return_token_type_ids=False)
    for picture in PICTURES:
        pixels = images(open_rgb(picture), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            states = model.vision_model(pixels).last_hidden_state
        out.case(f"image:{picture}", {"pixel_values": pixels[0], "image_states": states[0]}, kind="image", picture=picture)
        for k, text in enumerate(STATEMENTS):
            ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                matched = model(pixel_values=pixels, **ids, use_image_text_matching_head=True).logits_per_image
                cosine = model(pixel_values=pixels, **ids).logits_per_image
            out.case(f"match:{picture}:{k}", kind="match", picture=picture, text=text, input_ids=ids["input_ids"][0].tolist(),
                     probability=matched.softmax(-1)[0, 1].item(), cosine=cosine.reshape(-1)[0].item())
    out.write()


if __name__ == "__main__":
    folder = checkpoint_dir(NAME)
    make(folder)
    report_checkpoint(folder)
    golden(folder)
