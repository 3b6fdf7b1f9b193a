#!/usr/bin/env python3
"""torch's own CUDA build on the stand-in runtime: torch_test.py STANDIN_FOLDER

Method: child processes with the stand-in preloaded run small torch programs; their output, exit code and report are checked.
Also that the stand-in has every symbol that the installed torch imports from the real libraries. Operators: some training
steps must have the losses of the same steps on the CPU. Not checked here: what NCCL's functions do (nccl_*_test.cc).
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

STANDIN = pathlib.Path(sys.argv[1]).resolve()


def run(program, expect=0, **settings):
    """Runs the program; returns its output and its report."""
    with tempfile.TemporaryDirectory() as folder:
        libraries = " ".join(f"{STANDIN}/{name}" for name in ("libcudart.so.13", "libcuda.so.1", "libcupti.so.13"))
        env = dict(os.environ, LD_PRELOAD=libraries, CONVOY_STANDIN_REPORT=folder, CONVOY_STANDIN_GPUS="2",
                   **{f"CONVOY_STANDIN_{k}": str(v) for k, v in settings.items()})
        done = subprocess.run([sys.executable, "-c", "import torch\n" + program], env=env, text=True, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == expect, f"exit code {done.returncode}:\n{done.stdout}"
        reports = [json.loads(p.read_text()) for p in pathlib.Path(folder).iterdir()]
    assert len(reports) == 1, reports
    return done.stdout, reports[0]


def findings(report, kind):
    return [f["text"] for f in report["findings"] if f["kind"] == kind]


def symbols(library, defined):
    which = "--defined-only" if defined else "--undefined-only"
    out = subprocess.run(["nm", "-D", which, str(library)], check=True, text=True, stdout=subprocess.PIPE).stdout
    return {line.split()[-1].split("@")[0] for line in out.splitlines()}


def every_imported_symbol_is_there():
    import torch
    folder = pathlib.Path(torch.__file__).parent / "lib"
    wanted = set()
    for name in ("libtorch_cpu.so", "libtorch_cuda.so", "libc10_cuda.so", "libtorch_python.so", "libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so"):
        wanted |= symbols(folder / name, defined=False)
    runtime = {s for s in wanted if s.lstrip("_").startswith("cuda")}
    driver = {s for s in wanted if s.startswith("cu") and s[2].isupper() and not s.startswith("cuFile")}
    assert len(runtime) > 100, len(runtime)
    profiler = {s for s in wanted if s.startswith("cupti")}
    nccl = {s for s in wanted if s.startswith(("nccl", "pnccl"))}
    assert len(nccl) > 45, nccl
    missing = (nccl - symbols(STANDIN / "libnccl.so.2", True) | runtime - symbols(STANDIN / "libcudart.so.13", True) |
               driver - symbols(STANDIN / "libcuda.so.1", True) |
               profiler - symbols(STANDIN / "libcupti.so.13", True))
    assert not missing, f"torch imports what the stand-in lacks: {sorted(missing)}"


def devices_memory_and_copies():
    out, report = run("""
assert torch.cuda.device_count() == 2 and "stand-in" in torch.cuda.get_device_name(1)
a = torch.arange(1000.0)
for device in ("cuda:0", "cuda:1"):
    b = a.to(device)
    assert b.device == torch.device(device) and torch.equal(b.cpu(), a)
    assert torch.equal(b.clone().cpu(), a)
    b.zero_()
    assert b.cpu().abs().sum() == 0
p = a.pin_memory()
assert p.is_pinned()
side = torch.cuda.Stream()
with torch.cuda.stream(side):
    c = p.to("cuda", non_blocking=True)
side.synchronize()
assert torch.equal(c.cpu(), a)
x, y = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
x.record(); c.clone(); y.record(); y.synchronize()
assert x.elapsed_time(y) >= 0
free, total = torch.cuda.mem_get_info()
assert total == 64 << 20 and free < total
try:
    torch.empty(100 << 20, dtype=torch.uint8, device="cuda")
    raise AssertionError("no error")
except torch.OutOfMemoryError as e:
    assert "64.00 MiB" in str(e), e
print("done")
""", GPU_MEMORY="64MiB")
    assert "done" in out
    assert not report["findings"], report["findings"]
    assert report["devices"][0]["peak"] > 0


TRAINING = """
import copy
torch.manual_seed(0)
host = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.LayerNorm(32),
                           torch.nn.Flatten(), torch.nn.Linear(32 * 6, 50)).double()
device = copy.deepcopy(host).cuda()
optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (host, device)]
for step in range(10):
    x, y = torch.randint(0, 50, (8, 6)), torch.randint(0, 50, (8,))
    losses = []
    for model, optimizer, where in zip((host, device), optimizers, ("cpu", "cuda")):
        loss = torch.nn.functional.cross_entropy(model(x.to(where)), y.to(where))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-12, (step, losses)
print("trained")
"""


def training_steps_equal_those_on_the_cpu():
    for seed in (0, 1, 2, 3):
        out, report = run(TRAINING, SEED=seed)
        assert "trained" in out, out
        assert not report["findings"], report["findings"]


OPERATORS = """
import copy
from torch import nn
F = nn.functional
torch.manual_seed(0)

def both(f, *inputs, within=1e-10):
    # On the CPU and on a device: results, and gradients of the inputs.
    results = []
    for where in ("cpu", "cuda"):
        given = [x.detach().clone().to(where).requires_grad_(x.is_floating_point()) if isinstance(x, torch.Tensor) else
                 copy.deepcopy(x).to(where) for x in inputs]
        out = f(*given)
        if out.requires_grad: out.double().square().sum().backward()
        grads = [g.grad for g in given if isinstance(g, torch.Tensor) and g.grad is not None]
        grads += [p.grad for g in given if isinstance(g, nn.Module) for p in g.parameters()]
        assert out.device.type == where, f
        results.append([t.cpu() for t in [out.detach(), *grads]])
    for a, b in zip(*results):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=within), (f, a, b)

x = torch.randn(6, 8, dtype=torch.double)
both(lambda t: t.t().contiguous(), x)
both(lambda t: t.float().half().double(), x)
both(lambda t: t[::2, 1:].to(torch.float32).t().contiguous(), x)
both(lambda t: torch.zeros(8, 6, device=t.device).copy_(t.t()), x)
both(lambda t: t.new_zeros(6, 8).copy_(t[0]), x)  # broadcast
both(lambda t: t.cpu().t().float().to(t.device), x)
both(lambda t: t[t > 0], x)
both(lambda t: torch.nonzero(t > 0), x)
both(lambda t: torch.masked_select(t, t > 0), x)
both(lambda t: torch.unique((t * 3).long()), x)
both(lambda t: torch.sort(t, 1)[0] + torch.topk(t, 8)[0].cumsum(1), x)
image, sequence = torch.randn(2, 4, 9, 9, dtype=torch.double), torch.randn(2, 5, 8, dtype=torch.double)
for conv in (nn.Conv2d(4, 6, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 3, dilation=2), nn.ConvTranspose2d(4, 6, 3, stride=2)):
    both(lambda m, t: m(t), conv.double(), image)
both(lambda m, t: m(t), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(2, 4)).double(), image)
both(lambda m, t: m(t), nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double(), sequence)
both(lambda t: F.scaled_dot_product_attention(t[:, None], t[:, None], t[:, None], is_causal=True), sequence)
# Shapes that the fused attention of GPUs takes: several heads, another length of keys, a mask that has a gradient.
q, k, bias = (torch.randn(2, 3, n, 8, dtype=torch.double) for n in (6, 9, 6))
both(lambda q, k: F.scaled_dot_product_attention(q, k, k * 2), q, k)
both(lambda q, k: F.scaled_dot_product_attention(q.float(), k.float(), k.float()), q, k, within=1e-5)
both(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True, scale=0.3), q)
both(lambda q, b: F.scaled_dot_product_attention(q, q, q, attn_mask=b @ b.transpose(2, 3)), q, bias)
both(lambda q: F.scaled_dot_product_attention(q.bfloat16(), q.bfloat16(), q.bfloat16(), is_causal=True), q, within=0.1)
dropped = q.cuda().requires_grad_()
out = F.scaled_dot_product_attention(dropped, dropped.detach(), torch.ones_like(dropped).detach(), dropout_p=0.5)
assert 0 < out.mean() and (out - 1).abs().max() > 1e-3  # weights that don't add up to 1 any more
out.sum().backward()
assert dropped.grad.abs().max() > 0
both(lambda m, t: m(t), nn.RMSNorm(8).double(), sequence)
both(lambda m, t: m(t), nn.RMSNorm((5, 8), elementwise_affine=False), sequence.float(), within=1e-5)
model, scaler = nn.Linear(8, 8).cuda(), torch.amp.GradScaler("cuda")
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
with torch.autocast("cuda", dtype=torch.bfloat16): loss = model(x.float().cuda()).float().square().mean()
scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()
assert "tensor([" in repr(x.cuda())
with torch.profiler.profile() as profile: x.cuda().sum().item()
assert any("aten::sum" in e.key for e in profile.key_averages())
if torch.cuda.device_count() > 1:
    a = x.to("cuda:0")
    assert torch.equal(torch.empty(8, 6, device="cuda:1").copy_(a.t()).cpu(), x.t().float())
try:
    nn.LSTM(8, 8).cuda()(sequence.float().cuda())
    raise AssertionError("no error")
except NotImplementedError as e:
    assert "_thnn_fused_lstm_cell" in str(e), e
torch.cuda.synchronize()
print("all equal")
"""


def operators_of_many_kinds_equal_those_on_the_cpu():
    for seed in (0, 1):
        out, report = run(OPERATORS, SEED=seed)
        assert "all equal" in out, out
        assert [f["kind"] for f in report["findings"]] == ["unknown kernel"], report["findings"]
        assert "_thnn_fused_lstm_cell was called" in report["findings"][0]["text"]


def an_unknown_kernel_is_named():
    out, report = run("""
try:
    torch.cuda._sleep(1000)  # launches a kernel of its own, past the operators
except RuntimeError as e:
    print("refused:", e)
""")
    assert "refused:" in out and "not supported by the stand-in" in out, out
    texts = findings(report, "unknown kernel")
    assert texts and "spin_kernel" in texts[0], texts


def a_host_access_ends_the_program_with_the_allocation():
    out, report = run("""
import ctypes
a = torch.zeros(1000, device="cuda")
ctypes.c_float.from_address(a.data_ptr() + 400).value
""", expect=-11)
    texts = findings(report, "host access")
    assert len(texts) == 1 and "in allocation #" in texts[0] and "cudaMalloc" in texts[0], texts


PINNED = """
p = torch.zeros(4096).pin_memory()
d = torch.empty(4096, device="cuda")
seen = []
for round in range(64):
    p.fill_(round)
    d.copy_(p, non_blocking=True)
    {wait}
    p.fill_(-1)
    torch.cuda.synchronize()
    if d.cpu()[0] != round: seen.append(round)
print("wrong rounds:", seen)
"""


def wrong_rounds(**settings):
    """Of PINNED with a pause that is long for a copy and short for one that is held back."""
    out = run("import time\n" + PINNED.format(wait="time.sleep(0.002)"), **settings)[0]
    return set(json.loads(out.strip().splitlines()[-1].split(": ")[1]))


def pinned_memory_reused_too_early_is_wrong_data_again_with_the_same_seed():
    first, second = wrong_rounds(SEED=3), wrong_rounds(SEED=3)
    assert first & second, (first, second)  # a busy machine may add rounds of its own
    clean = run(PINNED.format(wait="torch.cuda.current_stream().synchronize()"), SEED=3)[0]
    assert "wrong rounds: []" in clean, clean


STREAMS = """
a, b = torch.cuda.Stream(), torch.cuda.Stream()
x = torch.empty(4096, device="cuda"); y = torch.empty(4096, device="cuda")
torch.cuda.synchronize()
with torch.cuda.stream(a): x.zero_()
{wait}
with torch.cuda.stream(b): y.copy_(x)
torch.cuda.synchronize()
"""


def a_missing_stream_wait_is_found_and_names_both_streams():
    for seed in (0, 1):  # found by order, whatever the schedule does
        texts = findings(run(STREAMS.format(wait=""), SEED=seed)[1], "unsynchronised use")
        assert len(texts) == 1, texts
        assert "cudaMemcpyAsync on stream" in texts[0] and "which aten::zero_ on stream" in texts[0], texts
    for seed in range(5):
        report = run(STREAMS.format(wait="b.wait_stream(a)"), SEED=seed)[1]
        assert not report["findings"], report["findings"]


for check in (every_imported_symbol_is_there, devices_memory_and_copies, training_steps_equal_those_on_the_cpu,
              operators_of_many_kinds_equal_those_on_the_cpu, an_unknown_kernel_is_named,
              a_host_access_ends_the_program_with_the_allocation,
              pinned_memory_reused_too_early_is_wrong_data_again_with_the_same_seed,
              a_missing_stream_wait_is_found_and_names_both_streams):
    check()
    print("ok:", check.__name__.replace("_", " "), flush=True)
