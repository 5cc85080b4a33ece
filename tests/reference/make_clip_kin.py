"""Tiny checkpoints of CLIP's kin with other text towers, and their goldens: metaclip2-tiny, chinese-clip-tiny,
altclip-tiny.

    python tests/reference/make_clip_kin.py [checkpoint …]
"""

import os
import sys

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint
from common import scramble, write_json
from make_clip import LABELS, TEMPLATE, TEXTS
from tokenizers_tiny import bert_vocab, probe, unigram
from transformers import AltCLIPConfig, AltCLIPModel, BertTokenizer, ChineseCLIPConfig, ChineseCLIPModel
from transformers import CLIPImageProcessorPil, MetaClip2Config, MetaClip2Model, XLMRobertaTokenizer

CHINESE = "桌上的两只猫，一张照片"


def xlm_roberta(size, length, path):
    """XLM-R's layout: <s>, <pad>, </s>, <unk> first, <mask> last, <s> … </s> around a text."""
    from json import loads

    pieces = [tuple(piece) for piece in loads(unigram(size).to_str())["model"]["vocab"]][3:]
    vocab = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")] + pieces + [("<mask>", 0.0)]
    tokenizer = XLMRobertaTokenizer(vocab=vocab, model_max_length=length)
    tokenizer.save_pretrained(path)
    return tokenizer


def metaclip2(path):
    """The public files' traits: eos_token_id 2, QuickGELU, a vocabulary of XLM-R's kind; bfloat16."""
    tokenizer = xlm_roberta(230, 17, path)
    config = MetaClip2Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 33,
            "intermediate_size": 70,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": 17,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": 50,
            "intermediate_size": 90,
            "num_hidden_layers": 2,
            "num_attention_heads": 5,
            "image_size": 45,
            "patch_size": 7,
        },
        projection_dim=29,
    )
    model = scramble(MetaClip2Model(config), 301)
    with torch.no_grad():
        model.logit_scale.fill_(3.1)
    model.bfloat16().save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": 45}, crop_size={"height": 45, "width": 45}).save_pretrained(path)


def chinese_clip(path):
    """The public layout: vocab.txt alone, pictures stretched rather than cropped, a text tower deeper than the other's."""
    vocab = bert_vocab(230, n_unused=3, extra=tuple(dict.fromkeys(CHINESE.replace("桌", ""))))
    with open(os.path.join(path, "vocab.txt"), "w", encoding="utf-8") as out:
        out.writelines(token + "\n" for token, _ in sorted(vocab.items(), key=lambda item: item[1]))
    write_json(
        os.path.join(path, "tokenizer_config.json"),
        {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"},
    )
    config = ChineseCLIPConfig(
        text_config={
            "vocab_size": len(vocab),
            "hidden_size": 36,
            "intermediate_size": 75,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 23,
            "type_vocab_size": 3,
        },
        vision_config={
            "hidden_size": 42,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 38,
            "patch_size": 9,
        },
        projection_dim=26,
    )
    model = scramble(ChineseCLIPModel(config), 302)
    with torch.no_grad():
        model.logit_scale.fill_(2.9)
    model.save_pretrained(path)
    CLIPImageProcessorPil(size={"height": 38, "width": 38}, do_center_crop=False).save_pretrained(path)


def altclip(path):
    """Float16, a transformation of another width than both towers, positions that begin at pad_token_id + 1.

    The vision layers are left as transformers 5 names them ("encoder.layer"; the public file has "encoder.layers").
    """
    tokenizer = xlm_roberta(210, 512, path)
    config = AltCLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 40,
            "intermediate_size": 66,
            "num_hidden_layers": 2,
            "num_attention_heads": 5,
            "max_position_embeddings": 21,
            "project_dim": 31,
        },
        vision_config={
            "hidden_size": 36,
            "intermediate_size": 77,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 41,
            "patch_size": 8,
            "hidden_act": "gelu",
        },
        projection_dim=27,
    )
    model = scramble(AltCLIPModel(config), 303)
    with torch.no_grad():
        model.logit_scale.fill_(3.3)
    model.half().save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": 50}, crop_size={"height": 41, "width": 41}).save_pretrained(path)


def golden(name, path, seed, model_class, tokenizer_class, length):
    """Reads the checkpoint back as anyone would and writes down what the reference makes of it."""
    model = model_class.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
    processor = CLIPImageProcessorPil.from_pretrained(path)
    tokenizer = tokenizer_class.from_pretrained(path)
    tokenizer.model_max_length = length  # what the positions are enough for
    out = Golden(name, seed, parameters=parameters_of(model), logit_scale_exp=model.logit_scale.exp().item())
    out.head["tokenizer_probes"] = probe(tokenizer)

    for picture in PICTURES:
        pixels = processor(open_rgb(picture), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            projected = model.get_image_features(pixel_values=pixels).pooler_output
        unit = projected / projected.norm(dim=-1, keepdim=True)
        out.case(
            f"image:{picture}", {"pixel_values": pixels[0], "image_embeds": unit[0]}, kind="image", picture=picture
        )

    texts = TEXTS + [CHINESE, "a <pad> b [SEP] </s> c"] + [TEMPLATE.format(label) for label in LABELS]
    for i, text in enumerate(texts):
        ids = tokenizer(text, return_tensors="pt", truncation=True)
        with torch.no_grad():
            projected = model.get_text_features(**ids).pooler_output
        unit = projected / projected.norm(dim=-1, keepdim=True)
        out.case(
            f"text:{i}", {"text_embeds": unit[0]}, kind="text", text=text, input_ids=ids["input_ids"][0].tolist()
        )

    batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
    batch["pixel_values"] = processor([open_rgb(p) for p in PICTURES], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        result = model(**batch)
    columns = slice(len(texts) - len(LABELS), len(texts))
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


ALL = {
    "metaclip2-tiny": (metaclip2, 301, MetaClip2Model, XLMRobertaTokenizer, 17),
    "chinese-clip-tiny": (chinese_clip, 302, ChineseCLIPModel, BertTokenizer, 23),
    "altclip-tiny": (altclip, 303, AltCLIPModel, XLMRobertaTokenizer, 19),
}


def main():
    for name in sys.argv[1:] or ALL:
        make, seed, *classes = ALL[name]
        path = checkpoint_dir(name)
        make(path)
        report_checkpoint(path)
        golden(name, path, seed, *classes)


if __name__ == "__main__":
    main()
