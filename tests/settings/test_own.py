"""A class of one's own is a variant: options from its signature, its source kept, changes told."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import detrnb
from detrnb import VARIANTS, Config, Variant, build_detr, register, variant
from detrnb.model import EncoderAttention
from detrnb.settings import load_variants, own_sources
from detrnb.settings.registry import LayerOptions
from detrnb.settings.source import differences, plain
from detrnb.variants.conditional import ConditionalDecoder
from detrnb.variants.focal import FocalCriterion

FACTOR = 0.5
TABLES = {"sizes": (1, 2), "of": torch.ones(2)}


def half(x):
    """Half of it."""
    return FACTOR * x


class Base(EncoderAttention):
    """What `Mine` inherits."""

    def attend(self, q, k, v, unseen):
        return super().attend(half(q), k, v, unseen)


@pytest.fixture(autouse=True)
def _registry_as_it_was():
    before = dict(VARIANTS)
    yield
    VARIANTS.clear()
    VARIANTS.update(before)


def mine():
    @variant("mine", part="encoder_attention", summary="for this test")
    class Mine(Base):
        def __init__(self, d_model, num_heads, dropout, *, start: float = 1.0, kind="a"):
            super().__init__(d_model, num_heads, dropout)
            self.tau = nn.Parameter(torch.full((num_heads,), start))

    return Mine


def test_options_are_the_keyword_only_parameters_and_reach_the_class():
    cls = mine()
    overrides = {"model.options.mine.start": 2, "model.options.mine.layers": [0, -1]}
    model = build_detr(Config.preset("smoke", variant="mine", overrides=overrides).model)
    attentions = [layer.self_attn for layer in model.transformer.encoder.layers]
    assert [type(x) for x in attentions] == [cls, EncoderAttention, cls]
    assert (attentions[0].tau == 2).all()
    for options, message in (
        ({"stard": 1.0}, "no option 'stard'; it has start, kind, layers; did you mean 'start'"),
        ({"start": "x"}, "options.mine.start: .*found 'x'"),
        ({"kind": 3}, "options.mine.kind: .*found 3"),
    ):
        with pytest.raises(ValueError, match=message):
            dotted = {f"model.options.mine.{key}": value for key, value in options.items()}
            Config.preset("smoke", variant="mine", overrides=dotted)
    with pytest.raises(ValueError, match="'mine' changes the encoder, which has no layers"):
        Config.preset("smoke", variant="mine", overrides={"model.num_encoder_layers": 0})


def test_a_variant_with_parts_in_both_stacks_chooses_layers_in_each():
    class Among(nn.Module):
        def __init__(self, d_model):
            super().__init__()

        def forward(self, content, position, anchors, blocked):
            return content

    register(Variant("both", {"encoder_attention": Base, "decoder_self_attention": Among}))
    overrides = {"model.options.both.decoder_layers": [1]}
    model = build_detr(Config.preset("smoke", variant="both", overrides=overrides).model)
    assert [type(x.self_attn) is Among for x in model.transformer.decoder.layers] == [0, 1, 0]
    assert all(type(x.self_attn) is Base for x in model.transformer.encoder.layers)
    with pytest.raises(ValueError, match="decoder_layers is .3.; .* the decoder's 3 layers"):
        overrides = {"model.options.both.decoder_layers": [3]}
        Config.preset("smoke", variant="both", overrides=overrides)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("self, d_modle", "asks for 'd_modle', which is no size; did you mean 'd_model'"),
        ("self, **kwargs", r"takes \*\*kwargs; name the sizes"),
        ("self, *, d_model=3", "option 'd_model' of X bears the name of a size"),
        ("self, *, start", "option 'start' of X needs a default that JSON can hold"),
        ("self, *, start=print", "needs a default that JSON can hold"),
    ],
)
def test_signatures_that_do_not_say_what_they_need_are_refused(signature, message):
    scope = {"nn": nn}
    exec(f"class X(nn.Module):\n    def __init__({signature}): pass", scope)
    with pytest.raises(ValueError, match=message):
        variant("x", part="decoder")(scope["X"])


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("svd_split", {"encoder": Base}, "'svd_split' is taken"),
        ("a+b", {"encoder": Base}, "cannot be part of a run's name; .* joins names"),
        ("x", {"encodr": Base}, "no part 'encodr'; did you mean 'encoder'"),
        ("x", {}, "replaces nothing; parts: encoder_attention"),
        ("x", {"matcher": Base}, "no part 'matcher'.* the matcher is the criterion's"),
        ("x", {"encoder": print}, "has <built-in function print> for the encoder; expected"),
    ],
)
def test_impossible_entries_are_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        register(Variant(name, parts))
    assert name not in VARIANTS or name == "svd_split"


def test_what_an_entry_of_ones_own_cannot_say_is_refused():
    with pytest.raises(ValueError, match="are its keyword-only parameters: leave `options` out"):
        register(Variant("x", {"encoder": Base}, options=LayerOptions))
    with pytest.raises(ValueError, match="starts the box of the heads at .0, 0, -2, -2.; expected"):
        register(Variant("x", {"encoder": Base}, heads={"box": [0, 0, -2, -2]}))


def test_heads_that_start_in_two_ways_do_not_join():
    register(Variant("one", {"encoder": Base}, heads={"class_bias": -1.0}))
    register(Variant("two", {"criterion": Base}, heads={"class_bias": -2.0}))
    register(Variant("three", {"queries": Base}, heads={"class_bias": -1.0}))
    with pytest.raises(ValueError, match="'one' and 'two' both say how the class_bias"):
        Config.preset("smoke", variant="one+two")
    Config.preset("smoke", variant="one+three")


def test_settings_that_would_do_nothing_or_do_not_go_together_are_refused():
    register(Variant("x", {"criterion": Base}, unused=("eos_coef",), pre_norm=False))
    Config.preset("smoke", variant="x", overrides={"model.eos_coef": 0.1})
    with pytest.raises(ValueError, match="eos_coef=0.2 would do nothing: 'x' does not use it"):
        Config.preset("smoke", variant="x", overrides={"model.eos_coef": 0.2})
    with pytest.raises(ValueError, match="'x' does not go with pre_norm=True"):
        Config.preset("smoke", variant="x", overrides={"model.pre_norm": True})


def test_heads_start_and_rates_are_as_the_entry_says():
    cls = mine()
    register(
        Variant(
            "mine",
            {"encoder_attention": cls},
            heads={"box": 0.0, "class_bias": -2.0},
            rates={"tau": 0.1, "out_proj": 0.5},
        )
    )
    model = build_detr(Config.preset("smoke", variant="mine").model)
    assert model.bbox_embed.layers[-1].weight.abs().max() == 0
    assert (model.class_embed.bias == -2).all() and model.class_embed.weight.abs().max() > 0
    # Of its own parts alone: DETR's decoder has an out_proj too.
    assert len(model.rates) == 3 * 3 and not any("decoder" in name for name in model.rates)
    register(Variant("mine", {"encoder_attention": cls}, rates={"tua": 0.1}))
    with pytest.raises(ValueError, match="has a rate for 'tua', but no parameter"):
        build_detr(Config.preset("smoke", variant="mine").model)


def test_own_start_is_kept_and_the_same_whatever_was_drawn_before():
    def made(own_init):
        @variant("mine", part="encoder_attention")
        class Mine(EncoderAttention):
            def __init__(self, d_model, num_heads, dropout):
                super().__init__(d_model, num_heads, dropout)
                self.more = nn.Linear(d_model, d_model)
                nn.init.normal_(self.more.weight, 5.0)
                self.own_init = own_init

        torch.manual_seed(3)
        return build_detr(Config.preset("smoke", variant="mine").model).state_dict()

    name = "transformer.encoder.layers.{}.self_attn.more.weight"
    kept, again, drawn = made(True), made(True), made(False)
    assert kept[name.format(0)].mean() > 4 and drawn[name.format(0)].mean().abs() < 1
    assert torch.equal(kept[name.format(0)], again[name.format(0)])
    assert not torch.equal(kept[name.format(0)], kept[name.format(1)])


def test_source_holds_bases_functions_and_constants_and_says_what_it_lacks():
    class Mine(Base):
        def attend(self, q, k, v, unseen):
            return super().attend(q * len(TABLES), k, v, unseen)

    register(Variant("mine", {"encoder_attention": Mine}))
    source = own_sources("mine")["mine"]
    for text in (
        "FACTOR = 0.5",
        "def half(x):",
        "class Base(EncoderAttention):",
        "class Mine(Base):",
    ):
        assert text in source.text
    assert "from detrnb.model.attention import EncoderAttention" in source.text
    assert source.missing == ("TABLES, a dict",)
    again = source.text.replace("'mine'", "'again'")
    exec(again, {"TABLES": 1})
    assert VARIANTS["again"].parts["encoder_attention"] is not Mine


def made_with(k, name="made"):
    @variant(name, part="encoder_attention")
    class Made(Base):
        def __init__(self, d_model, num_heads, dropout, *, start: float = k):
            super().__init__(d_model, num_heads, dropout)
            self.start = start

    return own_sources(name)[name]


def test_source_holds_defaults_as_they_were_when_the_class_was_defined(monkeypatch):
    """A function or a loop makes classes of one text; their runs are not one another's."""
    one, two = made_with(1.0), made_with(2.0)
    assert "@variant" not in one.text and "'made'," in one.text  # whose name was computed
    assert one.text != two.text and "k = 1.0" in one.text and "k = 2.0" in two.text
    assert one.is_whole and differences(one.text, two.text) == ["k"]

    @variant("mine", part="encoder_attention")
    class Mine(Base):
        def __init__(self, d_model, num_heads, dropout, *, factor: float = FACTOR):
            super().__init__(d_model, num_heads, dropout)

    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert "FACTOR = 0.5" in own_sources("mine")["mine"].text


def test_source_takes_no_local_for_a_global_and_says_what_it_does_not_find(monkeypatch):
    monkeypatch.setitem(globals(), "layers", torch.ones(2))
    monkeypatch.setitem(globals(), "scale", 7)

    def make(rate):
        @variant("mine", part="encoder_attention", rates={"tau": rate})
        class Mine(Base):
            def __init__(self, d_model, num_heads, dropout):
                layers = num_heads
                super().__init__(d_model, layers, dropout)
                self.scale = 2
                scale = self.scale
                self.tau = nn.Parameter(torch.full((num_heads,), float(scale)))

    make(0.1)
    source = own_sources("mine")["mine"]
    assert "scale = 7" not in source.text
    assert source.missing == ("rate, which is not known where Mine is used",)


def test_source_of_a_class_of_a_registered_one_registers_itself():
    class Derived(mine()):
        pass

    register(Variant("derived", {"encoder_attention": Derived}))
    text = own_sources("derived")["derived"].text
    for name in ("mine", "derived"):
        del VARIANTS[name]
    exec(text, {})
    assert {"mine", "derived"} <= VARIANTS.keys()


def test_what_the_entry_of_a_published_base_says_besides_is_told(capsys):
    for cls, part, told in (
        (ConditionalDecoder, "decoder", "None for the decoder_self_attention, None for the"),
        (FocalCriterion, "criterion", "heads={'class_bias': -4.59"),
    ):
        made = type("Mine", (cls,), {})
        register(Variant("mine", {part: made}, heads={"box": 0.0} if part == "decoder" else {}))
        said = capsys.readouterr().out
        assert "'s, whose entry also has " in said and told in said
    register(Variant("mine", {"encoder": type("Mine", (nn.Module,), {})}))
    assert "also has" not in capsys.readouterr().out


def test_a_class_without_init_is_taken_after_torch_compile_has_wrapped_that_of_module(monkeypatch):
    init = nn.Module.__init__
    # As torch._dynamo.mutation_guard does from the first compilation of a process on
    monkeypatch.setattr(nn.Module, "__init__", lambda self, *args, **kwargs: init(self, **kwargs))
    register(Variant("mine", {"encoder": type("Mine", (nn.Module,), {})}))
    assert "mine" in VARIANTS


def test_a_class_may_say_which_layers_it_replaces_by_itself():
    @variant("mine", part="encoder_attention")
    class Mine(Base):
        def __init__(self, d_model, num_heads, dropout, *, layers: tuple[int, ...] = (-1,)):
            super().__init__(d_model, num_heads, dropout)

    model = build_detr(Config.preset("smoke", variant="mine").model)
    kinds = [type(layer.self_attn) for layer in model.transformer.encoder.layers]
    assert kinds == [EncoderAttention, EncoderAttention, Mine]


def test_running_a_cell_again_replaces_the_variant_and_says_what_changed(capsys):
    mine()
    assert capsys.readouterr().out == ""
    mine()
    assert capsys.readouterr().out == "variant 'mine' replaced: nothing changed\n"

    @variant("mine", part="encoder_attention")
    class Mine(Base):
        def __init__(self, d_model, num_heads, dropout, *, start: float = 3.0):
            super().__init__(d_model, num_heads, dropout)

    said = capsys.readouterr().out
    assert "Mine.__init__ changed" in said
    assert "option start: 3.0, before 1.0" in said and "option kind: absent, before 'a'" in said


def test_comments_docstrings_and_layout_change_nothing():
    one = "def f(x):\n    '''What.'''\n    return x + 1  # one\n\nA = 3\n"
    other = "A = 3\n\n\ndef f(x):\n    return (x + 1)\n"
    assert differences(one, other) == []
    assert differences(one, other.replace("1", "2")) == ["f"]
    assert "What" not in plain(one) and "one" not in plain(one)
    before = "class C:\n    a = 1\n    def m(self): return 1\n"
    assert differences(before, before.replace("return 1", "return 2")) == ["C.m"]


CELLS = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def run(cell):
    shell.run_cell(cell, store_history=True).raise_error()
run('''
from detrnb import variant, Variant, register
from detrnb.model import EncoderAttention
SHARP = 2.0''')
run('''
def sharper(x):
    return SHARP * x
class Plain(EncoderAttention):
    pass''')
run('''
@variant("mine", part="encoder_attention")
class Mine(Plain):
    def attend(self, q, k, v, unseen):
        return super().attend(sharper(q), k, v, unseen)''')
run('''
from detrnb.settings import own_sources
source = own_sources("mine")["mine"]
print(source.text)
assert not source.missing, source.missing''')
"""


def test_source_of_a_cells_class_is_kept_in_a_kernel(tmp_path):
    """Where `inspect.getsource` of a class finds no file; `Plain` has not even a method."""
    done = subprocess.run(
        [sys.executable, "-c", CELLS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(detrnb.__file__).parents[1]), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    for text in ("SHARP = 2.0", "def sharper(x):", "class Plain(EncoderAttention):", "@variant("):
        assert text in done.stdout


def test_files_that_register_nothing_and_unregistered_classes_are_told(tmp_path):
    with pytest.raises(ValueError, match="no file .*absent.py; expected a Python file"):
        load_variants([tmp_path / "absent.py"])
    (tmp_path / "nothing.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="nothing.py registers no variant"):
        load_variants([tmp_path / "nothing.py"])
    with pytest.raises(ValueError, match="Base is no variant's part; put @variant"):
        load_variants([Base])


def test_a_file_that_is_run_again_has_the_source_it_is_run_with(tmp_path, capsys):
    """Else a changed idea would be taken for the run of the one before."""
    file = tmp_path / "idea.py"

    def write(number):
        file.write_text(
            "from detrnb import variant\nfrom detrnb.model import EncoderAttention\n\n\n"
            '@variant("idea", part="encoder_attention")\n'
            f"class Idea(EncoderAttention):\n    number = {number}\n"
        )

    write(1)
    load_variants([file])
    write(22)  # not run yet: the class is the old one
    assert "number = 1\n" in own_sources("idea")["idea"].text
    load_variants([file])
    assert VARIANTS["idea"].parts["encoder_attention"].number == 22
    assert "number = 22\n" in own_sources("idea")["idea"].text
    assert capsys.readouterr().out == "variant 'idea' replaced: Idea.number changed\n"
