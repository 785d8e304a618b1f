"""Who draws which mechanism, teacher or students."""

from __future__ import annotations

from itertools import product

import pandas as pd

from skdcgn_pipeline.metrics.statistics import factorial_effects, judge
from skdcgn_pipeline.parameters import Ablation
from skdcgn_pipeline.studies.contract import Cell, SourceName, Sources, Students, Study
from skdcgn_pipeline.studies.words import Row, adjusted, compare_cells, compared_with_reference, signed, verdict_of
from skdcgn_pipeline.vocabulary import MECHANISMS


class SourceStudy(Study):
    """Teacher's and students' mechanisms in all mixtures; the reference is the teacher."""

    name = "source"
    title = "Who draws which mechanism"

    def cells(self, settings: Ablation, students: Students) -> list[Cell]:
        """Return the eight mixtures."""
        names: tuple[SourceName, SourceName] = ("teacher", "students")
        mixtures = [Sources(*mixture) for mixture in product(names, repeat=3)]
        return [self.cell(settings, str(sources), "teacher", sources=sources) for sources in mixtures]

    def claims(self, rows: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
        """Say what it costs to let a student draw each mechanism."""
        effects = factorial_effects(cells, self.name, "students", "teacher")
        how = "averaged over who draws the others" if len(effects) else "the others as they are"
        main = effects[effects["order"] == 1].to_dict("records")
        swaps: dict[str, Row] = {row["effect"]: row for row in main} or _swaps(rows, cells)
        order = sorted(swaps, key=lambda name: swaps[name]["difference"])
        sentences = compared_with_reference(rows) + [
            f"{name.capitalize()} by a student instead of the teacher, {how}: {verdict_of(swaps[name])}."
            for name in order
        ]
        if order and judge(most := swaps[order[0]]) == "lowers":
            lost = signed(100 * most["difference"])
            sentences.append(f"Most is lost by distilling the {order[0]} mechanism ({lost}).")
        elif order:
            sentences.append("No mechanism is shown to lose by distillation.")
        return sentences


def _swaps(rows: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Row]:
    """Compare a student with the teacher in one mechanism alone: the others by the teacher, or else by students."""
    columns = [f"source_{mechanism}" for mechanism in MECHANISMS]
    cell_of = dict(zip(rows[columns].itertuples(index=False, name=None), rows["cell"], strict=True))
    comparisons = {}
    for mechanism in MECHANISMS:
        for others in ("students", "teacher"):
            student, teacher = (
                cell_of.get(tuple(name if m == mechanism else others for m in MECHANISMS))
                for name in ("students", "teacher")
            )
            if student and teacher:
                comparisons[mechanism] = compare_cells(cells, student, teacher)
    return dict(adjusted(comparisons))
