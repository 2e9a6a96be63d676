"""Query crops: what they see, attend to and find."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from backbones_shown import backbone, picture
from PIL import Image

from mmadclr.checkpoint.architecture import IMAGENET_MEAN, IMAGENET_STD
from mmadclr.show.last_block import query_attention
from mmadclr.show.pictures import normalized
from mmadclr.show.query_crops import ask, crop_of
from mmadclr.show.study import Study


def test_a_crop_does_not_see_what_is_around_it():
    image = picture(40, 40)
    other = np.array(picture(40, 40, seed=1))
    other[10:20, 20:40] = np.array(image)[10:20, 20:40]
    box = (0.5, 0.25, 1.0, 0.5)
    one, two = (np.array(crop_of(each, box, 8)) for each in (image, Image.fromarray(other)))
    assert one.shape == (8, 8, 3)
    assert np.array_equal(one, two)


@pytest.mark.parametrize('settings', [dict(), dict(class_token=False)])
def test_answers_are_those_of_the_backbone_with_the_crop_as_query(settings):
    model = backbone(**settings)
    images = [picture(seed=i, width=32 + 16 * i) for i in range(3)]
    study = Study(model, images, size=48)
    answer = ask(study, 0, 1, (0.2, 0.2, 0.8, 0.9), side=16)
    pixels = normalized(study.image(0, 1), IMAGENET_MEAN, IMAGENET_STD)
    crop = normalized(crop_of(study.image(0, 1), (0.2, 0.2, 0.8, 0.9), 16), IMAGENET_MEAN, IMAGENET_STD)[None]
    torch.testing.assert_close(answer.attention, query_attention(model, pixels, crop)[0, 0])
    feature = model(pixels, crop).queries[0, 0].mean(dim=0)
    best = []
    for number, grid in enumerate(study.grids(0)):
        cosines = F.normalize(grid, dim=2) @ F.normalize(feature, dim=0)
        torch.testing.assert_close(answer.similarities[number], cosines)
        best.append(float(cosines.max()))
    assert answer.order == sorted((0, 2), key=lambda number: -best[number])


def test_boxes_and_sizes_that_cannot_be_are_named():
    study = Study(backbone(), picture(), size=32)
    for box in ((0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0.5, 1, 0.2), (0, 0, 1, 1.5), (0, 0, 1)):
        with pytest.raises(ValueError, match='of the query must be left, top, right, bottom in fractions of the sides'):
            ask(study, 0, 0, box)
    with pytest.raises(ValueError, match='query size 12 must be a multiple of 8, the patch size of model 1'):
        ask(study, 0, 0, side=12)
