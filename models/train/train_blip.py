"""Stage 2: caption, question and matching models at once, on one vision tower.

All three BLIP models look through the same tower, so that one pass over a picture serves a caption,
several questions and several statements. Each is a complete transformers model whose vision_model is
the shared one; export.py writes them out as they stand. The dense task of stage 1 is kept on.

usage: python train_blip.py --sprites sprites.npz --run DIR [--samples 400000] [--workers 2]
Starts from DIR/tower.pt, writes DIR/blip.pt again and again; started anew it goes on from there.
"""
import argparse
import copy
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipForQuestionAnswering

import easyvqa
import language
import things
import workers
from optimizer import Optimizer
from pool import Source, to_tensor
from scenes import CATEGORY, N_CLASSES, SIZE, WORDS, Composer
from schedule import rate
from towers import WIDTH, Tower, blip_config, use_training_attention
from vocabulary import Encoder, bert_tokenizer, wordpiece

TEMPERATURE = .07


def pad(rows):
    """[[id]] -> ids [n, longest], mask [n, longest]; 0 is [PAD]."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, :len(row)] = torch.tensor(row)
        mask[i, :len(row)] = 1
    return ids, mask


def subjects(vocab):
    """For every token the thing that it names, singular or plural; N_CLASSES + k the k-th category, then anything; -1 other words."""
    names = [(word, things.plural(word)) for word in WORDS] + list(language.COUNTABLE.items()) + [("things", "objects")]
    table = torch.full((len(vocab),), -1)
    for subject, words in enumerate(names):
        for word in set(words):
            taken = table[vocab[word]] >= 0              # "glasses" are more than a glass, too: say nothing about such a word
            table[vocab[word]] = -1 if taken else subject
    return table


def tell(scenes):
    """How many of each subject a scene shows, int64 [n, subjects], and the middle of them, [n, subjects, 2] in sides of the picture."""
    categories = list(language.COUNTABLE)
    counts = torch.zeros(len(scenes), N_CLASSES + len(categories) + 1, dtype=torch.long)
    middles = torch.zeros(*counts.shape, 2)
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            of = [thing.cls, -1] + [N_CLASSES + k for k, name in enumerate(categories) if name == CATEGORY[thing.cls]]
            counts[row, of] += 1
            middles[row, of] += torch.tensor([thing.x, thing.y]) / SIZE
    return counts, middles / counts.clamp(min=1)[..., None]


def lie(batch, subjects):
    """Where each subject is seen, [n, subjects, 1 + 64]: how much of one thing lies there. The first place is [CLS]."""
    patches, numbers = batch["patches"], batch["numbers"]
    row, place = ((patches >= 0) & (patches < N_CLASSES) & (numbers >= 0)).nonzero(as_tuple=True)
    what, which = patches[row, place], numbers[row, place]
    parts = torch.zeros(len(patches), 256)
    parts.index_put_((row, which), torch.ones(len(row)), accumulate=True)
    at = torch.zeros(len(patches), subjects, 65)
    share = 1 / parts[row, which]
    at[row, what, place + 1] = share
    at[row, -1, place + 1] = share
    categories = list(language.COUNTABLE)
    kind = torch.tensor([categories.index(c) if c in categories else -1 for c in CATEGORY])[what]
    known = kind >= 0
    at[row[known], N_CLASSES + kind[known], place[known] + 1] = share[known]
    return at


def look_loss(layers, subject, scene, counts, places):
    """Tells half of the heads of two layers where to look when a word names something.

    In the first layer at any part of it, at [CLS] where it is not shown. In the second at all n of them and [CLS]
    alike, so that 1 / (n + 1) of what is read is [CLS]: attention means, and a mean of the things alone cannot count.
    Left to the answers alone, a reader takes very long to find out that words and patches have to do with each other.
    subject [texts, tokens] (-1: any word), scene [texts].
    """
    texts, tokens = subject.shape
    at = (subject >= 0) & (scene[:, None] < len(counts))
    row, what = scene[:, None].expand_as(subject)[at], subject[at]
    n, goal = counts[row, what], places[row, what]
    there = goal.sum(-1).round().long()
    clear = there == n                                     # each of them has a patch of its own
    n, goal, loss = n[clear], goal[clear], 0.
    for which, layer in enumerate(layers):
        attention = layer.crossattention.self.looked
        heads = attention.shape[1] // 2
        attention = attention[:, :heads].transpose(1, 2).reshape(-1, tokens, heads, attention.shape[-1])[:texts][at][clear].float()
        if which == 0:
            aim = (goal > 0).float()
            aim[:, 0] = n == 0
            loss = loss - ((attention * aim[:, None]).sum(-1) + 1e-4).log().mean()
        else:
            aim = goal.clone()
            aim[:, 0] = 1
            aim = (aim / (n + 1)[:, None])[:, None]
            loss = loss + (aim * ((aim + 1e-4).log() - (attention + 1e-4).log())).sum(-1).mean()
    return loss


class Grounding(nn.Module):
    """A helper head, left out at export: at every word that names things, how many of them are shown, and where.

    A question's one word of answer says little about what the reader missed; this says it word by word.
    """

    def __init__(self, width):
        super().__init__()
        self.number, self.place = nn.Linear(width, 8), nn.Linear(width, 2)

    def forward(self, read, ids, scene, counts, middles, table):
        subject = table[ids]
        at = (subject >= 0) & (scene[:, None] < len(counts))
        row, subject = scene[:, None].expand_as(ids)[at], subject[at]
        n, said = counts[row, subject], self.number(read[at]).float()
        there = n > 0
        place = (self.place(read[at][there]).float() - middles[row, subject][there]).abs().mean() if there.any() else 0.
        return .5 * F.cross_entropy(said, n.clamp(max=7)) + 2. * place, (said.argmax(-1) == n).float().mean()


class Joint(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = Tower()
        config = blip_config(wordpiece())
        self.caption = BlipForConditionalGeneration(config)
        self.vqa = BlipForQuestionAnswering(config)
        self.itm = BlipForImageTextRetrieval(config)
        for model in (self.caption, self.vqa, self.itm):
            model.vision_model = self.tower.vision
        self.remaining = nn.Linear(WIDTH, N_CLASSES)     # a helper head, left out at export: what is still to be said
        nn.init.constant_(self.remaining.bias, -5.)       # nearly all is not
        self.vqa_grounding, self.itm_grounding = Grounding(WIDTH), Grounding(WIDTH)
        self.watched = {"vqa": self.vqa.text_encoder.encoder.layer[:2], "itm": self.itm.text_encoder.encoder.layer[:2],
                        "caption": self.caption.text_decoder.bert.encoder.layer[1:]}
        for layers in self.watched.values():
            for layer in layers:
                layer.crossattention.self.watched = True
        self.register_buffer("subjects", subjects(wordpiece()), persistent=False)

    def losses(self, batch, texts, frozen=False):
        out, right = {}, {}
        with torch.set_grad_enabled(not frozen):
            hidden = self.tower.vision(batch["pixels"]).last_hidden_state
        if not frozen:
            dense, right["patch-right"] = self.tower.losses(hidden[:len(batch["shown"])], batch)
            out["dense"] = .5 * sum(dense.values())
            right["many"] = dense["many"].detach() / .4
        texts["places"] = lie(batch, texts["facts"][0].shape[1])
        seen = torch.ones(hidden.shape[:2], dtype=torch.long)
        if "question" in texts:
            out["vqa"], out["ask-ground"], out["ask-look"], right["answer-right"], right["count-right"] = self.vqa_loss(hidden, seen, texts)
        hidden, seen = hidden[:len(batch["shown"])], seen[:len(batch["shown"])]     # without easy-vqa's pictures
        if "caption" in texts:
            out["caption"], out["tell-look"], out["to-say"] = self.caption_loss(hidden, seen, texts)
        if "statement" in texts:
            out["itm"], out["itc"], out["say-ground"], out["say-look"], right["match-right"] = self.itm_losses(hidden, seen, texts)
        return out, right

    def caption_loss(self, hidden, seen, texts):
        ids, mask = texts["caption"]
        told = self.caption.text_decoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=hidden,
                                         encoder_attention_mask=seen, use_cache=False, output_hidden_states=True)
        logits = told.logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), ignore_index=0)
        names, goal = self.subjects[ids], torch.full_like(ids, -1)
        goal[:, :-2] = names[:, 2:]                                      # "a" and "two" are said while looking there, too
        goal[:, :-1] = torch.where(names[:, 1:] >= 0, names[:, 1:], goal[:, :-1])
        looking = .5 * look_loss(self.watched["caption"], goal, torch.arange(len(ids)), texts["facts"][0], texts["places"])
        said = F.one_hot(torch.where((names >= 0) & (names < N_CLASSES), names, N_CLASSES), N_CLASSES + 1)[..., :N_CLASSES].cumsum(1)
        left = ((texts["facts"][0][:, None, :N_CLASSES] > 0) & (said == 0)).float()
        guess = self.remaining(told.hidden_states[-2]).float()
        to_say = F.binary_cross_entropy_with_logits(guess, left, reduction="none").sum(-1)[mask > 0].mean()
        return loss, looking, .15 * to_say

    def vqa_loss(self, hidden, seen, texts):
        ids, mask = texts["question"]
        asked = self.vqa.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=hidden,
                                      encoder_attention_mask=seen).last_hidden_state
        grounding, counted = self.vqa_grounding(asked, ids, texts["question-of"], *texts["facts"], self.subjects)
        looking = .5 * look_loss(self.watched["vqa"], self.subjects[ids], texts["question-of"], texts["facts"][0], texts["places"])
        answers, answer_mask = texts["answer"]
        logits = self.vqa.text_decoder(input_ids=answers[:, :-1], attention_mask=answer_mask[:, :-1], encoder_hidden_states=asked,
                                       encoder_attention_mask=mask, use_cache=False).logits
        loss = 1.5 * F.cross_entropy(logits.flatten(0, 1).float(), answers[:, 1:].flatten(), ignore_index=0)
        return loss, grounding, looking, (logits[:, 0].argmax(-1) == answers[:, 1]).float().mean(), counted

    def itm_losses(self, hidden, seen, texts):
        ids, mask = texts["statement"]
        read = self.itm.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=hidden,
                                     encoder_attention_mask=seen).last_hidden_state
        grounding, _ = self.itm_grounding(read, ids, texts["statement-of"], *texts["facts"], self.subjects)
        looking = .5 * look_loss(self.watched["itm"], self.subjects[ids], texts["statement-of"], texts["facts"][0], texts["places"])
        judged = self.itm.itm_head(read[:, 0]).float()
        itm = .8 * F.cross_entropy(judged, texts["fits"])
        matched = (judged.argmax(1) == texts["fits"]).float().mean()

        ids, mask = texts["pair"]
        read = self.itm.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        picture = F.normalize(self.itm.vision_proj(hidden[:, 0]).float(), dim=-1)
        text = F.normalize(self.itm.text_proj(read[:, 0]).float(), dim=-1)
        cosine = (picture @ text.T / TEMPERATURE).masked_fill(texts["same"], -1e4)
        goal = torch.arange(len(hidden))
        itc = .3 * (F.cross_entropy(cosine, goal) + F.cross_entropy(cosine.T, goal)) / 2
        return itm, itc, grounding, looking, matched


def write_texts(scenes, easy, encode, rng, vocab, questions, statements, tasks):
    """`easy`: [[(question, answer)]] of the pictures of easy-vqa that follow the scenes."""
    start, end = vocab["[DEC]"], vocab["[SEP]"]
    captions, asked, answers, said, fits, pairs = [], [], [], [], [], []
    for i, scene in enumerate(scenes):
        captions.append([start] + encode(language.caption(scene, rng))[1:])
        for _ in range(questions if "vqa" in tasks else 0):
            _, question, answer = language.question(scene, rng)
            asked.append(encode(question))
            answers.append([start] + encode(answer)[1:-1] + [end])
        for _ in range(statements if "itm" in tasks else 0):
            text, true = language.statement(scene, scenes[int(rng.integers(len(scenes)))], rng)
            said.append(encode(text))
            fits.append(true)
        pairs.append(encode(language.short_text(scene, rng)))
    for pairs_of_one in easy if "vqa" in tasks else []:
        for k in rng.integers(len(pairs_of_one), size=questions):
            asked.append(encode(pairs_of_one[k][0]))
            answers.append([start] + encode(pairs_of_one[k][1])[1:-1] + [end])
    marks = [language.signature(scene) for scene in scenes]
    same = torch.tensor([[i != j and a == b for j, b in enumerate(marks)] for i, a in enumerate(marks)])
    out = {"facts": tell(scenes)}
    if "caption" in tasks:
        out["caption"] = pad(captions)
    if "vqa" in tasks:
        out["question"], out["answer"] = pad(asked), pad(answers)
        out["question-of"] = torch.arange(len(scenes) + len(easy)).repeat_interleave(questions)
    if "itm" in tasks:
        out.update(statement=pad(said), fits=torch.tensor(fits), pair=pad(pairs), same=same)
        out["statement-of"] = torch.arange(len(scenes)).repeat_interleave(statements)
    return out


def adopt(model, saved, vocab):
    """The values of models that knew other words: what both have, token by token."""
    state = model.state_dict()
    new, old = map(list, zip(*[(vocab[token], i) for i, token in enumerate(saved["vocab"]) if token in vocab]))
    for name, value in saved["model"].items():
        if name in state and state[name].shape == value.shape:
            state[name] = value
        elif name in state and len(value) == len(saved["vocab"]):
            state[name][new] = value[old]
    model.load_state_dict(state)


def train(rank, count, args):
    use_training_attention()
    model = Joint()
    if args.freeze:
        model.tower.requires_grad_(False)
        for name in {"caption", "vqa", "itm"} - set(args.tasks.split(",")):
            getattr(model, name).requires_grad_(False)
    parameters = list(model.parameters())        # f32; the passes run on a bf16 copy, which autocast would make piece by piece
    optimizer = Optimizer(model, args.lr, slow="tower.", slowness=.35)
    path, done = os.path.join(args.run, args.name), 0
    if os.path.exists(path):
        saved = torch.load(path)
        model.load_state_dict(saved["model"], strict=False)
        done = saved["samples"]
        if saved.get("trained") == [args.freeze, args.tasks]:
            optimizer.load_state_dict(saved["optimizer"])
    elif args.start:
        adopt(model, torch.load(args.start), wordpiece())
    if args.freeze or not (done or args.start):
        model.tower.load_state_dict(torch.load(os.path.join(args.run, "tower.pt"))["model"])
    quick = copy.deepcopy(model).bfloat16()
    pairs = list(zip(parameters, quick.parameters()))
    vocab = wordpiece()
    encode = Encoder(bert_tokenizer(), vocab["[CLS]"], vocab["[SEP]"])
    source = Source(Composer(args.sprites, args.photos, args.more), seed=[2000 + args.seed + done, rank])
    rng = np.random.default_rng([3000 + args.seed + done, rank])
    easy_pictures, easy_asked = easyvqa.load("train")
    first, start, tally, step = done, time.time(), {}, 0
    while done < args.samples:
        batch = source.batch(args.batch, single=.45 - .15 * min(1, done / args.samples * 2))
        easy = rng.integers(len(easy_asked), size=args.easy if "vqa" in args.tasks else 0)
        if len(easy):
            batch["pixels"] = torch.cat([batch["pixels"], to_tensor(easy_pictures[easy])])
        texts = write_texts(batch["scenes"], [easy_asked[i] for i in easy], encode, rng, vocab, args.questions, args.statements, args.tasks.split(","))
        optimizer.set_rate(rate(done, args.samples, 3_000))
        batch["pixels"] = batch["pixels"].bfloat16()
        losses, right = quick.losses(batch, texts, args.freeze)
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
                                "trained": [args.freeze, args.tasks], "vocab": list(vocab)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--photos", help="photos.npz, from art.py")
    parser.add_argument("--more", help="more.npz, from icons.py: further drawing styles")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=45)
    parser.add_argument("--questions", type=int, default=5)
    parser.add_argument("--easy", type=int, default=3, help="pictures of easy-vqa in a batch")
    parser.add_argument("--start", help="the checkpoint of an earlier run, of other words, to begin with")
    parser.add_argument("--statements", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="scenes other than those of an earlier run")
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--freeze", action="store_true", help="DIR/tower.pt as it is: a quarter cheaper, where time is short")
    parser.add_argument("--tasks", default="caption,vqa,itm", help="only these; others may train beside or before")
    parser.add_argument("--name", default="blip.pt", help="the checkpoint's file name in DIR")
    parser.add_argument("--every", type=int, default=50, help="steps between reports")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    workers.launch(arguments.workers, train, arguments)
