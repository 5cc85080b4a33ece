"""Tiny IDEFICS checkpoints and their goldens: idefics-tiny, idefics-base-tiny, idefics-flat-tiny.

    python tests/reference/make_idefics.py [checkpoint …]

The first is a dialogue model with all there is (resampler, norms of queries and keys, a gate for each feature, a head of
its own), in shards; the second has the least (the tower's rows, one gate, tied, bf16) and the files of the published
checkpoints, which lack a chat template and "size"; the third has all its words in one table. Conversations go through
IdeficsProcessor as its documentation writes them. Sizes are odd. Seeds are tried until the texts vary and none has a
near-tie.
"""

import json
import os
import sys

import corpus
import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, read_json, report_checkpoint, scramble
from common import write_json
from generation import conversation_cases, conversations_fault, converse
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from transformers import IdeficsConfig, IdeficsForVisionText2Text, IdeficsProcessor, PreTrainedTokenizerFast
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

FAKE, IMAGE, TURN = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
VOCAB = 330


def picture(i):
    return {"type": "image", "picture": PICTURES[i]}


def text(words):
    return {"type": "text", "text": words}


def user(*content):
    return {"role": "user", "content": list(content)}


def assistant(words):
    return {"role": "assistant", "content": words}


CONVERSATIONS = {
    "describe": [user(picture(0), text("Describe this image."))],
    "words first": [user(text("how many cats are there?"), picture(1))],
    "two": [user(picture(2), picture(3), text("what is the difference?"))],
    "between": [{"role": "system", "content": "Be short."},
                user(picture(2), text("is this"), picture(4), text("the same?"))],
    "examples": [user(picture(0), text("what is it?")), assistant("a red cat"),
                 user(picture(1), text("what is it?")), assistant("2 dogs"),
                 user(picture(2), text("what is it?"))],
    "captions": [user(picture(3)), assistant("one grey wall"), user(picture(4)), assistant("it is café"),
                 user(picture(0))],
    "about the last": [user(picture(1), text("what is it?")), assistant("a dog"), user(text("what colour is it?"))],
    "ended": [user(picture(1), text("it is red</s>what now?"))],
    "ended and on": [user(picture(1), text("red</s>now"), picture(0), text("what colour is it?"))],
    "text": [{"role": "user", "content": "what colour is the sky?"}],
}
LESSONS = ["a photo of a red cat on a sofa", "two or 12 cats, maybe three", "one is grey; it's small", "no, a blue dog",
           "purple cats", "a city at night", "a black dog", "nothing", "red and white", "blue"]


def llama_tokenizer(path, specials):
    """Llama's layout: BPE over characters with bytes to fall back on, a space before all, spaces as ▁."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    own = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, show_progress=False, initial_alphabet=["▁"],
                                  special_tokens=own + [f"<0x{i:02X}>" for i in range(256)])
    tokenizer.train_from_iterator(corpus.lines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    fresh = Tokenizer(models.BPE(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]], byte_fallback=True,
                                 unk_token="<unk>", fuse_unk=True))
    fresh.normalizer = tokenizer.normalizer
    fresh.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])
    fresh.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in own + specials])
    fast = PreTrainedTokenizerFast(tokenizer_object=fresh, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   pad_token="<unk>", additional_special_tokens=specials, model_max_length=2048)
    fast.save_pretrained(path)
    return fast


def config_of(name, tokenizer, n_more):
    size = len(tokenizer)
    sizes = {
        "idefics-tiny": dict(
            hidden_size=42, intermediate_size=70, num_hidden_layers=4, num_attention_heads=3, cross_layer_interval=2,
            qk_layer_norms=True, alpha_type="vector", use_resampler=True, max_position_embeddings=256,
            vision_config=dict(embed_dim=36, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3,
                               image_size=40, patch_size=9),
            perceiver_config=dict(use_resampler=True, resampler_n_latents=5, resampler_depth=2, resampler_n_heads=2,
                                  resampler_head_dim=11, qk_layer_norms_perceiver=True)),
        "idefics-base-tiny": dict(
            hidden_size=40, intermediate_size=77, num_hidden_layers=3, num_attention_heads=5, tie_word_embeddings=True,
            max_position_embeddings=200, rms_norm_eps=1e-5,
            vision_config=dict(embed_dim=28, intermediate_size=60, num_hidden_layers=2, num_attention_heads=2,
                               image_size=30, patch_size=7, hidden_act="quick_gelu")),
        "idefics-flat-tiny": dict(
            hidden_size=36, intermediate_size=62, num_hidden_layers=3, num_attention_heads=2, cross_layer_interval=3,
            qk_layer_norms=True, use_resampler=True, max_position_embeddings=220, rope_theta=5000.0,
            vision_config=dict(embed_dim=30, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3,
                               image_size=24, patch_size=8),
            perceiver_config=dict(resampler_n_latents=3, resampler_depth=1, resampler_n_heads=3, resampler_head_dim=6)),
    }
    return IdeficsConfig(vocab_size=size - n_more, additional_vocab_size=n_more, pad_token_id=0, bos_token_id=1,
                         eos_token_id=2, alpha_initializer="ones", **sizes[name])


def write_published(path):
    """The small files as the first published checkpoints have them."""
    config = read_json(os.path.join(path, "config.json"))
    for key in ("rope_parameters", "dtype"):
        config.pop(key, None)
    config["vision_config"] = {**config["vision_config"], "model_type": "idefics"}
    write_json(os.path.join(path, "config.json"), {**config, "torch_dtype": "bfloat16"})
    images = read_json(os.path.join(path, "preprocessor_config.json"))
    write_json(os.path.join(path, "preprocessor_config.json"), {
        "image_mean": images["image_mean"], "image_num_channels": 3, "image_processor_type": "IdeficsImageProcessor",
        "image_size": images["size"]["height"], "image_std": images["image_std"]})


class Loaded:
    def __init__(self, path):
        self.model = IdeficsForVisionText2Text.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
        self.processor = IdeficsProcessor(IdeficsImageProcessorPil.from_pretrained(path), self.tokenizer)
        self.turn = self.tokenizer.get_vocab().get(TURN)

    def items(self, messages):
        """A conversation as the processor's prompt: texts, and pictures between them."""
        items, label = [], {"user": "User:", "assistant": "Assistant:"}
        for i, message in enumerate(messages):
            content = message["content"]
            parts, role = [text(content)] if isinstance(content, str) else content, message["role"]
            if self.turn and role in label:
                items.append(("\n" if i else "") + label[role] + (" " if "text" in parts[0] else ""))
            for part in parts:
                if part["type"] == "image":
                    items.append(part)
                elif self.turn:
                    items.append(part["text"])
                else:
                    items.append({"user": "Question: {} Answer:", "assistant": " {}\n", "system": "{}\n"}[role]
                                 .format(part["text"]))
            if self.turn and role in label:
                items.append(TURN)
        if self.turn:
            items.append("\nAssistant:")
        joined = []  # the processor strips each text's spaces: only around pictures there are none
        for each in items:
            if isinstance(each, str) and joined and isinstance(joined[-1], str):
                joined[-1] += each
            else:
                joined.append(each)
        return joined

    def inputs(self, messages):
        """The prompt as one text, the names of its pictures, and what goes into the model."""
        items = self.items(messages)
        pictures = [each["picture"] for each in items if not isinstance(each, str)]
        inputs = dict(self.processor(text=[[each if isinstance(each, str) else open_rgb(each["picture"]) for each in items]],
                                     add_end_of_utterance_token=False))
        prompt = "<s>"
        for i, each in enumerate(items):
            follows = i and not isinstance(items[i - 1], str)
            prompt += each.strip(" ") if isinstance(each, str) else ("" if follows else FAKE) + IMAGE + FAKE
        assert self.tokenizer(prompt, add_special_tokens=False)["input_ids"] == inputs["input_ids"][0].tolist(), prompt
        return prompt, pictures, inputs

    def states(self, pixels):
        seen = self.model.model.vision_model(pixel_values=pixels).last_hidden_state
        return self.model.model.perceiver_resampler(seen) if self.model.config.use_resampler else seen


def teach(model, loaded, steps=150, stop_loss=0.35):
    model.requires_grad_(True)
    learning = [p for n, p in model.named_parameters() if "vision_model" not in n]
    optimizer = torch.optim.Adam(learning, lr=4e-3)
    end, lessons = loaded.turn or 2, []
    for messages, answer in zip(CONVERSATIONS.values(), LESSONS):
        inputs = loaded.inputs(messages)[2]
        new = torch.tensor([loaded.tokenizer(answer, add_special_tokens=False)["input_ids"] + [end]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        mask = inputs["image_attention_mask"]
        inputs["image_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, new.shape[1], -1)], dim=1)
        lessons.append((inputs, new))
    for step in range(steps):
        loss = 0
        for inputs, new in lessons:
            logits = model(**inputs, use_cache=False).logits[0, -new.shape[1] - 1:-1]
            loss = loss + torch.nn.functional.cross_entropy(logits, new[0]) / len(lessons)
        if loss.item() < stop_loss:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"taught for {step} steps, loss {loss.item():.3f}", flush=True)
    model.requires_grad_(False)


def make(name, path, seed):
    specials = [FAKE, IMAGE] + ([TURN] if "base" not in name else [])
    tokenizer = llama_tokenizer(path, specials)
    config = config_of(name, tokenizer, 0 if "flat" in name else len(specials))
    model = scramble(IdeficsForVisionText2Text(config), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "alpha_" in parameter_name:
                parameter.copy_(0.8 + 0.5 * torch.randn(parameter.shape, generator=generator))
    edge = config.vision_config.image_size
    IdeficsImageProcessorPil(image_size=edge).save_pretrained(path)
    model.generation_config.max_new_tokens = 18
    model.save_pretrained(path)
    loaded = Loaded(path)
    teach(loaded.model, loaded)
    loaded.model.generation_config = model.generation_config
    if name == "idefics-base-tiny":
        loaded.model.bfloat16().save_pretrained(path)
        write_published(path)
    else:
        loaded.model.save_pretrained(path, max_shard_size="250KB" if name == "idefics-tiny" else "5GB")
        if name == "idefics-tiny":
            os.remove(os.path.join(path, "model.safetensors"))


def results_of(loaded, changed=None):
    model = changed or loaded.model
    ends = [2] + ([loaded.turn] if loaded.turn else [])
    bad_words = [[token] for token in loaded.tokenizer.convert_tokens_to_ids([IMAGE, FAKE])]
    return converse(loaded, model, CONVERSATIONS, lambda inputs: lambda **kw: model.generate(
        **inputs, eos_token_id=ends, bad_words_ids=bad_words, **kw))


def golden(name, seed, loaded, results):
    out = Golden(name, seed, parameters=parameters_of(loaded.model))
    for each in PICTURES:
        pixels = loaded.processor.image_processor([open_rgb(each)], return_tensors="pt")
        with torch.no_grad():
            out.case(f"image:{each}", {"pixel_values": pixels[0], "image_states": loaded.states(pixels)[0]}, kind="image",
                     picture=each)
    conversation_cases(out, results)
    out.write()


def main():
    for name in sys.argv[1:] or ["idefics-tiny", "idefics-base-tiny", "idefics-flat-tiny"]:
        for seed in range(3301, 3311):
            path = checkpoint_dir(name)
            make(name, path, seed)
            loaded = Loaded(path)
            results = results_of(loaded)
            fault = conversations_fault(results, loaded, lambda other: results_of(loaded, other), 2)
            print(f"{name}, seed {seed}: {fault or 'good'}", flush=True)
            if not fault:
                report_checkpoint(path)
                golden(name, seed, loaded, results)
                break
        else:
            raise SystemExit(f"{name}: no seed will do")


if __name__ == "__main__":
    main()
