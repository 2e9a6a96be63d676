"""Linear segmentation of DINOv2, DINOv3 and iBOT against plain loops that share no code with the command."""

import cv2
import numpy as np
import pytest
import suite_cases
import torch
import torch.nn.functional as F
from PIL import Image

from mmadclr.datasets.benchmarks import open_benchmark
from mmadclr.evaluation.suite.linear_crops import shuffled

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PATCH, SIDE, CLASSES = suite_cases.PATCH, 32, 4
SETTINGS = ['augment=false', 'iterations=9', 'warmup=2', 'batch=4', 'lr=0.05']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return suite_cases.write_data(tmp_path_factory.mktemp('data'), 'folder')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return suite_cases.write_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.pth')


def run(checkpoint, data, out, name, *settings):
    options = [f'{name}.{each}' for each in (*SETTINGS, *settings)]
    return suite_cases.dense(checkpoint, data, 'folder', out, '--protocols', name, settings=options)


def pixels_of(path):
    image = np.asarray(Image.open(path).convert('RGB'))
    factor = SIDE / min(image.shape[:2])
    size = [round(side * factor) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def normalized(pixels):
    return torch.tensor(((pixels / 255 - MEAN) / STD).transpose(2, 0, 1), dtype=torch.float32)


def maps_of(windows, blocks, norm):
    """(B, K D, 4, 4) of timm's model for windows of 32 pixels, the size of its position embedding."""
    with torch.no_grad():
        found = suite_cases.timm_model().get_intermediate_layers(windows, blocks, reshape=True, norm=norm)
    return torch.cat(found, dim=1)


def centers(benchmark):
    """Central crops of the training images with their labels."""
    crops = []
    for item in benchmark.train:
        pixels, labels = pixels_of(item.image), np.asarray(benchmark.read_labels(item))
        labels = cv2.resize(labels, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        top, left = ((side - SIDE) // 2 for side in labels.shape)
        part = slice(top, top + SIDE), slice(left, left + SIDE)
        crops.append((normalized(pixels[part]), torch.tensor(labels[part], dtype=torch.int64)))
    images, labels = zip(*crops, strict=True)
    return torch.stack(images), torch.stack(labels)


def trained(maps, labels, layers, decay, factor, over_all):
    """Steps of AdamW on shuffled images, one pass after the other."""
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.05, weight_decay=decay)
    order = [place for number in range(6) for place in shuffled(6, 0, number)]
    assert order[:6] != order[6:12]
    for step in range(9):
        rows = order[4 * step : 4 * step + 4]
        optimizer.param_groups[0]['lr'] = 0.05 * factor(step)
        logits = F.interpolate(layers(maps[rows]), size=(SIDE, SIDE), mode='bilinear')
        masks = labels[rows]
        total = F.cross_entropy(logits, masks, ignore_index=255, reduction='sum')
        optimizer.zero_grad()
        (total / (masks.numel() if over_all else (masks != 255).sum())).backward()
        optimizer.step()
    return layers.eval()


def logits_of(pixels, layers, blocks, norm, stride):
    """(C, H, W): mean of windows, of which the last ones end with the image."""
    image = normalized(pixels)
    total, counts = torch.zeros(CLASSES, *image.shape[1:]), torch.zeros(image.shape[1:])
    ends = [sorted({*range(SIDE, side, stride), side}) for side in image.shape[1:]]
    for bottom in ends[0]:
        for right in ends[1]:
            part = slice(bottom - SIDE, bottom), slice(right - SIDE, right)
            with torch.no_grad():
                small = layers(maps_of(image[None, :, *part], blocks, norm))
            total[:, *part] += F.interpolate(small, size=(SIDE, SIDE), mode='bilinear')[0]
            counts[part] += 1
    return total / counts


def score(benchmark, predict):
    """Mean IoU over the classes that are annotated or predicted, percent, at the sizes of the files."""
    counts = np.zeros((CLASSES, CLASSES))
    for item in benchmark.val:
        labels = np.asarray(benchmark.read_labels(item))
        logits = F.interpolate(predict(pixels_of(item.image))[None], size=labels.shape, mode='bilinear')
        valid = labels != 255
        np.add.at(counts, (labels[valid], logits[0].argmax(0).numpy()[valid]), 1)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    return 100 * np.mean(np.diag(counts)[union > 0] / union[union > 0])


def poly(step):
    return (1 - step / 9) * (1e-6 + (1 - 1e-6) * step / 2 if step < 2 else 1)


def late_cosine(step):
    time = max(step - 1, 0)
    return (1 - time / 9) * (1e-6 + (1 - 1e-6) * time / 2) if time < 2 else (1 + np.cos(np.pi * time / 9)) / 2


class Dropout(torch.nn.Module):
    """A tenth of the channels of every image."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, maps):
        if not self.training:
            return maps
        draws = torch.rand(len(maps), maps.shape[1], generator=self.generator)
        return torch.where(draws[:, :, None, None] < 0.1, 0.0, maps / 0.9)


CASES = {
    'linear-dinov2': ([], [1], True, 1e-4, poly, True, ''),
    'linear-dinov3': ([], [1], True, 1e-3, late_cosine, False, ''),
    'linear-ibot': (['blocks=0,1', 'final_norm=false'], [0, 1], False, 0.05, poly, True, '_blocks=0,1_final_norm=False'),
}


@pytest.mark.parametrize('name', CASES)
def test_protocols_equal_plain_loops(name, data, checkpoint, tmp_path):
    settings, blocks, norm, decay, factor, over_all, tags = CASES[name]
    result = run(checkpoint, data, tmp_path, name, *settings)
    benchmark = open_benchmark('folder', str(data / 'folder'))
    assert len({Image.open(item.image).size for item in benchmark.val}) > 1
    images, labels = centers(benchmark)
    conv, generator = torch.nn.Conv2d(64 * len(blocks), CLASSES, 1), torch.Generator().manual_seed(0)
    with torch.no_grad():
        conv.weight.normal_(0, 0.01, generator=generator)
        conv.bias.zero_()
    dropout, norm_layer = Dropout(generator), torch.nn.BatchNorm2d(64)
    before = {'linear-dinov2': [norm_layer], 'linear-dinov3': [dropout, norm_layer], 'linear-ibot': []}
    layers = torch.nn.Sequential(*before[name], conv)
    maps = maps_of(images, blocks, norm)
    layers = trained(maps, labels, layers, decay, factor, over_all)
    expected = score(benchmark, lambda pixels: logits_of(pixels, layers, blocks, norm, 32 * 2 // 3))
    found = suite_cases.values(result)
    key = f'folder/{name.replace("-", "_")}_32_iterations=9_batch=4_lr=0.05_warmup=2{tags}_augment=False_mIoU'
    assert found[key] == pytest.approx(expected, abs=0.2)
    assert expected > 20


def test_the_whole_image_at_once(data, checkpoint, tmp_path):
    """Sides that are not multiples of the patch size are padded; what was added is not scored."""
    slid = suite_cases.values(run(checkpoint, data, tmp_path / 'a', 'linear-dinov2'))
    whole = suite_cases.values(run(checkpoint, data, tmp_path / 'b', 'linear-dinov2', 'test=whole'))
    key = 'folder/linear_dinov2_32_iterations=9_batch=4_lr=0.05_warmup=2_augment=False_test=whole_mIoU'
    assert abs(whole[key] - next(iter(slid.values()))) > 0.01
    assert whole[key] > 20


def test_best_validation_is_beside_the_last(data, checkpoint, tmp_path):
    result = run(checkpoint, data, tmp_path, 'linear-dinov2', 'validate=4', 'lr=0.5')
    about = result['results']['folder.linear-dinov2']['about']
    assert [iteration for iteration, _ in about['mIoU_of_iterations']] == [4, 8, 9]
    scores = dict(map(tuple, about['mIoU_of_iterations']))
    found = {name.rpartition('mIoU')[2]: value for name, value in suite_cases.values(result).items()}
    assert found == {'': scores[9], '_best_on_val': max(scores.values())}
    assert scores[about['best_iteration']] == max(scores.values())
    alone = run(checkpoint, data, tmp_path / 'alone', 'linear-dinov2', 'lr=0.5')
    assert next(iter(suite_cases.values(alone).values())) == scores[9]  # validation does not touch the training


def test_passes_are_shuffled_anew():
    passes = [shuffled(50, 3, number) for number in range(3)]
    assert all(sorted(each) == list(range(50)) for each in passes)
    assert passes[0] != passes[1] != passes[2] != list(range(50))
    assert shuffled(50, 3, 1) == passes[1]
    assert all(shuffled(50, 4, number) not in passes for number in range(3))
