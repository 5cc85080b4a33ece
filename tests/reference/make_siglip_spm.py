"""A second tiny SigLIP checkpoint and its golden: siglip-spm-tiny.

Its tokenizer.json is what the public SigLIP files have: a SentencePiece Unigram model with the SentencePiece
normaliser as a precompiled table, punctuation taken out, padding with </s>.

    python tests/reference/make_siglip_spm.py
"""

import os
import tempfile

import corpus
import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint, scramble, write_json
from make_clip import LABELS, TEXTS
from tokenizers_tiny import sentencepiece_unigram
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipTokenizer

NAME, SEED, LENGTH = "siglip-spm-tiny", 610, 21
TEMPLATE = "This is a photo of {}."  # what the public models were tried with


def make(path):
    """Layout of google/siglip-base-patch16-224. Returns the ids that SentencePiece itself gives for the probes."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, model_file = sentencepiece_unigram(folder, 420)
        slow = SiglipTokenizer(vocab_file=model_file, model_max_length=LENGTH, pad_token="</s>")
        own_ids = [slow(text, truncation=True)["input_ids"] for text in corpus.PROBES]
    tokenizer.save(os.path.join(path, "tokenizer.json"))
    write_json(
        os.path.join(path, "tokenizer_config.json"),
        {
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "eos_token": "</s>",
            "model_input_names": ["input_ids"],
            "model_max_length": LENGTH,
            "pad_token": "</s>",
            "tokenizer_class": "SiglipTokenizer",
            "unk_token": "<unk>",
        },
    )
    config = SiglipConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 44,
            "intermediate_size": 100,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": LENGTH,
        },
        vision_config={
            "hidden_size": 44,
            "intermediate_size": 106,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 48,
            "patch_size": 8,
        },
    )
    model = scramble(SiglipModel(config), SEED)
    with torch.no_grad():
        model.logit_scale.fill_(2.2)
        model.logit_bias.fill_(-1.5)
        model.vision_model.head.probe.mul_(3)
    model.save_pretrained(path)
    write_json(
        os.path.join(path, "preprocessor_config.json"),
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 48, "width": 48},
        },
    )
    return own_ids


def golden(path, own_ids):
    model = SiglipModel.from_pretrained(path, dtype=torch.float32).eval()
    images = SiglipImageProcessorPil.from_pretrained(path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
    out = Golden(NAME, SEED, parameters=parameters_of(model), logit_scale_exp=scale, logit_bias=bias)

    def ids_of(text, **how):
        return tokenizer(text, truncation=True, max_length=LENGTH, **how)["input_ids"]

    probes = []
    for text, own in zip(corpus.PROBES, own_ids):
        ids = ids_of(text)
        probes.append({"text": text, "ids": ids, "ids_plain": tokenizer(text, add_special_tokens=False)["input_ids"]})
        if own != ids:
            probes[-1]["ids_sentencepiece"] = own
    out.head["tokenizer_probes"] = probes
    print(f"{sum('ids_sentencepiece' in p for p in probes)} of {len(probes)} probes differ from SentencePiece's ids")

    image_embeds, text_embeds = [], []
    for picture in PICTURES:
        pixels = images(open_rgb(picture), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            vision = model.vision_model(pixels, output_hidden_states=True)
        unit = vision.pooler_output / vision.pooler_output.norm(dim=-1, keepdim=True)
        image_embeds.append(unit)
        tensors = {
            "pixel_values": pixels[0],
            "embedded": vision.hidden_states[0][0],
            "last_hidden_state": vision.last_hidden_state[0],
            "pooled": vision.pooler_output[0],
            "image_embeds": unit[0],
        }
        for i, hidden in enumerate(vision.hidden_states[1:], 1):
            tensors[f"layer{i}"] = hidden[0]
        out.case(f"image:{picture}", tensors, kind="image", picture=picture)

    texts = TEXTS + [TEMPLATE.format(label) for label in LABELS]
    for i, text in enumerate(texts):
        ids = torch.tensor([ids_of(text, padding="max_length")])
        with torch.no_grad():
            result = model.text_model(ids, output_hidden_states=True)
        unit = result.pooler_output / result.pooler_output.norm(dim=-1, keepdim=True)
        text_embeds.append(unit)
        tensors = {
            "padded_input_ids": ids[0],
            "last_hidden_state": result.last_hidden_state[0],
            "pooled": result.pooler_output[0],
            "text_embeds": unit[0],
        }
        for k, hidden in enumerate(result.hidden_states[1:], 1):
            tensors[f"layer{k}"] = hidden[0]
        out.case(f"text:{i}", tensors, kind="text", text=text, input_ids=ids_of(text))

    pixels = torch.cat([images(open_rgb(p), return_tensors="pt")["pixel_values"] for p in PICTURES])
    ids = torch.tensor([ids_of(text, padding="max_length") for text in texts])
    with torch.no_grad():
        result = model(input_ids=ids, pixel_values=pixels)
    assert torch.allclose(result.image_embeds, torch.cat(image_embeds), atol=1e-5)
    assert torch.allclose(result.text_embeds, torch.cat(text_embeds), atol=1e-5)
    tensors = {"logits_per_image": result.logits_per_image}
    tensors.update({"image_embeds": result.image_embeds, "text_embeds": result.text_embeds})
    out.case("batch", tensors, kind="batch", pictures=PICTURES, texts=texts)
    for row, picture in enumerate(PICTURES):
        scores = torch.sigmoid(result.logits_per_image[row, len(TEXTS):])
        order = scores.argsort(descending=True).tolist()
        out.case(
            f"classify:{picture}", kind="classify", picture=picture, template=TEMPLATE, labels=LABELS,
            best_first=[{"label": LABELS[i], "score": scores[i].item()} for i in order],
        )
    out.write()


if __name__ == "__main__":
    folder = checkpoint_dir(NAME)
    own = make(folder)
    report_checkpoint(folder)
    golden(folder, own)
