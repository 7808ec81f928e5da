"""What a variant must hold, one function each: gives what was seen, and raises where it fails."""

import importlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from detrnb.checkpoints import read_checkpoint
from detrnb.exchange import onnx_bytes
from detrnb.look import record_attention
from detrnb.loss import Targets
from detrnb.model import DETR, build_detr, idle_parameters, load_weights
from detrnb.settings import BASELINE, asked_for, resolve
from detrnb.study.bench import GRID, PADDED, Bench
from detrnb.training import peak_memory_of, seconds_of

Check = Callable[[Bench], str]
OUTPUTS = ("pred_logits", "pred_boxes")


class Fault(ValueError):
    """What was seen is not as it should be."""


class Skipped(ValueError):
    """A check that means nothing here, and why."""


@dataclass(frozen=True)
class Named:
    """A check with its name and what to do where it fails."""

    name: str
    remedy: str
    run: Check


CHECKS: list[Named] = []


def _check(name: str, remedy: str) -> Callable[[Check], Check]:
    def over(run: Check) -> Check:
        CHECKS.append(Named(name, remedy, run))
        return run

    return over


def _near(what: str, found: Tensor, expected: Tensor) -> float:
    """The largest difference; a Fault where it is more than rounding."""
    if not found.isfinite().all():
        raise Fault(f"{what} are not finite")
    largest = (found - expected).abs().max().item() if found.numel() else 0.0
    if largest > 2e-5 + 1e-4 * expected.abs().max().item():
        raise Fault(f"{what} differ by {largest:.1e}")
    return largest


@_check("builds", "make it with sizes asked for by name and options after '*' (model/parts.py)")
def builds(bench: Bench) -> str:
    """In small sizes."""
    count = sum(p.numel() for p in bench.built().parameters())
    return f"{count:,} parameters in small sizes"


@_check("options", "give the entry exactly the keyword-only parameters of its classes")
def options(bench: Bench) -> str:
    """The entry's options are its classes' keyword-only parameters."""
    told = []
    for variant in resolve(bench.variant):
        taken = set()
        for target in filter(None, variant.parts.values()):
            if isinstance(target, str):
                module, name = target.split(":")
                target = getattr(importlib.import_module(module), name)
            taken |= {n for n, p in asked_for(target).items() if p.kind is p.KEYWORD_ONLY}
        stated = {n for n in variant.options.model_fields if not n.endswith("layers")}
        if stated != taken:
            raise Fault(f"{variant.name}: options {sorted(stated)}, classes take {sorted(taken)}")
        told += sorted(taken)
    return ", ".join(told) or "none"


@_check("COCO's sizes", "see that no size is fixed in the class")
def coco_sizes(bench: Bench) -> str:
    """Builds in the sizes of the preset `coco`, without their memory."""
    with FakeTensorMode():
        model = build_detr(bench.coco)
    return f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters train"


@_check("shapes", "give what the part's row in model/parts.py says, in training and evaluation")
def shapes(bench: Bench) -> str:
    """Predictions of all queries, for each decoder layer."""
    settings, seen = bench.settings, []
    C = bench.criterion.num_logits(settings.num_classes)
    for training, targets in ((True, bench.targets(3, 1)), (False, None)):
        model = bench.built().train(training)
        outputs, layout = bench.passed(model, targets)
        if model.layout(targets) != layout:
            raise Fault("`layout` gives another answer when asked again")
        if not training and layout.total != settings.num_queries:
            raise Fault(f"{layout.total} queries in evaluation, expected {settings.num_queries}")
        layers = [*outputs["aux_outputs"], outputs]
        if len(layers) != settings.num_decoder_layers:
            raise Fault(f"{len(layers)} layers, expected {settings.num_decoder_layers}")
        for layer in layers:
            for name, size in zip(OUTPUTS, (C, 4), strict=True):
                expected = (2, layout.total, size)
                if tuple(layer[name].shape) != expected:
                    raise Fault(f"{name} {tuple(layer[name].shape)}, expected {expected}")
                if not layer[name].isfinite().all():
                    raise Fault(f"{name} are not finite")
        seen.append(layout.total)
    return f"{seen[0]} queries in training, {seen[1]} in evaluation, {C} logits"


@_check("gradients", "use every parameter in every pass, and keep divisions and roots from 0")
def gradients(bench: Bench) -> str:
    """They reach every parameter, are finite, and are there for images without boxes too."""
    model = bench.built().train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reached = dict.fromkeys(trained, False)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    for counts in ((3, 1), (2, 2), (0, 0)):  # more than once: what starts at 0 hides what feeds it
        loss = bench.loss(model, bench.targets(*counts))
        optimizer.zero_grad()
        loss.backward()
        lacking = [name for name, p in trained.items() if p.grad is None]
        if lacking:
            raise Fault(f"no gradient reaches {_few(lacking)} (boxes in the images: {counts})")
        wrong = [name for name, p in trained.items() if not p.grad.isfinite().all()]
        if wrong:
            raise Fault(f"the gradient of {_few(wrong)} is not finite (boxes: {counts})")
        for name, p in trained.items():
            reached[name] |= bool(p.grad.abs().max() > 0)
        optimizer.step()
    still = [name for name, alive in reached.items() if not alive]
    dead = [name for name in still if name not in idle_parameters(model)]
    if dead:
        raise Fault(f"the gradient of {_few(dead)} is always 0")
    idle = f"; {len(still)} learn nothing, as its class says in `idle`" if still else ""
    return f"{len(trained)} parameters{idle}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@_check("padding", "leave out keys where padding_mask is True, also from sums, means and norms")
@torch.no_grad()
def padding(bench: Bench) -> str:
    """What lies under padding changes nothing, nor does padding itself."""
    (h, w), largest = PADDED, 0.0
    changed = bench.features.clone()
    changed[1, :, h:], changed[1, :, :, w:] = 1e3, -1e3
    for training in (False, True):
        model = bench.stirred().train(training)
        both, other = (model(None, bench.mask, features=x) for x in (bench.features, changed))
        alone = model(
            None, bench.mask[1:, : 32 * h, : 32 * w], features=bench.features[1:, :, :h, :w]
        )
        for name in OUTPUTS:
            largest = max(largest, _near(f"{name} with other padding", other[name], both[name]))
            found = _near(f"{name} without padding", alone[name][0], both[name][1])
            largest = max(largest, found)
    return f"predictions move by {largest:.0e} at most"


@_check("neighbours", "look at no other image of the batch; block slots that an image leaves empty")
@torch.no_grad()
def neighbours(bench: Bench) -> str:
    """An image's predictions do not depend on the other images of its batch."""
    features, largest = bench.features, 0.0
    for training in (False, True):
        model = bench.stirred().train(training)
        found = []
        for seed, second in ((0, 1), (1, 5)):
            targets = [*bench.targets(3, 0)[:1], *bench.targets(0, second, seed=seed)[1:]]
            changed = features.clone()
            changed[1] = (1 + 9 * seed) * features[1]
            given = targets if training else None
            layout = model.layout(given)
            outputs = model(None, bench.mask, features=changed, targets=given)
            mine = list(range(layout.matched))
            mine += [] if layout.given is None else layout.given[0][0].tolist()
            found.append({name: outputs[name][0, mine] for name in OUTPUTS})
        for name in OUTPUTS:
            what = f"{name} beside another image"
            largest = max(largest, _near(what, found[1][name], found[0][name]))
    return f"predictions move by {largest:.0e} at most"


@_check("normalisers", "divide by what `normalizers` gives alone, which must add up over passes")
@torch.no_grad()
def normalisers(bench: Bench) -> str:
    """Losses of parts, with the whole's normalisers, add up to the whole's."""
    model, criterion, targets = bench.built().train(), bench.criterion, bench.targets(3, 1)
    outputs, layout = bench.passed(model, targets)
    whole = criterion(outputs, targets, layout)
    if list(whole) != criterion.names(layout):
        raise Fault("the losses are not those that `names(layout)` tells")
    parts = [bench.passed(model, targets, image) for image in (0, 1)]
    pairs = [([target], part[1]) for target, part in zip(targets, parts, strict=True)]
    summed = sum(criterion.normalizers(*pair) for pair in pairs)
    shares = [criterion(part[0], *pair, summed) for part, pair in zip(parts, pairs, strict=True)]
    for name, loss in whole.items():
        _near(f"sums of {name}", sum(share[name] for share in shares), loss)
    return f"{len(whole)} losses of two parts add up"


@_check("bfloat16", "compute sums, exponentials and differences in float32, outside autocast")
def bfloat16(bench: Bench) -> str:
    """Losses and gradients are finite under autocast."""
    model, targets = bench.built().train(), bench.targets(3, 1)
    with torch.no_grad():
        exact = bench.loss(model, targets).item()
    with torch.autocast("cpu", torch.bfloat16):
        outputs, layout = bench.passed(model, targets)
    loss = bench.criterion.total(bench.criterion(outputs, targets, layout))
    if not loss.isfinite():
        raise Fault(f"the loss is {loss.item()}")
    loss.backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    if wrong:
        raise Fault(f"the gradient of {_few(wrong)} is not finite")
    return f"loss {loss.item():.3f}, in float32 {exact:.3f}"


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())


@_check("equal twice", "draw at random from each target's `draws`, or as the class is made")
@torch.no_grad()
def equal_twice(bench: Bench) -> str:
    """The same seed gives the same model, and the same targets the same pass."""
    models = []
    for waste in (0, 7):
        torch.rand(waste)
        models.append(bench.build().train())
    states = [model.state_dict() for model in models]
    for name, tensor in states[0].items():
        if not torch.equal(tensor, states[1][name]):
            raise Fault(f"{name} starts differently when built again")
    passes = [bench.passed(model, bench.targets(3, 1))[0] for model in models]
    for name in OUTPUTS:
        if not torch.equal(passes[0][name], passes[1][name]):
            raise Fault(f"{name} differ between two equal passes in training")
    return "weights and a pass in training are bit-equal"


@_check("state dict", "keep all that it learns in parameters or buffers of the module")
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


@_check("starts as DETR", "mend `start_as_detr`, or say starts_as_detr=False in the entry")
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
        _near(f"{name} with DETR's weights", *(o[name] for o in outputs))
    return f"{len(loaded.loaded)} tensors load, {len(loaded.new)} are new"


@_check(
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
        _near(f"{name} while recording", looked_at[name], plain[name])
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


@_check("cost", "")
def cost(bench: Bench) -> str:
    """Parameters, time and memory of a step beside DETR's, in small sizes."""
    device, ratios = torch.device("cpu"), []
    for variant in (bench.variant, BASELINE):
        of, model = Bench(variant), bench.built(variant).train()

        def step(of: Bench = of, model: DETR = model) -> None:
            of.loss(model, _boxes(of)).backward()

        step()
        taken = min(seconds_of(step, device) for _ in range(3))
        count = sum(p.numel() for p in model.parameters())
        ratios.append((count, taken, peak_memory_of(step, device)))
    parameters, time, memory = (a / b for a, b in zip(*ratios, strict=True))
    return (
        f"{parameters:.2f} times DETR's parameters, a step {time:.1f} times its time and"
        f" {memory:.1f} times its memory, in small sizes"
    )


def _boxes(bench: Bench) -> Targets:
    return bench.targets(3, 1)


@_check("export", "use operations that ONNX has, and sizes from tensors' shapes, not `len`")
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
