"""One loop over batches for every use: images that are asked for, masks beside them, one account of the rest."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmadclr.datasets.image_dataset import ImageDataset, UnreadableImageError
from mmadclr.evaluation import RawPixels
from mmadclr.evaluation.extraction import NO_IMAGE, Loading, extract, feature_batches, in_order
from mmadclr.evaluation.image_account import ImageAccount
from mmadclr.models.preprocessors import ViewPreprocessor


@pytest.fixture
def dataset(tmp_path):
    """Seven plain images of different gray levels, of which the fourth cannot be read."""
    for number in range(7):
        path = tmp_path / f'{number % 2}' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        Image.new('RGB', (8, 8), (30 * number,) * 3).save(path)
    found = ImageDataset(str(tmp_path), dict(type='ResizeCenterCrop', resize=8, size=8), with_label=True)
    found.path(3).write_bytes(b'broken')
    return found


@pytest.fixture
def model():
    return RawPixels(ViewPreprocessor(mean=(0, 0, 0), std=(1, 1, 1)))


def levels(dataset):
    return [30 * int(dataset.path(index).stem) for index in range(len(dataset))]


def test_each_image_comes_once_and_in_its_own_place(dataset, model):
    asked, account = np.array([0, 2, 3, 4, NO_IMAGE]), ImageAccount()
    loader = in_order(dataset, np.array([0, 2, 3, 4, 5]), 2, 0)
    batches = list(account.over(feature_batches(model, loader, asked)))
    assert [batch.indices.tolist() for batch in batches] == [[0, 2], [4], []]
    found = torch.cat([batch.outputs for batch in batches]).mean(dim=1)
    assert found.tolist() == pytest.approx([levels(dataset)[index] for index in (0, 2, 4)])
    assert all(batch.masks is None for batch in batches)
    assert len(account.unreadable()) == 1


def test_by_default_nothing_is_left_out(dataset, model):
    loader = in_order(dataset, np.array([2, 3, 4]), 3, 0)
    (batch,) = feature_batches(model, loader)
    assert batch.indices.tolist() == [2, 4, 4]


def test_an_account_names_each_image_once_and_ends_at_its_limit(dataset, model):
    account, asked = ImageAccount(), np.arange(7)
    for _ in range(2):
        list(account.over(feature_batches(model, in_order(dataset, asked, 3, 0), asked)))
    assert len(account.report(dataset, 1)) == 1
    with pytest.raises(UnreadableImageError, match='1 of 7 images in .* cannot be read; the first: '):
        account.report(dataset, 0)


def test_a_set_of_none_that_can_be_read_is_refused(dataset, model):
    with pytest.raises(ValueError, match='no features: none of the images could be read'):
        extract(model, dataset, Loading(2), indices=np.array([3]))
    with pytest.raises(ValueError, match='no features: none of the images could be read'):
        extract(model, dataset, Loading(2), indices=np.array([], dtype=np.int64), sharded=True)
