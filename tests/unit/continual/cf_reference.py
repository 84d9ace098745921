"""The C&F method in NumPy fp64, written from its formulas alone; and its torch twin.

A 3-layer net: tanh trunk of two layers shared by all tasks, one softmax layer per task.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

INPUTS, HIDDEN, CLASSES = 6, 5, 3
TRUNK = ("trunk.0.weight", "trunk.0.bias", "trunk.2.weight", "trunk.2.bias")


class Net(nn.Module):
    def __init__(self, tasks=("one", "two", "three"), seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()
        )
        self.targets = nn.ModuleDict({name: nn.Linear(HIDDEN, CLASSES) for name in tasks})
        self.double()

    def count_labels(self, batch):
        names = [name for name in self.targets if f"labels.{name}" in batch]
        return {name: torch.tensor(len(batch[f"labels.{name}"])) for name in names}

    def forward(self, batch):
        hidden = self.trunk(batch["x"])
        result = {}
        for name, head in self.targets.items():
            if (labels := batch.get(f"labels.{name}")) is not None:
                logits = head(hidden)
                result[f"loss.{name}"] = F.cross_entropy(logits, labels, reduction="sum")
                result[f"count.{name}"] = torch.tensor(len(labels))
                result[f"correct.{name}"] = (logits.argmax(-1) == labels).sum()
        return result


def task_data(index, rows=24):
    rng = np.random.default_rng(100 + index)
    x = rng.normal(size=(rows, INPUTS))
    y = (x @ rng.normal(size=(INPUTS, CLASSES))).argmax(1)
    return x, y


def torch_batch(name, x, y):
    return {"x": torch.from_numpy(x), f"labels.{name}": torch.from_numpy(y)}


def gradients(w, name, x, y):
    """Hand-written backward pass of the mean cross-entropy; w: parameter name -> array."""
    a = np.tanh(x @ w["trunk.0.weight"].T + w["trunk.0.bias"])
    b = np.tanh(a @ w["trunk.2.weight"].T + w["trunk.2.bias"])
    z = b @ w[f"targets.{name}.weight"].T + w[f"targets.{name}.bias"]
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    dz = (p - np.eye(CLASSES)[y]) / len(y)
    db = dz @ w[f"targets.{name}.weight"] * (1 - b**2)
    da = db @ w["trunk.2.weight"] * (1 - a**2)
    found = {n: np.zeros_like(v) for n, v in w.items()}
    found[f"targets.{name}.weight"], found[f"targets.{name}.bias"] = dz.T @ b, dz.sum(0)
    found["trunk.2.weight"], found["trunk.2.bias"] = db.T @ a, db.sum(0)
    found["trunk.0.weight"], found["trunk.0.bias"] = da.T @ x, da.sum(0)
    return found


def perturbation(w, g, rho, adaptive):
    scaled = {n: (np.abs(w[n]) if adaptive else 1.0) * g[n] for n in w}
    norm = np.sqrt(sum((v**2).sum() for v in scaled.values())) + 1e-12
    return {n: rho * (w[n] ** 2 if adaptive else 1.0) * g[n] / norm for n in w}


def fisher(w, name, x, y):
    total = {n: np.zeros_like(v) for n, v in w.items()}
    for i in range(len(y)):
        one = gradients(w, name, x[i : i + 1], y[i : i + 1])
        total = {n: total[n] + one[n] ** 2 for n in w}
    return {n: v / len(y) for n, v in total.items()}


class Adam:
    """AdamW with decay of matrices; idle heads do not move, but their moments decay."""

    def __init__(self, w, decay, eps):
        self.m = {n: np.zeros_like(v) for n, v in w.items()}
        self.v = {n: np.zeros_like(v) for n, v in w.items()}
        self.decay, self.eps, self.t = decay, eps, 0

    def update(self, w, g, lr, idle):
        self.t += 1
        for n in w:
            self.m[n] = 0.9 * self.m[n] + 0.1 * g[n]
            self.v[n] = 0.999 * self.v[n] + 0.001 * g[n] ** 2
            if n.startswith(tuple(idle)):
                continue
            decayed = w[n] * (1 - lr * self.decay) if w[n].ndim == 2 else w[n]
            m, v = self.m[n] / (1 - 0.9**self.t), self.v[n] / (1 - 0.999**self.t)
            w[n] = decayed - lr * m / (np.sqrt(v) + self.eps)


def cf_run(w, tasks, *, steps, lr, rho, adaptive, penalty, gamma, radius, floor, decay, eps):
    """Learn tasks one after the other; returns weights, importance, anchors."""
    anchors, importance = {}, {}
    for index, name in enumerate(tasks):
        x, y = task_data(index)
        adam = Adam(w, decay, eps)
        idle = [f"targets.{other}." for other in tasks if other != name]
        for _ in range(steps):
            e = perturbation(w, gradients(w, name, x, y), rho, adaptive)
            g = gradients({n: w[n] + e[n] for n in w}, name, x, y)
            for n, anchor in anchors.items():
                g[n] = g[n] + penalty * importance[n] * (w[n] - anchor)
            adam.update(w, g, lr, idle)
            for n, anchor in anchors.items():
                half = np.maximum(radius * np.abs(anchor), floor)
                w[n] = np.clip(w[n], anchor - half, anchor + half)
        new = fisher(w, name, x, y)
        importance = {n: gamma * importance.get(n, 0.0) + new[n] for n in w}
        anchors = {n: v.copy() for n, v in w.items()}
    return w, importance, anchors
