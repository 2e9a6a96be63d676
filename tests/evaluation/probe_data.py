"""Painted images with masks, and the dense probe that holds everything: what the streamed one has to repeat."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmadclr.evaluation.dense_probe import confusion_matrix, fit_linear, mean_iou
from mmadclr.evaluation.knn import knn_shares

COLORS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)


def paint(root, train=13, val=7, side=35):
    """Noisy images of three classes in blocks, with ignored stripes; the mask of train image 3 is ignored altogether."""
    rng = np.random.default_rng(0)
    for split, count in (('train', train), ('val', val)):
        for number in range(count):
            labels = rng.integers(0, 3, (5, 5)).repeat(side // 5, axis=0).repeat(side // 5, axis=1).astype(np.uint8)
            pixels = np.clip(COLORS[labels] + rng.normal(0, 60, (side, side, 3)), 0, 255).astype(np.uint8)
            labels[:, : rng.integers(0, side // 2)] = 255
            if split == 'train' and number == 3:
                labels[:] = 255
            for folder, content in (('images', pixels), ('masks', labels)):
                file = root / folder / split / f'{number:02d}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(file)
    return root


def settings(root, side=35):
    train = dict(data_root=str(root), img_dir='images/train', mask_dir='masks/train', size=side, num_classes=3)
    return train, dict(img_dir='images/val', mask_dir='masks/val')


def pooled_labels(masks, grid, num_classes):
    """``patch_labels`` by pooling one channel a class."""
    valid = (masks >= 0).float()[:, None]
    one_hot = F.one_hot(masks.clamp(min=0), num_classes).permute(0, 3, 1, 2) * valid
    shares, covered = (F.adaptive_avg_pool2d(x.float(), grid).flatten(2).transpose(1, 2) for x in (one_hot, valid))
    return shares / covered.clamp(min=1e-12), covered[..., 0]


def held_bank(model, train, indices, bank_size):
    """Features, class shares and weights of drawn patches, from those of all images."""
    features = torch.cat([patches_of(model, train, index) for index in indices])
    side = round(features.shape[1] ** 0.5)
    labels = [pooled_labels(train.mask(index)[None], (side, side), train.num_classes) for index in indices]
    targets, weights = (torch.cat(part).flatten(0, 1) for part in zip(*labels, strict=True))
    usable = weights.nonzero().flatten()
    chosen = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(0))[:bank_size]]
    return features.flatten(0, 1)[chosen], targets[chosen], weights[chosen]


def patches_of(model, dataset, index):
    with torch.no_grad():
        return model(**model.data_preprocessor({'images': dataset[index]['images'][None]}), mode='patches')


def held_probe(model, probe, readable_train, readable_val):
    """The bank, and by metric confusion matrix and mean IoU, an image at a time."""
    bank, targets, weights = held_bank(model, probe.train, readable_train, probe.bank_size)
    center, spread = bank.mean(dim=0), bank.std(dim=0).clamp(min=1e-6)
    linear = fit_linear((bank - center) / spread, targets, weights, probe.decay, probe.steps)
    directions = F.normalize(bank, dim=1)
    classifiers = {
        f'patch_knn{probe.k}_T{probe.temperature:g}_miou': lambda x: knn_shares(
            directions, targets, F.normalize(x, dim=1), probe.k, probe.temperature
        ),
        'patch_linear_miou': lambda x: linear((x - center) / spread),
    }
    size, found = probe.val.size, {}
    for name, classify in classifiers.items():
        total = torch.zeros(3, 3, dtype=torch.int64)
        for index in readable_val:
            scores = classify(patches_of(model, probe.val, index)[0]).T
            maps = scores.unflatten(1, (round(scores.shape[1] ** 0.5),) * 2)[None]
            prediction = F.interpolate(maps, size=(size, size), mode='bilinear')[0].argmax(dim=0)
            total += confusion_matrix(prediction, probe.val.mask(index), 3)
        found[name] = (total, mean_iou(total))
    return (bank, targets, weights), found
