"""The source of a variant of one's own lies beside its runs; it is compared, and never run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import detrnb
from detrnb import VARIANTS, Config, fit, load_run
from detrnb.commands import main
from detrnb.runs import RunFolder
from detrnb.settings import load_variants
from detrnb.training import code_of

IDEA = """
from torch import nn
import torch
from detrnb import variant
from detrnb.model import EncoderAttention

SHARP = 2.0

@variant("idea", part="encoder_attention")
class Idea(EncoderAttention):
    '''A temperature a head.'''

    added = ("tau",)

    def __init__(self, d_model, num_heads, dropout, *, start: float = 1.0):
        super().__init__(d_model, num_heads, dropout)
        self.tau = nn.Parameter(torch.full((num_heads, 1, 1), start))

    def attend(self, q, k, v, unseen):
        return super().attend(SHARP * self.tau * q, k, v, unseen)

    def start_as_detr(self, state, prefix):
        state[prefix + "tau"] = torch.full_like(self.tau, 0.5)
"""
SMALL = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "data.toy.num_images": (4, 2, 2),
    "train.batch_size": 4,
    "train.epochs": 1,
}


@pytest.fixture
def idea(tmp_path, monkeypatch):
    """A file that registers the variant, in a project of its own."""
    monkeypatch.chdir(tmp_path)
    before = dict(VARIANTS)
    Path("idea.py").write_text(IDEA)
    load_variants(["idea.py"])
    yield Path("idea.py")
    VARIANTS.clear()
    VARIANTS.update(before)


def config() -> Config:
    return Config.preset("smoke", variant="idea", overrides=SMALL)


def in_a_new_process(code: str) -> subprocess.CompletedProcess:
    folder = str(Path(detrnb.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": folder},
        capture_output=True,
        text=True,
    )


def test_a_new_process_asks_for_the_class_and_runs_nothing_of_the_folder(idea):
    run = fit(config(), name="mine")
    kept = run.path / "variants" / "idea.py"
    assert "SHARP = 2.0" in kept.read_text() and "class Idea(EncoderAttention):" in kept.read_text()
    assert list(run.history) == ["transformer.encoder.layers.0.self_attn.tau"]
    kept.write_text("raise SystemExit('it was run')\n" + kept.read_text())
    opened = in_a_new_process("from detrnb import load_run; load_run('runs/mine')")
    assert opened.returncode == 1 and "it was run" not in opened.stderr
    assert "a run of the variant 'idea', which is not known here" in opened.stderr
    assert f"Its source is kept in {Path('runs/mine/variants/idea.py')}" in opened.stderr
    code = "from detrnb import load_run; print(load_run('runs/mine', variants=['idea.py']).path)"
    assert in_a_new_process(code).stdout.strip().endswith("mine")


def test_a_changed_class_is_another_run_and_said_where_the_old_one_is_opened(idea, capsys):
    old = fit(config())
    fit(config(), name="named")
    idea.write_text(IDEA.replace("A temperature", "Some temperature"))
    load_variants([idea])
    assert "'idea' replaced: nothing changed" in capsys.readouterr().out
    assert fit(config()).path == old.path
    idea.write_text(IDEA.replace("SHARP = 2.0", "SHARP = 3.0"))
    load_variants([idea])
    assert "'idea' replaced: SHARP changed" in capsys.readouterr().out
    assert fit(config()).path != old.path
    assert "is not as it was trained" not in capsys.readouterr().out
    load_run(old.path)
    assert "'idea' is not as it was trained: SHARP changed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds another run: 'idea' is not as it was trained"):
        fit(config(), name="named")


def test_a_run_whose_class_has_other_parameters_now_says_so_and_blames_no_file(idea, capsys):
    run = fit(config())
    idea.write_text(IDEA.replace("(num_heads, 1, 1)", "(num_heads, 1, d_model // num_heads)"))
    load_variants([idea])
    with pytest.raises(ValueError, match="'idea' is not as it was trained: Idea.*changed") as told:
        load_run(run.path)
    assert "best.pt is sound" not in str(told.value) and "another run" not in str(told.value)


def test_an_idea_that_derives_from_a_published_variant_is_of_its_code_too(idea):
    idea.write_text(
        "from detrnb import variant\n"
        "from detrnb.variants.svd_split import SplitAttention\n\n\n"
        '@variant("idea", part="encoder_attention")\nclass Idea(SplitAttention):\n    pass\n'
    )
    load_variants([idea])
    code = code_of(config())
    assert {name for name in code if "variants/" in name} == {
        "variants/idea.py",
        "variants/svd_split.py",
    }
    assert (
        code["variants/svd_split.py"]
        == code_of(Config.preset("smoke", variant="svd_split"))["variants/svd_split.py"]
    )


def test_a_join_that_leaves_one_of_its_classes_out_is_not_trained(idea, tmp_path):
    alone = (
        "import torch\nfrom torch import nn\nfrom detrnb import variant\n\n\n"
        '@variant("alone", part="encoder")\nclass Alone(nn.Module):\n'
        "    def __init__(self, d_model):\n        super().__init__()\n"
        "        self.layers = nn.ModuleList([nn.Linear(d_model, d_model)])\n\n"
        "    def forward(self, x, pos, padding_mask, grid):\n        return self.layers[0](x)\n"
    )
    (tmp_path / "alone.py").write_text(alone)
    load_variants([tmp_path / "alone.py"])
    joined = Config.preset("smoke", variant="alone+idea", overrides=SMALL)
    with pytest.raises(ValueError, match="Idea of 'idea' is in no place, so that nothing of its"):
        fit(joined)


def test_the_command_takes_a_file_of_variants(idea, capsys):
    del VARIANTS["idea"]
    typed = [f"{key}={list(x) if isinstance(x, tuple) else x}" for key, x in SMALL.items()]
    command = ["train", "--preset", "smoke", "--variant", "idea", "--name", "typed", *typed]
    assert main(command) == 2
    assert "unknown variant 'idea'" in capsys.readouterr().err
    assert main([*command, "--variants", "idea.py"]) == 0
    assert RunFolder("runs/typed").read_variants().keys() == {"idea"}
    assert main(["export", "runs/typed", "--to", "x.safetensors", "--variants", "idea.py"]) == 0
    assert main(["train", "--preset", "smoke", "--variants", "absent.py"]) == 2
    assert "no file absent.py; expected a Python file" in capsys.readouterr().err
