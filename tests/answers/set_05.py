"""Answers to set 05: right ones in other words, and wrong ones with a part of what `check` must say."""

import math

import numpy as np
import torch
import torch.nn.functional as F

LONG = (
    "because each row is hit by a mask of its own, the outputs differ even if all rows hold the same image; "
    "with copies of one image the figure would have to be zero"
)


def log_of(net, batches, optimizer, clear=True, step=True, number=lambda p: p.grad.norm().item(), total=None):
    log = {"total": []}
    for x, y in batches:
        if clear:
            optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        here = {name: number(p) for name, p in net.named_parameters() if p.grad is not None}
        for name, one in here.items():
            log.setdefault(name, []).append(one)
        log["total"].append(total(list(here.values())) if total else math.hypot(*here.values()))
        if step:
            optimizer.step()
    return log


def late(net, batches, optimizer):
    """Reads after the gradients are cleared."""
    log = {"total": []}
    for x, y in batches:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        norms = {name: p.grad.norm() for name, p in net.named_parameters() if p.grad is not None}
        for name, one in norms.items():
            log.setdefault(name, []).append(one)
        log["total"].append(sum(one**2 for one in norms.values()) ** 0.5)
    return log


def with_numpy(net, batches, optimizer):
    """In float32, cleared at the end of the step, the total from all numbers at once."""
    log = {}
    for x, y in batches:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        found = {name: p.grad.numpy().ravel() for name, p in net.named_parameters() if p.requires_grad}
        found["total"] = np.concatenate(list(found.values()))
        for name, numbers in found.items():
            log.setdefault(name, []).append(np.sqrt(np.float32((numbers**2).sum())))
        optimizer.zero_grad(set_to_none=False)
    return log


def by_clip(net, batches, optimizer):
    """The total as what clip_grad_norm_ returns, with a bound that never binds."""
    rows = []
    for x, y in batches:
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        row = {name: p.grad.square().sum().sqrt() for name, p in net.named_parameters() if p.grad is not None}
        rows.append(
            {**row, "total": torch.nn.utils.clip_grad_norm_(net.parameters(), math.inf, error_if_nonfinite=False)}
        )
        optimizer.step()
    return {name: [row[name] for row in rows] for name in rows[0]}


def by_retaining(net, x, y):
    outputs = []

    def keep(module, inputs, output):
        output.retain_grad()
        outputs.append(output)

    with net.act.register_forward_hook(keep):
        F.cross_entropy(net(x), y).backward()
    return [output.grad.norm() for output in outputs]


def by_module_hook(net, x, y, pick=lambda before, after: after[0].norm().item()):
    found = []
    handle = net.act.register_full_backward_hook(lambda module, before, after: found.insert(0, pick(before, after)))
    F.cross_entropy(net(x), y).backward()
    handle.remove()
    return found


def by_hand(net, x, y):
    """Without hooks and without autograd for the layers: back through each matrix."""
    h, steep = x, []
    for layer in net.layers[:-1]:
        z = layer(h)
        steep.append((z > 0).double())
        h = z.relu()
    logits = net.layers[-1](h)
    at = (torch.softmax(logits, 1) - F.one_hot(y, logits.shape[1])) / len(y)
    norms = []
    for layer, slope in zip(list(net.layers[1:])[::-1], steep[::-1]):
        at = at @ layer.weight
        norms.append(at.norm())
        at = at * slope
    return torch.stack(norms[::-1]).float()


def hook_left_on(net, x, y):
    found = []
    net.act.register_full_backward_hook(lambda module, before, after: found.insert(0, after[0].norm().item()))
    F.cross_entropy(net(x), y).backward()
    return found


def by_name(net, x, y):
    """One entry for each module: the last call that arrives overwrites the others."""
    found = {}

    def see(name, output):
        output.register_hook(lambda gradient: found.__setitem__(name, gradient.norm().item()))

    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: see(name, output))
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.ReLU)
    ]
    F.cross_entropy(net(x), y).backward()
    for handle in handles:
        handle.remove()
    return list(found.values())


def outputs_of(net, x, y):
    found = []
    with net.act.register_forward_hook(lambda module, inputs, output: found.append(output.norm().item())):
        F.cross_entropy(net(x), y).backward()
    return found


def weights_of(net, x, y):
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    return [layer.weight.grad.norm() for layer in net.layers[:-1]]


def by_simulation(ratio, fan_in):
    """Measure signs and weights."""
    dice = torch.Generator().manual_seed(7)
    weight = torch.randn(2000, fan_in, generator=dice) * math.sqrt(2 / fan_in)
    signs = torch.randn(2000, fan_in, generator=dice).sign()
    return ratio * weight.norm() / signs.norm()


def with_loop(first, bias, second, after):
    return [
        math.sqrt(float(w @ w) + float(b) ** 2 - float(old @ old) + float(new @ new))
        for w, b, old, new in zip(first, bias, second.T, after.T)
    ]


def in_float32(first, bias, second, after):
    both = np.hstack([np.asarray(first), np.asarray(bias)[:, None]]).astype(np.float32)
    kept = np.diag(both @ both.T) - np.diag(np.asarray(second.T @ second))
    return np.sqrt(kept + np.linalg.norm(np.asarray(after), axis=0) ** 2)


RIGHT = {
    "05.1": [log_of, with_numpy, by_clip],
    "05.2": [by_retaining, by_module_hook, by_hand],
    "05.3": [[4, 11], (4.0, 11.0), torch.tensor([4, 11])],
    "05.4": [("b", LONG), ["(B)", LONG.upper()]],
    "05.5": [
        by_simulation,
        lambda ratio, fan_in: ratio / (fan_in / 2) ** 0.5,
        lambda r, n: math.exp(math.log(r) - math.log(n / 2) / 2),
    ],
    "05.6": [with_loop, in_float32],
}
WRONG = {
    "05.1": [
        (lambda *run: log_of(*run, clear=False), "norms of sums of gradients"),
        (lambda *run: log_of(*run, step=False), "never changes"),
        (lambda *run: log_of(*run, number=lambda p: p.detach().norm()), "norms of the parameters"),
        (lambda *run: log_of(*run, total=sum), "sums of norms"),
        (lambda *run: log_of(*run, number=lambda p: p.grad.abs().sum().item(), total=sum), "sums of absolute values"),
        (lambda *run: log_of(*run, total=max), "expected"),
        (late, "has the keys total; expected"),
        (lambda net, batches, optimizer: log_of(net, batches[:2], optimizer), "of shape (2,); expected"),
    ],
    "05.2": [
        (lambda *case: by_module_hook(*case)[::-1], "order in which gradients arrive"),
        (outputs_of, "norms of the outputs"),
        (lambda *case: by_module_hook(*case, pick=lambda before, after: before[0].norm()), "goes into the activation"),
        (weights_of, "weight gradients"),
        (by_name, "of shape (1,); expected"),
        (hook_left_on, "still on net.act"),
        (lambda *case: [one.item() ** 2 for one in by_hand(*case)], "expected"),
    ],
    "05.3": [
        ([11, 4], "Swapped?"),
        ([3, 10], "last layers that still have the signal"),
        ([4, 10], "The first number is right"),
        ([4, 4], "visible in both panels"),
        ([16, 1], "signals are smallest"),
        ([4, 9], "is not right"),
        (4, "expected a tensor of shape (2,)"),
    ],
    "05.4": [
        (("a", LONG), "is not yet signal"),
        (("C", LONG), "cannot bring back"),
        (("d", LONG), "PyTorch scales in training mode"),
        (("b", "of the masks"), "has 3 words"),
        ("b", "Write a letter and a text"),
    ],
    "05.5": [
        (lambda ratio, fan_in: ratio, "weights of size 1"),
        (lambda ratio, fan_in: ratio / fan_in**0.5, "variance 1/fan_in"),
        (lambda ratio, fan_in: ratio / (3 * fan_in) ** 0.5, "default weights"),
        (lambda ratio, fan_in: ratio * 2 / fan_in, "variance of a weight for its size"),
        (lambda ratio, fan_in: ratio * math.sqrt(2 * 256), "norm of the matrix"),
        (lambda ratio, fan_in: ratio * (fan_in / 2) ** 0.5, "expected"),
    ],
    "05.6": [
        (lambda w, b, v, after: (w.square().sum(1) + b**2).sqrt(), "before training"),
        (lambda w, b, v, after: after.norm(dim=0), "outgoing norms"),
        (
            lambda w, b, v, after: (w.square().sum(1) + b**2).sqrt() * (after.norm(dim=0) / v.norm(dim=0)),
            "ratio of incoming",
        ),
        (
            lambda w, b, v, after: (w.square().sum(1) + b**2).sqrt() / (after.norm(dim=0) / v.norm(dim=0)),
            "product of incoming",
        ),
        (
            lambda w, b, v, after: (
                (w.square().sum(1) + b**2 + (after.square().sum() - v.square().sum()) / len(b)).clamp(min=0).sqrt()
            ),
            "same share",
        ),
        (
            lambda w, b, v, after: (w.square().sum(1) + after.square().sum(0) - v.square().sum(0)).abs().sqrt(),
            "expected",
        ),
        (lambda w, b, v, after: (w.square().sum(1) + b**2).sqrt() + after.norm(dim=0) - v.norm(dim=0), "expected"),
    ],
}
