"""Stage 1: the vision tower on dense labels (what lies under each patch), single things before crowds.

usage: python train_tower.py --sprites sprites.npz --run DIR [--samples 400000]
Writes DIR/tower.pt again and again; started anew it goes on from there.
"""
import argparse
import os
import time

import torch

from pool import Pool
from scenes import Composer
from towers import Tower, use_training_attention
from schedule import rate


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--samples", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--reuse", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    use_training_attention()
    model = Tower()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(.9, .98), weight_decay=.03, fused=True)
    path, step = os.path.join(args.run, "tower.pt"), 0
    if os.path.exists(path):
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    pool = Pool(Composer(args.sprites), 20_000, seed=1000 + step)
    forward = torch.compile(model.vision) if args.compile else model.vision
    total, start, tally = args.samples // args.batch, time.time(), {}
    first = step
    while step < total:
        share = step / total
        batch = pool.batch(args.batch, args.reuse, single=.8 - .5 * min(1, share * 2.5))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate(step, total, 200)
        with torch.autocast("cpu", torch.bfloat16):
            losses, right = model.losses(forward(batch["pixels"]).last_hidden_state, batch)
        loss = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        step += 1
        for name, value in [*losses.items(), ("right", right)]:
            tally[name] = tally.get(name, 0) + float(value.detach())
        if step % 50 == 0:
            speed = (step - first) * args.batch / (time.time() - start)
            print(f"{step}/{total} {speed:.0f}/s " + " ".join(f"{k} {v / 50:.3f}" for k, v in tally.items()), flush=True)
            tally = {}
        if step % 250 == 0 or step == total:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path + ".new")
            os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
