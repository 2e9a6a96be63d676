"""Backbones and pictures together: names, features, and every form in which a backbone is given."""

import pytest
import torch
import torch.nn.functional as F
from backbones_shown import backbone, picture

from mmadclr.api import evaluation_transform
from mmadclr.hub.opening import open_backbone
from mmadclr.show.pictures import normalized
from mmadclr.show.study import Study, model_names, subjects_of

MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)


def test_features_are_those_of_the_backbone_on_pixels_of_its_own_multiples():
    model, image = backbone(patch_size=16), picture(50, 30)
    study = Study((model, evaluation_transform(32, MEAN, STD)), image, size=64)
    assert study.image(0, 0).size == (64, 32)
    output = model(normalized(study.image(0, 0), MEAN, STD))
    tokens = study.tokens(0, 0)
    assert tokens.patches.shape == (2, 4, 24)
    torch.testing.assert_close(tokens.patches, output.patches[0].view(2, 4, 24))
    torch.testing.assert_close(tokens.cls, output.cls[0])
    assert study.tokens(0, 0) is tokens  # computed once


def test_without_class_token_the_mean_of_the_patches_stands_for_a_picture():
    study = Study(backbone(class_token=False), [picture(), picture(seed=1)], size=32)
    assert study.tokens(0, 1).cls is None
    torch.testing.assert_close(study.wholes(0)[1], study.grids(0)[1].mean(dim=(0, 1)))


def test_a_backbone_in_every_form(tmp_path):
    model = backbone(embed_dim=64, num_heads=1)
    torch.save(model.state_dict(), tmp_path / 'run.pth')
    pair = (model, evaluation_transform(32, MEAN, STD))
    opened = open_backbone(tmp_path / 'run.pth')._replace(mean=MEAN, std=STD)
    given = {'file': tmp_path / 'run.pth', 'text': str(tmp_path / 'run.pth'), 'model': model, 'opened': opened, 'pair': pair}
    subjects = subjects_of(given)
    assert [subject.name for subject in subjects] == list(given)
    pixels = F.interpolate(torch.randn(1, 3, 4, 4), 32)
    for subject in subjects:
        torch.testing.assert_close(subject.model(pixels).patches, model(pixels).patches)
    assert [subject.mean == MEAN for subject in subjects] == [False, False, False, True, True]
    assert [subject.name for subject in subjects_of(pair)] == ['model 1']
    assert [subject.name for subject in subjects_of(tmp_path / 'run.pth')] == ['run']
    for several in ([pair, pair], (model, model), (str(tmp_path / 'run.pth'), model)):
        assert len(subjects_of(several)) == 2


def test_names_tell_checkpoints_apart():
    assert model_names(['runs/a/epoch_1.pth', 'runs/b/epoch_1.pth']) == ['a/epoch_1', 'b/epoch_1']
    assert model_names(['a/x.pth', 'a/y.pth', 'vit.v2']) == ['x', 'y', 'vit.v2']
    assert model_names(['a.pth', 'a.pth']) == ['a (1)', 'a (2)']


def test_what_is_no_backbone_or_gives_no_numbers_is_named(tmp_path):
    with pytest.raises(ValueError, match='model 1: dict is not a checkpoint'):
        Study([{}], picture())
    with pytest.raises(ValueError, match='mine: its transform has no Normalize'):
        Study({'mine': (backbone(), lambda image: image)}, picture())
    with pytest.raises(ValueError, match='no backbone'):
        Study([], picture())
    broken = backbone()
    broken.norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match='model 1: features of image 1 are not finite'):
        Study(broken, picture(), size=32).tokens(0, 0)
