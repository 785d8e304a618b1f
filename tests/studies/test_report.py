"""Pictures show what the figures say, and sentences claim no more than that."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from skdcgn_pipeline.metrics.statistics import summarise_cells
from skdcgn_pipeline.studies import report
from skdcgn_pipeline.studies.registry import STUDIES
from skdcgn_pipeline.studies.report import draw_examples, draw_study, findings_as_markdown, write_findings
from skdcgn_pipeline.vocabulary import MECHANISMS

NUM_SEEDS = 5
STEADY, SHAKY = 0.0008, 0.02  # standard deviation over seeds
NO_FAILURE = pd.DataFrame(columns=["study", "cell", "seed", "error"])
PLAIN = {
    "mechanism": "",
    "transformation": "",
    "strength": math.nan,
    "source": "students",
    **{f"counterfactual_{mechanism}": True for mechanism in MECHANISMS},
    "per_shape": math.nan,
    "dataset_size": math.nan,
    "originals_share": 0.0,
    "loss_change": "",
    "stage": "",
    "num_parameters": 260_000.0,
    "mask_iou": math.nan,
    "l1_foreground": math.nan,
    "l1_background": math.nan,
    "num_images": 1000,
    "num_training_images": 128_000.0,
    "batch_size": 256.0,
    "distillation_steps": 2000.0,
    "subset": "all",
}


class Cells:
    """Made-up cells, one after the other."""

    def __init__(self, study: str, reference: str):
        self.study, self.reference, self.rows = study, reference, []

    def add(self, cell: str, accuracy: float, spread: float = STEADY, **described) -> Cells:
        drawn = np.random.default_rng(len(self.rows)).normal(size=NUM_SEEDS)
        own = spread * (drawn - drawn.mean()) / drawn.std(ddof=1)  # so that the mean is the one asked for
        drawn_by = described.get("source", "students")
        if drawn_by in ("teacher", "students", "monolith"):
            who = drawn_by.replace("monolith", "")
            described = {f"source_{m}": who for m in MECHANISMS} | described
        common = PLAIN | {"study": self.study, "cell": cell, "reference": self.reference} | described
        self.rows += [
            common | {"seed": seed, "split": split, "accuracy": accuracy + own[seed] - shift}
            for seed in range(NUM_SEEDS)
            for split, shift in (("validation", 0.0), ("test", 0.01))
        ]
        return self

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)


def add_transformation(cells: Cells, mechanism: str, kind: str, strength: float, accuracy: float, spread=STEADY):
    name = f"{mechanism} {kind} {strength:g}"
    cells.add(name, accuracy, spread, mechanism=mechanism, transformation=kind, strength=strength)


def transformations() -> pd.DataFrame:
    cells = Cells("transformations", "plain").add("plain", 0.8)
    for kind, strength, accuracy in (
        ("gaussian_noise", 0.3, 0.78),
        ("opacity", 0.75, 0.801),
        ("rotation", 45.0, 0.6),
        ("affine", 1.0, 0.85),
    ):
        add_transformation(cells, "shape", kind, strength, accuracy)
    for strength in (1.0, 0.5):
        add_transformation(cells, "texture", "grey", strength, 0.8 + 0.02 * strength, SHAKY)
    return cells.frame


def mechanisms() -> pd.DataFrame:
    cells = Cells("mechanisms", "shape + texture + background")
    for flags in itertools.product((1, 0), repeat=3):
        told = " + ".join(m for m, flag in zip(MECHANISMS, flags, strict=True) if flag) or "none"
        switched = {
            f"counterfactual_{m}": "class" if flag else "factual" for m, flag in zip(MECHANISMS, flags, strict=True)
        }
        shape, texture, background = flags
        cells.add(told, 0.1 + 0.3 * shape + 0.1 * texture + 0.08 * shape * background, **switched)
    return cells.frame


def counts() -> pd.DataFrame:
    cells = Cells("counts", "unlimited").add("unlimited", 0.8)
    for ratio, size in itertools.product((1.0, 5.0, 20.0), (1e4, 1e5)):
        accuracy = 0.6 + 0.1 * math.log10(size / 1e4)
        cells.add(f"{ratio:g} per shape, {size:g}", accuracy, per_shape=ratio, dataset_size=size)
    return cells.frame


def mixing() -> pd.DataFrame:
    cells = Cells("mixing", "no originals").add("no originals", 0.8)
    for share in (0.1, 0.5):
        cells.add(f"{share:.0%} originals", 0.8 - 0.4 * share, originals_share=share)
    return cells.frame


def losses() -> pd.DataFrame:
    cells = Cells("losses", "all terms")
    for name, change, accuracy, iou in (
        ("all terms", "all terms", 0.8, 0.9),
        ("without kl", "without", 0.801, 0.7),
        ("without pixel", "without", 0.7, 0.88),
        ("only pixel", "only", 0.75, 0.8),
        ("T = 1", "temperature", 0.78, 0.9),
        ("T = 4", "temperature", 0.82, 0.9),
    ):
        cells.add(name, accuracy, loss_change=change, mask_iou=iou, l1_foreground=0.1, l1_background=0.05)
    return cells.frame


def size() -> pd.DataFrame:
    cells = Cells("size", "medium")
    for name, parameters, accuracy in (
        ("tiny", 2e4, 0.6),
        ("small", 6e4, 0.782),
        ("medium", 2.6e5, 0.788),
        ("large", 1e6, 0.79),
    ):
        cells.add(name, accuracy, num_parameters=parameters, mask_iou=accuracy)
    return cells.add("teacher", 0.85, source="teacher", num_parameters=8e6).frame


def swapped(mechanism: str, source: str, others: str) -> dict[str, str]:
    """Return who draws each mechanism where one alone is drawn by somebody else."""
    return {f"source_{m}": source if m == mechanism else others for m in MECHANISMS}


def source() -> pd.DataFrame:
    cells = Cells("source", "teacher").add("teacher", 0.8, source="teacher").add("students", 0.75, source="students")
    for mechanism, accuracy in zip(MECHANISMS, (0.76, 0.79, 0.801), strict=True):
        others = " + ".join(m for m in MECHANISMS if m != mechanism)
        name = f"students {mechanism}, teacher {others}"
        cells.add(name, accuracy, source=name, **swapped(mechanism, "students", "teacher"))
    return cells.frame


def stage() -> pd.DataFrame:
    cells = Cells("stage", "plain").add("plain", 0.8, source="teacher")
    for place, accuracy in (("compose", 0.79), ("teacher", 0.82)):
        described = {"mechanism": "shape", "transformation": "rotation", "strength": 45.0}
        cells.add(f"rotation in {place}", accuracy, stage=place, source="teacher", **described)
    return cells.frame


def monolith() -> pd.DataFrame:
    cells = Cells("monolith", "trio").add("trio", 0.8)
    return cells.add("monolith", 0.75, source="monolith", num_parameters=270_000.0).frame


def alternatives() -> pd.DataFrame:
    """Made-up methods at two shares, each compared with the students' counterfactuals at its own."""
    frames = []
    for share, by_method in (
        (0.0, {"students": 0.8, "erm": 0.1, "group_dro": 0.11, "unbiased": 0.9}),
        (0.05, {"students": 0.8, "erm": 0.4, "group_dro": 0.85, "unbiased": 0.9}),
    ):
        cells = Cells("alternatives", f"students, {share:.0%}")
        for method, accuracy in by_method.items():
            cells.add(f"{method}, {share:.0%}", accuracy, method=method, conflicting_share=share, calibration_error=0.1)
        frames.append(cells.frame)
        for subset, less in (("worst group", 0.2), ("all, chosen with groups", 0.0)):
            test = cells.frame[cells.frame["split"] == "test"]
            frames.append(test.assign(subset=subset, accuracy=test["accuracy"] - less))
    return pd.concat(frames, ignore_index=True)


FRAME_OF = {
    make.__name__: make
    for make in (transformations, mechanisms, counts, mixing, losses, size, source, stage, monolith, alternatives)
}


def sentences_of(cells: pd.DataFrame, failures: pd.DataFrame = NO_FAILURE) -> list[str]:
    [(_, sentences)] = write_findings(summarise_cells(cells), cells, failures)
    return sentences


def said(cells: pd.DataFrame, *words: str) -> str:
    """Return the one sentence with all of these words."""
    [sentence] = [text for text in sentences_of(cells) if all(word in text for word in words)]
    return sentence


def without(cells: pd.DataFrame, *names: str) -> pd.DataFrame:
    return cells[~cells["cell"].isin(names)]


# --- pictures ------------------------------------------------------------------------------------


def assert_is_a_picture(picture: np.ndarray) -> None:
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.shape[0] > 20
    assert picture.min() < 100
    assert picture.max() == 255


def test_every_study_has_a_made_up_frame():
    assert set(FRAME_OF) == set(STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_is_drawn_and_changes_with_its_figures(study):
    cells = FRAME_OF[study]()
    picture = draw_study(study, summarise_cells(cells))
    assert_is_a_picture(picture)
    assert np.array_equal(picture, draw_study(study, summarise_cells(cells)))
    chosen = cells["cell"] == cells["cell"].iloc[-1]
    cells.loc[chosen, "accuracy"] -= 0.05
    changed = draw_study(study, summarise_cells(cells))
    assert picture.shape != changed.shape or not np.array_equal(picture, changed)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_is_drawn_and_told_with_whatever_is_there(study):
    cells = FRAME_OF[study]()
    reference, last = cells["reference"].iloc[0], cells["cell"].iloc[-1]
    fragments = {
        "the reference alone": cells[cells["cell"] == reference],
        "no reference": without(cells, reference),
        "one cell without reference": cells[cells["cell"] == (last if last != reference else cells["cell"].iloc[0])],
        "one seed": cells[cells["seed"] == 0],
        "no seed in common": cells[(cells["cell"] == reference) != (cells["seed"] > 1)],
    }
    for name, fragment in fragments.items():
        summary = summarise_cells(fragment)
        assert_is_a_picture(draw_study(study, summary))
        told = " ".join(sentences_of(fragment))
        assert "nan" not in told, name
        if name in ("the reference alone", "one cell without reference", "one seed"):
            assert "raises" not in told.lower(), name
            assert "lowers" not in told.lower(), name
        if "no reference" in name:
            assert f"The reference '{reference}' is missing" in told


def test_a_study_that_was_not_run_is_a_picture_that_says_so():
    summary = summarise_cells(mixing())
    assert_is_a_picture(draw_study("losses", summary))
    assert_is_a_picture(draw_study("mixing", summary[summary["split"] == "validation"]))
    assert_is_a_picture(draw_study("mixing", summary.iloc[:0]))


def test_a_study_made_by_hand_is_drawn_and_told():
    cells = mixing().assign(study="by hand")
    summary = summarise_cells(cells)
    assert_is_a_picture(draw_study("by hand", summary))
    ((title, sentences),) = findings = write_findings(summary, cells)
    assert title == "by hand"
    assert len(sentences) > 1
    assert "## by hand" in findings_as_markdown(findings, summary)


def test_a_picture_is_drawn_from_a_summary_that_was_written_and_read(tmp_path):
    summary = summarise_cells(transformations())
    summary.to_parquet(tmp_path / "summary.parquet")
    read = pd.read_parquet(tmp_path / "summary.parquet")
    assert np.array_equal(draw_study("transformations", summary), draw_study("transformations", read))


def drawn_figure(study: str, summary: pd.DataFrame, monkeypatch):
    """Return the figure before it becomes an array."""
    figures = []
    monkeypatch.setattr(report, "rasterise", figures.append)
    draw_study(study, summary)
    return figures[0]


def test_exactly_the_significant_cells_are_framed(monkeypatch):
    summary = summarise_cells(transformations())
    axes = drawn_figure("transformations", summary, monkeypatch).axes
    shape, texture = axes[0], axes[1]
    assert [axis.get_title() for axis in (shape, texture)] == ["shape", "texture"]
    labels = [label.get_text() for label in shape.get_yticklabels()]
    framed = sorted(labels[round(patch.get_y() + 0.44)] for patch in shape.patches)
    assert framed == ["affine", "gaussian_noise", "rotation"]
    assert not texture.patches


def test_strengths_rise_from_left_to_right_and_colours_are_shared(monkeypatch):
    axes = drawn_figure("transformations", summarise_cells(transformations()), monkeypatch).axes
    texture = axes[1]
    strengths = [text.get_text() for text in sorted(texture.texts, key=lambda text: text.get_position())]
    assert [text for text in strengths if text in ("0.5", "1")] == ["0.5", "1"]
    limits = {axis.images[0].get_clim() for axis in axes[:2]}
    assert len(limits) == 1
    [(low, high)] = limits
    assert low == -high


def test_the_title_names_reference_seeds_and_budget(monkeypatch):
    title = drawn_figure("transformations", summarise_cells(transformations()), monkeypatch).get_suptitle()
    told = " ".join(title.split())
    assert "reference: plain, 79.0 %" in told
    assert "5 seeds per cell, 1,000 test images, 128,000 training images in batches of 256" in told


def test_examples_of_any_number_and_size_are_drawn():
    many = {f"a cell with a long name {number}": torch.rand(4, 3, 32, 32) * 2 - 1 for number in range(40)}
    assert_is_a_picture(draw_examples(many, "Training images"))
    large = draw_examples({"large": torch.zeros(3, 3, 256, 256)}, "A title")
    assert_is_a_picture(large)
    assert large.shape[0] < 256


def test_examples_are_shown_as_they_are():
    picture = draw_examples({"": torch.full((4, 3, 16, 16), 0.2)}, "")
    grey = (picture == round(1.2 * 127.5)).all(2).sum()
    assert grey == pytest.approx(4 * 32 * 32, rel=0.1)


# --- findings ------------------------------------------------------------------------------------


def test_seeds_images_and_reference_are_said_first():
    assert sentences_of(transformations())[0] == (
        "Split 'test', 5 seeds per cell, 1,000 test images, 128,000 training images in batches of 256, "
        "2,000 distillation steps; reference: plain, 79.0 %."
    )


def test_cells_are_listed_by_what_can_be_said_of_them():
    assert sentences_of(transformations())[2:] == [
        "Raises the accuracy: shape affine 1 (+5.0).",
        "Lowers the accuracy: shape gaussian_noise 0.3 (−2.0), shape rotation 45 (−20.0).",
        "No difference, the interval within 1 point: shape opacity 0.75 (+0.1).",
        "Undecided: texture grey 1 (+2.0), texture grey 0.5 (+1.0).",
    ]


def test_a_small_raw_p_is_no_finding_once_adjusted():
    cells = Cells("source", "plain").add("plain", 0.8)
    for number in range(30):
        cells.add(f"cell {number}", 0.813, 0.006)
    summary = summarise_cells(cells.frame)
    assert (summary["p_value"] < 0.05).any()
    assert not (summary["p_holm"] < 0.05).any()
    told = " ".join(sentences_of(cells.frame))
    assert "Undecided" in told
    assert "Raises" not in told


def test_what_papers_expect_is_told_before_what_came():
    assert sentences_of(transformations())[1].startswith("The SKDCGN paper expects noise, opacity 0.75 and rotation")
    assert sentences_of(mixing())[1:] == [
        "CGN expects more originals to hurt.",
        "Lowers the accuracy: 10% originals (−4.0), 50% originals (−20.0).",
    ]


def test_main_effects_and_interactions_are_told():
    cells = mechanisms()
    row = summarise_cells(cells).set_index(["cell", "split"]).loc[("none", "test")]
    assert f"none ({100 * row['difference']:.1f})".replace("-", "−") in said(cells, "Lowers")
    shape = said(cells, "Making shape counterfactual")
    assert shape.startswith("Making shape counterfactual, averaged over the other 2: +34.0 points (95 % interval +3")
    assert shape.endswith("): this raises the accuracy.")
    assert "+10.0 points" in said(cells, "Making texture counterfactual")
    assert "shape x background: +4.0 points" in said(cells, "Together")
    assert "averaged" not in " ".join(sentences_of(without(cells, "none")))


def test_what_size_and_ratio_buy_is_told():
    cells = counts()
    bought = said(cells, "100,000 instead of 10,000")
    assert bought.startswith("100,000 instead of 10,000 images: +10.0 points")
    assert bought.endswith("this raises the accuracy.")
    assert said(cells, "unlimited instead").startswith("unlimited instead of 100,000 images: +10.0 points")
    assert "0.0 points" in said(cells, "20 instead of 1 per shape")
    cells.loc[cells["per_shape"] == 20, "accuracy"] += 0.05
    cells.loc[cells["dataset_size"] == 1e5, "accuracy"] -= 0.1
    assert "+5.0 points" in said(cells, "20 instead of 1 per shape")
    assert "0.0 points" in said(cells, "100,000 instead of 10,000")


def test_the_smallest_students_within_a_point_are_found():
    assert said(size(), "smallest") == "The smallest students whose mean is within 1 point of the largest are small."
    assert said(size(), "parameters").startswith(
        "Accuracy by parameters of the generator: 20,000 (tiny) 59.0 %, 60,000"
    )


def test_what_a_student_in_the_place_of_the_teacher_costs_is_told():
    cells = Cells("source", "teacher")
    for drawn_by in itertools.product(("teacher", "students"), repeat=3):
        by_mechanism = {f"source_{m}": who for m, who in zip(MECHANISMS, drawn_by, strict=True)}
        name = drawn_by[0] if len(set(drawn_by)) == 1 else " ".join(drawn_by)
        cells.add(name, 0.8 - 0.04 * (drawn_by[0] == "students"), source=name, **by_mechanism)
    cost = said(cells.frame, "The shape by a student instead of the teacher")
    assert cost.startswith("The shape by a student instead of the teacher, averaged over the other 2: −4.0 points")
    assert "averaged" not in " ".join(sentences_of(source())), "effects need all eight mixtures"


def test_composing_and_training_with_a_transformation_are_compared():
    assert "+3.0 points" in said(stage(), "rotation 45 in the teacher's training instead of composing")
    assert "Raises the accuracy: rotation in teacher (+2.0)." in sentences_of(stage())


def test_what_decomposition_is_worth_is_the_trio_minus_the_single_network():
    worth = said(monolith(), "What decomposition is worth")
    assert "trio minus monolith: +5.0 points (95 % interval +4." in worth
    assert worth.endswith("this raises the accuracy.")
    assert said(monolith(), "parameters").endswith("260,000 (trio) 79.0 %, 270,000 (monolith) 74.0 %.")


def test_studies_that_were_not_run_are_not_told():
    cells = pd.concat([mixing(), losses()])
    titles = [title for title, _ in write_findings(summarise_cells(cells), cells, NO_FAILURE)]
    assert titles == [STUDIES["mixing"].title, STUDIES["losses"].title]
    assert write_findings(summarise_cells(cells.iloc[:0]), cells.iloc[:0], NO_FAILURE) == []


def test_a_study_without_test_images_is_told():
    cells = transformations()
    assert sentences_of(cells[cells["split"] == "validation"]) == [
        "No cell of this study was measured on the split 'test'."
    ]


def test_failures_are_told():
    failures = pd.DataFrame([{"study": "mixing", "cell": "90% originals", "seed": 2, "error": "out of memory"}])
    assert sentences_of(mixing(), failures)[-1] == ("Failed and left out: 90% originals, seed 2: out of memory.")
    cells = losses()
    findings = dict(write_findings(summarise_cells(cells), cells, failures))
    assert len(findings[STUDIES["mixing"].title]) == 2


def test_markdown_holds_sentences_and_a_table_per_study():
    cells = pd.concat([mixing(), size()])
    cells["cell"] = cells["cell"].replace("10% originals", "10% | originals")
    summary = summarise_cells(cells)
    findings = write_findings(summary, cells, NO_FAILURE)
    text = findings_as_markdown(findings, summary)
    assert text.count("\n## ") == 2
    for _, sentences in findings:
        assert all(f"\n- {sentence}\n" in text for sentence in sentences)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == len(summary) + 2
    assert all(line.replace("\\|", "").count("|") == 10 for line in rows)
    assert any(line.startswith("| 50% originals | test | 59.0 % |") and "| −20.0 |" in line for line in rows)
    assert "nan" not in text
