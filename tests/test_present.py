"""The forms of a comparison's findings: what a reader of any of them needs is in it, and no text breaks it."""

from __future__ import annotations

import copy
import csv
import io

import numpy as np
import pytest
from comparing import ROWS, made, made_log, side

from equipoise.study import compare_page, present
from equipoise.study.findings import findings

HARD = "a\nb|c<d>*e_f $x^2$ {g} 5 % & #1 \\h ~"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two tasks and a grey one, users, and figures of GAUC and soft AUC as a simulated log has them."""
    folder = tmp_path_factory.mktemp("present")
    log = made_log(folder / "log", {"click": 0.5, "like": 0.3, "rare": 0.08}, np.arange(ROWS) % 100)
    worth = {"single": 0.5, "equal": 0.5, "uw": 0.55, "pub": 0.6}
    told = findings(made(log, folder / "out", worth), 50)
    told["plan"]["data"]["simulated"] = True
    for each in told["sides"]:
        for at, metrics in enumerate(each["metrics"].values()):
            metrics |= {
                "gauc": [0.61 + at / 100] * 3,
                "soft_auc": [0.71 + at / 100] * 3,
                "ceiling": [0.8] * 3,
            }
    return told


def test_the_terminal_s_table_holds_what_is_judged_and_what_it_costs(found):
    """AUC, of which the decision is, GAUC, soft AUC, delta_m, cost a step and memory."""
    head, rows = present.columns(found, brief=True)
    assert head[:5] == ["side", "metric", "click", "like", "rare"]
    assert head[5:] == ["mean AUC - equal", "decision", "delta_m %", "step", "memory MB"]
    assert all(len(row) == len(head) for row in rows)
    at = next(i for i, row in enumerate(rows) if row[0] == "pub")
    pub = side(found, "pub")
    auc = np.mean(pub["metrics"]["click"]["auc"])
    assert rows[at][1] == "AUC" and rows[at][2].startswith(f"{auc:.4f} (") and rows[at][4].startswith("~")
    assert rows[at][5:7] == [f"{pub['mean']['difference']:+.4f}", pub["mean"]["decision"]]
    assert rows[at][7:] == [f"{pub['delta_m']:+.2f}", f"{pub['cost']:.2f}", "100"]
    assert rows[at + 1][:4] == ["", "GAUC", "~0.6100 (0.0000)", "~0.6200 (0.0000)"]
    assert rows[at + 2][:3] == ["", "soft AUC", "0.7100 (0.0000)"] and not any(rows[at + 2][5:])
    assert rows[-1][:3] == ["ceiling", "soft AUC", "0.8000"]


def test_the_notes_say_what_is_corrected_and_grey_tasks_have_no_p_value(found):
    assert "95 % intervals are uncorrected" in present.NOTES and "corrected by Holm" in present.NOTES
    head, rows = present.contrasts(found)
    p = {(row[1], row[2]): row[head.index("p (Holm)")] for row in rows}
    assert p["pub", "~rare"] == "" and p["uw", "like"] != ""
    assert p["pub", present.MEAN] == f"{found['primary']['p']:.3f}"
    page = compare_page.page(found)
    assert (
        "seeds, test rows and luck in tuning together, uncorrected" in page
        and "uncorrected" in present.markdown(found)
    )


def test_every_number_of_the_tables_is_in_the_csv_files(found):
    rows = list(csv.DictReader(io.StringIO(present.as_csv(found))))
    assert all(set(row) == {"model", "method", "task", "metric", "seed", "value"} for row in rows)
    pub = side(found, "pub")
    of_side = {
        r["metric"]: float(r["value"]) for r in rows if r["method"] == "pub" and r["task"] == r["seed"] == ""
    }
    assert of_side == {key: pub[key] for key in ("delta_m", "seconds", "step_seconds", "cost", "memory")}
    rows = list(csv.DictReader(io.StringIO(present.differences_csv(found))))
    assert len(rows) == 3 * 4 + 1 and {row["grey"] for row in rows if row["task"] == "rare"} == {"1"}

    def picked(**wanted):
        (row,) = [r for r in rows if all(r[key] == value for key, value in wanted.items())]
        return row

    mean, like = picked(method="pub", of="mean", against="equal"), picked(method="pub", task="like")
    other = picked(against=found["best_other"]["method"])
    for row, c in ((mean, pub["mean"]), (like, pub["contrasts"]["like"]), (other, found["best_other"])):
        for key in ("difference", "low", "high", "se", "seed_se", "test_se", "tuning_se", "p", "adjusted"):
            assert float(row[key]) == c[key]
        assert row["decision"] == c["decision"] and row["grey"] == "0"


def test_the_page_s_folder_holds_both_csv_files(found, tmp_path):
    compare_page.write(found, tmp_path)
    assert (tmp_path / "differences.csv").read_text() == present.differences_csv(found).replace("\r\n", "\n")


def test_no_text_breaks_a_table(found):
    """A failure's message may be of several lines and hold anything that Markdown or LaTeX reads as its own."""
    told = copy.deepcopy(found)
    told["sides"][0]["failed"] = HARD
    told["sides"][0]["metrics"] = {}
    line = next(x for x in present.markdown(told).split("\n") if "failed:" in x)
    assert line.startswith("| shared_bottom | single | failed: a b\\|c\\<d>\\*e_f $x^2$")
    head = present.columns(told)[0]
    assert line.replace("\\|", "").count("|") == len(head) + 1
    assert "failed: " + HARD in present.columns(told, brief=True)[1][0][1]
    tex = present.latex(told)
    line = next(x for x in tex.split("\n") if "failed:" in x)
    assert r"a b$|$c$<$d$>$*e\_f \$x\textasciicircum{}2\$ \{g\} 5 \% \& \#1 \textbackslash{}h $\sim$" in line
    assert line.endswith(r"\\") and "textcolor" not in tex  # a package would have to be loaded for it
