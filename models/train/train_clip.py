"""Stage 3: CLIP. Its vision tower starts from the trained one, its text tower from nothing.

Two losses: the usual contrast between the pictures and texts of a batch (texts that fit another
picture of the batch just as well are left out), and naming: a picture of one kind of thing against
the labels of all kinds, as zero-shot classification asks it. The dense task is kept on.

usage: python train_clip.py --sprites sprites.npz --run DIR [--samples 200000] [--workers 2]
Starts from DIR/blip.pt (or DIR/tower.pt), writes DIR/clip.pt again and again.
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip import modeling_clip

import language
import things
import workers
from optimizer import Optimizer
from pool import Pool
from scenes import COLOURS, FIRST_SHAPE, N_CLASSES, PATCH, SIZE, WORDS, Composer
from schedule import rate
from towers import HEADS, MATCH_WIDTH, TEXT_INNER, TEXT_LAYERS, VISION_INNER, VISION_LAYERS, WIDTH, Tower, attend
from train_blip import pad
from vocabulary import CLIP_POSITIONS, Encoder, clip_tokenizer


def _attention(self, hidden_states, attention_mask=None, **kwargs):
    b, t, d = hidden_states.shape
    shape = (b, t, self.num_heads, self.head_dim)
    q, k, v = (f(hidden_states).view(shape).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
    causal = None
    if t != (SIZE // PATCH) ** 2 + 1 and not kwargs.get("bidirectional"):
        causal = torch.full((t, t), -1e4).triu(1)      # the text tower; padding stands behind the end token
    out = attend(q, k, v, causal)
    return self.out_proj(out.transpose(1, 2).reshape(b, t, d)), None


def clip_config(tokenizer):
    return CLIPConfig(
        text_config=dict(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=TEXT_INNER, num_hidden_layers=TEXT_LAYERS,
                         num_attention_heads=HEADS, max_position_embeddings=CLIP_POSITIONS, hidden_act="gelu",
                         projection_dim=MATCH_WIDTH, bos_token_id=tokenizer.bos_token_id,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id),
        vision_config=dict(hidden_size=WIDTH, intermediate_size=VISION_INNER, num_hidden_layers=VISION_LAYERS,
                           num_attention_heads=HEADS, image_size=SIZE, patch_size=PATCH, hidden_act="gelu", projection_dim=MATCH_WIDTH),
        projection_dim=MATCH_WIDTH)


def copy_tower(source, target):
    """BLIP's vision tower into CLIP's. CLIP has no bias on its patches (the positions take it) and one
    normalisation more at the entrance, which training has to get used to."""
    e, t = source.embeddings, target.embeddings
    with torch.no_grad():
        t.patch_embedding.weight.copy_(e.patch_embedding.weight)
        t.class_embedding.copy_(e.class_embedding[0, 0])
        t.position_embedding.weight.copy_(e.position_embedding[0])
        t.position_embedding.weight[1:] += e.patch_embedding.bias
        for a, b in zip(source.encoder.layers, target.encoder.layers):
            for name, weight, bias in zip("qkv", a.self_attn.qkv.weight.chunk(3), a.self_attn.qkv.bias.chunk(3)):
                part = getattr(b.self_attn, name + "_proj")
                part.weight.copy_(weight)
                part.bias.copy_(bias)
            b.self_attn.out_proj.load_state_dict(a.self_attn.projection.state_dict())
            for name in ("layer_norm1", "layer_norm2", "mlp"):
                getattr(b, name).load_state_dict(getattr(a, name).state_dict())
        target.post_layernorm.load_state_dict(source.post_layernorm.state_dict())


class Clip(nn.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.tower = Tower()                            # only its helper heads are used here
        self.clip = CLIPModel(clip_config(tokenizer))

    def text(self, ids, ends):
        model = self.clip.text_model
        hidden = model.embeddings(input_ids=ids)
        for layer in model.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden = model.final_layer_norm(hidden)
        return F.normalize(self.clip.text_projection(hidden[torch.arange(len(ids)), ends]).float(), dim=-1)

    def losses(self, batch, texts):
        model = self.clip.vision_model
        hidden = model.pre_layrnorm(model.embeddings(batch["pixels"]))
        for layer in model.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden = model.post_layernorm(hidden)
        dense, _ = self.tower.losses(hidden, batch)
        picture = F.normalize(self.clip.visual_projection(hidden[:, 0]).float(), dim=-1)
        scale = self.clip.logit_scale.float().exp().clamp(max=100)
        text = self.text(*texts["pair"])
        cosine = (scale * picture @ text.T).masked_fill(texts["same"], -1e4)
        goal = torch.arange(len(hidden))
        contrast = (F.cross_entropy(cosine, goal) + F.cross_entropy(cosine.T, goal)) / 2
        labels = self.text(*texts["labels"])
        single = texts["single"]
        rows = single >= 0
        logits = scale * picture[rows] @ labels.T
        naming = F.cross_entropy(logits, single[rows]) if rows.any() else 0.
        return ({"dense": .3 * sum(dense.values()), "contrast": contrast, "naming": naming},
                {"found": (cosine.argmax(1) == goal).float().mean(),
                 "named": (logits.argmax(1) == single[rows]).float().mean() if rows.any() else 0.})


LABEL_TEMPLATES = ["a photo of {a} {x}", "a photo of {a} {x}", "a picture of {a} {x}", "{x}", "{a} {x}", "an image of {a} {x}"]


def write_texts(scenes, encode, rng):
    pairs = [encode(language.short_text(scene, rng)) for scene in scenes]
    marks = [language.signature(scene) for scene in scenes]
    kinds = [sorted({t.cls for t in scene.things}) for scene in scenes]
    same = torch.tensor([[i != j and (a == b or (len(kinds[i]) == len(kinds[j]) == 1 and kinds[i] == kinds[j]))
                          for j, b in enumerate(marks)] for i, a in enumerate(marks)])
    template = LABEL_TEMPLATES[int(rng.integers(len(LABEL_TEMPLATES)))]
    labels = [encode(template.format(a=things.article(w), x=w)) for w in WORDS]
    single = torch.tensor([k[0] if len(k) == 1 and len(s.things) == 1 else -1 for k, s in zip(kinds, scenes)])
    pair, label = pad(pairs), pad(labels)
    return {"pair": (pair[0], pair[1].sum(1) - 1), "labels": (label[0], label[1].sum(1) - 1), "same": same, "single": single}


def train(rank, count, args):
    modeling_clip.CLIPAttention.forward = _attention
    tokenizer = clip_tokenizer()
    model = Clip(tokenizer)
    path, done = os.path.join(args.run, "clip.pt"), 0
    optimizer = Optimizer(model, args.lr, slow="clip.vision_model.", slowness=.35)
    if os.path.exists(path):
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["samples"]
    else:
        blip = os.path.join(args.run, "blip.pt")
        if os.path.exists(blip):
            state = {k[6:]: v for k, v in torch.load(blip)["model"].items() if k.startswith("tower.")}
        else:
            state = torch.load(os.path.join(args.run, "tower.pt"))["model"]
        model.tower.load_state_dict(state)
        copy_tower(model.tower.vision, model.clip.vision_model)
    parameters = list(model.parameters())
    encode = Encoder(tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id)
    pool = Pool(Composer(args.sprites), args.batch, seed=[4000 + done, rank])
    rng = np.random.default_rng([5000 + done, rank])
    first, start, tally, step = done, time.time(), {}, 0
    while done < args.samples:
        batch = pool.batch(args.batch, 1, single=.45)
        texts = write_texts(batch["scenes"], encode, rng)
        optimizer.set_rate(rate(done, args.samples, 4_000))
        with torch.autocast("cpu", torch.bfloat16):
            losses, right = model.losses(batch, texts)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        workers.average_gradients(parameters, count)
        torch.nn.utils.clip_grad_norm_(parameters, 1.)
        optimizer.step()
        done, step = done + args.batch * count, step + 1
        for name, value in [*losses.items(), *right.items()]:
            tally[name] = tally.get(name, 0) + float(torch.as_tensor(value).detach())
        if step % 50 == 0 and rank == 0:
            speed = (done - first) / (time.time() - start)
            print(f"{done} {speed:.0f}/s " + " ".join(f"{k} {v / 50:.3f}" for k, v in tally.items()), flush=True)
            tally = {}
        if (step % 150 == 0 or done >= args.samples) and rank == 0:
            workers.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "samples": done})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    workers.launch(arguments.workers, train, arguments)
