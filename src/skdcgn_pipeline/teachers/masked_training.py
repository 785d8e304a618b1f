"""Train a CGN on images with true masks: each mechanism learns what the mask tells of it.

The shape learns the masks, the texture what they show, continued beyond them, and the background what they hide,
filled in. An encoder finds the noise of each image (a variational autoencoder, arXiv 1312.6114), so that no image is
lost and the mechanisms of one noise belong together; images of fresh noise learn CGN's losses beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.images.inpainting import erode, fill_smoothly
from skdcgn_pipeline.losses.adversarial import least_squares_generator_loss
from skdcgn_pipeline.losses.mechanism import mask_entropy_loss, style_loss
from skdcgn_pipeline.mechanisms import MechanismImages
from skdcgn_pipeline.networks.vgg16 import ImageFeatures
from skdcgn_pipeline.runtime.compute import autocast, place
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.samples.pixels import decode_images
from skdcgn_pipeline.teachers.tasks import CGNTask, TeacherBatch

if TYPE_CHECKING:
    from skdcgn_pipeline.teachers.training import TeacherRecipe

EDGE = 1  # pixels at the edge of an object that are a mixture of both sides
UNSEEN = 0.3  # what a made-up pixel counts beside a true one


class NoiseEncoder(nn.Module):
    """Mean and log variance of the noise that an image is made of, given its mechanisms and its class.

    Args:
        noise_dim, num_classes, image_size: Of the generator; each layer halves the image, down to 4 to 7 pixels.
    """

    def __init__(self, noise_dim: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = 7, image_size
        while size >= 8:
            wide = min(64, 2 * channels) if layers else 32
            layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
            channels, size = wide, (size + 1) // 2
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.embedding = nn.Embedding(num_classes, num_classes)
        self.head = nn.Linear(channels * size**2 + num_classes, 2 * noise_dim)

    def forward(self, images: MechanismImages, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, [N, noise_dim] each."""
        features = self.trunk(torch.cat([images.mask, images.foreground, images.background], 1))
        mean, log_variance = self.head(torch.cat([features, self.embedding(labels)], 1)).float().chunk(2, 1)
        return mean, log_variance.clamp(-8, 4)


class MaskedTeacherTask(CGNTask):
    """Train a CGN on images with true masks, with factual labels; a `training.task.Task`.

    Each step renders a batch of real images from the noise that the encoder finds, which learn the three mechanisms:
    binary cross-entropy of masks, L1 of the others, in which made-up pixels count less. With `composite_weight`, as
    many of fresh noise learn to look real when composed (least-squares adversarial loss, style).
    """

    def __init__(self, recipe: TeacherRecipe, style_features: ImageFeatures) -> None:
        super().__init__(recipe, style_features, learnt_masks=True)
        split = recipe.images.split("train")
        assert split.masks is not None
        self.masks = split.masks.take(torch.arange(len(split)))
        with seeded(self.seed, "teacher-encoder-init"):
            encoder = NoiseEncoder(self.cgn.noise_dim, self.num_classes, self.image_size)
        self.encoder = self.objects["encoder"] = place(encoder, self.device, torch.channels_last).train()
        self.generator_optimiser.add_param_group({"params": [*self.encoder.parameters()]})
        for group in self.generator_optimiser.param_groups:
            group["lr"] = self.settings.masked.learning_rate
        self._rates = self._make_rates()

    def real_mechanisms(self, step: int, images: Tensor) -> MechanismImages:
        """Return the mechanisms of the real images [N, 3, S, S] of a step; what cannot be seen is made up smoothly."""
        rows = self._sampler.rows(step, len(images))
        mask = decode_images("shape", self.masks[rows]).to(self.device)
        seen = (erode(side, EDGE) for side in (mask > 0.5, mask <= 0.5))
        return MechanismImages(mask, *(fill_smoothly(images, known) for known in seen))

    def update(self, step: int, batch: TeacherBatch, noted: bool) -> dict[str, float]:
        """Update generators and encoder, and then the discriminator; see `Task.update`."""
        settings, masked, real = self.settings, self.settings.masked, self.real_mechanisms(step, batch.real)
        self._rates.set(step)
        spread = torch.randn(batch.noise.shape, generator=torch_generator(self.seed, "teacher-encoder", step))
        with autocast(self.compute, self.device):
            mean, log_variance = self.encoder(real, batch.real_labels)
            found = mean + spread.to(mean) * (0.5 * log_variance).exp()
            noise, labels = (found, batch.noise), (batch.real_labels, batch.labels)
            number = 2 if masked.composite_weight else 1
            images = self.cgn(torch.cat(noise[:number]), torch.cat(labels[:number]))
        learnt, fresh = images[: len(real)], images[len(real) :]
        inside = (real.mask > 0.5).float()
        terms = {
            "mask": F.binary_cross_entropy(learnt.mask, real.mask),
            "foreground": _known_difference(learnt.foreground, real.foreground, inside),
            "background": _known_difference(learnt.background, real.background, 1 - inside),
            "latent": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean(),
            "mask_entropy": mask_entropy_loss(images.mask),
        }
        weights = {
            **dict.fromkeys(("mask", "foreground", "background"), 1.0),
            "latent": masked.latent_weight,
            "mask_entropy": settings.mask_entropy_weight,
        }
        if masked.composite_weight:
            composite, scores, generated, style = self.judge(step, self.transform(fresh, step), batch)
            terms["adversarial"] = least_squares_generator_loss(scores)
            terms["style"] = style_loss(generated, style, settings.style_weights)
            weights |= dict.fromkeys(("adversarial", "style"), masked.composite_weight)
        losses = terms | {"total": self.update_generator(terms, weights), "mean_mask": images.mask.mean()}
        if masked.composite_weight:
            losses["discriminator"] = self.update_discriminator(step, composite, batch)
        return self.conclude(step, losses, noted)


def _known_difference(images: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Mean absolute difference in which pixels count by whether they are known, [N, 1, H, W] in {0, 1}."""
    weight = UNSEEN + (1 - UNSEEN) * known
    return ((images - targets).abs() * weight).mean() / weight.mean()
