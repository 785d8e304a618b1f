"""Torchvision's classifiers: any trunk, one head or three, frozen norms, weights from files."""

from __future__ import annotations

import socket
import sys

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torchvision import models, transforms

from skdcgn_pipeline.classifiers.torchvision_classifier import MechanismLogits, TorchvisionClassifier
from skdcgn_pipeline.parameters import ClassifierNetwork
from skdcgn_pipeline.runtime.errors import SettingError

TINY = "mobilenet_v3_small"


def network(
    architecture: str = TINY, num_classes: int = 4, heads: str = "mechanisms", **settings: object
) -> TorchvisionClassifier:
    return TorchvisionClassifier(ClassifierNetwork(architecture=architecture, heads=heads, **settings), num_classes)


def tiny(frozen_norm: str | None = "statistics", **settings: object) -> TorchvisionClassifier:
    torch.manual_seed(0)
    return network(frozen_norm=frozen_norm, **settings)


def images(num_images: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(num_images, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in module.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("architecture", "features"),
    [
        ("resnet50", 2048),
        ("convnext_tiny", 768),
        ("efficientnet_b0", 1280),
        ("mobilenet_v2", 1280),
        ("mobilenet_v3_small", 1024),
        ("densenet121", 1024),
        ("vit_b_16", 768),
        ("swin_t", 768),
    ],
)
def test_any_family_of_torchvision_becomes_a_trunk(architecture, features):
    # On the meta device: shapes without arithmetic.
    with torch.device("meta"):
        ensemble = network(architecture, 7).eval()
        logits = ensemble(torch.empty(2, 3, 224, 224))
    assert ensemble.feature_dim == features
    assert [tuple(head.shape) for head in logits] == [(2, 7)] * 3
    assert not [m for m in ensemble.trunk.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]


@pytest.mark.parametrize(("architecture", "found"), [("squeezenet1_0", 0), ("googlenet", 3)])
def test_an_architecture_without_one_last_linear_layer_is_refused(architecture, found):
    with pytest.raises(SettingError, match=rf"ends in one linear layer.*'{architecture}' with {found} of them.*ResNet"):
        network(architecture)


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'resnet50'"):
        network("resnet500")


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    network("resnet18", 3)


def test_means_are_of_all_heads_and_of_all_but_the_background():
    logits = MechanismLogits(torch.tensor([[3.0]]), torch.tensor([[6.0]]), torch.tensor([[30.0]]))
    values = {name: prediction.item() for name, prediction in logits.predictions.items()}
    assert values == {"": 13, "without background": 4.5, "shape head": 3, "texture head": 6, "background head": 30}


def test_one_head_gives_plain_logits():
    classifier = tiny(heads="class").eval()
    assert classifier(images()).shape == (2, 4)
    assert [*classifier.heads] == ["class"]


def test_the_trunk_sees_images_normalised_as_torchvision_does():
    ensemble = tiny().eval()
    ensemble.trunk = nn.Identity()
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(ensemble.features(images()), normalise((images() + 1) / 2))


def test_logits_are_those_of_the_torchvision_network(tmp_path):
    torch.manual_seed(1)
    reference = models.resnet18().eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    ensemble = tiny(
        num_classes=1000, architecture="resnet18", weights=str(tmp_path / "weights.pth"), heads_from_weights=True
    )
    ensemble = ensemble.load_weights().eval()
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = reference(normalise((images() + 1) / 2))
    for head in ensemble(images()):
        torch.testing.assert_close(head, expected)


def test_each_head_is_its_own(tmp_path):
    ensemble = tiny().eval()
    logits = ensemble(images())
    assert not torch.equal(logits.shape, logits.texture)
    with torch.no_grad():
        ensemble.heads["texture"].bias += 5
    changed = ensemble(images())
    assert torch.equal(changed.shape, logits.shape)
    assert torch.equal(changed.background, logits.background)
    torch.testing.assert_close(changed.texture, logits.texture + 5)


def test_heads_are_learnt_anew_unless_asked_otherwise(tmp_path):
    torch.save(models.mobilenet_v3_small().state_dict(), tmp_path / "weights.pth")
    ensemble = tiny(weights=str(tmp_path / "weights.pth"))
    before = {name: tensor.clone() for name, tensor in ensemble.heads.state_dict().items()}
    ensemble.load_weights()
    assert all(torch.equal(tensor, before[name]) for name, tensor in ensemble.heads.state_dict().items())


def test_the_trunk_is_loaded_from_safetensors_too(tmp_path):
    reference = models.mobilenet_v3_small()
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    ensemble = tiny(weights=str(tmp_path / "weights.safetensors")).load_weights()
    assert torch.equal(ensemble.trunk.features[0][0].weight, reference.features[0][0].weight)


# --- frozen norm ---------------------------------------------------------------------------------


def statistics_and_scales_after_a_step(frozen_norm: str) -> tuple[bool, bool]:
    """Whether statistics and scales of batch norm change when an ensemble is trained for a step."""
    # Through an untrained MobileNet hardly any gradient arrives.
    ensemble = tiny(frozen_norm, architecture="resnet18").train()
    norm = norms(ensemble)[0]
    before = norm.running_mean.clone(), norm.weight.detach().clone()
    learnt = [parameter for parameter in ensemble.parameters() if parameter.requires_grad]
    ensemble(images(4)).mean.square().sum().backward()
    torch.optim.SGD(learnt, 0.1).step()
    return not torch.equal(norm.running_mean, before[0]), not torch.equal(norm.weight, before[1])


@pytest.mark.parametrize(
    ("frozen_norm", "changes"), [("statistics", (False, True)), ("all", (False, False)), ("none", (True, True))]
)
def test_what_of_batch_norm_is_frozen(frozen_norm, changes):
    assert statistics_and_scales_after_a_step(frozen_norm) == changes


def test_frozen_norms_stay_in_eval_mode_while_the_rest_trains():
    ensemble = tiny().train()
    assert ensemble.training
    assert ensemble.heads.training
    assert not any(norm.training for norm in norms(ensemble))
    assert all(norm.training for norm in norms(tiny("none").train()))
    # What starts from nothing has no statistics worth keeping.
    assert all(norm.training for norm in norms(tiny(None).train()))


def test_an_unknown_kind_of_frozen_norm_is_refused():
    with pytest.raises(ValidationError, match="frozen_norm"):
        tiny("statistic")


def test_settings_that_do_not_fit_together_are_refused():
    with pytest.raises(ValidationError, match="'heads_from_weights' needs 'weights'"):
        ClassifierNetwork(architecture=TINY, heads_from_weights=True)
    with pytest.raises(ValidationError, match="'digit_cnn' starts from nothing and has one head"):
        ClassifierNetwork(heads="mechanisms")


def test_without_timm_its_names_are_refused_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingError, match=r"architecture: expected the library timm.*pipeline\[timm\]"):
        TorchvisionClassifier(ClassifierNetwork(architecture="timm:resnet18"), 4)


# --- files ---------------------------------------------------------------------------------------


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save(models.resnet18().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(SettingError, match=rf"network\.weights: expected weights of '{TINY}'.*of another one"):
        tiny(weights=str(tmp_path / "weights.pth")).load_weights()


def test_heads_of_other_classes_are_refused(tmp_path):
    torch.save(models.mobilenet_v3_small().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(SettingError, match=r"weight has shape \[4, 1024\].*got 'classifier.3.weight' of shape \[1000"):
        tiny(weights=str(tmp_path / "weights.pth"), heads_from_weights=True).load_weights()


def test_a_missing_file_of_weights_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"classify\.network\.weights.*nowhere\.pth"):
        tiny(weights=str(tmp_path / "nowhere.pth")).load_weights()


class Evil:
    def __reduce__(self):
        return eval, ("open('evil', 'w').close()",)


def test_code_in_a_file_of_weights_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(SettingError, match="nothing of it was executed"):
        tiny(weights=str(tmp_path / "weights.pth")).load_weights()
    assert not (tmp_path / "evil").exists()


def test_a_transformer_refuses_images_of_another_size():
    with torch.device("meta"):
        ensemble = network("vit_b_16", 2)
        with pytest.raises(SettingError, match=r"expected 224 x 224.*got 32 x 32"):
            ensemble(torch.empty(1, 3, 32, 32))


def test_every_parameter_gets_a_gradient():
    ensemble = tiny().train()
    ensemble(images(4)).mean.square().sum().backward()
    missing = [name for name, parameter in ensemble.named_parameters() if parameter.grad is None]
    assert missing == []


def test_logits_are_in_single_precision_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        logits = tiny().eval()(images())
    assert all(head.dtype == torch.float32 for head in logits)
