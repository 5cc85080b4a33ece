"""Tiny ViLT checkpoints and their goldens: vilt-vqa-tiny, vilt-itr-tiny, vilt-nlvr2-tiny, vilt-mlm-tiny.

    python tests/reference/make_vilt.py [checkpoint …]
"""

import os
import sys

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint, scramble, write_json
from safetensors.torch import load_file, save_file
from tokenizers_tiny import bert_vocab, probe
from transformers import BertTokenizer, ViltConfig, ViltForImageAndTextRetrieval, ViltForImagesAndTextClassification
from transformers import ViltForMaskedLM, ViltForQuestionAnswering, ViltImageProcessorPil, ViltProcessor

ANSWERS = ["yes", "no", "red", "two", "purple horse", "in the garden", "12", "cat", "nothing", "café", "left"]
QUESTIONS = ["what colour is the cat?", "how many umbrellas are under the bridge?", "why", "is it 2024, yes or no?"]
TEXTS = ["a photo of a red cat", "the dog's house isn't blue", "star", "two purple bananas in a café"]
STATEMENTS = ["the left picture has two dogs and the right one a yellow boat", "both are red"]
MASKED = ["a [MASK] of a red [MASK] on the table", "the [MASK] is blue", "there are [MASK] [MASK] [MASK] ?", "no mask"]
EDGE, DIVISOR, PATCH = 40, 8, 8


class Ordered:
    """While open, ViLT takes its patches in reading order.

    The reference picks every patch of a picture in a random order, which no result depends on (positions go
    with the patches) but the hidden states do.
    """

    def __enter__(self):
        self.real = torch.multinomial
        torch.multinomial = lambda weights, n, replacement=False: torch.arange(int(n)) % len(weights)

    def __exit__(self, *_):
        torch.multinomial = self.real


def base_config(vocab, **more):
    return ViltConfig(
        vocab_size=len(vocab),
        hidden_size=42,
        intermediate_size=100,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=25,
        image_size=48,
        patch_size=PATCH,
        pad_token_id=0,
        **more,
    )


def write_processor(path, vocab):
    BertTokenizer(vocab=vocab, model_max_length=25).save_pretrained(path)
    with open(os.path.join(path, "vocab.txt"), "w", encoding="utf-8") as out:
        out.writelines(f"{token}\n" for token, _ in sorted(vocab.items(), key=lambda item: item[1]))
    write_json(
        os.path.join(path, "preprocessor_config.json"),
        {
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "ViltImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": EDGE},
            "size_divisor": DIVISOR,
        },
    )


def make(kind, path, seed, **more):
    vocab = bert_vocab(340, n_unused=4)
    write_processor(path, vocab)
    model = scramble(kind(base_config(vocab, **more)), seed)
    with torch.no_grad():
        model.vilt.embeddings.cls_token.mul_(3)
        for head in ("classifier", "rank_output"):  # answers that differ between pictures and texts
            if hasattr(model, head):
                layer = getattr(model, head)
                (layer[-1] if head == "classifier" else layer).weight.mul_(4)
    model.save_pretrained(path)
    return model


def vqa(path, seed):
    make(ViltForQuestionAnswering, path, seed, id2label=dict(enumerate(ANSWERS)), label2id={a: i for i, a in enumerate(ANSWERS)})


def itr(path, seed):
    make(ViltForImageAndTextRetrieval, path, seed)


def nlvr2(path, seed):
    """Three token types: text, first picture, second picture. Saved as float16."""
    more = {"num_images": 2, "modality_type_vocab_size": 3, "id2label": {0: "False", 1: "True"}, "label2id": {"False": 0, "True": 1}}
    make(ViltForImagesAndTextClassification, path, seed, **more).half().save_pretrained(path)


def mlm(path, seed):
    """With the head's bias under its old second name as well, as in the published file, and with position ids."""
    make(ViltForMaskedLM, path, seed)
    file = os.path.join(path, "model.safetensors")
    weights = load_file(file)
    weights["mlm_score.bias"] = weights["mlm_score.decoder.bias"].clone()
    weights["vilt.embeddings.text_embeddings.position_ids"] = torch.arange(25)[None]
    save_file(weights, file, metadata={"format": "pt"})


def load(kind, path):
    model = kind.from_pretrained(path, dtype=torch.float32).eval()
    return model, ViltProcessor(ViltImageProcessorPil.from_pretrained(path), BertTokenizer.from_pretrained(path))


def trace(model, inputs, **more):
    """The backbone's insides for one picture and text."""
    with torch.no_grad(), Ordered():
        result = model.vilt(**inputs, output_hidden_states=True, return_dict=True, **more)
    tensors = {"last_hidden_state": result.last_hidden_state[0], "embedded": result.hidden_states[0][0]}
    if result.pooler_output is not None:
        tensors["pooled"] = result.pooler_output[0]
    for i, hidden in enumerate(result.hidden_states[1:], 1):
        tensors[f"layer{i}"] = hidden[0]
    return tensors


def run(model, inputs):
    with torch.no_grad(), Ordered():
        return model(**inputs).logits


def add_images(out, processor):
    """Pictures with awkward shapes as well: every size step (shorter edge, longest bound, divisor) is used."""
    for picture in PICTURES:
        pixels = processor.image_processor(open_rgb(picture), return_tensors="pt")
        tensors = {"pixel_values": pixels["pixel_values"][0]}
        out.case(f"image:{picture}", tensors, kind="image", picture=picture, size=list(tensors["pixel_values"].shape[1:]))


def begin(name, path, seed, kind):
    model, processor = load(kind, path)
    out = Golden(name, seed, parameters=parameters_of(model))
    out.head["tokenizer_probes"] = probe(processor.tokenizer, return_token_type_ids=False)
    add_images(out, processor)
    return model, processor, out


def batched(model, processor, out, pairs, single):
    """One padded batch of all pairs must say what each says alone."""
    inputs = processor(
        images=[open_rgb(p) for p, _ in pairs], text=[t for _, t in pairs], return_tensors="pt", padding=True, truncation=True
    )
    together = run(model, inputs)
    far = (together - torch.cat(single)).abs().max().item()
    assert far < 1e-4, far
    out.case("batch", {"logits": torch.cat(single)}, kind="batch", pairs=[list(pair) for pair in pairs])


def golden_vqa(name, path, seed):
    model, processor, out = begin(name, path, seed, ViltForQuestionAnswering)
    pairs = [(p, QUESTIONS[i % len(QUESTIONS)]) for i, p in enumerate(PICTURES)] + [(PICTURES[0], QUESTIONS[1])]
    single = []
    for i, (picture, question) in enumerate(pairs):
        inputs = processor(images=open_rgb(picture), text=question, return_tensors="pt")
        logits = run(model, inputs)
        single.append(logits)
        scores = torch.sigmoid(logits[0])
        best = scores.topk(3)
        answers = [{"answer": ANSWERS[k], "score": s} for k, s in zip(best.indices.tolist(), best.values.tolist())]
        tensors = {"logits": logits[0], "input_ids": inputs["input_ids"][0], **trace(model, inputs)}
        out.case(f"vqa:{i}", tensors, kind="vqa", picture=picture, question=question,
                 input_ids=inputs["input_ids"][0].tolist(), top_3=answers)
    batched(model, processor, out, pairs, single)
    out.write()


def golden_itr(name, path, seed):
    model, processor, out = begin(name, path, seed, ViltForImageAndTextRetrieval)
    pairs, single = [], []
    for picture in PICTURES:
        for k, text in enumerate(TEXTS):
            inputs = processor(images=open_rgb(picture), text=text, return_tensors="pt")
            logits = run(model, inputs)
            pairs.append((picture, text))
            single.append(logits)
            tensors = {"logits": logits[0]}
            if k == 0:
                tensors.update(trace(model, inputs))
            out.case(f"match:{picture}:{k}", tensors, kind="match", picture=picture, text=text,
                     input_ids=inputs["input_ids"][0].tolist(), score=logits[0, 0].item(),
                     sigmoid=torch.sigmoid(logits[0, 0]).item())
    batched(model, processor, out, pairs, single)
    out.write()


def golden_nlvr2(name, path, seed):
    model, processor, out = begin(name, path, seed, ViltForImagesAndTextClassification)
    pairs = [(0, 1), (1, 0), (2, 4), (3, 0), (4, 4)]
    for i, (left, right) in enumerate(pairs):
        text = STATEMENTS[i % 2]
        pictures = [PICTURES[left], PICTURES[right]]
        ids = processor.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        pooled, alone = [], []
        for index, picture in enumerate(pictures):
            pixels = processor.image_processor(open_rgb(picture), return_tensors="pt")
            inside = trace(model, {**ids, **pixels}, image_token_type_idx=index + 1)
            pooled.append(inside["pooled"])
            alone.append(inside)
        # As the reference is called: both pictures padded to one size, with masks; the same as each alone.
        both = processor.image_processor([open_rgb(p) for p in pictures], return_tensors="pt")
        with torch.no_grad(), Ordered():
            logits = model(**ids, pixel_values=both["pixel_values"][None], pixel_mask=both["pixel_mask"][None]).logits
            again = model.classifier(torch.cat(pooled)[None])
        assert torch.allclose(logits, again, atol=1e-4), (logits, again)
        tensors = {"logits": logits[0], "pooled1": pooled[0], "pooled2": pooled[1], "embedded2": alone[1]["embedded"]}
        scores = logits[0].softmax(-1).tolist()
        out.case(f"nlvr2:{i}", tensors, kind="nlvr2", pictures=pictures, text=text, input_ids=ids["input_ids"][0].tolist(),
                 scores={"False": scores[0], "True": scores[1]})
    out.write()


def golden_mlm(name, path, seed):
    model, processor, out = begin(name, path, seed, ViltForMaskedLM)
    mask = processor.tokenizer.mask_token_id
    for i, picture in enumerate(PICTURES[:4]):
        text = MASKED[i]
        inputs = processor(images=open_rgb(picture), text=text, return_tensors="pt")
        ids = inputs["input_ids"][0]
        logits = run(model, inputs)
        places, filled = [], ids.clone()
        for position in (ids == mask).nonzero()[:, 0].tolist():
            best = logits[0, position].softmax(-1).topk(3)
            places.append({"position": position, "ids": best.indices.tolist(), "scores": best.values.tolist(),
                           "tokens": processor.tokenizer.convert_ids_to_tokens(best.indices.tolist())})
            filled[position] = best.indices[0]
        # What the model card's loop makes of it: the surest mask is filled first, then it looks again.
        loop = {key: value.clone() for key, value in inputs.items()}
        order = []
        while (loop["input_ids"][0] == mask).any():
            again = run(model, loop)[0].softmax(-1)
            values, tokens = again.max(-1)
            values[loop["input_ids"][0] != mask] = 0
            where = values.argmax().item()
            loop["input_ids"][0, where] = tokens[where]
            order.append({"position": where, "id": tokens[where].item(), "score": values[where].item()})
        tensors = {"logits": logits[0], "input_ids": ids, **trace(model, inputs)}
        out.case(f"fill:{i}", tensors, kind="fill", picture=picture, text=text, input_ids=ids.tolist(), masks=places,
                 filled_at_once=processor.tokenizer.decode(filled, skip_special_tokens=True), one_by_one=order,
                 filled_one_by_one=processor.tokenizer.decode(loop["input_ids"][0], skip_special_tokens=True))
    out.write()


ALL = {
    "vilt-vqa-tiny": (vqa, golden_vqa, 700),
    "vilt-itr-tiny": (itr, golden_itr, 710),
    "vilt-nlvr2-tiny": (nlvr2, golden_nlvr2, 720),
    "vilt-mlm-tiny": (mlm, golden_mlm, 730),
}


def main():
    for name in sys.argv[1:] or ALL:
        create, golden, seed = ALL[name]
        path = checkpoint_dir(name)
        create(path, seed)
        report_checkpoint(path)
        golden(name, path, seed)


if __name__ == "__main__":
    main()
