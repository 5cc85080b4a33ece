"""Muon for the matrices inside the layers, AdamW for all else.

Orthogonalised steps need about half the samples here; they cost a tenth of a step's time.
"""
import torch


class Optimizer:
    """`slow`: parameters whose names begin with it take steps of `slowness` times the size."""

    def __init__(self, model, lr, slow="-", slowness=1.):
        self.lr, groups = lr, {}
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            inner = p.ndim == 2 and ".layer" in name and "embeddings" not in name
            groups.setdefault((inner, name.startswith(slow)), []).append(p)

        def of(inner):
            return [{"params": ps, "factor": (3. if inner else 1.) * (slowness if late else 1.)}
                    for (kind, late), ps in groups.items() if kind == inner]

        self.parts = [torch.optim.Muon(of(True), lr=lr, momentum=.95, weight_decay=.03, ns_steps=4, adjust_lr_fn="match_rms_adamw"),
                      torch.optim.AdamW(of(False), lr=lr, betas=(.9, .98), weight_decay=.01, fused=True)]

    def set_rate(self, share):
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * share * group["factor"]

    def zero_grad(self):
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self):
        for part in self.parts:
            part.step()

    def state_dict(self):
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states):
        for part, state in zip(self.parts, states):
            part.load_state_dict(state)
