"""Pixel counts of single images, whose sums are those of the dense probe."""

import torch
from small_models import paint_masks, small_backbone

from mmadclr.evaluation.adaptation import encoder_of
from mmadclr.evaluation.adaptation.masks import image_counts
from mmadclr.evaluation.dense_probe import DenseProbe


def test_sums_over_images_are_the_counts_of_the_probe(tmp_path):
    train, val = paint_masks(tmp_path)
    probe, encoder = DenseProbe(train, val, k=5, batch_size=3), encoder_of(small_backbone())
    found = image_counts(probe, encoder)
    expected = probe.confusions(encoder, probe.classifiers(*probe.bank(encoder)))
    assert list(found) == list(expected) == ['patch_knn5_T0.07_miou', 'patch_linear_miou']
    for name, counts in found.items():
        assert counts.shape == (7, 3, 3)
        assert torch.equal(counts[:, 1].sum(dim=1), torch.full((7,), 32 * 32))
        total = expected[name]
        assert torch.equal(counts.sum(dim=0), torch.stack((total.diag(), total.sum(dim=1), total.sum(dim=0))))


def test_unreadable_images_have_no_row(tmp_path):
    train, val = paint_masks(tmp_path)
    (tmp_path / 'images/val/02.png').write_bytes(b'no image')
    probe = DenseProbe(train, val, k=5, batch_size=1)
    assert len(image_counts(probe, encoder_of(small_backbone()))['patch_linear_miou']) == 6
