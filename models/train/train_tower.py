"""Stage 1: the vision tower on dense labels (what lies under each patch), single things before crowds.

usage: python train_tower.py --sprites sprites.npz --run DIR [--samples 250000] [--workers 2]
Writes DIR/tower.pt again and again; started anew it goes on from there.
"""
import argparse
import copy
import os
import time

import torch

import workers
from pool import Source
from optimizer import Optimizer
from scenes import WORDS, Composer
from schedule import rate
from towers import Tower, use_training_attention


def adopt(model, saved):
    """The values of a tower that knew other words: what both have, class by class."""
    state = model.state_dict()
    rows = [(WORDS.index(w), i) for i, w in enumerate(saved["words"]) if w in WORDS]
    new, old = map(list, zip(*rows))
    for name, value in saved["model"].items():
        if name not in state:
            continue
        if name.startswith(("patch_head.", "shown_head.")):
            state[name][new] = value[old]
            if name.startswith("patch_head."):
                state[name][-1] = value[-1]
        else:
            state[name] = value
    model.load_state_dict(state)


def train(rank, count, args):
    use_training_attention()
    model = Tower()
    parameters = list(model.parameters())         # f32; the passes run on a bf16 copy
    optimizer = Optimizer(model, args.lr)
    path, done = os.path.join(args.run, "tower.pt"), 0
    if os.path.exists(path):
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["samples"]
    elif args.start:
        adopt(model, torch.load(args.start))
    source = Source(Composer(args.sprites, args.photos, args.more), seed=[1000 + done, rank])
    if not done and not args.start:
        first = Source(source.composer, seed=0).batch(500, single=.3)
        model.start(first["pixels"], first["patches"])
    quick = copy.deepcopy(model).bfloat16()
    pairs = list(zip(parameters, quick.parameters()))
    first, start, tally, step = done, time.time(), {}, 0
    while done < args.samples:
        share = done / args.samples
        source.composer.know(1 if args.start else .2 + 2 * share)
        batch = source.batch(args.batch, single=.4 - .15 * min(1, share * 3))
        optimizer.set_rate(rate(done, args.samples, 6_000))
        batch["pixels"] = batch["pixels"].bfloat16()
        if done < args.samples * .9:
            hidden, kept = quick.look(batch["pixels"], batch["patches"], args.keep)
            for name in ("patches", "colours", "boxes", "cover", "many"):
                index = kept if batch[name].ndim == 2 else kept[..., None].expand(-1, -1, batch[name].shape[2])
                batch[name] = batch[name].gather(1, index)
        else:
            hidden = quick.vision(batch["pixels"]).last_hidden_state
        losses, right = quick.losses(hidden, batch)
        quick.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        for p, q in pairs:
            p.grad = q.grad.float()
        workers.average_gradients(parameters, count)
        torch.nn.utils.clip_grad_norm_(parameters, 1.)
        optimizer.step()
        with torch.no_grad():
            for p, q in pairs:
                q.copy_(p)
        done, step = done + args.batch * count, step + 1
        for name, value in [*losses.items(), ("right", right)]:
            tally[name] = tally.get(name, 0) + float(torch.as_tensor(value).detach())
        if step % args.every == 0 and rank == 0:
            speed = (done - first) / (time.time() - start)
            print(f"{done} {speed:.0f}/s " + " ".join(f"{k} {v / args.every:.3f}" for k, v in tally.items()), flush=True)
            tally = {}
        if (step % 150 == 0 or done >= args.samples) and rank == 0:
            workers.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "samples": done, "words": WORDS})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--keep", type=int, default=32, help="patches looked at, of 64")
    parser.add_argument("--lr", type=float, default=1.3e-3)
    parser.add_argument("--photos", help="photos.npz, from art.py")
    parser.add_argument("--more", help="more.npz, from icons.py: further drawing styles")
    parser.add_argument("--start", help="the tower of an earlier run, of other words, to begin with")
    parser.add_argument("--every", type=int, default=50, help="steps between reports")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    workers.launch(arguments.workers, train, arguments)
