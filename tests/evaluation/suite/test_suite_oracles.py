"""Protocols of the command against slow computations that share no code with them: timm's model, Pillow, explicit loops."""

import cv2
import numpy as np
import pytest
import suite_cases
import torch
import torch.nn.functional as F
from PIL import Image
from suite_cases import PATCH

from mmadclr.datasets.benchmarks import open_benchmark

MEAN = np.array([0.485, 0.456, 0.406])
STDS = {'hummingbird': [0.229, 0.224, 0.255], 'imagenet': [0.229, 0.224, 0.225], 'davis': [0.228, 0.224, 0.225]}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return suite_cases.write_data(tmp_path_factory.mktemp('data'), 'folder', 'voc', 'davis', 'spair', 'voc07')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return suite_cases.write_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.pth')


def normalized(pixels, std):
    values = (np.asarray(pixels) / 255 - MEAN) / np.array(STDS[std])
    return torch.tensor(values.transpose(2, 0, 1), dtype=torch.float32)


def square(path, side, resample, std):
    return normalized(Image.open(path).convert('RGB').resize((side, side), resample), std)


def patches(images, what='after'):
    """(B, P, D) of timm's model with positions resized as DINO does, from its modules' outputs."""
    model, found = suite_cases.timm_model(), {}
    last = model.blocks[-1]
    last.register_forward_hook(lambda m, i, o: found.update(before=o))
    last.attn.qkv.register_forward_hook(lambda m, i, o: found.update(keys=o[..., 64:128]))
    grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
    if grid != (4, 4):
        positions = model.pos_embed.data[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        scale = [(side + 0.1) / 4 for side in grid]
        positions = F.interpolate(positions, scale_factor=scale, mode='bicubic').permute(0, 2, 3, 1).flatten(1, 2)
        model.pos_embed = torch.nn.Parameter(torch.cat((model.pos_embed.data[:, :1], positions), 1))
        model.patch_embed.strict_img_size = False
    with torch.no_grad():
        found['after'] = model.forward_features(images)
    return found[what][:, 1:]


def labels_of(benchmark, item, side, nearest):
    """Nearest neighbor by its formula: of Pillow at the centers of pixels, of torch at their corners."""
    labels = np.asarray(benchmark.read_labels(item))
    shift = 0.5 if nearest == 'pillow' else 0.0
    rows, columns = (np.floor((np.arange(side) + shift) * length / side).astype(int) for length in labels.shape)
    return labels[rows[:, None], columns]


def iou_of(counts, over):
    hits = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - hits
    ious = np.array([h / u if u else np.nan for h, u in zip(hits, union, strict=True)])
    return 100 * (np.nan_to_num(ious).mean() if over == 'all' else np.nanmean(ious))


def confusion(pairs, classes, ignore=(255,)):
    counts = np.zeros((classes, classes))
    for predicted, true in pairs:
        for p, t in zip(np.ravel(predicted), np.ravel(true), strict=True):
            if t not in ignore:
                counts[t, p] += 1
    return counts


@pytest.mark.parametrize('name', ['folder', 'voc'])
def test_hummingbird_equals_loops(name, data, checkpoint, tmp_path):
    options = ['hummingbird.augment=false', 'hummingbird.epochs=1', 'hummingbird.memory=0', 'hummingbird.k=7']
    result = suite_cases.dense(checkpoint, data, name, tmp_path, '--protocols', 'hummingbird', settings=options)
    benchmark = open_benchmark(name, str(data / 'folder' if name == 'folder' else data))
    classes, bank, shares = len(benchmark.classes), [], []
    for item in benchmark.train:
        bank.append(patches(square(item.image, 32, Image.Resampling.BILINEAR, 'hummingbird')[None])[0])
        labels = labels_of(benchmark, item, 32, 'torch')
        labels = np.where(labels == 255, 0, labels)
        for y in range(0, 32, PATCH):
            for x in range(0, 32, PATCH):
                cell = labels[y : y + PATCH, x : x + PATCH]
                shares.append([(cell == label).mean() for label in range(classes)])
    bank, shares = F.normalize(torch.cat(bank).double(), dim=1), torch.tensor(shares, dtype=torch.float64)
    pairs = []
    for item in benchmark.val:
        queries = patches(square(item.image, 32, Image.Resampling.BILINEAR, 'hummingbird')[None])[0].double()
        found = []
        for query in F.normalize(queries, dim=1):
            cosines = bank @ query
            rows = cosines.argsort(descending=True)[:7]
            weights = (cosines[rows] / 0.02).softmax(0)
            found.append(weights @ shares[rows])
        soft = torch.stack(found).T.reshape(1, classes, 4, 4)
        maps = F.interpolate(soft, size=(32, 32), mode='bilinear').argmax(1)[0]
        pairs.append((maps.numpy(), labels_of(benchmark, item, 32, 'torch')))
    expected = iou_of(confusion(pairs, classes), 'all')
    key = f'{name}/hummingbird7_32_memall_epochs=1_augment=False_mIoU_identity'
    assert suite_cases.values(result)[key] == pytest.approx(expected, abs=0.2)
    assert expected > 20 or name == 'voc'


def test_patch_knn_equals_loops(data, checkpoint, tmp_path):
    options = ['patch-knn.k=3', 'patch-knn.distance=cosine']
    result = suite_cases.dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'patch-knn', settings=options)
    benchmark = open_benchmark('folder', str(data / 'folder'))

    def cells(items):
        features = torch.cat([patches(square(i.image, 32, Image.Resampling.BICUBIC, 'imagenet')[None])[0] for i in items])
        labels = [labels_of(benchmark, i, 32, 'pillow').reshape(4, 8, 4, 8).swapaxes(1, 2).reshape(16, 64) for i in items]
        return features.double().numpy(), np.concatenate(labels)

    (train, labels), (test, truth) = cells(benchmark.train), cells(benchmark.val)
    center, spread = train.mean(0), train.std(0)
    train, test = (train - center) / spread, (test - center) / spread
    most = np.array([np.bincount(row, minlength=256).argmax() for row in labels])
    train, labels = train[most != 255], labels[most != 255]
    counts = np.zeros((256, 256))
    for query, annotated in zip(test, truth, strict=True):
        distances = 1 - train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
        votes = labels[np.argsort(distances, kind='stable')[:3]]
        for place in range(64):
            if annotated[place] != 255:
                counts[annotated[place], np.bincount(votes[:, place]).argmax()] += 1
    found = suite_cases.values(result)
    assert found['folder/patch_knn_32_k=3_distance=cosine_mIoU'] == pytest.approx(iou_of(counts, 'seen'), abs=0.2)
    accuracy = 100 * np.trace(counts) / counts.sum()
    assert found['folder/patch_knn_32_k=3_distance=cosine_accuracy'] == pytest.approx(accuracy, abs=0.1)


def test_davis_equals_loops(data, checkpoint, tmp_path):
    options = ['davis.size=64', 'davis.n_last=2', 'davis.radius=3', 'davis.topk=4']
    result = suite_cases.dense(checkpoint, data, 'davis', tmp_path, '--protocols', 'davis', settings=options)
    benchmark, scores = open_benchmark('davis', str(data)), []
    for video in benchmark.videos:
        frames = [resized_frame(path) for path in video.frames]
        features = F.normalize(patches(torch.stack(frames)).double(), dim=2)
        truth = [np.asarray(benchmark.read_objects(path)) for path in video.annotations]
        for label in range(1, truth[0].max() + 1):
            masks = propagated(features, truth[0])
            ious = []
            for mask, annotation in list(zip(masks, truth, strict=True))[1:-1]:
                both, either = (
                    ((mask == label) & (annotation == label)).sum(),
                    ((mask == label) | (annotation == label)).sum(),
                )
                ious.append(both / either if either else 1.0)
            scores.append(np.mean(ious))
    found = suite_cases.values(result)['davis/davis_64_n_last=2_radius=3_topk=4_J_mean']
    assert found == pytest.approx(100 * np.mean(scores), abs=0.3)


def resized_frame(path):
    """64 x 64: the short side of 48 becomes 64, the other one the multiple of 64 below 85."""
    pixels = np.asarray(Image.open(path).convert('RGB'))
    return normalized(cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_LINEAR), 'davis')


def propagated(features, first):
    """Label maps of all frames, patch by patch."""
    small = np.array(Image.fromarray(first).resize((8, 8), Image.Resampling.NEAREST)).ravel()
    soft = [np.eye(small.max() + 1)[small]]
    places = [(p // 8, p % 8) for p in range(64)]
    maps = [first]
    for time in range(1, len(features)):
        context = [0] + [t for t in range(time - 2, time) if t > 0]
        frame = np.zeros_like(soft[0])
        for target, (y, x) in enumerate(places):
            weights = [
                (float((features[t][p] @ features[time][target] / 0.1).exp()), soft[t][p])
                for t in context
                for p, (v, u) in enumerate(places)
                if abs(v - y) <= 3 and abs(u - x) <= 3
            ]
            kept = sorted(weights, key=lambda pair: -pair[0])[:4]
            frame[target] = sum(w * labels for w, labels in kept) / sum(w for w, _ in kept)
        soft.append(frame)
        large = F.interpolate(torch.tensor(frame.T).reshape(1, -1, 8, 8), scale_factor=8, mode='bilinear')[0]
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        stretched = torch.where(high > 0, (large - low) / (high - low), large)
        labels = stretched.argmax(0).numpy().astype(np.uint8)
        maps.append(np.array(Image.fromarray(labels).resize(first.shape[::-1], Image.Resampling.NEAREST)))
    return maps


def test_spair_equals_loops(data, checkpoint, tmp_path):
    options = ['spair.size=64', 'spair.alpha=0.4']
    result = suite_cases.dense(checkpoint, data, 'spair', tmp_path, '--protocols', 'spair', settings=options)
    below, by_pair = {}, []
    for pair in open_benchmark('spair', str(data)).pairs:
        maps = []
        for path in (pair.source, pair.target):
            image = Image.open(path).convert('RGB')
            canvas = np.full((max(image.size), max(image.size), 3), 255, np.uint8)
            canvas[: image.size[1], : image.size[0]] = np.asarray(image)
            pixels = Image.fromarray(canvas).resize((64, 64), Image.Resampling.BICUBIC)
            maps.append(patches(normalized(pixels, 'imagenet')[None], 'before')[0].double().reshape(8, 8, -1))
        hits = []
        for source, target in zip(pair.source_points.tolist(), pair.target_points.tolist(), strict=True):
            x, y = (int(v * 64 / max(pair.source_size)) / 64 * 7 for v in source)
            left, top = min(int(x), 6), min(int(y), 6)
            fx, fy, unit = x - left, y - top, F.normalize(maps[0], dim=2)
            sampled = (1 - fy) * ((1 - fx) * unit[top, left] + fx * unit[top, left + 1])
            sampled = sampled + fy * ((1 - fx) * unit[top + 1, left] + fx * unit[top + 1, left + 1])
            best = int((F.normalize(maps[1], dim=2).reshape(64, -1) @ sampled).argmax())
            truth = [int(v * 64 / max(pair.target_size)) / 64 for v in target]
            distance = np.hypot(best % 8 / 8 - truth[0], best // 8 / 8 - truth[1])
            box = pair.target_box.tolist()
            hits.append(distance / (max(box[2] - box[0], box[3] - box[1]) / max(pair.target_size)) < 0.4)
        below.setdefault(pair.category, []).extend(hits)
        by_pair += [np.mean(hits)] if hits else []
    found = suite_cases.values(result)
    expected = 100 * np.mean([np.mean(hits) for hits in below.values() if hits])
    assert found['spair/spair_64_pck0.4_per_point'] == pytest.approx(expected)
    assert found['spair/spair_64_pck0.4_per_pair'] == pytest.approx(100 * np.mean(by_pair))
    assert 0 < expected < 100


def test_lost_equals_loops(data, checkpoint, tmp_path):
    result = suite_cases.dense(checkpoint, data, 'voc07', tmp_path, '--protocols', 'lost', settings=['lost.k=6'])
    hits = []
    for item in open_benchmark('voc07', str(data)).images:
        image = Image.open(item.image).convert('RGB')
        keys = patches(padded(normalized(image, 'imagenet'))[None], 'keys')[0].double()
        grid = (-(-image.size[1] // PATCH), -(-image.size[0] // PATCH))
        box = lost(keys, grid, 6)
        box = [side * PATCH for side in box]
        box = [box[0], box[1], min(box[2], image.size[0]), min(box[3], image.size[1])]
        hits.append(any(overlap(box, other) >= 0.5 for other in item.boxes.tolist()))
    assert suite_cases.values(result)['voc07/corloc_lost_k=6'] == pytest.approx(100 * np.mean(hits))


def padded(pixels):
    bottom, right = (-side % PATCH for side in pixels.shape[1:])
    return F.pad(pixels, (0, right, 0, bottom))


def lost(keys, grid, k):
    similar = keys @ keys.T
    degrees = [sum(bool(similar[i, j] > 0) for j in range(len(keys)) if j != i) for i in range(len(keys))]
    order = sorted(range(len(keys)), key=lambda i: degrees[i])
    seed = order[0]
    total = sum(similar[i] for i in order[:k] if similar[seed, i] > 0)
    inside, queue = {seed}, [seed]
    while queue:
        y, x = divmod(queue.pop(), grid[1])
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            place = v * grid[1] + u
            if 0 <= v < grid[0] and 0 <= u < grid[1] and total[place] > 0 and place not in inside:
                inside.add(place)
                queue.append(place)
    rows, columns = ([place // grid[1] for place in inside], [place % grid[1] for place in inside])
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def overlap(one, other):
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    return both / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - both)


def test_linear_equals_a_plain_loop(data, checkpoint, tmp_path):
    """Published order: features are upsampled to 100 x 100, then the 1x1 convolution is applied."""
    options = ['linear.augment=false', 'linear.epochs=3', 'linear.batch=4', 'linear.step_epochs=2', 'linear.lr=0.1']
    result = suite_cases.dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'linear', settings=options)
    benchmark = open_benchmark('folder', str(data / 'folder'))
    sets = []
    for items in (benchmark.train, benchmark.val):
        features = torch.cat([patches(square(i.image, 32, Image.Resampling.BILINEAR, 'imagenet')[None]) for i in items])
        maps = F.interpolate(features.transpose(1, 2).reshape(-1, 64, 4, 4), size=(100, 100), mode='bilinear')
        masks = [labels_of(benchmark, item, 32, 'pillow')[(np.arange(100) * 0.32).astype(int)] for item in items]
        masks = np.stack([mask[:, (np.arange(100) * 0.32).astype(int)] for mask in masks])
        sets.append((maps, torch.tensor(masks, dtype=torch.int64)))
    (x, y), (x_val, y_val) = sets
    head, generator = torch.nn.Conv2d(64, 4, 1), torch.Generator().manual_seed(400)
    with torch.no_grad():
        head.weight.uniform_(-0.125, 0.125, generator=generator)
        head.bias.uniform_(-0.125, 0.125, generator=generator)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler, scores = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1), []
    for _ in range(3):
        for part in (slice(0, 4), slice(4, 6)):
            optimizer.zero_grad()
            F.cross_entropy(head(x[part]), y[part], ignore_index=255).backward()
            optimizer.step()
        scheduler.step()
        predicted = head(x_val).argmax(1)
        counts = np.zeros((4, 4))
        np.add.at(counts, (y_val[y_val != 255].numpy(), predicted[y_val != 255].numpy()), 1)
        scores.append(iou_of(counts, 'all'))
    assert result['results']['folder.linear']['about']['mIoU_of_epochs'] == pytest.approx(scores, abs=0.2)
    names = [name for name in result['metrics'] if name.startswith('folder/linear_neco_32')]
    assert {name.rpartition('mIoU')[2]: round(result['metrics'][name]['value'], 6) for name in names} == {
        '': round(result['results']['folder.linear']['about']['mIoU_of_epochs'][-1], 6),
        '_best_on_val': round(max(result['results']['folder.linear']['about']['mIoU_of_epochs']), 6),
    }
