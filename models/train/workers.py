"""Several single-threaded processes that train one model together.

On few cores that others use too, a process with two threads loses most of its time to their waiting
for each other; two processes with one thread each, which average their gradients once a step, do not.
"""
import ctypes
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import memory


def _start(rank, count, store, body, args):
    ctypes.CDLL(None).prctl(1, 9)          # when the parent goes, so does this one
    memory.keep()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    torch.manual_seed(1)
    body(rank, count, args)
    dist.destroy_process_group()


def launch(count, body, args):
    """Runs body(rank, count, args) in `count` processes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = os.path.join(tempfile.mkdtemp(), "store")
    mp.spawn(_start, (count, store, body, args), nprocs=count)


def average_gradients(parameters, count):
    """Every process ends with the mean of all processes' gradients."""
    if count == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= count
    at = 0
    for p, g in zip(parameters, grads):
        p.grad = flat[at:at + g.numel()].view_as(g)
        at += g.numel()


def save(path, state):
    """Whole or not at all: an interrupted save leaves the previous file."""
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)
