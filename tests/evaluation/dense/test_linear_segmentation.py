"""Linear heads against the published steps, mmseg's layers by hand, and closed forms of the schedules."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmadclr.evaluation.dense.linear_segmentation import (
    DINOV2,
    DINOV3,
    IBOT,
    NECO,
    ChannelDropout,
    LinearHead,
    LinearRecipe,
    evaluate_linear_head,
    rate_factor,
    resized_logits,
    segmentation_loss,
    train_linear_head,
)  # fmt: skip
from mmadclr.evaluation.dense.segmentation_scores import class_counts


def of(arrays, key):
    return torch.from_numpy(np.asarray(arrays[key]))


def published(arrays):
    config, side = arrays.config, arrays.config['spatial_resolution']
    recipe = dataclasses.replace(
        NECO, lr=config['lr'], momentum=config['momentum'], weight_decay=config['weight_decay'], epochs=config['epochs'],
        step_epochs=config['drop_at'], step_factor=config['decay_rate'], map_side=config['mask_size'],
        batch_size=config['batch_size'],
    )  # fmt: skip
    head = LinearHead(config['dim'], config['num_classes'], recipe)
    with torch.no_grad():
        head.classify.weight.copy_(of(arrays, 'linear/initial_weight')[:, :, None, None])
        head.classify.bias.copy_(of(arrays, 'linear/initial_bias'))
    sets = [
        (of(arrays, f'{name}_features').transpose(1, 2).unflatten(2, (side, side)), of(arrays, f'{name}_masks'))
        for name in ('train', 'val')
    ]
    return recipe, head, *sets


def test_steps_weights_and_scores_are_those_of_the_published_code(golden):
    arrays = golden('dense_eval/neco_linear_clustering')
    recipe, head, (features, masks), val = published(arrays)
    assert masks.shape[1] == arrays.config['mask_stored_size']
    batches = of(arrays, 'linear/batches').long()
    scores, first = [], []

    def after_epoch(epoch):
        first.append(head.classify.weight.detach().clone().flatten(1))
        scores.append(evaluate_linear_head(head, [val], recipe))

    def epoch_of(epoch):
        return ((features[rows], masks[rows]) for rows in batches[epoch])

    steps = list(train_linear_head(head, epoch_of, recipe, batches.shape[1], after_epoch=after_epoch))
    np.testing.assert_allclose([step.loss for step in steps], arrays['linear/loss'], rtol=0, atol=2e-5)
    np.testing.assert_allclose([step.lr for step in steps], arrays['linear/lr'], rtol=1e-6)
    np.testing.assert_allclose(first[0], arrays['linear/weight_after_epoch_0'], rtol=0, atol=2e-5)
    np.testing.assert_allclose(first[-1], arrays['linear/final_weight'], rtol=0, atol=2e-5)
    np.testing.assert_allclose(head.classify.bias.detach(), arrays['linear/final_bias'], rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        [each.metrics['linear_mIoU'] / 100 for each in scores], arrays['linear/val_miou'], rtol=0, atol=2e-4
    )
    logits, labels = resized_logits(head(val[0]), val[1], recipe)
    valid = labels != arrays.config['ignore_index']
    assert labels[valid].tolist() == arrays['linear/val_valid_gt'].tolist()
    wrong = logits.argmax(dim=1)[valid].numpy() != arrays['linear/val_prediction']
    assert wrong.mean() < 1e-4  # pixels where two logits are equal but for rounding
    for name, values in zip(('tp', 'fp', 'fn'), class_counts(scores[-1].counts.confusion), strict=True):
        np.testing.assert_allclose(values, arrays[f'linear/{name}'], atol=max(2, 2 * wrong.sum()))


def test_enlarging_logits_is_enlarging_features():
    head = LinearHead(5, 3, NECO, uniform=True)
    features, masks = torch.randn(2, 5, 7, 6), torch.zeros(2, 9, 9).long()
    expected = head.classify(F.interpolate(features, size=(100, 100), mode='bilinear'))
    torch.testing.assert_close(resized_logits(head(features), masks, NECO)[0], expected, rtol=0, atol=1e-5)


def test_schedules_at_their_corners():
    assert [rate_factor(NECO, i, 10) for i in (0, 199, 200, 249)] == [1, 1, 0.1, 0.1]
    assert rate_factor(IBOT, 0, 99) == pytest.approx(1e-6)
    assert rate_factor(IBOT, 750, 99) == pytest.approx((1 - 750 / 160_000) * (1 - 0.5 * (1 - 1e-6)))
    assert rate_factor(IBOT, 80_000, 99) == 0.5
    assert rate_factor(DINOV2, 750, 99) == pytest.approx((1 - 750 / 40_000) * (1 - 0.5 * (1 - 1e-6)))
    assert rate_factor(DINOV2, 39_999, 99) == pytest.approx(1 / 40_000)


def test_rates_of_dinov3_come_one_iteration_late():
    assert rate_factor(DINOV3, 0, 99) == rate_factor(DINOV3, 1, 99) == pytest.approx(1e-6)
    assert rate_factor(DINOV3, 751, 99) == pytest.approx((1 - 750 / 40_000) * (1 - 0.5 * (1 - 1e-6)))
    assert rate_factor(DINOV3, 1501, 99) == pytest.approx((1 + math.cos(math.pi * 1500 / 40_000)) / 2)
    assert rate_factor(DINOV3, 1500, 99) < rate_factor(DINOV3, 1501, 99)  # the jump of the published schedule


@pytest.mark.parametrize('void', [0, 7, 72])
def test_the_loss_over_all_pixels_is_that_of_mmseg(void):
    losses = pytest.importorskip('mmseg.models.losses')
    logits, masks = torch.randn(2, 4, 6, 6), torch.randint(0, 4, (2, 6, 6))
    masks.view(-1)[:void] = 255
    found = segmentation_loss(logits, masks, over_all_pixels=True)
    torch.testing.assert_close(found, losses.CrossEntropyLoss()(logits, masks, ignore_index=255))
    if 0 < void < 72:
        torch.testing.assert_close(segmentation_loss(logits, masks) * (72 - void) / 72, found)


@pytest.mark.parametrize(
    ('recipe', 'norm'), [(DINOV2, True), (DINOV3, True), (IBOT, False)], ids=['dinov2', 'dinov3', 'ibot']
)
def test_steps_are_those_of_torchs_layers(recipe, norm):
    """Batch norm and convolution, AdamW with its own schedule, logits enlarged to the masks, written out."""
    short = dataclasses.replace(recipe, iterations=8, warmup=3, dropout=0.0, lr=0.01)
    masks = torch.randint(0, 3, (8, 2, 15, 20))
    masks[:, :, :2] = 255
    features = torch.randn(8, 2, 5, 3, 4)
    head = LinearHead(5, 3, short, torch.Generator().manual_seed(3))
    layers = torch.nn.Sequential(*[torch.nn.BatchNorm2d(5)] * norm, torch.nn.Conv2d(5, 3, 1))
    layers[-1].load_state_dict(head.classify.state_dict())
    optimizer = torch.optim.AdamW(layers.parameters(), 0.01, weight_decay=recipe.weight_decay)
    losses = []
    for step, (inputs, labels) in enumerate(zip(features, masks, strict=True)):
        time = max(step - 1, 0) if recipe is DINOV3 else step
        factor = (1 + math.cos(math.pi * time / 8)) / 2 if recipe is DINOV3 else 1 - time / 8
        if time < 3:
            factor = (1 - time / 8) * (1e-6 + (1 - 1e-6) * time / 3)
        optimizer.param_groups[0]['lr'] = 0.01 * factor
        logits = F.interpolate(layers(inputs), size=(15, 20), mode='bilinear').permute(0, 2, 3, 1)
        each = F.cross_entropy(logits[labels != 255], labels[labels != 255], reduction='sum')
        loss = each / ((labels != 255).sum() if recipe is DINOV3 else labels.numel())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    steps = list(train_linear_head(head, lambda epoch: zip(features, masks, strict=True), short, 8))
    np.testing.assert_allclose([step.loss for step in steps], losses, rtol=1e-5)
    torch.testing.assert_close(head.classify.weight, layers[-1].weight)
    if norm:
        torch.testing.assert_close(head.norm.running_var, layers[0].running_var)
        torch.testing.assert_close(head.norm.weight, layers[0].weight)


def test_the_head_of_dinov3_is_norm_and_convolution():
    head = LinearHead(4, 3, DINOV3, torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        head.norm.running_mean.normal_()
        head.norm.running_var.uniform_(0.5, 2)
    features = torch.randn(2, 4, 3, 5)
    mean, deviation = head.norm.running_mean, (head.norm.running_var + head.norm.eps).sqrt()
    normed = (features - mean[:, None, None]) / deviation[:, None, None]
    expected = torch.einsum('bdhw,cd->bchw', normed, head.classify.weight.flatten(1))
    torch.testing.assert_close(head(features), expected)
    assert 0.003 < head.classify.weight.std() < 0.03
    again = LinearHead(4, 3, DINOV3, torch.Generator().manual_seed(1))
    assert torch.equal(head.classify.weight, again.classify.weight)


@pytest.mark.parametrize('recipe', [NECO, DINOV2, DINOV3, IBOT], ids=['neco', 'dinov2', 'dinov3', 'ibot'])
def test_every_recipe_learns_what_is_linear(recipe):
    short = dataclasses.replace(
        recipe, epochs=recipe.epochs and 30, iterations=recipe.iterations and 120, warmup=10, lr=0.05, map_side=None
    )
    masks = torch.randint(0, 3, (8, 6, 6))
    features = F.one_hot(masks, 3).permute(0, 3, 1, 2).float() * 3 + 0.1 * torch.randn(8, 3, 6, 6)
    masks[0, 0] = 255
    head = LinearHead(3, 3, short, torch.Generator().manual_seed(0))
    before = evaluate_linear_head(head, [(features, masks)], short).metrics['linear_mIoU']
    steps = list(
        train_linear_head(head, lambda epoch: [(features[i : i + 2], masks[i : i + 2]) for i in (0, 2, 4, 6)], short, 4)
    )
    assert len(steps) == 120
    found = evaluate_linear_head(head, [(features, masks)], short)
    assert found.metrics['linear_mIoU'] > max(99, before)
    assert int(found.counts.ignored.sum()) == 6


@pytest.mark.parametrize('recipe', [NECO, DINOV2, DINOV3], ids=['neco', 'dinov2', 'dinov3'])
@pytest.mark.parametrize('images', [1, 2])
def test_logits_in_parts_change_nothing(recipe, images, monkeypatch):
    masks = torch.randint(0, 3, (5, 12, 12))
    masks[0, :9] = 255
    masks[3:] = 255  # a part without labels
    features, found = torch.randn(5, 4, 3, 3), []
    short = dataclasses.replace(recipe, lr=0.1, warmup=0, iterations=recipe.iterations and 3, epochs=recipe.epochs and 3)
    size = 4 * 3 * (recipe.map_side or 12) ** 2
    for most in (2**29, images * size):
        monkeypatch.setattr('mmadclr.evaluation.dense.linear_segmentation.LOGIT_BYTES', most)
        head = LinearHead(4, 3, short, torch.Generator().manual_seed(3))
        steps = list(train_linear_head(head, lambda epoch: [(features, masks)], short, 1))
        found.append(([step.loss for step in steps], head.classify.weight))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)
    dark = dataclasses.replace(short, over_all_pixels=False)
    with pytest.raises(ValueError, match='no pixel of the batch'):
        list(train_linear_head(head, lambda epoch: [(features, torch.full_like(masks, 255))], dark, 1))


def test_dropout_of_channels():
    maps = torch.rand(40, 50, 2, 3) + 1
    dropout = ChannelDropout(0.3, torch.Generator().manual_seed(0))
    found = dropout(maps)
    dropped = (found == 0).flatten(2)
    assert torch.equal(dropped.all(dim=2), dropped.any(dim=2))
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=0.04)  # 2,000 channels
    torch.testing.assert_close(found, torch.where(found == 0, 0, maps / 0.7))
    assert torch.equal(ChannelDropout(0.3, torch.Generator().manual_seed(0))(maps), found)
    assert not torch.equal(dropout(maps), found)
    assert dropout.eval()(maps) is maps


def test_what_cannot_be_trained_on_is_refused():
    head = LinearHead(3, 2, NECO)
    recipe: LinearRecipe = dataclasses.replace(NECO, epochs=1, map_side=None)
    features, masks = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4).long()

    def run(masks, per_epoch=1, recipe=recipe):
        return list(train_linear_head(head, lambda epoch: [(features, masks)], recipe, per_epoch))

    with pytest.raises(ValueError, match='label 7 is neither one of the 2 classes'):
        run(masks + 7)
    with pytest.raises(ValueError, match='no pixel of the batch'):
        run(torch.full_like(masks, 255))
    with pytest.raises(ValueError, match='epoch 0 has 1 batches, but per_epoch=3'):
        run(masks, 3)
    with pytest.raises(ValueError, match='a batch of 2 images must have at most batch_size=1'):
        run(masks, recipe=dataclasses.replace(recipe, batch_size=1))
    with pytest.raises(ValueError, match='no batches of test images'):
        evaluate_linear_head(head, [], recipe)
