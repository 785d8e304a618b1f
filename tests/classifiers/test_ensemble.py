"""The invariant ensemble: any torchvision trunk, three heads, frozen norms, weights in and out."""

from __future__ import annotations

import socket

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models, transforms

from skdcgn_pipeline.classifiers.ensemble import InvariantEnsemble, MechanismLogits, load_ensemble
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.vocabulary import MECHANISMS

TINY = "mobilenet_v3_small"


def tiny(frozen_norm: str = "statistics", num_classes: int = 4, architecture: str = TINY) -> InvariantEnsemble:
    torch.manual_seed(0)
    return InvariantEnsemble(architecture, num_classes, frozen_norm)


def images(num_images: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(num_images, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


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
        ensemble = InvariantEnsemble(architecture, 7).eval()
        logits = ensemble(torch.empty(2, 3, 224, 224))
    assert ensemble.feature_dim == features
    assert [tuple(own.shape) for own in logits] == [(2, 7)] * 3
    assert not [m for m in ensemble.trunk.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]


@pytest.mark.parametrize(("architecture", "found"), [("squeezenet1_0", 0), ("googlenet", 3)])
def test_an_architecture_without_one_last_linear_layer_is_refused(architecture, found):
    with pytest.raises(SettingError, match=rf"ends in one linear layer.*'{architecture}' with {found} of them.*ResNet"):
        InvariantEnsemble(architecture)


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'resnet50'"):
        InvariantEnsemble("resnet500")


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    InvariantEnsemble("resnet18", 3)


def test_means_are_of_all_heads_and_of_all_but_the_background():
    logits = MechanismLogits(torch.tensor([[3.0]]), torch.tensor([[6.0]]), torch.tensor([[30.0]]))
    assert logits.mean.item() == 13
    assert logits.without_background.item() == 4.5
    assert [logits.of(mechanism).item() for mechanism in MECHANISMS] == [3, 6, 30]


def test_the_trunk_sees_images_normalised_as_torchvision_does():
    ensemble = tiny().eval()
    ensemble.trunk = nn.Identity()
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(ensemble.features(images()), normalise((images() + 1) / 2))


def test_logits_are_those_of_the_torchvision_network(tmp_path):
    torch.manual_seed(1)
    reference = models.resnet18().eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    ensemble = tiny(num_classes=1000, architecture="resnet18").load_trunk(tmp_path / "weights.pth", heads=True).eval()
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = reference(normalise((images() + 1) / 2))
    for own in ensemble(images()):
        torch.testing.assert_close(own, expected)


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
    ensemble = tiny()
    before = {name: tensor.clone() for name, tensor in ensemble.heads.state_dict().items()}
    ensemble.load_trunk(tmp_path / "weights.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in ensemble.heads.state_dict().items())


def test_the_trunk_is_loaded_from_safetensors_too(tmp_path):
    reference = models.mobilenet_v3_small()
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    ensemble = tiny().load_trunk(tmp_path / "weights.safetensors")
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


def test_an_unknown_kind_of_frozen_norm_is_refused():
    with pytest.raises(SettingError, match=r"ensemble\.frozen_norm.*one of statistics, all, none"):
        tiny("statistic")


# --- files ---------------------------------------------------------------------------------------


def test_an_ensemble_is_saved_and_loaded_as_it_was(tmp_path):
    ensemble = tiny("all", 5).eval().to(memory_format=torch.channels_last)
    ensemble.save(tmp_path / "ensemble.safetensors")
    loaded = load_ensemble(tmp_path / "ensemble.safetensors")
    assert loaded.config == {"architecture": TINY, "num_classes": 5, "frozen_norm": "all"}
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    expected = ensemble.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save(models.resnet18().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(SettingError, match=rf"ensemble\.weights: expected weights of '{TINY}'.*of another one"):
        tiny().load_trunk(tmp_path / "weights.pth")


def test_heads_of_other_classes_are_refused(tmp_path):
    torch.save(models.mobilenet_v3_small().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(SettingError, match=r"weight has shape \[4, 1024\].*got 'classifier.3.weight' of shape \[1000"):
        tiny().load_trunk(tmp_path / "weights.pth", heads=True)


def test_a_missing_file_of_weights_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"ensemble\.weights.*nowhere\.pth"):
        tiny().load_trunk(tmp_path / "nowhere.pth")


class Evil:
    def __reduce__(self):
        return eval, ("open('evil', 'w').close()",)


def test_code_in_a_file_of_weights_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(SettingError, match="nothing of it was executed"):
        tiny().load_trunk(tmp_path / "weights.pth")
    assert not (tmp_path / "evil").exists()


def test_something_else_is_no_saved_ensemble(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(SettingError, match="expected a saved invariant ensemble"):
        load_ensemble(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(SettingError, match=r"broken\.safetensors, which cannot be used"):
        load_ensemble(tmp_path / "broken.safetensors")


def test_a_transformer_refuses_images_of_another_size():
    with torch.device("meta"):
        ensemble = InvariantEnsemble("vit_b_16", 2)
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
    assert all(own.dtype == torch.float32 for own in logits)
