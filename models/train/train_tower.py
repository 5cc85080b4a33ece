"""Stage 1: the vision tower on dense labels (what lies under each patch), single things before crowds.

usage: python train_tower.py --sprites sprites.npz --run DIR [--samples 250000] [--workers 2]
Writes DIR/tower.pt again and again; started anew it goes on from there.
"""
import argparse
import os
import time

import torch

import workers
from pool import Pool
from optimizer import Optimizer
from scenes import Composer
from schedule import rate
from towers import Tower, use_training_attention


def train(rank, count, args):
    use_training_attention()
    model = Tower()
    parameters = list(model.parameters())
    optimizer = Optimizer(model, args.lr)
    path, done = os.path.join(args.run, "tower.pt"), 0
    if os.path.exists(path):
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["samples"]
    pool = Pool(Composer(args.sprites), args.pool, seed=[1000 + done, rank])
    if not done:
        first = Pool(pool.composer, 500, seed=0).batch(500, 1, single=.3)
        model.start(first["pixels"], first["patches"])
    first, start, tally, step = done, time.time(), {}, 0
    while done < args.samples:
        share = done / args.samples
        pool.composer.know(.2 + 2 * share)
        batch = pool.batch(args.batch, args.reuse, single=.4 - .15 * min(1, share * 3), shake=True)
        optimizer.set_rate(rate(done, args.samples, 6_000))
        with torch.autocast("cpu", torch.bfloat16):
            if done < args.samples * .85:
                hidden, kept = model.look(batch["pixels"], batch["patches"], args.keep)
                for name in ("patches", "colours"):
                    batch[name] = batch[name].gather(1, kept)
            else:
                hidden = model.vision(batch["pixels"]).last_hidden_state
            losses, right = model.losses(hidden, batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        workers.average_gradients(parameters, count)
        torch.nn.utils.clip_grad_norm_(parameters, 1.)
        optimizer.step()
        done, step = done + args.batch * count, step + 1
        for name, value in [*losses.items(), ("right", right)]:
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
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--keep", type=int, default=32, help="patches looked at, of 64")
    parser.add_argument("--lr", type=float, default=1.3e-3)
    parser.add_argument("--reuse", type=int, default=3)
    parser.add_argument("--pool", type=int, default=15_000, help="scenes kept for use again")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    workers.launch(arguments.workers, train, arguments)
