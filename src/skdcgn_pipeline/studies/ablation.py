"""The composition study: change one thing in the composition, train classifiers, compare."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.data.images import BiasedImages
from skdcgn_pipeline.data.pools import CounterfactualPool
from skdcgn_pipeline.data.samples import SampleShards
from skdcgn_pipeline.metrics.accuracy import mean_interval, summarise_accuracy
from skdcgn_pipeline.parameters import Ablation, Composition, Compute, Counterfactual, Transformations
from skdcgn_pipeline.studies.classification import counterfactuals_on_the_fly, splits_of, train_and_measure
from skdcgn_pipeline.vocabulary import MECHANISMS

REFERENCE = "reference"


@dataclass(frozen=True)
class Cell:
    """One composition of the study.

    Attributes:
        name: What tables and figures call it.
        composition: How its counterfactuals are composed.
    """

    name: str
    composition: Composition


def expand_cells(settings: Ablation, base: Composition) -> list[Cell]:
    """Return the cells of the study, the reference first.

    The reference is the base composition. Each transformation is added to the base in a cell of its
    own. The combinations make each mechanism factual or counterfactual; the one that equals the base
    is the reference and not repeated.
    """
    cells = [Cell(REFERENCE, base)]
    for mechanism in MECHANISMS:
        for transformation in getattr(settings.transformations, mechanism):
            own = {m: getattr(base.transformations, m) for m in MECHANISMS}
            own[mechanism] = (*own[mechanism], transformation)
            composition = base.model_copy(update={"transformations": Transformations(**own)})
            cells.append(Cell(f"{mechanism} {transformation.kind} {transformation.strength:g}", composition))
    if settings.combinations:
        for flags in product((True, False), repeat=len(MECHANISMS)):
            counterfactual = Counterfactual(**dict(zip(MECHANISMS, flags, strict=True)))
            if counterfactual == base.counterfactual:
                continue
            free = [m for m, flag in zip(MECHANISMS, flags, strict=True) if flag]
            name = f"counterfactual {' + '.join(free)}" if free else "all factual"
            cells.append(Cell(name, base.model_copy(update={"counterfactual": counterfactual})))
    return cells


CellScope = Callable[[Cell], AbstractContextManager[Callable[[pd.DataFrame], None]]]


def run_ablation(
    store: Path,
    samples: SampleShards,
    biased_images: BiasedImages,
    settings: Ablation,
    base: Composition,
    seed: int,
    compute: Compute,
    cell_scope: CellScope,
) -> pd.DataFrame:
    """Train and measure the classifiers of every cell; finished ones are reused.

    Args:
        store: Directory of classifiers.
        samples: The pool.
        biased_images: Where the unbiased splits come from.
        settings: The grid and the budget.
        base: The reference composition.
        seed: Base seed.
        compute: Device and precision.
        cell_scope: Entered around each cell; gives a function that is told the cell's accuracy.

    Returns:
        Rows with `cell`, `seed`, `split`, `subset`, `accuracy`, `num_images`.
    """
    splits = splits_of(biased_images)
    pool = cache(lambda: CounterfactualPool.of(samples))
    parts = []
    for cell in expand_cells(settings, base):
        with cell_scope(cell) as tell:
            training_set = counterfactuals_on_the_fly(cell.name, samples, cell.composition, pool)
            accuracy = train_and_measure(
                store, training_set, biased_images, splits, settings.fit, settings.num_seeds, seed, compute
            )
            tell(accuracy)
        parts.append(accuracy.rename(columns={"trained_on": "cell"}))
    return pd.concat(parts, ignore_index=True)


def summarise_ablation(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Summarise cells over seeds and compare each with the reference, seed by seed.

    Returns:
        The columns of `summarise_accuracy` for all images, and the mean paired difference to the
        reference, `difference`, with its 95 % interval `difference_low` to `difference_high` (NaN for
        the reference itself).
    """
    accuracy = accuracy[accuracy["subset"] == "all"]
    summary = summarise_accuracy(accuracy, ["cell", "split"])
    seeds: Any = {key: group.set_index("seed")["accuracy"] for key, group in accuracy.groupby(["cell", "split"])}
    differences = []
    for row in summary.itertuples():
        own, reference = seeds[row.cell, row.split], seeds[REFERENCE, row.split]
        mean, _, half_width = mean_interval((own - reference).to_numpy())
        if row.cell == REFERENCE:
            half_width = np.nan  # no interval: it is compared with itself
        differences.append((mean, mean - half_width, mean + half_width))
    columns = ["difference", "difference_low", "difference_high"]
    return summary.join(pd.DataFrame(differences, columns=columns, index=summary.index))
