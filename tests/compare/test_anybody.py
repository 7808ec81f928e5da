"""Verdicts on anybody's table of numbers, in a terminal."""

import numpy as np
import pytest

from detrnb.commands import main
from detrnb.compare import read_table

NOISE = np.array([0.001, -0.001, 0.002, -0.002, 0.0, 0.001])


def write(path, entries, metric="AP", scale=1.0):
    """A table of six seeds; each entry differs from the first by so much."""
    rows = [f"entry, seed, {metric}"]
    for place, (entry, difference) in enumerate(entries.items()):
        for seed in range(6):
            value = 0.3 + 0.01 * seed + difference + (place + 1) * NOISE[seed]
            rows.append(f"{entry}, {seed}, {scale * value:.4f}")
    path.write_text("\n".join(rows))
    return path


def test_any_table_gets_the_verdicts_of_a_study(tmp_path):
    path = write(tmp_path / "aps.csv", {"ours": 0.0, "new": 0.05, "same": 0.0})
    found = read_table(path)
    assert (found.baseline, found.metric, found.delta) == ("ours", "AP", 0.02)
    assert found.table["verdict"].to_dict() == {"new": "better", "same": "equivalent"}
    assert read_table(path, "new").table["verdict"].to_dict() == {"ours": "worse", "same": "worse"}


def test_terminal_shows_verdicts_table_and_paragraph(tmp_path, capsys):
    path = str(write(tmp_path / "aps.csv", {"detr": 0.0, "new_one": 0.05}))
    assert main(["compare", "--table", path]) == 0
    told = capsys.readouterr().out
    assert "Entries against detr, by AP of pairs of equal seed; what matters: 0.02" in told
    assert "- new_one: better: +0.050 (" in told
    assert main(["compare", "--table", path, "--latex", "--methods"]) == 0
    table, text = capsys.readouterr().out.split("\n\n")
    assert "new\\_one & 0.375" in table and "$+0.050$" in table and "& better \\\\" in table
    assert table.startswith("\\begin{tabular}") and table.endswith("\\end{tabular}")
    assert "new\\_one was compared with detr by AP in 6 pairs of equal seed." in text
    assert "Student's t test at 5 \\%" in text and "±0.02" in text and "Holm" not in text


def test_another_scale_needs_its_own_delta(tmp_path, capsys):
    path = write(tmp_path / "aps.csv", {"detr": 0.0, "new": 0.05}, "mAP", scale=100)
    assert main(["compare", "--table", str(path)]) == 1
    assert "goes from 30.1 to 40.2" in (said := capsys.readouterr().err) and "--delta" in said
    found = read_table(path, delta=2.0)
    assert found.metric == "mAP" and found.table.loc["new", "verdict"] == "better"
    assert not found.rulings["new"].within and read_table(path, delta=9.0).rulings["new"].within


@pytest.mark.parametrize(
    "text, message",
    [
        ("entry,AP\na,0.1\n", "has the columns entry, AP; expected entry, seed and one more"),
        ("entry,seed,AP,AR\na,0,0.1,0.1\n", "expected entry, seed and one more"),
        ("entry,seed,AP\na,0,0.1\na,0,0.2\n", "entry 'a' has seed 0 twice"),
        ("entry,seed,AP\na,0,0.1\na,1,none\n", "line 3: AP is 'none'; expected a number"),
        ("entry,seed,loss\na,0,0.1\nb,0,0.1\n", "of loss less is better; give its negative"),
        ("entry,seed,AP\na,0,0.1\n", "has one entry, 'a'; a comparison needs two"),
        ("entry,seed,AP\n", "has no entry; a comparison needs two"),
        ("entry,seed,\na,0,0.1\n", "expected entry, seed and one more"),
        ("entry,seed,AP\na,0,0.1\na,,0.2\n", "line 3: the seed is blank"),
        ("entry,seed,AP\na,0,0.1\n ,1,0.2\n", "line 3: the entry is blank"),
        ("entry,seed,AP\n\na,0,0.1\n\n,,\n", "line 5: the entry is blank"),
        ("entry,seed,AP\na,0,0.1\na,1,0,2\n", "line 3 has 4 fields; expected 3.*decimal point"),
        ("entry,seed,AP\na,0,0.1\na,1\n", "line 3 has 2 fields; expected 3"),
        ("entry,seed,AP\na,0,0.1\n\na,1,inf\n", "line 4: AP is 'inf'; expected a finite number"),
        ("entry,seed,AP\na,0,nan\n", "line 2: AP is 'nan'; expected a finite number"),
        ("entry,seed,AP\na,s0,0.1\n\na,s0 ,0.2\n", "line 4: entry 'a' has seed s0 twice"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path, text, message):
    path = tmp_path / "aps.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(path)


def test_names_that_look_like_numbers_or_like_nothing_are_names(tmp_path):
    for names in (("100", "300"), ("None", "NA"), ("nan", "null")):
        path = write(tmp_path / "aps.csv", dict(zip(names, (0.0, 0.05), strict=True)))
        found = read_table(path)
        assert found.baseline == names[0] and found.rulings[names[1]].verdict == "better"
        assert read_table(path, names[1]).baseline == names[1]
    path.write_text("entry,seed,AP\n" + "".join(f"{e},{s},0.3\n" for e in "ab" for s in ("NA", 0)))
    assert read_table(path).values.index.tolist() == ["NA", "0"]


def test_spaces_around_seeds_and_a_mark_of_encoding_make_no_other_seed(tmp_path):
    path = tmp_path / "aps.csv"
    path.write_text("\ufeffentry,seed,AP\na,s0 ,0.1\nb, s0,0.2\n\n", encoding="utf-8")
    assert read_table(path).rulings["b"].pairs == 1


def test_seeds_without_a_partner_are_named(tmp_path, capsys):
    path = tmp_path / "aps.csv"
    seeds = {"detr": range(7), "ours": range(2, 9), "alone": range(20, 22)}
    rows = [f"{e},{s},0.3{s % 3}" for e, its in seeds.items() for s in its]
    path.write_text("\n".join(["entry,seed,AP", *rows]))
    assert main(["compare", "--table", str(path)]) == 0
    told = capsys.readouterr().out
    assert "; more is better" in told.splitlines()[0] and "nan" not in told
    told = " ".join(told.split())
    assert "- ours: equivalent: +0.000 (+0.000 to +0.000), 5 pairs" in told
    assert "without a partner: detr 0, 1; ours 7, 8" in told
    assert "without a partner: detr 0, 1, 2, 3, 4, 5, 6; alone 20, 21" in told
    assert main(["compare", "--table", str(path), "--methods", "--latex"]) == 0
    told = capsys.readouterr().out
    assert "without a partner: detr 0, 1; ours 7, 8." in told and "nan" not in told


def test_ap_at_equal_time_is_more_and_latency_less(tmp_path):
    path = write(tmp_path / "aps.csv", {"detr": 0.0, "new": 0.05}, "AP at equal time")
    assert read_table(path).rulings["new"].verdict == "better"
    for metric in ("Latency (ms)", "RMSE", "params"):
        with pytest.raises(ValueError, match="less is better; give its negative"):
            read_table(write(path, {"detr": 0.0, "new": 0.05}, metric))


def test_runs_and_a_table_are_not_mixed(capsys, tmp_path):
    path = write(tmp_path / "aps.csv", {"detr": 0.0, "new": 0.05})
    assert main(["compare", "runs/one", "--table", str(path)]) == 2
    assert "expected runs, or --table" in capsys.readouterr().err
