"""Stage 3: CLIP, and the detector and the segmenter that stand on its two towers: one pass trains all three.

The vision tower starts from the trained one, the text tower from nothing. The losses:
  contrast  pictures and texts of a batch (texts that fit another picture of the batch as well are left out)
  naming    a picture of one thing against the labels of many, as zero-shot classification asks it
  patch     each patch of a thing against the same labels
  detect    OWL-ViT's logits: the patch at a thing's middle answers to the thing's label, its neighbours may
  box       each patch of a thing gives the thing's box

With --find, afterwards and on a copy of the towers, the detector and the segmenter alone:
  detect    now the patch that answers best, whichever that is, and no other of the thing's
  mask      CLIPSeg: where is what this label (or this picture of one thing) shows

usage: python train_clip.py --sprites sprites.npz --run DIR [--samples 64000] [--find detect,segment]
Starts from DIR/tower.pt, writes DIR/clip.pt again and again; with --find from DIR/clip.pt, and writes DIR/find.pt.
"""
import argparse
import copy
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPSegConfig, OwlViTConfig
from transformers.models.clip import modeling_clip
from transformers.models.clipseg import modeling_clipseg
from transformers.models.owlvit.modeling_owlvit import OwlViTBoxPredictionHead, OwlViTClassPredictionHead, OwlViTForObjectDetection

import language
import things
import workers
from optimizer import Optimizer
from pool import Source
from scenes import COLOURS, FIRST_SHAPE, GRID, N_CLASSES, PATCH, SIZE, WORDS, Composer
from schedule import rate
from towers import HEADS, TEXT_INNER, TEXT_LAYERS, VISION_INNER, VISION_LAYERS, WIDTH, Tower, attend
from train_blip import adopt, pad
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


SEEN_LAYERS = [0, 1, 3]          # of the vision tower, by the segmenter


def towers_config(tokenizer):
    """The two towers' settings, the same for all three models. OWL-ViT wants a projection as wide as its text tower."""
    return dict(
        text_config=dict(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=TEXT_INNER, num_hidden_layers=TEXT_LAYERS,
                         num_attention_heads=HEADS, max_position_embeddings=CLIP_POSITIONS, hidden_act="gelu",
                         projection_dim=WIDTH, bos_token_id=tokenizer.bos_token_id,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id),
        vision_config=dict(hidden_size=WIDTH, intermediate_size=VISION_INNER, num_hidden_layers=VISION_LAYERS,
                           num_attention_heads=HEADS, image_size=SIZE, patch_size=PATCH, hidden_act="gelu", projection_dim=WIDTH),
        projection_dim=WIDTH)


def clip_config(tokenizer):
    return CLIPConfig(**towers_config(tokenizer))


def owl_config(tokenizer):
    return OwlViTConfig(**towers_config(tokenizer))


def seg_config(tokenizer):
    return CLIPSegConfig(**towers_config(tokenizer), extract_layers=SEEN_LAYERS, reduce_dim=128, decoder_num_attention_heads=4,
                         decoder_intermediate_size=512, conditional_layer=0, use_complex_transposed_convolution=True)


def copy_tower(source, target, pixels):
    """BLIP's vision tower into CLIP's. CLIP has no bias on its patches (the positions take it) and one normalisation more
    at the entrance: its weight is what patches of `pixels` usually measure there, so that the layers see what they are used
    to. The class row is a tenth of that size. It keeps it: one coordinate, which the weight leaves out, carries the length.
    (With a weight of 1 the tower names 7 % of the patches right, so 91 %, and 96 % before.)
    """
    e, t = source.embeddings, target.embeddings
    with torch.no_grad():
        t.patch_embedding.weight.copy_(e.patch_embedding.weight)
        t.position_embedding.weight.copy_(e.position_embedding[0])
        t.position_embedding.weight[1:] += e.patch_embedding.bias
        rows = e(pixels)[:, 1:]
        size, least = rows.std(-1).mean(), int(rows.var((0, 1)).argmin())
        target.pre_layrnorm.weight.fill_(size)
        target.pre_layrnorm.weight[least] = 0
        t.class_embedding.copy_(e.class_embedding[0, 0] + e.position_embedding[0, 0])
        t.class_embedding[least] = size * WIDTH ** .5
        t.position_embedding.weight[0] = 0
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
        self.clip = CLIPModel(clip_config(tokenizer))
        owl = owl_config(tokenizer)
        self.owl_post = nn.LayerNorm(WIDTH, eps=1e-5)    # OWL-ViT's own post_layernorm and layer_norm
        self.owl_norm = nn.LayerNorm(WIDTH, eps=1e-5)
        self.class_head, self.box_head = OwlViTClassPredictionHead(owl), OwlViTBoxPredictionHead(owl)
        self.decoder = modeling_clipseg.CLIPSegDecoder(seg_config(tokenizer))
        self.register_buffer("box_bias", OwlViTForObjectDetection.compute_box_bias(OwlViTForObjectDetection, GRID, GRID), persistent=False)
        with torch.no_grad():
            for p in self.decoder.parameters():          # transformers starts these at a deviation of 1
                if p.ndim > 1:
                    p.normal_(std=(p[0] if p.ndim == 2 or p.shape[2] == 3 else p[:, 0, 0, 0]).numel() ** -.5)
            self.owl_post.weight.fill_(.5)               # (1 + a/2)(1 + b/2): patch times class row begins nearly as their sum
            self.owl_post.bias.fill_(1.)
            self.class_head.logit_scale.bias.fill_(11.)
            self.class_head.logit_shift.bias.fill_(-.6)

    def text(self, ids, ends):
        """Projected, not normalised."""
        model = self.clip.text_model
        hidden = model.embeddings(input_ids=ids)
        for layer in model.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden = model.final_layer_norm(hidden)
        return self.clip.text_projection(hidden[torch.arange(len(ids)), ends])

    def losses(self, batch, texts, find=()):
        """`find`: of the second part, which of detect and segment learn; none in the first part."""
        model = self.clip.vision_model
        hidden = model.pre_layrnorm(model.embeddings(batch["pixels"]))
        states = []
        for layer in model.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            states.append(hidden)
        out, right = {}, {}
        with torch.set_grad_enabled(not find):
            asked = self.text(*texts["queries"])
        queries, plain = F.normalize(asked.float(), dim=-1), texts["query colours"] < 0
        shown = self.clip.visual_projection(model.post_layernorm(hidden[:, 0]))
        if not find:
            self.contrast(shown, queries, plain, texts, out, right)
        if "segment" in find:
            out["mask"] = self.mask_loss(states, asked, shown.detach(), texts, right)
        if "detect" in find or not find:
            out.update(self.detection_losses(hidden, batch, texts, queries, plain, right, one="detect" in find))
        return out, right

    def contrast(self, shown, queries, plain, texts, out, right):
        picture = F.normalize(shown.float(), dim=-1)
        scale = self.clip.logit_scale.float().exp().clamp(max=100)
        text = F.normalize(self.text(*texts["pairs"]).float(), dim=-1)
        cosine = (scale * picture @ text.T).masked_fill(texts["same"], -1e4)
        goal = torch.arange(len(picture))
        out["contrast"] = (F.cross_entropy(cosine, goal) + F.cross_entropy(cosine.T, goal)) / 2
        right["found"] = (cosine.argmax(1) == goal).float().mean()
        single = texts["single"]
        rows = single >= 0
        logits = (scale * picture[rows] @ queries.T).masked_fill(~plain, -1e4)
        out["naming"] = F.cross_entropy(logits, single[rows])
        right["named"] = (logits.argmax(1) == single[rows]).float().mean()

    def detection_losses(self, hidden, batch, texts, queries, plain, right, one):
        """`one`: one patch of a thing has to answer, the others to be silent; else those by its middle matter less."""
        y = self.owl_post(hidden)
        y = self.owl_norm(y[:, 1:] * y[:, :1])
        place = self.box_head(y).float() + self.box_bias
        embeds = F.normalize(self.class_head.dense0(y).float(), dim=-1)
        cosine = embeds @ queries.T
        logits = (cosine + self.class_head.logit_shift(y).float()) * (F.elu(self.class_head.logit_scale(y).float()) + 1)
        p = torch.sigmoid(logits)
        patches, colours = batch["patches"], batch["colours"]
        fits = (patches[..., None] == texts["query classes"]) & (plain | (colours[..., None] == texts["query colours"]))
        thing = (patches >= 0) & (patches < N_CLASSES)
        same = (batch["numbers"][:, :, None] == batch["numbers"][:, None]) & thing[:, :, None] & thing[:, None]
        named = (14 * cosine[thing]).masked_fill(~plain, -1e4)
        goal = (fits[thing] & plain).float().argmax(1)
        right["patch"] = (named.argmax(1) == goal).float().mean()
        want, raw = batch["boxes"][thing], place[thing]
        got = torch.sigmoid(raw)
        iou, giou = overlap(got, want)
        right["iou"] = iou.mean()
        # Also before the sigmoid: the bias of the last row and column lies where its slope is next to nothing.
        far = (raw - torch.logit(want, 1e-2)).abs().mean()

        def of_its_thing(value):
            """value [patches of things] -> the same as [n, 64], and for each patch those of its thing, [n, 64, 64]; -1e4 elsewhere."""
            each = torch.full(thing.shape, -1e4)
            each[thing] = value
            return each, each[:, None].expand_as(same).masked_fill(~same, -1e4)

        if one:
            own = logits[thing].gather(1, goal[:, None])[:, 0]
            good, goods = of_its_thing((torch.sigmoid(own) * iou).detach())
            own, owns = of_its_thing(own)
            answers, near = thing & (good >= goods.amax(2)), 0.
            alone = right["alone"] = (owns.logsumexp(2) - own)[answers].mean()
        else:
            line = (torch.arange(GRID) + .5) / GRID
            centre = torch.stack([line.repeat(GRID), line.repeat_interleave(GRID)], -1)
            off = ((batch["boxes"][..., :2] - centre) * GRID).square().sum(-1)
            good, goods = of_its_thing(-off[thing])
            answers, near, alone = thing & (good >= goods.amax(2) - 1e-5), fits * torch.exp(-1.2 * off)[..., None], 0.
        yes, known = fits & answers[..., None], (patches >= 0)[..., None]
        lost = -(F.logsigmoid(logits) * (1 - p).square() * yes
                 + F.logsigmoid(-logits) * p.square() * (1 - near) ** 4 * (~yes & known))
        detect = lost.sum() / yes.sum().clamp(min=1)
        return {"detect": .5 * detect + .4 * alone, "patch-loss": F.cross_entropy(named, goal),
                "box": 5 * (got - want).abs().mean() + (1 - giou).mean() + .3 * far}

    def mask_loss(self, states, queries, shown, texts, right):
        index, prompt = texts["mask pictures"], texts["mask queries"]
        condition = torch.where((prompt >= 0)[:, None], queries[prompt.clamp(min=0)], shown[index])
        output, decoder = None, self.decoder
        for i, (seen, layer, reduce) in enumerate(zip(SEEN_LAYERS[::-1], decoder.layers, decoder.reduces)):
            output = reduce(states[seen])[index] + (0 if output is None else output)
            if i == 0:
                output = decoder.film_mul(condition)[:, None] * output + decoder.film_add(condition)[:, None]
            output = layer(output, attention_mask=None, bidirectional=True)
        smooth, _, first, _, second = decoder.transposed_convolution
        output = torch.relu(smooth(output[:, 1:].transpose(1, 2).reshape(len(index), -1, GRID, GRID)))
        # The transposed convolutions as matrix products: torch's take a third of the whole step in bf16.
        output = torch.relu(output.flatten(2).transpose(1, 2) @ first.weight.flatten(1) + first.bias.repeat_interleave(16))
        output = output.reshape(len(index), GRID * GRID, -1, 16).transpose(2, 3) @ second.weight.flatten(1) + second.bias
        logits = output.reshape(-1, GRID, GRID, 4, 4, 4, 4).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, SIZE, SIZE).float()
        want = texts["masks"]
        p = torch.sigmoid(logits)
        both = (p * want).sum((1, 2))
        dice = 1 - (2 * both + 20) / (p.sum((1, 2)) + want.sum((1, 2)) + 20)
        with torch.no_grad():
            there = want.sum((1, 2)) > 0
            cut = (logits > 0) & (want > 0)
            right["mask-iou"] = (cut.sum((1, 2)) / ((logits > 0) | (want > 0)).sum((1, 2)).clamp(min=1))[there].mean()
        return 2 * F.binary_cross_entropy_with_logits(logits, want) + .5 * dice.mean()


def overlap(a, b):
    """IoU and generalised IoU of boxes given as middle and size."""
    a0, a1, b0, b1 = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    both = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(1)
    either = a[:, 2:].prod(1) + b[:, 2:].prod(1) - both
    around = (torch.maximum(a1, b1) - torch.minimum(a0, b0)).prod(1)
    iou = both / either.clamp(min=1e-6)
    return iou, iou - (around - either) / around.clamp(min=1e-6)


LABEL_TEMPLATES = ["a photo of {a} {x}", "a photo of a {x}", "a picture of {a} {x}", "{x}", "{x}", "{a} {x}", "{xs}", "an image of {a} {x}", "{xs}"]
QUERIES = 150


def write_texts(scenes, owner, encode, rng, masks_too):
    pairs = [encode(language.short_text(scene, rng)) for scene in scenes]
    marks = [language.signature(scene) for scene in scenes]
    kinds = [sorted({t.cls for t in scene.things}) for scene in scenes]
    same = torch.tensor([[i != j and (a == b or (len(kinds[i]) == len(kinds[j]) == 1 and kinds[i] == kinds[j]))
                          for j, b in enumerate(marks)] for i, a in enumerate(marks)])

    # The queries: every kind that is shown, others, and shapes with their colours or others.
    classes = sorted({c for k in kinds for c in k})
    others = [int(c) for c in rng.permutation(N_CLASSES) if c not in set(classes)]
    asked = [(c, -1) for c in classes + others[:max(20, QUERIES - len(classes))]]
    tinted = sorted({(t.cls, t.colour) for scene in scenes for t in scene.things if t.colour >= 0})
    rng.shuffle(tinted)
    for cls, colour in tinted[:16]:
        asked.append((cls, colour))
        asked.append((cls, int(rng.integers(len(COLOURS)))))
    asked = list(dict.fromkeys(asked))
    number = {q: i for i, q in enumerate(asked)}

    def label(cls, colour):
        tint = COLOURS[colour] + " " if colour >= 0 else ""
        template = LABEL_TEMPLATES[int(rng.integers(len(LABEL_TEMPLATES)))]
        return template.format(a=things.article(tint or WORDS[cls]), x=tint + WORDS[cls], xs=tint + things.plural(WORDS[cls]))

    (pair, pair_mask), (ids, mask) = pad(pairs), pad([encode(label(*q)) for q in asked])
    single = torch.tensor([number[k[0], -1] if len(k) == 1 and len(s.things) == 1 else -1 for k, s in zip(kinds, scenes)])

    # Three masks a picture: things shown (their own picture may be the example where they are alone), the last often not shown.
    pictures, prompts, masks = [], [], []
    for i, scene in enumerate(scenes if masks_too else []):
        fit = [(c, -1) for c in kinds[i]] + [q for q in {(t.cls, t.colour) for t in scene.things} if q in number and q[1] >= 0]
        rng.shuffle(fit)
        for turn in range(3):
            absent = turn >= len(fit) or (turn == 2 and rng.random() < .6)
            query = asked[int(rng.integers(len(asked)))] if absent else tuple(int(x) for x in fit[turn])
            example = turn == 0 and single[i] >= 0 and query == (kinds[i][0], -1) and rng.random() < .25
            wanted = [k for k, t in enumerate(scene.things) if t.cls == query[0] and query[1] in (-1, t.colour)]
            pictures.append(i)
            prompts.append(-1 if example else number[query])
            masks.append(np.isin(owner[i], wanted))
    return {"pairs": (pair, pair_mask.sum(1) - 1), "queries": (ids, mask.sum(1) - 1), "same": same, "single": single,
            "query classes": torch.tensor([q[0] for q in asked]), "query colours": torch.tensor([q[1] for q in asked]),
            "mask pictures": torch.tensor(pictures), "mask queries": torch.tensor(prompts),
            "masks": torch.from_numpy(np.array(masks, np.float32))}


def train(rank, count, args):
    modeling_clip.CLIPAttention.forward = _attention
    modeling_clipseg.CLIPSegAttention.forward = _attention
    tokenizer = clip_tokenizer()
    model = Clip(tokenizer)
    parameters = list(model.parameters())         # f32; the passes run on a bf16 copy
    find = args.find.split(",") if args.find else []
    path = os.path.join(args.run, args.name or ("find.pt" if find else "clip.pt"))
    if find:
        model.clip.text_model.requires_grad_(False)
    optimizer = Optimizer(model, args.lr, slow="clip.vision_model.", slowness=.35)
    saved = torch.load(path) if os.path.exists(path) else None
    done = saved["samples"] if saved else 0
    source = Source(Composer(args.sprites, args.photos, args.more), seed=[(6000 if find else 4000) + args.seed + done, rank])
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    elif find and args.start:
        model.load_state_dict(torch.load(args.start)["model"])
    elif find:
        model.load_state_dict({name: value for name, value in torch.load(os.path.join(args.run, "clip.pt"))["model"].items()
                               if not name.startswith("decoder.")}, strict=False)
    else:
        tower = Tower()
        tower.load_state_dict(torch.load(os.path.join(args.run, "tower.pt"))["model"])
        copy_tower(tower.vision, model.clip.vision_model, source.batch(200, single=.3)["pixels"])
        if args.start:
            adopt(model, torch.load(args.start), tokenizer.get_vocab())
    quick = copy.deepcopy(model).bfloat16()
    quick.box_bias = model.box_bias
    pairs = list(zip(parameters, quick.parameters()))
    encode = Encoder(tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id)
    rng = np.random.default_rng([5000 + args.seed + done, rank])
    first, start, tally, step = done, time.time(), {}, 0
    while done < args.samples:
        batch = source.batch(args.batch, single=.2 if find else .4)
        texts = write_texts(batch["scenes"], batch["owner"], encode, rng, "segment" in find)
        optimizer.set_rate(rate(done, args.samples, 4_000))
        batch["pixels"] = batch["pixels"].bfloat16()
        losses, right = quick.losses(batch, texts, find)
        quick.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        for p, q in pairs:
            p.grad = q.grad.float() if q.grad is not None else None
        workers.average_gradients(parameters, count)
        torch.nn.utils.clip_grad_norm_(parameters, 1.)
        optimizer.step()
        with torch.no_grad():
            for p, q in pairs:
                q.copy_(p)
        done, step = done + args.batch * count, step + 1
        for name, value in [*losses.items(), *right.items()]:
            tally[name] = tally.get(name, 0) + float(torch.as_tensor(value).detach())
        if step % args.every == 0 and rank == 0:
            speed = (done - first) / (time.time() - start)
            print(f"{done} {speed:.0f}/s " + " ".join(f"{k} {v / args.every:.3f}" for k, v in tally.items()), flush=True)
            tally = {}
        if (step % 150 == 0 or done >= args.samples) and rank == 0:
            workers.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "samples": done,
                                "vocab": sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--photos", help="photos.npz, from art.py")
    parser.add_argument("--more", help="more.npz, from icons.py: further drawing styles")
    parser.add_argument("--find", help="the second part: detect, segment or, comma between, both")
    parser.add_argument("--start", help="the checkpoint of an earlier run to begin with: with --find its find.pt, else its text tower, of other words")
    parser.add_argument("--name", help="the checkpoint's file name in DIR: clip.pt, with --find find.pt, unless given")
    parser.add_argument("--seed", type=int, default=0, help="scenes other than those of an earlier run")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=50, help="steps between reports")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    workers.launch(arguments.workers, train, arguments)
