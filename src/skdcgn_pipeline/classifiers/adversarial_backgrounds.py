"""Objects on every background: ImageNet-9's backgrounds challenge (arXiv 2006.09994).

An object is cut out by its mask and put on each of many backgrounds, those of its own class too; it counts where it is
recognised on all of them, so that the most adversarial one decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from skdcgn_pipeline.classifiers.accuracy import (
    EVERY_BACKGROUND,
    Row,
    batch_size_for,
    open_predictor,
    predictions_of,
    subset_of,
    tell_correct,
)
from skdcgn_pipeline.images.image_set import ClassGroups, Split
from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.progress import Progress
from skdcgn_pipeline.samples.pixels import decode_images, from_bytes


def count_robust(
    classifier: nn.Module, objects: Split, backgrounds: Callable[[], Tensor], groups: ClassGroups, compute: Compute
) -> dict[str, int]:
    """Count the objects that a classifier recognises on every background.

    An object that is mistaken once is put on no further background; those that deceived most often come first.

    Args:
        classifier: Gives logits [N, K], or `MechanismLogits`.
        objects: Images with masks.
        backgrounds: Gives [M, 3, S, S] uint8, at least one; they are kept on the device.
        groups: As in `accuracy.measure_predictions`.
        compute: Device and precision.

    Returns:
        The number of objects by prediction, such as `all heads` or `shape head`.

    Raises:
        SettingError: If labels or groups are of other classes.
        InterruptedRunError: If a stop was requested.
    """
    predict, device = open_predictor(classifier, compute), choose_device(compute.device)
    scenes, size = backgrounds().to(device), batch_size_for(objects)
    robust, times_deceiving = Counter[str](), torch.zeros(len(scenes), dtype=torch.long)
    progress = Progress("objects on every background", len(objects), "objects")
    assert objects.masks is not None
    for row in torch.arange(len(objects)).split(1):
        mask = decode_images("shape", objects.masks.take(row).to(device))
        foreground, deceived = from_bytes(objects.rows.take(row).to(device)), set[str]()
        for chosen in times_deceiving.argsort(descending=True, stable=True).split(size):
            shape = len(chosen), -1, -1, -1
            behind = from_bytes(scenes[chosen.to(device)])
            images = compose(MechanismImages(mask.expand(shape), foreground.expand(shape), behind))
            predictions, object_of = predictions_of(predict(images)), objects[row.expand(len(chosen))]
            for name, logits in predictions.items():
                wrong = ~tell_correct(logits, object_of, groups)
                times_deceiving[chosen] += wrong
                deceived |= {name} if wrong.any() else set()
            if len(deceived) == len(predictions):
                break
        robust.update({name: int(name not in deceived) for name in predictions})
        progress.advance_or_stop()
    progress.finish()
    return dict(robust)


def robust_rows(counts: Sequence[Mapping[str, int]], number: int) -> list[Row]:
    """Return the rows of what `count_robust` gives of several parts of a number of objects."""
    return [
        {
            "subset": subset_of(EVERY_BACKGROUND, name),
            "accuracy": sum(count[name] for count in counts) / number,
            "num_images": number,
        }
        for name in counts[0]
    ]
