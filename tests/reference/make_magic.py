"""A tiny GPT-2 guided by clip-tiny, and its golden: magic-tiny.

    python tests/reference/make_magic.py

MAGIC search (Su et al. 2022, arXiv:2205.02655, section 3.2) is written here from the paper's formula, without caches: every
candidate's text is run as a whole. Seeds are tried until no choice is a near-tie.
"""

import os

import torch
from common import PICTURES, CHECKPOINTS, Golden, checkpoint_dir, open_rgb, parameters_of, report_checkpoint, scramble
from common import write_json
from make_blip import CAPTIONS, PROMPTS, texts_of
from make_captioners import gpt2_tokenizer, teach
from tokenizers_tiny import probe
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

START = "<-start_of_text->"
DEFAULTS = {"top_k": 45, "alpha": 0.1, "beta": 2.0, "max_new_tokens": 16, "min_new_tokens": 0}
RUNS = {
    "greedy": {},
    "dull": {"alpha": 0.6, "top_k": 5},
    "blind": {"beta": 0.0, "alpha": 0.4, "top_k": 12},
    "seeing": {"beta": 30.0, "alpha": 0.0, "top_k": 60, "max_new_tokens": 8},
    "long": {"max_new_tokens": 40, "min_new_tokens": 34, "top_k": 8, "alpha": 0.3},
    "one": {"top_k": 1},
}
TEXT_TOKENS_MAX = 60
MARGIN = 1e-3


def make(path, seed):
    """cambridgeltl/magic_mscoco in small: two more tokens than GPT-2, no special token for the start in config.json."""
    tokenizer, end = gpt2_tokenizer(330, path)
    tokenizer.add_tokens([START, "<-pad->"])
    write_json(os.path.join(path, "added_tokens.json"), {START: end + 1, "<-pad->": end + 2})
    config = GPT2Config(
        n_embd=40, n_layer=3, n_head=4, n_positions=90, vocab_size=end + 3, bos_token_id=end, eos_token_id=end,
    )
    model = scramble(GPT2LMHeadModel(config), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln_" in name and name.endswith("weight"):
                parameter.add_(1)
    lessons = [(None, torch.tensor([[end + 1] + tokenizer(text)["input_ids"] + [end]])) for text in CAPTIONS]
    teach(model, lessons, lambda _, ids: model(ids, use_cache=False).logits, model.parameters(), stop_loss=1.2)
    model.save_pretrained(path)
    os.symlink(os.path.join("..", "clip-tiny"), os.path.join(path, "clip"))


class Magic:
    def __init__(self, path):
        guide = os.path.join(path, "clip")
        self.model = GPT2LMHeadModel.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = GPT2Tokenizer.from_pretrained(path)
        self.clip = CLIPModel.from_pretrained(guide, dtype=torch.float32).eval()
        self.images = CLIPImageProcessorPil.from_pretrained(guide)
        self.clip_tokenizer = CLIPTokenizer.from_pretrained(guide)
        self.start_id = self.tokenizer.convert_tokens_to_ids(START)
        self.n_text = min(TEXT_TOKENS_MAX, self.clip.config.text_config.max_position_embeddings - 2)

    def look(self, picture):
        pixels = self.images(open_rgb(picture), return_tensors="pt")["pixel_values"]
        features = self.clip.get_image_features(pixel_values=pixels).pooler_output
        return pixels, features / features.norm(dim=-1, keepdim=True)

    def embed(self, text):
        n_max = self.clip.config.text_config.max_position_embeddings
        ids = self.clip_tokenizer(text, return_tensors="pt", truncation=True, max_length=n_max)["input_ids"]
        features = self.clip.get_text_features(input_ids=ids).pooler_output
        return features / features.norm(dim=-1, keepdim=True)

    def step(self, ids, picture, k, alpha, beta):
        """The candidates after ids, best probability first, and their scores."""
        hidden = self.model.transformer(torch.tensor([ids])).last_hidden_state[0]
        probabilities = self.model.lm_head(hidden[-1]).softmax(-1)
        likely, candidates = probabilities.topk(min(k, len(probabilities)))
        scores = []
        for p, v in zip(likely, candidates.tolist()):
            new = self.model.transformer(torch.tensor([ids + [v]])).last_hidden_state[0, -1]
            likeness = torch.cosine_similarity(new[None], hidden, dim=-1).max()
            scores.append((1 - alpha) * p - alpha * likeness)
        texts = [self.tokenizer.decode((ids[1:] + [v])[-self.n_text:], skip_special_tokens=True) for v in candidates.tolist()]
        cosines = torch.cat([self.embed(text) for text in texts]) @ picture[0]
        seen = (cosines * self.clip.logit_scale.exp()).softmax(-1)
        return candidates, torch.stack(scores) + beta * seen

    @torch.no_grad()
    def write(self, picture, ids, settings):
        wanted = {**DEFAULTS, **settings}
        end, ids, n_start = self.model.config.eos_token_id, list(ids), len(ids)
        margin, rows = float("inf"), []
        while len(ids) - n_start < wanted["max_new_tokens"]:
            candidates, scores = self.step(ids, picture, wanted["top_k"], wanted["alpha"], wanted["beta"])
            rows.append((candidates, scores.clone()))
            if len(ids) - n_start < wanted["min_new_tokens"]:
                scores[candidates == end] = -1e4
            best = scores.topk(min(2, len(scores))).values
            margin = min(margin, (best[0] - best[-1]).item() if len(best) > 1 else 1)
            ids.append(candidates[scores.argmax()].item())
            if ids[-1] == end:
                break
        return {"sequences": [ids], "margin": margin}, rows


def cases():
    return [(picture, None) for picture in PICTURES] + [(PICTURES[0], PROMPTS[0]), (PICTURES[2], PROMPTS[1])]


def main():
    path = os.path.join(CHECKPOINTS, "magic-tiny")
    for seed in range(1701, 1740):
        make(checkpoint_dir("magic-tiny"), seed)
        magic = Magic(path)
        with torch.no_grad():
            seen = {picture: magic.look(picture) for picture in PICTURES}
        made, least = [], 1
        for i, (picture, prompt) in enumerate(cases()):
            start = [magic.start_id] + (magic.tokenizer(prompt)["input_ids"] if prompt else [])
            for name in RUNS if i % 3 == 0 else ("greedy", "seeing"):
                result, rows = magic.write(seen[picture][1], start, RUNS[name])
                least = min(least, result["margin"])
                made.append((i, picture, prompt, start, name, texts_of(magic.tokenizer, result, start), rows))
                if least < MARGIN:
                    break
            if least < MARGIN:
                break
        texts = {result["texts_without_prompt"][0] for _, _, _, _, name, result, _ in made if name == "greedy"}
        print(f"seed {seed}: margin {least:.5f}, {len(texts)} different captions", flush=True)
        if least >= MARGIN and len(texts) > 4:
            break
    else:
        raise SystemExit("no seed will do")
    report_checkpoint(path)
    out = Golden("magic-tiny", seed, parameters=parameters_of(magic.model) + parameters_of(magic.clip))
    out.head["tokenizer_probes"] = probe(magic.tokenizer)
    for picture, (pixels, features) in seen.items():
        out.case(f"image:{picture}", {"pixel_values": pixels[0], "image_states": features}, kind="image", picture=picture)
    for i, picture, prompt, start, name, result, rows in made:
        tensors = {}
        if name in ("greedy", "long") and i % 3 == 0:
            tensors = {"candidates": torch.stack([c for c, _ in rows]), "scores": torch.stack([s for _, s in rows])}
        out.case(f"caption:{picture}:{prompt or ''}|{name}", tensors, kind="caption", run=name, picture=picture, prompt=prompt,
                 settings=RUNS[name], start_ids=start, **result)
    out.write()


if __name__ == "__main__":
    main()
