"""The sizes of the models, and the towers as they are trained.

The towers are transformers' own BLIP and CLIP modules, so that what is trained is what from_pretrained
loads. Only the attention inside them is exchanged for one that stays in bf16 and lets several texts of one
picture share that picture's keys and values (the same mathematics).
"""
import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BlipConfig, BlipTextConfig, BlipVisionConfig
from transformers.models.blip import modeling_blip, modeling_blip_text

from scenes import COLOURS, N_CLASSES, PATCH, SIZE

WIDTH, HEADS = 192, 6
VISION_LAYERS, VISION_INNER = 4, 768
TEXT_LAYERS, TEXT_INNER, TEXT_POSITIONS = 3, 512, 64
MATCH_WIDTH = 128
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)       # CLIP's
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def vision_config():
    return BlipVisionConfig(hidden_size=WIDTH, intermediate_size=VISION_INNER, projection_dim=MATCH_WIDTH,
                            num_hidden_layers=VISION_LAYERS, num_attention_heads=HEADS, image_size=SIZE,
                            patch_size=PATCH, initializer_range=.02)


def text_config(vocab):
    return BlipTextConfig(vocab_size=len(vocab), hidden_size=WIDTH, encoder_hidden_size=WIDTH,
                          intermediate_size=TEXT_INNER, projection_dim=MATCH_WIDTH, num_hidden_layers=TEXT_LAYERS,
                          num_attention_heads=HEADS, max_position_embeddings=TEXT_POSITIONS,
                          bos_token_id=vocab["[DEC]"], eos_token_id=vocab["[SEP]"], sep_token_id=vocab["[SEP]"],
                          pad_token_id=vocab["[PAD]"])


def blip_config(vocab):
    return BlipConfig(text_config=text_config(vocab).to_dict(), vision_config=vision_config().to_dict(),
                      projection_dim=MATCH_WIDTH, image_text_hidden_size=MATCH_WIDTH)


def attend(q, k, v, mask=None):
    """Plain matrix products: torch's fused attention has a backward pass five times slower than they are on a CPU."""
    with torch.autocast("cpu", enabled=False):
        scores = torch.matmul(q * q.shape[-1] ** -.5, k.transpose(-1, -2))
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
        return torch.matmul(torch.softmax(scores, -1), v)


def _vision_attention(self, hidden_states, **kwargs):
    b, t, d = hidden_states.shape
    q, k, v = self.qkv(hidden_states).reshape(b, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
    out = attend(q, k, v)
    return self.projection(out.transpose(1, 2).reshape(b, t, d)), None


def _text_attention(self, hidden_states, attention_mask=None, encoder_hidden_states=None,
                    encoder_attention_mask=None, cache=None, **kwargs):
    b, t, d = hidden_states.shape
    heads, size = self.num_attention_heads, self.attention_head_size
    source, mask = hidden_states, attention_mask
    queries = self.query(hidden_states)
    if encoder_hidden_states is not None:
        source, mask = encoder_hidden_states, encoder_attention_mask
        if source.shape[0] != b:                    # several texts of one picture: one row of queries
            queries, mask = queries.reshape(source.shape[0], -1, d), None
    rows = queries.shape[0]
    q = queries.view(rows, -1, heads, size).transpose(1, 2)
    k = self.key(source).view(rows, -1, heads, size).transpose(1, 2)
    v = self.value(source).view(rows, -1, heads, size).transpose(1, 2)
    if getattr(self, "watched", False):         # train_blip.py tells these heads where to look
        with torch.autocast("cpu", enabled=False):
            scores = torch.matmul(q * size ** -.5, k.transpose(-1, -2))
            self.looked = torch.softmax(scores + mask if mask is not None else scores, -1)
            out = torch.matmul(self.looked, v)
    else:
        out = attend(q, k, v, mask)
    return out.transpose(1, 2).reshape(b, t, d), None


def use_training_attention():
    """For training only: evaluation and the exported files run transformers' own code."""
    modeling_blip.BlipAttention.forward = _vision_attention
    modeling_blip_text.BlipTextSelfAttention.forward = _text_attention


class Tower(nn.Module):
    """The vision tower with its helper heads: what lies under each patch, its colour, its box, which part of the
    patch it covers, how many of its kind there are; what is shown at all, and the colour of the background."""

    def __init__(self):
        super().__init__()
        self.vision = modeling_blip.BlipVisionModel(vision_config())
        self.patch_head = nn.Linear(WIDTH, N_CLASSES + 1)
        self.colour_head = nn.Linear(WIDTH, len(COLOURS))
        self.shown_head = nn.Linear(WIDTH, N_CLASSES)
        self.background_head = nn.Linear(WIDTH, len(COLOURS))
        self.box_head = nn.Linear(WIDTH, 4)
        self.cover_head = nn.Linear(WIDTH, 16)
        self.many_head = nn.Linear(WIDTH, 8)

    def start(self, pixels, patches):
        """First values: the patch embedding whitens (the first WIDTH principal directions of the patches in
        `pixels` that show things, each at unit variance), positions are waves in x and y. Both save most of
        the time that a plain start spends before it names anything.
        """
        e = self.vision.embeddings
        cut = F.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2)[patches != N_CLASSES]
        mean = cut.mean(0)
        values, directions = torch.linalg.eigh((cut - mean).T @ (cut - mean) / len(cut))
        weight = (directions / (values.clamp(min=0) + 2e-3 * values[-1]).sqrt())[:, -WIDTH:].T
        turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]         # spread over all coordinates and heads
        weight = turn @ weight
        grid = SIZE // PATCH
        steps = torch.arange(grid) / grid * math.pi
        waves = torch.cat([f(k * steps)[:, None] for k in range(1, WIDTH // 8 + 1) for f in (torch.sin, torch.cos)], 1)
        waves = waves[:, :WIDTH // 4]
        half = F.pad(waves, (0, WIDTH // 2 - waves.shape[1]))
        rows, columns = half[:, None].expand(grid, grid, -1), half[None].expand(grid, grid, -1)
        place = torch.cat([columns, rows], 2).reshape(grid * grid, WIDTH)
        place = place @ torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
        with torch.no_grad():
            e.patch_embedding.weight.copy_(weight.reshape(WIDTH, 3, PATCH, PATCH))
            e.patch_embedding.bias.copy_(-weight @ mean)
            e.position_embedding.zero_()
            e.position_embedding[0, 1:] = place * .5 / place.std()
            e.class_embedding.normal_(std=.3)

    def look(self, pixels, patches, keep):
        """The tower on `keep` of the 64 patches: those of things first, then some of the background.

        Much of a picture is background, and the tower learns as much without it in half the time.
        Returns hidden [n, 1 + keep, WIDTH] and the numbers of the kept patches [n, keep].
        """
        embedded = self.vision.embeddings(pixels)
        rank = torch.rand(patches.shape) + (patches == N_CLASSES) * 1.
        kept = rank.argsort(1)[:, :keep]
        rows = torch.gather(embedded, 1, (kept + 1)[..., None].expand(-1, -1, WIDTH))
        hidden = self.vision.encoder(inputs_embeds=torch.cat([embedded[:, :1], rows], 1)).last_hidden_state
        return self.vision.post_layernorm(hidden), kept

    def losses(self, hidden, batch):
        patches, cls = hidden[:, 1:].reshape(-1, WIDTH), hidden[:, 0]
        named = self.patch_head(patches).float()
        goal = batch["patches"].reshape(-1)
        weight = torch.ones(N_CLASSES + 1)
        weight[-1] = .2                             # most patches show nothing
        patch = F.cross_entropy(named, goal, weight=weight, ignore_index=-1)
        colour = batch["colours"].reshape(-1)
        seen = colour >= 0
        tint = F.cross_entropy(self.colour_head(patches[seen]).float(), colour[seen]) if seen.any() else 0.
        shown = F.binary_cross_entropy_with_logits(self.shown_head(cls).float(), batch["shown"], reduction="none").sum(1).mean()
        plain = batch["background"] >= 0
        back = F.cross_entropy(self.background_head(cls[plain]).float(), batch["background"][plain]) if plain.any() else 0.
        things = (goal >= 0) & (goal < N_CLASSES)
        on = patches[things]
        box = (self.box_head(on).float() - batch["boxes"].reshape(-1, 4)[things]).abs().mean()
        cover = F.binary_cross_entropy_with_logits(self.cover_head(on).float(), batch["cover"].reshape(-1, 16)[things])
        many = F.cross_entropy(self.many_head(on).float(), batch["many"].reshape(-1)[things])
        with torch.no_grad():
            right = (named.argmax(1) == goal)[things].float().mean()
        return {"patch": patch, "tint": tint * .3, "shown": shown * .15, "back": back * .2, "box": box * 6, "cover": cover * .3,
                "many": many * .4}, right
