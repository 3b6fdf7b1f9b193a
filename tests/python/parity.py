#!/usr/bin/env python3
"""PyTorch's own parallelism on the backend `convoy` gives what it gives on Gloo: parity.py [ddp bf16 fsdp tp pp mesh]

Method: the same program trains a small Llama-style model for three steps twice in the same processes, first on Gloo, then on
Convoy (tensors in shared memory from the second run's start), unchanged but for the backend's name. Losses and all parameters
must agree to a relative 1e-9 in float64 (the order of additions differs between the backends). DDP is also run with
gradient_as_bucket_view, static graph and the bf16 compression hook, whose losses agree to 1e-2 (Gloo adds in bf16, Convoy in
float32); FSDP2 with reshard on and off. Does not check speed.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import ranks  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402

VOCAB, WIDTH, LAYERS, HEADS, BATCH, SEQ, STEPS = 64, 32, 4, 4, 8, 16, 3


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x):
        b, t = x.shape[:2]
        q, k, v = (w(x).view(b, t, -1, WIDTH // HEADS).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(out.transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w3 = (nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(2))
        self.w2 = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.attn, self.n2, self.mlp = RMSNorm(), Attention(), RMSNorm(), MLP()

    def forward(self, x):
        x = x + self.attn(self.n1(x))
        return x + self.mlp(self.n2(x))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleDict({str(i): Block() for i in range(LAYERS)})
        self.norm, self.head = RMSNorm(), nn.Linear(WIDTH, VOCAB, bias=False)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        x = self.embed(x) if self.embed is not None else x
        for layer in self.layers.values():
            x = layer(x)
        return self.head(self.norm(x)) if self.head is not None else x


def model() -> Llama:
    torch.manual_seed(0)
    return Llama()


def batch(step: int, part: int = 0, parts: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(0, VOCAB, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(step))
    x = x[part * BATCH // parts:(part + 1) * BATCH // parts]
    return x[:, :-1], x[:, 1:]


def loss_of(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(out.reshape(-1, VOCAB), target.reshape(-1))


def train(m: nn.Module, part: int, parts: int) -> list[torch.Tensor]:
    optimizer, losses = torch.optim.AdamW(m.parameters(), lr=1e-2), []
    for step in range(STEPS):
        x, y = batch(step, part, parts)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(m(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().clone())
    return losses


def full(t: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()


def results(m: nn.Module, losses: list[torch.Tensor]) -> list[torch.Tensor]:
    return losses + [full(p) for p in m.parameters()]


def ddp(rank: int, n: int) -> list[torch.Tensor]:
    out = []
    for more in ({}, {"gradient_as_bucket_view": True, "bucket_cap_mb": 0.01}, {"static_graph": True}):
        m = nn.parallel.DistributedDataParallel(model(), **more)
        out += results(m, train(m, rank, n))
    return out


def bf16(rank: int, n: int) -> list[torch.Tensor]:
    """DDP that compresses gradients to bf16: the hook works on the futures of all_reduce."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
    m = nn.parallel.DistributedDataParallel(model())
    m.register_comm_hook(None, bf16_compress_hook)
    return train(m, rank, n)


def fsdp(rank: int, n: int) -> list[torch.Tensor]:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    mesh, out = init_device_mesh("cpu", (n,)), []
    for reshard, policy in ((True, MixedPrecisionPolicy()), (False, MixedPrecisionPolicy(reduce_dtype=torch.float64))):
        m = model()
        for layer in m.layers.values():
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
        fully_shard(m, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
        losses = train(m, rank, n)
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        out += results(m, losses)
    return out


def parallelize(m: Llama, mesh) -> Llama:
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (ColwiseParallel, PrepareModuleInput, RowwiseParallel, SequenceParallel,
                                                   parallelize_module)
    gather = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
    for block in m.layers.values():
        parallelize_module(block, mesh, {
            "n1": SequenceParallel(), "n2": SequenceParallel(), "attn": gather, "mlp": gather,
            **{f"attn.{w}": ColwiseParallel() for w in ("wq", "wk", "wv")}, "attn.wo": RowwiseParallel(output_layouts=Shard(1)),
            "mlp.w1": ColwiseParallel(), "mlp.w3": ColwiseParallel(), "mlp.w2": RowwiseParallel(output_layouts=Shard(1))})
    plan = {}
    if m.embed is not None:
        plan["embed"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    if m.head is not None:
        plan |= {"norm": SequenceParallel(), "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())}
    return parallelize_module(m, mesh, plan)


def tp(rank: int, n: int) -> list[torch.Tensor]:
    m = parallelize(model(), init_device_mesh("cpu", (n,), mesh_dim_names=("tp",)))
    return results(m, train(m, 0, 1))


def stage(m: Llama, index: int, count: int) -> Llama:
    per = LAYERS // count
    for name in list(m.layers):
        if not index * per <= int(name) < (index + 1) * per:
            del m.layers[name]
    if index > 0:
        m.embed = None
    if index < count - 1:
        m.norm = m.head = None
    return m


def pipeline(m: Llama, mesh, part: int, parts: int, micro: int, average=None) -> list[torch.Tensor]:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B
    index, count = mesh.get_local_rank(), mesh.size()
    s = PipelineStage(m, index, count, torch.device("cpu"), group=mesh.get_group())
    schedule = Schedule1F1B(s, micro, loss_fn=loss_of)
    optimizer, all_losses = torch.optim.AdamW(m.parameters(), lr=1e-2), []
    for step in range(STEPS):
        x, y = batch(step, part, parts)
        optimizer.zero_grad(set_to_none=True)
        losses: list = []
        if index == count - 1:
            schedule.step(*([x] if index == 0 else []), target=y, losses=losses)
            all_losses.append(torch.stack([l.detach() for l in losses]).mean())
        elif index == 0:
            schedule.step(x)
        else:
            schedule.step()
        if average is not None:
            average(m)
        optimizer.step()
    return results(m, all_losses)


def pp(rank: int, n: int) -> list[torch.Tensor]:
    mesh = init_device_mesh("cpu", (n,), mesh_dim_names=("pp",))
    return pipeline(stage(model(), rank, n), mesh["pp"], 0, 1, micro=4)


def mesh(rank: int, n: int) -> list[torch.Tensor]:
    """dp 2 × pp 2: groups of two dimensions at once."""
    both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "pp"))

    def average(m: nn.Module) -> None:
        for p in m.parameters():
            dist.all_reduce(p.grad, group=both["dp"].get_group(), op=dist.ReduceOp.SUM)
            p.grad /= 2

    m = stage(model(), both["pp"].get_local_rank(), 2)
    return pipeline(m, both["pp"], both["dp"].get_local_rank(), 2, micro=4, average=average)


CASES = {"ddp": ddp, "bf16": bf16, "fsdp": fsdp, "tp": tp, "pp": pp, "mesh": mesh}


def body(rank: int, names: list[str]) -> None:
    import convoy
    torch.set_default_dtype(torch.float64)
    for name in names:
        runs = []
        for backend in ("gloo", "convoy"):
            ranks.init(backend, rank, 4, name=f"{name}-{backend}")
            if backend == "convoy":
                convoy.shared_memory.enable()
            assert dist.get_backend() == backend
            runs.append(CASES[name](rank, 4))
            dist.barrier()
            dist.destroy_process_group()
            if backend == "convoy":
                convoy.shared_memory.disable()
        gloo, ours = runs
        assert len(gloo) == len(ours) > 0
        worst = 0.0
        for i, (a, b) in enumerate(zip(gloo, ours)):
            rtol, atol = (1e-2, 1e-2) if name == "bf16" else (1e-9, 1e-11)
            torch.testing.assert_close(b, a, rtol=rtol, atol=atol, msg=lambda m, i=i: f"{name}, result {i}, rank {rank}: {m}")
            worst = max(worst, float((a - b).abs().max()))
        if rank == 0:
            print(f"{name}: {len(ours)} tensors agree, largest difference {worst:.1e}", flush=True)


def main() -> None:
    names = sys.argv[1:] or list(CASES)
    import convoy  # noqa: F401  imported once, before the ranks are forked
    import torch.distributed.fsdp  # noqa: F401
    import torch.distributed.pipelining  # noqa: F401
    import torch.distributed.tensor.parallel  # noqa: F401
    ranks.run(4, body, names, limit_s=200)
    print("ok", flush=True)


if __name__ == "__main__":
    main()
