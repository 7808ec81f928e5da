"""What must be possible with a variant: keeping, starting from DETR, looking into it, exporting."""

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from detrnb.checkpoints import read_checkpoint
from detrnb.exchange import onnx_bytes
from detrnb.look import record_attention
from detrnb.loss import Targets
from detrnb.model import DETR, load_weights
from detrnb.settings import BASELINE, resolve
from detrnb.study.bench import GRID, Bench
from detrnb.study.checks import OUTPUTS, Fault, Skipped, check, near
from detrnb.training import peak_memory_of, seconds_of


@check("state dict", "keep all that it learns in parameters or buffers of the module")
@torch.no_grad()
def state_dict(bench: Bench) -> str:
    """Saved and loaded into a model of another seed, it computes the same."""
    model, other = bench.stirred().eval(), bench.built(seed=5).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        torch.save(model.state_dict(), path)
        other.load_state_dict(read_checkpoint(path))
    for name in OUTPUTS:
        found, expected = (bench.passed(m)[0][name] for m in (other, model))
        if not torch.equal(found, expected):
            raise Fault(f"{name} differ after loading")
    return f"{len(model.state_dict())} tensors"


@check("starts as DETR", "mend `start_as_detr`, or say starts_as_detr=False in the entry")
@torch.no_grad()
def starts_as_detr(bench: Bench) -> str:
    """With DETR's weights it computes what DETR computes, where its entry says so."""
    detr, model = bench.built(BASELINE, seed=3).eval(), bench.built().eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "detr.pt"
        torch.save(detr.state_dict(), path)
        loaded = load_weights(model, path)
    outputs = [bench.passed(m)[0] for m in (model, detr)]
    if not all(variant.starts_as_detr for variant in resolve(bench.variant)):
        raise Skipped(f"not claimed; {len(loaded.loaded)} of DETR's tensors load")
    for name in OUTPUTS:
        near(f"{name} with DETR's weights", *(o[name] for o in outputs))
    return f"{len(loaded.loaded)} tensors load, {len(loaded.new)} are new"


@check(
    "recording", "keep `attention` or `points` with `weights` in `recorded` where `record` is set"
)
@torch.no_grad()
def recording(bench: Bench) -> str:
    """What attends can be looked at, and looking changes nothing."""
    model = bench.built().eval()
    plain = bench.passed(model)[0]
    with record_attention(model) as kept:
        looked_at = bench.passed(model)[0]
    for name in OUTPUTS:
        near(f"{name} while recording", looked_at[name], plain[name])
    Q, (H, W) = bench.settings.num_queries, GRID
    for name in kept.names:
        side, _, kind = name.split(".")
        rows = (H, W) if side == "encoder" else (Q,)
        expected = (*rows, *((Q,) if (side, kind) == ("decoder", "self") else (H, W)))
        found = tuple(kept.maps(name).shape[1:])
        if found != expected:
            raise Fault(f"{name} is {found} a head, expected {expected}")
    if kept.missing:
        raise Skipped(f"not recorded, so not in pictures: {', '.join(kept.missing)}")
    return f"{len(kept.names)} places"


@check("cost", "")
def cost(bench: Bench) -> str:
    """Parameters, time and memory of a step beside DETR's, in small sizes."""
    device, ratios = torch.device("cpu"), []
    for variant in (bench.variant, BASELINE):
        of, model = Bench(variant), bench.built(variant).train()

        def step(of: Bench = of, model: DETR = model) -> None:
            of.loss(model, _boxes(of)).backward()

        step()
        taken = min(seconds_of(step, device) for _ in range(3))
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        ratios.append((count, taken, peak_memory_of(step, device)))
    parameters, time, memory = (a / b for a, b in zip(*ratios, strict=True))
    return (
        f"{parameters:.2f} times DETR's parameters, a step {time:.1f} times its time and"
        f" {memory:.1f} times its memory, in small sizes without backbone"
    )


def _boxes(bench: Bench) -> Targets:
    return bench.targets(3, 1)


@check("export", "use operations that ONNX has, and sizes from tensors' shapes, not `len`")
def export(bench: Bench) -> str:
    """As ONNX it computes the same, for any number of images."""
    model = bench.smallest().eval()
    try:
        with _silence():
            content = onnx_bytes(model, {}, (192, 256))
    except ValueError as error:
        if "differs from torch" in str(error):
            raise
        raise Skipped(f"not possible: {error}") from None
    return f"ONNX, {len(content) / 1e3:.0f} kB, agrees with torch"


@contextmanager
def _silence() -> Iterator[None]:
    """Without what torch's exporter tells about models that it cannot express."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


OF_USES = (state_dict, starts_as_detr, recording, cost, export)
