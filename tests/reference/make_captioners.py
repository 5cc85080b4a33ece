"""Tiny captioners beside BLIP and their goldens: vit-gpt2-tiny, git-tiny.

    python tests/reference/make_captioners.py [checkpoint …]

Seeds are tried until the texts vary and none has a near-tie (as in make_blip.py).
"""

import os
import sys

import torch
from common import PICTURES, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint, scramble, write_json
from generation import nudged, run
from make_blip import CAPTION_RUNS, CAPTIONS, PROMPTS, QUESTIONS, add_generation, caption_cases, runs_for, texts_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers_tiny import bert_vocab, probe
from transformers import BertTokenizer, CLIPImageProcessorPil, GitConfig, GitForCausalLM, GPT2Config, GPT2Tokenizer
from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig, ViTImageProcessorPil


def gpt2_tokenizer(size, path):
    """GPT-2's layout: byte-level BPE in vocab.json + merges.txt, <|endoftext|> last."""
    import corpus
    from json import loads

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(corpus.lines(), trainer)
    model = loads(tokenizer.to_str())["model"]
    vocab = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    write_json(os.path.join(path, "vocab.json"), vocab)
    with open(os.path.join(path, "merges.txt"), "w", encoding="utf-8") as out:
        out.write("#version: 0.2\n")
        out.writelines(" ".join(pair) + "\n" for pair in model["merges"])
    write_json(os.path.join(path, "tokenizer_config.json"), {"model_max_length": 1024, "tokenizer_class": "GPT2Tokenizer"})
    return GPT2Tokenizer.from_pretrained(path), vocab["<|endoftext|>"]


def teach(model, lessons, logits_of, parameters, stop_loss=0.5):
    """As make_blip.teach(): a few texts, so that captions differ and most words have a clear margin."""
    optimizer = torch.optim.Adam(parameters, lr=4e-3)
    for step in range(300):
        loss = 0
        for state, ids in lessons:
            logits = logits_of(state, ids[:, :-1])
            loss = loss + torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]) / len(lessons)
        if loss.item() < stop_loss:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"taught for {step} steps, loss {loss.item():.3f}")
    model.requires_grad_(False)


def pixels_of(images, picture):
    return images(open_rgb(picture), return_tensors="pt")["pixel_values"]


def vit_gpt2(path, seed):
    """nlpconnect/vit-gpt2-image-captioning in small: no generation_config.json, towers of different widths."""
    tokenizer, end = gpt2_tokenizer(330, path)
    vision = ViTConfig(
        hidden_size=48, intermediate_size=92, num_hidden_layers=2, num_attention_heads=3, image_size=40, patch_size=9,
    )
    text = GPT2Config(
        n_embd=40, n_layer=3, n_head=4, n_inner=94, n_positions=90, vocab_size=end + 1, bos_token_id=end, eos_token_id=end,
        scale_attn_by_inverse_layer_idx=True,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id = config.pad_token_id = config.bos_token_id = config.eos_token_id = end
    model = scramble(VisionEncoderDecoderModel(config), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln_" in name and name.endswith("weight"):
                parameter.add_(1)
    images = ViTImageProcessorPil(size={"height": 40, "width": 40})
    images.save_pretrained(path)
    lessons = []
    for picture, caption in zip(PICTURES, CAPTIONS):
        with torch.no_grad():
            states = model.enc_to_dec_proj(model.encoder(pixels_of(images, picture)).last_hidden_state)
        lessons.append((states, torch.tensor([[end] + tokenizer(caption)["input_ids"] + [end]])))
    teach(model, lessons, lambda states, ids: model.decoder(ids, encoder_hidden_states=states, use_cache=False).logits,
          model.decoder.parameters())
    model.half().save_pretrained(path)
    os.remove(os.path.join(path, "generation_config.json"))


def load_vit_gpt2(path):
    model = VisionEncoderDecoderModel.from_pretrained(path, dtype=torch.float32).eval()
    images, tokenizer = ViTImageProcessorPil.from_pretrained(path), GPT2Tokenizer.from_pretrained(path)

    def states(pixels):
        return model.enc_to_dec_proj(model.encoder(pixels).last_hidden_state)

    def start(text):
        return [model.config.decoder_start_token_id] + (tokenizer(text)["input_ids"] if text else [])

    def generate(pixels, ids, changed=model, **settings):
        return changed.generate(pixel_values=pixels, decoder_input_ids=torch.tensor([ids]), **settings)

    return model, images, tokenizer, states, start, generate


def git(path, seed):
    """microsoft/git-base in small; its vision config's layer_norm_eps is also the projection's."""
    vocab = bert_vocab(330, n_unused=5)
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=512)
    tokenizer.save_pretrained(path)
    config = GitConfig(
        vision_config={"hidden_size": 44, "intermediate_size": 90, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "image_size": 39, "patch_size": 8, "layer_norm_eps": 1e-3},
        vocab_size=len(vocab), hidden_size=36, num_hidden_layers=3, num_attention_heads=3, intermediate_size=80,
        max_position_embeddings=90, bos_token_id=vocab["[CLS]"], eos_token_id=vocab["[SEP]"], pad_token_id=vocab["[PAD]"],
    )
    model = scramble(GitForCausalLM(config), seed)
    images = CLIPImageProcessorPil(size={"shortest_edge": 39}, crop_size={"height": 39, "width": 39})
    images.save_pretrained(path)
    taught = [(p, None, text) for p, text in zip(PICTURES, CAPTIONS)]
    taught += [(PICTURES[0], QUESTIONS[0], "purple"), (PICTURES[1], QUESTIONS[1], "two or 12, maybe three")]
    lessons = []
    for picture, question, text in taught:
        ids = tokenizer((question + " " if question else "") + text)["input_ids"]
        lessons.append((pixels_of(images, picture), torch.tensor([ids])))

    def logits(pixels, ids):
        return model(input_ids=ids, pixel_values=pixels, use_cache=False).logits[:, -ids.shape[1]:]

    learning = [p for n, p in model.named_parameters() if "image_encoder" not in n]
    teach(model, lessons, logits, learning)
    model.bfloat16().save_pretrained(path)


def load_git(path):
    model = GitForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    images, tokenizer = CLIPImageProcessorPil.from_pretrained(path), BertTokenizer.from_pretrained(path)

    def states(pixels):
        return model.git.visual_projection(model.git.image_encoder(pixels).last_hidden_state)

    def start(text):
        return [model.config.bos_token_id] + (tokenizer(text, add_special_tokens=False)["input_ids"] if text else [])

    def generate(pixels, ids, changed=model, **settings):
        return changed.generate(pixel_values=pixels, input_ids=torch.tensor([ids]), **settings)

    return model, images, tokenizer, states, start, generate


def cases_of(name):
    """(kind, the text's field, picture, text)"""
    cases = [("caption", "prompt", picture, prompt) for picture, prompt in caption_cases()]
    if name.startswith("git"):
        asked = [(0, 0), (1, 1), (3, 0), (0, 1), (2, 2)]
        cases += [("vqa", "question", PICTURES[p], QUESTIONS[q]) for p, q in asked]
    return cases


def results_of(loaded, cases, changed=None):
    """Every case's runs: [{run: result}]."""
    model, images, tokenizer, _, start, generate = loaded
    all_results = []
    for i, (_, _, picture, text) in enumerate(cases):
        pixels, ids, results = pixels_of(images, picture), start(text), {}
        for name, settings in runs_for(CAPTION_RUNS, i).items():
            made = run(changed or model, lambda **kw: generate(pixels, ids, changed or model, **kw), settings)
            made.update(settings=settings, start_ids=ids)
            results[name] = texts_of(tokenizer, made, ids)
        all_results.append(results)
    return all_results


def fault_of(loaded, cases, all_results):
    """Why this seed will not do, or None."""
    greedy = [results["greedy"] for results in all_results]
    if len({r["texts"][0] for r in greedy}) < len(greedy) // 2:
        return "captions too much alike"
    if any(made["texts_without_prompt"] != [t for t in made["texts_without_prompt"] if t is not None]
           for results in all_results for made in results.values()):
        return "a text that does not begin with its prompt"
    if min(results["greedy"]["margin"] for results in all_results) < 2e-3:
        return "a near-tie"
    for other in results_of(loaded, cases, nudged(loaded[0], 1)), results_of(loaded, cases, nudged(loaded[0], 2)):
        for a, b in zip(all_results, other):
            for name in a:
                if a[name]["sequences"] != b[name]["sequences"]:
                    return f"{name} hangs on a near-tie"
    return None


def golden(name, seed, loaded, cases, all_results):
    model, images, tokenizer, states, _, _ = loaded
    out = Golden(name, seed, parameters=parameters_of(model))
    options = {"return_token_type_ids": False} if name.startswith("git") else {}
    out.head["tokenizer_probes"] = probe(tokenizer, **options)
    for picture in PICTURES:
        pixels = pixels_of(images, picture)
        with torch.no_grad():
            tensors = {"pixel_values": pixels[0], "image_states": states(pixels)[0]}
        out.case(f"image:{picture}", tensors, kind="image", picture=picture)
    for (kind, field, picture, text), results in zip(cases, all_results):
        facts = {"kind": kind, "picture": picture, field: text}
        add_generation(out, f"{kind}:{picture}:{text or ''}", results, **facts)
    out.write()


ALL = {"vit-gpt2-tiny": (vit_gpt2, load_vit_gpt2, 1201), "git-tiny": (git, load_git, 1301)}


def main():
    for name in sys.argv[1:] or ALL:
        make, load, first = ALL[name]
        for seed in range(first, first + 20):
            path = checkpoint_dir(name)
            make(path, seed)
            loaded, cases = load(path), cases_of(name)
            all_results = results_of(loaded, cases)
            fault = fault_of(loaded, cases, all_results)
            print(f"{name}, seed {seed}: {fault or 'good'}", flush=True)
            if not fault:
                report_checkpoint(path)
                golden(name, seed, loaded, cases, all_results)
                break
        else:
            raise SystemExit(f"{name}: no seed will do")


if __name__ == "__main__":
    main()
