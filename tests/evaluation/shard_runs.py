"""One of several processes that evaluate together: ``shard_runs.py ROOT`` writes what each found to ROOT/<world>.<rank>.pt.

ROOT holds what ``write`` puts there.
"""

import os
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from feature_sets import feature_set
from mmengine import dist
from mmengine.runner import Runner
from PIL import Image
from probe_data import paint, settings

from mmadclr.datasets import ImageDataset
from mmadclr.evaluation import DenseProbe, RawPixels, WeightedKNN
from mmadclr.evaluation.extraction import Loading, extract, extract_shard
from mmadclr.evaluation.feature_shards import shard_of
from mmadclr.evaluation.knn import Directions, evaluate_knn, shard_neighbors
from mmadclr.models.preprocessors import ViewPreprocessor

TRANSFORM = dict(type='mmadclr.ResizeCenterCrop', resize=16, size=16)
METRIC = WeightedKNN((1, 5), (0.07, 0.2))
BROKEN = {'images/train/05.png', 'images/val/02.png', 'labeled/class1/04.png'}


def write(root: Path) -> None:
    """Masked images, labeled images (the odd class brighter), one of each set unreadable, and masks with a wrong label."""
    for name in ('', 'wrong'):
        paint(root / name)
    bad = root / 'wrong/masks/train/11.png'
    labels = np.array(Image.open(bad))
    labels[0] = 7
    Image.fromarray(labels).save(bad)
    rng = np.random.default_rng(1)
    for number in range(23):
        path = root / f'labeled/class{number % 3}/{number:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 100 + 60 * (number % 3), (20, 20, 3), dtype=np.uint8)).save(path)
    for name in BROKEN:
        (root / name).write_bytes((root / name).read_bytes()[:60])


def labeled_loader(root: Path, shuffle: bool = False):
    dataset = dict(type='mmadclr.ImageDataset', data_root=str(root / 'labeled'), with_label=True, transform=TRANSFORM)
    sampler = dict(type='mmadclr.EpochSampler', shuffle=shuffle)
    cfg = dict(dataset=dataset, sampler=sampler, collate_fn=dict(type='mmadclr.collate_samples'), batch_size=4)
    return Runner.build_dataloader(cfg, seed=0)


def probed(root: Path, workers: int) -> dict:
    probe = DenseProbe(*settings(root), k=3, bank_size=50, decay=0.1, batch_size=4, num_workers=workers)
    model = RawPixels(ViewPreprocessor(), patch_size=8)
    with torch.no_grad():
        bank = probe.bank(model)
        return dict(bank=bank, confusions=probe.confusions(model, probe.classifiers(*bank)), metrics=probe.of_model(model))


def tied_sets():
    """Features of four directions only, in small whole numbers: cosines of 0 and 1, most of them equal."""
    labels = np.random.default_rng(2).integers(0, 5, 41)
    bank, queries = feature_set(41, 5, 4), feature_set(17, 5, 4)
    parts = [torch.eye(4)[torch.arange(len(each.labels)) * 7 % 4].numpy() for each in (bank, queries)]
    bank = bank._replace(rows=type(bank.rows)([parts[0][:9], parts[0][9:]]), labels=labels)
    return bank, queries._replace(rows=type(bank.rows)([parts[1]]))


def neighbors(bank, queries, k):
    """Of the queries of this process."""
    bank, queries = shard_of(bank), shard_of(queries)
    found = shard_neighbors(Directions(bank.features, 'cpu'), bank.rows, Directions(queries.features, 'cpu'), k, chunk=3)
    parts = [(queries.rows[part], similarity, rows) for part, similarity, rows in found]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def from_labeled(root: Path) -> dict:
    """Features of labeled images and k-NN on them, as in a run and as by the command."""
    model = RawPixels(ViewPreprocessor())
    shard = extract_shard(model, labeled_loader(root))
    dataset = ImageDataset(str(root / 'labeled'), TRANSFORM, with_label=True)
    sets = [extract(model, dataset, Loading(batch_size=4), 'float16', sharded=sharded) for sharded in (False, True)]
    chosen = np.array([0, 3, 4, 5, 9, 16])
    return dict(
        held=len(shard.features),
        whole=extract_shard(model, labeled_loader(root)).full(),
        shuffled=extract_shard(model, labeled_loader(root, shuffle=True)).full(),
        knn_in_run=METRIC.of_shards(shard, shard),
        extracted=(sets[0].rows[:], sets[0].labels, sets[0].indices),
        held_by_command=len(sets[1].rows),
        knn=[evaluate_knn(METRIC, each, each, 'cpu') for each in sets],
        knn_of_few=[evaluate_knn(WeightedKNN(1), each.select(chosen), each, 'cpu') for each in sets],
        knn_of_one=[evaluate_knn(WeightedKNN(1), each.select(np.array([6])), each, 'cpu') for each in sets],
    )


def refused(root: Path) -> str:
    try:
        DenseProbe(*settings(root / 'wrong'), k=3)
    except ValueError as error:
        return str(error)
    return ''


def found(root: Path) -> dict:
    sizes, send = [], dist.all_gather_object
    dist.all_gather_object = lambda data, *args: sizes.append(len(pickle.dumps(data))) or send(data, *args)
    sets = [feature_set(count, 5, 16, seed=seed, spread=3, splits=(40,)) for count, seed in ((90, 1), (50, 2))]
    results = dict(
        probe=probed(root, 0),
        probe_with_workers=probed(root, 2),
        **from_labeled(root),
        knn_of_many=evaluate_knn(METRIC, *sets, 'cpu'),
        tied=neighbors(*tied_sets(), 15),
        tied_knn=evaluate_knn(METRIC, *tied_sets(), 'cpu'),
        refused=refused(root),
    )
    dist.all_gather_object = send
    return {**results, 'largest_message': max(sizes)}


def main(root: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    torch.save(found(root), root / f'{os.environ["WORLD_SIZE"]}.{os.environ["RANK"]}.pt')
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
