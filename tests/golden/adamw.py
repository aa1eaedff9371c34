"""Golden for t422: three AdamW steps of PyTorch with decay groups and gradient clipping.

Inputs are a formula that the test repeats; only results are stored. Run: python adamw.py > adamw.txt
"""
import torch

SIZES = [(8, 8), (64,), (16, 4), (64,)]  # matrices decay, vectors do not


def numbers(count, seed, scale):
    return torch.tensor([((i * 37 + seed * 61) % 101 - 50) * scale for i in range(count)], dtype=torch.float64)


def main():
    torch.manual_seed(0)
    count = sum(torch.Size(size).numel() for size in SIZES)
    flat = numbers(count, 0, 0.01)
    parameters, at = [], 0
    for size in SIZES:
        n = torch.Size(size).numel()
        parameters.append(torch.nn.Parameter(flat[at : at + n].float().reshape(size)))
        at += n
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim == 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(0.9, 0.95),
        eps=1e-8,
        foreach=False,
    )
    print("# made by adamw.py: norms of three steps, parameters, exp_avg, exp_avg_sq")
    for step in range(1, 4):
        gradient, at = numbers(count, step, 0.002 * step), 0
        for p in parameters:
            p.grad = gradient[at : at + p.numel()].float().reshape(p.shape)
            at += p.numel()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        print(f"{norm.item():.9g}")
        optimizer.step()
    for of in (
        lambda p: p.detach(),
        lambda p: optimizer.state[p]["exp_avg"],
        lambda p: optimizer.state[p]["exp_avg_sq"],
    ):
        values = torch.cat([of(p).reshape(-1) for p in parameters])
        for i in range(0, count, 8):
            print(" ".join(f"{v:.9g}" for v in values[i : i + 8].tolist()))


main()
