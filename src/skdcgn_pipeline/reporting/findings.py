"""What the ablation found, in sentences made from its figures alone, and the words for it.

Everything is made from `metrics.statistics.summarise_cells`; studies and cells that are absent are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from skdcgn_pipeline.metrics.statistics import (
    DESCRIPTION,
    FIDELITY,
    MARGIN,
    compare_pairs,
    factorial_effects,
    holm,
    judge,
    student_mechanisms,
)
from skdcgn_pipeline.vocabulary import MECHANISMS

TITLE_OF = {
    "transformations": "Transformations of one mechanism",
    "mechanisms": "Which mechanisms are counterfactual",
    "counts": "How many counterfactuals, and how many per shape",
    "mixing": "Originals mixed into the counterfactuals",
    "losses": "Terms and temperature of the distillation",
    "size": "Size of the students",
    "source": "Who draws which mechanism",
    "stage": "A transformation in composing or in the teacher's training",
    "monolith": "Three mechanisms or one network",
}
TEXTS = ["mechanism", "transformation", "source", "counterfactual", "losses", "stage"]
SLIGHT = 0.05  # of accuracy: a loss whose interval lies beyond is not called slight
LOSS_GROUPS = ("all", "without", "only", "T")
Findings = list[tuple[str, list[str]]]


def records_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def part_of(frame: pd.DataFrame, study: str, split: str) -> pd.DataFrame:
    """Return the rows of one study and split, of all images, with every descriptive column."""
    if frame.empty:
        return frame
    rows = frame[(frame["study"] == study) & (frame["split"] == split) & (frame["subset"] == "all")]
    rows = rows.reindex(columns=list(dict.fromkeys([*frame.columns, *DESCRIPTION, *FIDELITY])))
    # An empty text comes back from a CSV file as NaN.
    return rows.assign(**{name: rows[name].astype(object).fillna("") for name in TEXTS})


def signed(value: float, digits: int = 1) -> str:
    """Write a number with its sign, a true minus and no negative zero."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count(number: int, singular: str, plural: str = "") -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _range(frame: pd.DataFrame, name: str) -> str:
    """Write the value that all rows share, or the range; empty without any."""
    values = frame[name].dropna()
    if values.empty:
        return ""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _compared(row: Mapping[str, Any]) -> str:
    """Write a difference in points with its interval and adjusted p."""
    if math.isnan(row["difference"]):
        return "no difference can be given"
    text = f"{signed(100 * row['difference'])} points"
    if math.isnan(row["difference_low"]):
        return f"{text} (one seed, no interval)"
    interval = f"95 % interval {signed(100 * row['difference_low'])} to {signed(100 * row['difference_high'])}"
    if math.isnan(row["p_holm"]):
        return f"{text} ({interval}; equal in all seeds, not testable)"
    return f"{text} ({interval}, Holm-adjusted {_p(row['p_holm'])})"


def _verdict(row: Mapping[str, Any]) -> str:
    """Write the difference and what it allows to say."""
    said = {
        "raises": "this raises the accuracy",
        "lowers": "this lowers the accuracy",
        "no difference": "no difference, the interval lies within 1 point",
        "undecided": "undecided",
        "not compared": "",
    }[judge(row)]
    return _compared(row) + (f": {said}" if said else "")


def _called(row: Mapping[str, Any]) -> str:
    """Name a cell: by transformation and strength where it has one."""
    kind = row.get("transformation")
    if not isinstance(kind, str) or not kind:
        return str(row["cell"])
    strength = row.get("strength", math.nan)
    return kind if math.isnan(strength) else f"{kind} {strength:g}"


def _named(rows: Sequence[Mapping[str, Any]], with_mechanism: bool = False) -> str:
    """List cells with their differences in points."""
    names = [
        f"{row['mechanism']} {_called(row)}" if with_mechanism and row.get("mechanism") else _called(row)
        for row in rows
    ]
    return _listed([f"{name} ({signed(100 * row['difference'])})" for name, row in zip(names, rows, strict=True)])


def budget_of(rows: pd.DataFrame) -> str:
    """Say how many seeds and images are behind the figures of a study."""
    seeds = _range(rows, "num_seeds")
    parts = [
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} per cell",
        f"{_range(rows, 'num_images')} test images",
    ]
    if trained := _range(rows, "num_training_images"):
        batches = _range(rows, "batch_size")
        parts.append(f"{trained} training images" + (f" in batches of {batches}" if batches else ""))
    if steps := _range(rows, "distillation_steps"):
        parts.append(f"{steps} distillation steps")
    return ", ".join(parts)


def is_reference(rows: pd.DataFrame) -> pd.Series:
    """Tell which rows are references."""
    return rows["cell"] == rows["reference"]


def references_of(rows: pd.DataFrame) -> str:
    """Name the references and their accuracy."""
    told = []
    for name in dict.fromkeys(rows["reference"]):
        own = rows[rows["cell"] == name]
        told.append(f"{name}, {_percent(own['mean_accuracy'].iloc[0])}" if len(own) else f"{name}, missing")
    if len(told) > 2:
        return f"{len(told)} references, one per group of cells"
    return ("reference: " if len(told) == 1 else "references: ") + "; ".join(told)


def named_ratio(value: float) -> str:
    """Name the number of counterfactuals per shape; NaN has no fixed one."""
    return "fresh shapes" if math.isnan(value) else f"{value:g} per shape"


def named_size(value: float) -> str:
    """Name the size of a training set; NaN has none."""
    return "unlimited" if math.isnan(value) else f"{value:,.0f}"


def loss_group_of(losses: str) -> str:
    """Return `all`, `without`, `only` or `T`, empty for anything else."""
    word = losses.partition(" ")[0]
    return word if word in LOSS_GROUPS else ""


def write_findings(
    summary: pd.DataFrame, cells: pd.DataFrame, failures: pd.DataFrame | None = None, split: str = "test"
) -> Findings:
    """Say in sentences what each study found, from its figures alone.

    Nothing is said to raise or to lower the accuracy unless its Holm-adjusted p is below 0.05.

    Args:
        summary: What `summarise_cells` returns.
        cells: What it was made of: a row per study, cell, seed, split and subset.
        failures: Rows with `study`, `cell`, `seed`, `error`; none is the same as empty.
        split: Which split is spoken of.

    Returns:
        Title and sentences of every study that was measured or failed.
    """
    if failures is None or failures.empty:
        failures = pd.DataFrame(columns=["study", "cell", "seed", "error"])
    present = {*(summary["study"] if len(summary) else ()), *failures["study"]}
    findings = []
    for study in [*TITLE_OF, *sorted(present - set(TITLE_OF))]:
        if study not in present:
            continue
        rows = part_of(summary, study, split)
        if rows.empty:
            sentences = [f"No cell of this study was measured on the split '{split}'."]
        else:
            sentences = [
                f"Split '{split}', {budget_of(rows)}; {references_of(rows)}.",
                *_missing_references(rows),
                *_WRITERS.get(study, _write_comparisons)(rows, part_of(cells, study, split)),
            ]
        findings.append((TITLE_OF.get(study, study), sentences + _failed(failures[failures["study"] == study])))
    return findings


def findings_as_markdown(findings: Findings, summary: pd.DataFrame) -> str:
    """Write findings as Markdown, each study followed by a table of its cells, all images of every split."""
    study_of = {TITLE_OF.get(study, study): study for study in (summary["study"] if len(summary) else ())}
    lines = ["# What the ablation found", ""]
    for title, sentences in findings:
        lines += [f"## {title}", "", *(f"- {sentence}" for sentence in sentences), ""]
        if title in study_of:
            lines += _table(summary[(summary["study"] == study_of[title]) & (summary["subset"] == "all")])
    return "\n".join(lines)


def _table(rows: pd.DataFrame) -> list[str]:
    """Write cells as a Markdown table, in percent and points."""
    names = ["cell", "split", "accuracy", "95 % interval", "difference", "its interval", "p (Holm)", "g", "seeds"]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in records_of(rows):
        entries = [
            str(row["cell"]).replace("|", "\\|"),
            str(row["split"]),
            _percent(row["mean_accuracy"]),
            _between(f"{100 * row['interval_low']:.1f}", f"{100 * row['interval_high']:.1f}"),
            _dash(signed(100 * row["difference"])),
            _between(signed(100 * row["difference_low"]), signed(100 * row["difference_high"])),
            _dash(f"{row['p_holm']:.3g}"),
            _dash(signed(row["effect_size"], 2)),
            str(int(row["num_seeds"])),
        ]
        lines.append("| " + " | ".join(entries) + " |")
    return [*lines, ""]


def _dash(text: str) -> str:
    return "–" if "nan" in text else text


def _between(low: str, high: str) -> str:
    return "–" if "nan" in low else f"{low} to {high}"


def _failed(failures: pd.DataFrame) -> list[str]:
    """Name the trainings that failed."""
    if failures.empty:
        return []
    told = "; ".join(f"{row['cell']}, seed {row['seed']}: {row['error']}" for row in records_of(failures))
    return [f"{_count(len(failures), 'training')} failed and {'is' if len(failures) == 1 else 'are'} left out: {told}."]


def _missing_references(rows: pd.DataFrame) -> list[str]:
    """Name the references that are not there, and what therefore is not compared."""
    sentences = []
    for name in dict.fromkeys(rows["reference"]):
        if name not in set(rows["cell"]):
            left = _listed([str(cell) for cell in rows.loc[rows["reference"] == name, "cell"]])
            sentences.append(f"The reference '{name}' is missing, so there is no difference for {left}.")
    return sentences


def _ranked(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the cells that were compared, the largest gain first."""
    rows = rows[~is_reference(rows)].dropna(subset=["difference"])
    return records_of(rows.sort_values("difference", ascending=False, kind="stable"))


def _judged(rows: Sequence[dict[str, Any]], verdict: str) -> list[dict[str, Any]]:
    return [row for row in rows if judge(row) == verdict]


def _write_comparisons(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    """Give every cell's difference to its reference."""
    return [f"{row['cell']} against {row['reference']}: {_verdict(row)}." for row in _ranked(rows)]


def _adjusted(comparisons: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Drop comparisons without a pair, and adjust the p of the others over all of them."""
    kept = {name: found for name, found in comparisons.items() if found["num_pairs"]}
    adjusted = holm([found["p_value"] for found in kept.values()])
    return {name: found | {"p_holm": float(p)} for (name, found), p in zip(kept.items(), adjusted, strict=True)}


def _values(cells: pd.DataFrame, cell: str, name: str = "accuracy") -> pd.Series:
    """Return one column of a cell by seed; empty where it has none."""
    own = cells[cells["cell"] == cell]
    return pd.Series(own[name].to_numpy(dtype=float), index=own["seed"].to_numpy())


def _write_transformations(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    ranked = _ranked(rows)
    if not ranked:
        return []
    counts = {word: len(_judged(ranked, word)) for word in ("raises", "lowers", "no difference", "undecided")}
    total = (
        f"Of {_count(len(ranked), 'composition')}, {counts['raises']} raise the accuracy, {counts['lowers']} lower "
        f"it, {counts['no difference']} make no difference (interval within 1 point) and {counts['undecided']} are "
        "undecided."
    )
    sentences = [total]
    for mechanism in dict.fromkeys([*MECHANISMS, *(row["mechanism"] for row in ranked)]):
        own = [row for row in ranked if row["mechanism"] == mechanism]
        if not own:
            continue
        name = str(mechanism or "whole composition").capitalize()
        if len(own) == 1:
            sentences.append(f"{name}, {_called(own[0])}: {_verdict(own[0])}.")
            continue
        sentences.append(f"{name}, best: {_called(own[0])}, {_verdict(own[0])}.")
        sentences.append(f"{name}, worst: {_called(own[-1])}, {_verdict(own[-1])}.")
        if same := _judged(own, "no difference"):
            sentences.append(f"{name}, no difference: {_named(same)}.")
        if unsure := _judged(own, "undecided"):
            sentences.append(f"{name}, undecided: {_named(unsure)}.")
    return sentences + _against_paper(ranked)


def _is_in_paper(row: Mapping[str, Any]) -> bool:
    """Tell whether the SKDCGN paper tried this: noise, opacity 0.75 or rotation on the shape."""
    kind, strength = row["transformation"], row["strength"]
    tried = kind in ("gaussian_noise", "rotation") or (kind == "opacity" and strength == 0.75)
    return row["mechanism"] == "shape" and tried


def _against_paper(ranked: Sequence[dict[str, Any]]) -> list[str]:
    """Hold transformations against what the SKDCGN paper expects of them."""
    tried = [row for row in ranked if _is_in_paper(row)]
    others = _judged([row for row in ranked if not _is_in_paper(row)], "raises")
    sentences = []
    if tried:
        lower = _judged(tried, "lowers")
        outcomes = {
            "In line": [row for row in lower if row["difference_high"] >= -SLIGHT],
            "Contradicted, raises the accuracy": _judged(tried, "raises"),
            f"Contradicted, lowers it by more than {100 * SLIGHT:g} points": [
                row for row in lower if row["difference_high"] < -SLIGHT
            ],
            "Contradicted, no difference": _judged(tried, "no difference"),
            "Undecided": _judged(tried, "undecided"),
        }
        told = " ".join(f"{word}: {_named(own)}." for word, own in outcomes.items() if own)
        sentences.append(
            "The SKDCGN paper expects noise, opacity 0.75 and rotation on the shape mechanism to lower the accuracy "
            f"slightly, and none of them to help. {told}"
        )
    if others:
        told = _named(others, with_mechanism=True)
        sentences.append(f"Beyond what the SKDCGN paper tried, these raise the accuracy: {told}.")
    return sentences


def _write_mechanisms(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    ordered = records_of(rows.sort_values("mean_accuracy", ascending=False, kind="stable"))
    best, worst = ordered[0], ordered[-1]
    sentences = [
        f"{word}, counterfactual {row['counterfactual']}: {_percent(row['mean_accuracy'])}"
        + (f", {_verdict(row)}." if row["cell"] != row["reference"] else ", the reference.")
        for word, row in (("Highest", best), ("Lowest", worst))
    ][: len(ordered)]
    effects = records_of(factorial_effects(cells)) if len(cells) else []
    if not effects:
        return [*sentences, "Main effects need all eight combinations of at least one seed; they are not all there."]
    for effect in effects:
        name, verdict = effect["effect"], _verdict(effect)
        if effect["order"] == 1:
            sentences.append(f"Making {name} counterfactual, averaged over the other two: {verdict}.")
    sentences.append(_interactions([effect for effect in effects if effect["order"] > 1]))
    return sentences


def _interactions(effects: Sequence[dict[str, Any]]) -> str:
    """Say which mechanisms need or hinder each other."""
    told = [
        f"{effect['effect']} {_compared(effect)}"
        + (", more together" if effect["difference"] > 0 else ", less together")
        for effect in effects
        if judge(effect) in ("raises", "lowers")
    ]
    rest = [str(effect["effect"]) for effect in effects if judge(effect) not in ("raises", "lowers")]
    parts = [f"Interactions: {'; '.join(told)}." if told else "No interaction is significant."]
    if told and rest:
        parts.append(f"Not significant: {_listed(rest)}.")
    return " ".join(parts)


def _write_counts(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    sentences = []
    for what, column, write in (("dataset size", "dataset_size", named_size), ("ratio", "per_shape", named_ratio)):
        values = sorted(rows[column].unique(), key=lambda value: (math.isnan(value), value))
        if len(values) > 1:
            means = [rows.loc[_equal(rows[column], value), "mean_accuracy"].mean() for value in values]
            told = ", ".join(f"{write(value)} {_percent(mean)}" for value, mean in zip(values, means, strict=True))
            sentences.append(f"Mean accuracy by {what}: {told}.")
    sizes, ratios = rows["dataset_size"].dropna(), rows["per_shape"].dropna()
    asked: dict[str, dict[str, float]] = {}
    if sizes.nunique() > 1:
        asked["size"] = _contrast(cells, "dataset_size", sizes.max(), sizes.min())
    if len(sizes) and rows["dataset_size"].isna().any():
        asked["unlimited"] = _contrast(cells, "dataset_size", math.nan, sizes.max())
    if ratios.nunique() > 1:
        asked["ratio"] = _contrast(cells, "per_shape", ratios.max(), ratios.min())
    found = _adjusted(asked)
    if "size" in found:
        most, fewest = named_size(sizes.max()), named_size(sizes.min())
        text = f"{most} instead of {fewest} images, at equal ratios: {_verdict(found['size'])}."
        sentences.append(text + _expected_to_matter(found["size"]))
    if "unlimited" in found:
        sentences.append(f"Unlimited instead of {named_size(sizes.max())} images: {_verdict(found['unlimited'])}.")
    if "ratio" in found:
        text = f"{ratios.max():g} instead of {ratios.min():g} per shape, at equal sizes: {_verdict(found['ratio'])}."
        sentences.append(text + _expected_barely_to_matter(found["ratio"]))
    return sentences


def _equal(values: pd.Series, value: float) -> pd.Series:
    return values.isna() if math.isnan(value) else values == value


def _contrast(cells: pd.DataFrame, column: str, high: float, low: float) -> dict[str, float]:
    """Compare two values of a column seed by seed, averaged over the values of the other that both have.

    Without a common value of the other (unlimited sets have no ratio), the means of each seed are compared.
    """
    other = "per_shape" if column == "dataset_size" else "dataset_size"
    filled = cells.assign(**{other: cells[other].fillna(math.inf)})  # as an index, NaN would equal nothing
    own, reference = (
        filled[_equal(filled[column], value)].groupby(["seed", other])["accuracy"].mean() for value in (high, low)
    )
    if set(own.index) & set(reference.index):
        differences = (own - reference).dropna().groupby("seed").mean()
        return compare_pairs(differences, differences * 0)
    return compare_pairs(own.groupby("seed").mean(), reference.groupby("seed").mean())


def _expected_to_matter(found: Mapping[str, Any]) -> str:
    """Hold the gain by a larger dataset against CGN's expectation."""
    verdict = judge(found)
    outcome = {"raises": "in line", "undecided": "undecided"}.get(verdict, "contradicted")
    return f" CGN expects the dataset size to matter: {outcome}."


def _expected_barely_to_matter(found: Mapping[str, Any]) -> str:
    """Hold the gain by another ratio against CGN's expectation."""
    low, high = found["difference_low"], found["difference_high"]
    if low > -MARGIN and high < MARGIN:
        outcome = "in line, within 1 point"
    elif judge(found) in ("raises", "lowers") and (low > MARGIN or high < -MARGIN):
        outcome = "contradicted, more than 1 point"
    else:
        outcome = "undecided"
    return f" CGN expects the ratio barely to matter: {outcome}."


def _write_mixing(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    shares = rows.dropna(subset=["originals_share"]).sort_values("originals_share", kind="stable")
    several = shares["source"].nunique() > 1
    told = [
        f"{100 * row['originals_share']:g} % {_percent(row['mean_accuracy'])}"
        + (f" ({row['source']})" if several else "")
        for row in records_of(shares)
    ]
    sentences = [f"Accuracy by share of originals: {', '.join(told)}."] if told else []
    ranked = _ranked(rows)
    if not ranked:
        return sentences
    sentences += _best_and_worst("mixture", ranked)
    if same := _judged(ranked, "no difference"):
        sentences.append(f"No difference: {_named(same)}.")
    if unsure := _judged(ranked, "undecided"):
        sentences.append(f"Undecided: {_named(unsure)}.")
    share_of = dict(zip(rows["cell"], rows["originals_share"], strict=True))
    more = [row for row in ranked if row["originals_share"] > share_of.get(row["reference"], math.nan)]
    if more:
        outcomes = {
            "in line": _judged(more, "lowers"),
            "contradicted": _judged(more, "raises") + _judged(more, "no difference"),
            "undecided": _judged(more, "undecided"),
        }
        found = "; ".join(f"{word} {_named(own)}" for word, own in outcomes.items() if own)
        sentences.append(f"CGN expects more originals to hurt: {found}.")
    return sentences


def _best_and_worst(what: str, ranked: Sequence[dict[str, Any]]) -> list[str]:
    """Give the first and the last of ranked cells."""
    ends = {"Best": ranked[:1], "Worst": ranked[1:][-1:]}
    return [f"{word} {what}: {row['cell']}, {_verdict(row)}." for word, rows in ends.items() for row in rows]


def _write_losses(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    ranked = _ranked(rows)
    grouped = {group: [row for row in ranked if loss_group_of(str(row["losses"])) == group] for group in LOSS_GROUPS}
    sentences = []
    without = grouped["without"]
    if without:
        sentences.append(f"The removal that costs most accuracy is {without[-1]['cell']}: {_verdict(without[-1])}.")
    if len(without) > 1:
        sentences.append(f"The removal that costs least is {without[0]['cell']}: {_verdict(without[0])}.")
    if same := _judged(without, "no difference"):
        sentences.append(f"No difference by removal: {_named(same)}.")
    if unsure := _judged(without, "undecided"):
        sentences.append(f"Undecided removals: {_named(unsure)}.")
    sentences += _cost_in_iou(without, cells)
    for group, what in (("only", "single term"), ("T", "temperature")):
        sentences += _best_and_worst(what, grouped[group])
    return sentences


def _cost_in_iou(rows: Sequence[dict[str, Any]], cells: pd.DataFrame) -> list[str]:
    """Say whose removal costs most and least mask IoU, seed by seed."""
    found = _adjusted(
        {
            str(row["cell"]): compare_pairs(
                _values(cells, row["cell"], "mask_iou"), _values(cells, row["reference"], "mask_iou")
            )
            for row in rows
        }
    )
    if not found:
        return []
    order = sorted(found, key=lambda name: found[name]["difference"])

    def told(name: str) -> str:
        row = found[name]
        text = f"{name} ({signed(row['difference'], 3)}"
        if math.isnan(row["p_holm"]):
            return f"{text})"
        interval = f"{signed(row['difference_low'], 3)} to {signed(row['difference_high'], 3)}"
        return f"{text}, 95 % interval {interval}, Holm-adjusted {_p(row['p_holm'])})"

    least = f", least by {told(order[-1])}" if len(order) > 1 else ""
    return [f"The mask IoU is changed most by {told(order[0])}{least}."]


def _write_size(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    sized = rows.dropna(subset=["num_parameters"]).sort_values("num_parameters", kind="stable")
    students, teachers = sized[sized["source"] != "teacher"], sized[sized["source"] == "teacher"]
    if students.empty:
        return ["No students with a number of parameters are there."]
    sentences = []
    if len(students) > 1:
        small, large = records_of(students)[0], records_of(students)[-1]
        sentences.append(
            f"From {_parameters(small)} to {_parameters(large)}, the accuracy goes from "
            f"{_percent(small['mean_accuracy'])} to {_percent(large['mean_accuracy'])}."
        )
    targets = {"the largest students": students.iloc[[-1]]} if len(students) > 1 else {}
    if len(teachers):
        targets["the teacher"] = teachers.iloc[[-1]]
    for what, target in targets.items():
        goal = records_of(target)[0]
        near = students[students["mean_accuracy"] >= goal["mean_accuracy"] - MARGIN]
        text = f"{what}, {_parameters(goal)} and {_percent(goal['mean_accuracy'])}"
        if near.empty:
            sentences.append(f"No students are within 1 point of {text}.")
            continue
        chosen = records_of(near)[0]
        if chosen["cell"] == goal["cell"]:
            sentences.append(f"No smaller students are within 1 point of {text}.")
            continue
        found = compare_pairs(_values(cells, chosen["cell"]), _values(cells, goal["cell"]))
        sentences.append(
            f"The smallest students within 1 point of {text}, are {chosen['cell']} with {_parameters(chosen)} and "
            f"{_percent(chosen['mean_accuracy'])}: {_surely(found)}."
        )
    return sentences + _against_reference(rows)


def _against_reference(rows: pd.DataFrame) -> list[str]:
    ranked = _ranked(rows)
    told = [
        f"{word}: {_named(own)}"
        for word in ("raises", "lowers", "no difference", "undecided")
        if (own := _judged(ranked, word))
    ]
    return [f"Against the reference: {'; '.join(told)}."] if told else []


def _surely(found: Mapping[str, float]) -> str:
    """Say how sure it is that a difference is above minus one point."""
    if math.isnan(found["difference_low"]):
        return "too few seeds in common for an interval of the difference"
    low, high = (signed(100 * found[f"difference_{end}"]) for end in ("low", "high"))
    text = f"difference {signed(100 * found['difference'])} points, 95 % interval {low} to {high}"
    return text + ("" if found["difference_low"] > -MARGIN else ", so a larger loss is not excluded")


def _parameters(row: Mapping[str, Any]) -> str:
    number = row.get("num_parameters", math.nan)
    return "an unknown number of parameters" if math.isnan(number) else f"{number:,.0f} parameters"


def _write_source(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    sentences = _write_comparisons(rows, cells)
    effects = factorial_effects(cells, "source") if len(cells) else pd.DataFrame()
    if len(effects):
        how = "averaged over who draws the others"
        swaps = {str(row["effect"]): row for row in records_of(effects[effects["order"] == 1])}
    else:
        how = "the others as they are"
        swaps = _swaps(rows, cells)
    if not swaps:
        return sentences
    order = sorted(swaps, key=lambda name: swaps[name]["difference"])
    sentences += [
        f"{name.capitalize()} by a student instead of the teacher, {how}: {_verdict(swaps[name])}." for name in order
    ]
    first = swaps[order[0]]
    if judge(first) == "lowers":
        sentences.append(f"Most is lost by distilling the {order[0]} mechanism ({signed(100 * first['difference'])}).")
    else:
        sentences.append("No mechanism is shown to lose by distillation.")
    return sentences


def _swaps(rows: pd.DataFrame, cells: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Compare a student with the teacher in one mechanism alone: the others by the teacher, or else by students."""
    cell_of: dict[frozenset[str] | None, str] = {}
    for cell, source in zip(rows["cell"], rows["source"], strict=True):
        cell_of.setdefault(student_mechanisms(str(source)), str(cell))
    found = {}
    for name in MECHANISMS:
        alone, every = frozenset({name}), frozenset(MECHANISMS)
        for own, reference in ((alone, frozenset[str]()), (every, every - alone)):
            if own in cell_of and reference in cell_of:
                found[name] = compare_pairs(_values(cells, cell_of[own]), _values(cells, cell_of[reference]))
                break
    return _adjusted(found)


def _write_stage(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    sentences = _write_comparisons(rows, cells)
    asked = {}
    keys = ["mechanism", "transformation", "strength"]
    for _, group in rows.groupby(keys, sort=False, dropna=False):
        stages = {row["stage"]: row for row in records_of(group)}
        if {"compose", "teacher"} <= set(stages):
            own, other = stages["teacher"], stages["compose"]
            if own["reference"] == other["cell"]:
                continue  # has been said above
            name = f"{own['mechanism']} {_called(own)}" if own["transformation"] else str(own["cell"])
            asked[name] = compare_pairs(_values(cells, own["cell"]), _values(cells, other["cell"]))
    found = _adjusted(asked)
    sentences += [
        f"{name}, in the teacher's training instead of composing: {_verdict(row)}." for name, row in found.items()
    ]
    return sentences + _against_paper([row for row in _ranked(rows) if row["stage"] == "teacher"])


def _write_monolith(rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    by_name = {row["cell"]: row for row in records_of(rows)}
    sentences = [
        f"{row['cell']}: {_percent(row['mean_accuracy'])} with {_parameters(row)}." for row in by_name.values()
    ]
    for row in _ranked(rows):
        other = by_name[row["reference"]]
        single = "monolith" in str(row["source"])
        if single == ("monolith" in str(other["source"])):
            sentences.append(f"{row['cell']} against {row['reference']}: {_verdict(row)}.")
            continue
        # Always three mechanisms minus one network, whichever of the two is the reference.
        worth = _negated(row) if single else row
        whole, one = (other, row) if single else (row, other)
        sentences.append(
            f"What decomposition is worth, {whole['cell']} ({_parameters(whole)}) minus {one['cell']} "
            f"({_parameters(one)}): {_verdict(worth)}."
        )
    return sentences


def _negated(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison the other way round."""
    turned = {"difference": "difference", "difference_low": "difference_high", "difference_high": "difference_low"}
    return dict(row) | {name: -row[source] for name, source in turned.items()}


_WRITERS: dict[str, Callable[[pd.DataFrame, pd.DataFrame], list[str]]] = {
    "transformations": _write_transformations,
    "mechanisms": _write_mechanisms,
    "counts": _write_counts,
    "mixing": _write_mixing,
    "losses": _write_losses,
    "size": _write_size,
    "source": _write_source,
    "stage": _write_stage,
    "monolith": _write_monolith,
}
