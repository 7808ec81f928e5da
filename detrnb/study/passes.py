"""What one pass through a variant must hold: that it computes what its place asks for."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from detrnb.loss import Layout, SetCriterion
from detrnb.model import build_detr, idle_parameters
from detrnb.settings import asked_for, class_of, resolve
from detrnb.study.bench import PADDED, Bench
from detrnb.study.checks import OUTPUTS, Fault, check, near
from detrnb.training import see_placed

CHOICES = {"layers", "encoder_layers", "decoder_layers"}  # options of the entry, not of its classes


@check("builds", "make it with sizes asked for by name and options after '*' (model/parts.py)")
def builds(bench: Bench) -> str:
    """In small sizes, with every part in its place."""
    model = bench.built()
    see_placed(model, bench.settings)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{count:,} parameters train in small sizes"


@check("options", "give the entry exactly the keyword-only parameters of its classes")
def options(bench: Bench) -> str:
    """The entry's options are its classes' keyword-only parameters."""
    told = []
    for variant in resolve(bench.variant):
        taken = set()
        for target in filter(None, variant.parts.values()):
            asked = asked_for(class_of(target))
            taken |= {n for n, p in asked.items() if p.kind is p.KEYWORD_ONLY}
        taken -= CHOICES
        stated = {*variant.options.model_fields} - CHOICES
        if stated != taken:
            raise Fault(f"{variant.name}: options {sorted(stated)}, classes take {sorted(taken)}")
        told += sorted(taken)
    return ", ".join(told) or "none"


@check("COCO's sizes", "see that no size is fixed in the class")
def coco_sizes(bench: Bench) -> str:
    """Builds in the sizes of the preset `coco`, without their memory."""
    with FakeTensorMode():
        model = build_detr(bench.coco)
    return f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters train"


@check("shapes", "give what the part's row in model/parts.py says, in training and evaluation")
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


@check("gradients", "use every parameter in every pass, and keep divisions and roots from 0")
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


@check("padding", "leave out keys where padding_mask is True, also from sums, means and norms")
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
            largest = max(largest, near(f"{name} with other padding", other[name], both[name]))
            found = near(f"{name} without padding", alone[name][0], both[name][1])
            largest = max(largest, found)
    return f"predictions move by {largest:.0e} at most"


@check("neighbours", "look at no other image of the batch; block slots that an image leaves empty")
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
            largest = max(largest, near(what, found[1][name], found[0][name]))
    return f"predictions move by {largest:.0e} at most"


@check("losses", "tell every loss in `names`, and weigh what is to be trained in `weight_dict`")
def losses(bench: Bench) -> str:
    """They are those that the criterion tells, and none that could be trained is idle."""
    model, targets = bench.built().train(), bench.targets(3, 1)
    outputs, layout = bench.passed(model, targets)
    found = bench.criterion(outputs, targets, layout)
    _see_names(bench.criterion, found, layout)
    return f"{len(bench.criterion.weights_of(found))} of {len(found)} are trained"


@check("normalisers", "divide by what `normalizers` gives alone, which must add up over passes")
@torch.no_grad()
def normalisers(bench: Bench) -> str:
    """Losses of parts, with the whole's normalisers, add up to the whole's."""
    model, criterion, targets = bench.built().train(), bench.criterion, bench.targets(3, 1)
    outputs, layout = bench.passed(model, targets)
    whole = criterion(outputs, targets, layout)
    parts = [bench.passed(model, targets, image) for image in (0, 1)]
    pairs = [([target], part[1]) for target, part in zip(targets, parts, strict=True)]
    summed = sum(criterion.normalizers(*pair) for pair in pairs)
    shares = [criterion(part[0], *pair, summed) for part, pair in zip(parts, pairs, strict=True)]
    for name, loss in whole.items():
        near(f"sums of {name}", sum(share[name] for share in shares), loss)
    return f"{len(whole)} losses of two parts add up"


def _see_names(criterion: SetCriterion, losses: Mapping[str, Tensor], layout: Layout) -> None:
    """See that a criterion's losses are those that it tells, in order, and that each is trained."""
    told = criterion.names(layout)
    lacking = [name for name in told if name not in losses]
    unknown = [name for name in losses if name not in told]
    remedy = "override `names`, and give what is to be trained its weight in `weight_dict`"
    if lacking or unknown:
        both = f"`names(layout)` tells {_few(lacking)}" * bool(lacking)
        both += " and " * bool(lacking and unknown) + f"there is {_few(unknown)}" * bool(unknown)
        raise Fault(f"the losses are not those that are told: {both}; {remedy}")
    if list(losses) != told:
        raise Fault(f"the losses come in another order than `names(layout)` tells: {_few(told)}")
    weighed = criterion.weights_of(told)
    idle = [name for name, loss in losses.items() if loss.requires_grad and name not in weighed]
    if idle:
        raise Fault(f"{_few(idle)} has no weight, so that nothing trains it; {remedy}")


@check("bfloat16", "compute sums, exponentials and differences in float32, outside autocast")
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


@check("equal twice", "draw at random from each target's `draws`, or as the class is made")
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


OF_PASSES = (
    builds,
    options,
    coco_sizes,
    shapes,
    gradients,
    padding,
    neighbours,
    losses,
    normalisers,
    bfloat16,
    equal_twice,
)
