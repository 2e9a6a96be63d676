"""A small backbone, miniatures of benchmarks, and the command that evaluates the one on the others."""

import json

import benchmark_miniatures
import torch
from timm.models import VisionTransformer

from mmadclr.cli.main import main

PATCH, WIDTH = 8, 64
SEGMENTATION = [
    *('patch-knn.k=3', 'patch-knn.distance=cosine', 'patch-logistic.strengths=1', 'linear.epochs=2', 'linear.batch=4'),
    *('hummingbird.k=5', 'hummingbird.memory=200', 'cluster.pca=8', 'overcluster.pca=8', 'overcluster.k=30'),
]
SMALL = [*SEGMENTATION, 'davis.size=64', 'spair.size=64']
SEGMENTATIONS = ('voc', 'ade20k', 'ade20k_151', 'cityscapes', 'coco_stuff', 'coco_thing', 'coco_objects', 'folder')


def timm_model():
    """timm's vision transformer, with weights that are not symmetric."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=8, num_classes=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def write_checkpoint(path):
    torch.save(timm_model().state_dict(), path)
    return path


def write_data(root, *names):
    """Miniatures below a folder: ``folder`` in its own, the others as they are distributed."""
    for name in names:
        benchmark_miniatures.make(name, root / name if name == 'folder' else root)
    return root


def arguments(checkpoint, data, suite, out, *options, settings=SMALL):
    suite = ','.join(f'folder={data}/folder' if name == 'folder' else name for name in suite.split(','))
    common = ['--num-heads', '8', '--size', '32', '--workers', '0', '--draws', '20', '--device', 'cpu']
    chosen = [] if settings is None else ['--set', *settings]
    return [
        'dense',
        str(checkpoint),
        '--suite',
        suite,
        '--data-root',
        str(data),
        '--out',
        str(out),
        *common,
        *chosen,
        *options,
    ]


def dense(checkpoint, data, suite, out, *options, settings=SMALL):
    """Runs the command here; its result."""
    main(arguments(checkpoint, data, suite, out, *options, settings=settings))
    return json.loads((out / 'result.json').read_text())


def values(result):
    return {name: each['value'] for name, each in result['metrics'].items()}
