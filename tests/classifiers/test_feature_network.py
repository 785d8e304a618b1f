"""The feature network is a classifier of digits in random colours."""

from __future__ import annotations

from skdcgn_pipeline.artifacts.recipe import Run, Store
from skdcgn_pipeline.classifiers.feature_network import fit_feature_network
from skdcgn_pipeline.parameters import ClassifierFit, Prepare
from tiny import build_biased_images


def test_the_feature_network_learns_from_the_randomised_split_and_is_built_once(tmp_path, cpu):
    fit = ClassifierFit(num_images=32, batch_size=16)
    images = build_biased_images(tmp_path / "images", "absent", Prepare(feature_network=fit), "double_colored", 0)
    first = fit_feature_network(Run(Store(tmp_path), 0, cpu), images, fit)
    assert first.artifact.inputs["data"]["split"] == "randomised"
    network = first.open()
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    modified = first.artifact.path("classifier.safetensors").stat().st_mtime_ns
    again = fit_feature_network(Run(Store(tmp_path), 0, cpu), images, fit)
    assert again.artifact.path("classifier.safetensors").stat().st_mtime_ns == modified
