"""k-NN and linear classifiers from the command line: checkpoints and configs, processes, caches, few-shot, mistakes."""

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from places import GOLDEN_CHECKPOINTS, REPO
from programs import python, python_on_ranks
from test_tools import tool
from torchvision.transforms.functional import normalize

from mmadclr.cli.evaluation import (
    load_features,
    open_config,
    open_source,
    over_draws,
    start_processes,
    summarize,
    with_intervals,
)
from mmadclr.cli.evaluation_arguments import add_backbone_arguments, add_image_arguments
from mmadclr.datasets import ImageDataset, UnreadableImageError
from mmadclr.engine import Runner
from mmadclr.evaluation.knn import WeightedKNN, evaluate_knn
from mmadclr.evaluation.linear import LinearRecipe, evaluate_linear
from mmadclr.files import UnwritableError
from mmadclr.hub.opening import open_backbone

DINO = [GOLDEN_CHECKPOINTS / 'dino_backbone.pth', '--num-heads', 3]
SMALL_CONFIG = 'configs/adclr/vitmini8_small.py'


def write_classes(root, per_class, seed, names=('blue', 'green', 'red')):
    """Noisy pictures whose color tells the class."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 140, (40, 48, 3))
            pixels[..., channel % 3] += 50
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f'{number:02d}.png')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Training and validation images of three classes, 11 + 5 each."""
    root = tmp_path_factory.mktemp('classes')
    write_classes(root / 'train', 11, seed=0)
    write_classes(root / 'val', 5, seed=1)
    return root / 'train', root / 'val'


def places(folders):
    return ['--train', folders[0], '--val', folders[1], '--workers', 0, '--size', 32]


def parsed(*arguments):
    """What the tools parse, without what is particular to one of them."""
    parser = argparse.ArgumentParser()
    add_backbone_arguments(parser)
    add_image_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def printed(done):
    lines = done.stdout.splitlines()
    return json.loads('\n'.join(lines[lines.index('{') : lines.index('}') + 1]))


def test_linear_of_two_processes_is_that_of_one(folders, tmp_path):
    settings = ['--lr', 0.01, 1, 9, '--epochs', 10, '--train-batch-size', 16, '--held-out', 0.2]
    results = {}
    for name in ('one', 'two'):
        files = ['--cache', tmp_path / name, '--out', tmp_path / f'{name}.json', '--save', tmp_path / f'{name}.pth']
        command = ['tools/linear.py', *DINO, *places(folders), *settings, *files]
        done = python(*command) if name == 'one' else python_on_ranks(2, *command, '--launcher', 'pytorch')[0]
        results[name] = json.loads((tmp_path / f'{name}.json').read_text())
        whole = results[name]
        assert printed(done) == {key: value for key, value in whole.items() if not isinstance(value, (list, dict))}
        assert whole['linear_top1_ci95'][0] <= whole['linear_top1'] <= whole['linear_top1_ci95'][1]
        assert whole.pop('inputs') == dict(
            checkpoint=str(DINO[0]), which='teacher', train=str(folders[0]), val=str(folders[1])
        )
        assert (whole['train_images'], whole['val_images']) == (33, 15)
    one, two = (torch.load(tmp_path / f'{name}.pth', weights_only=True) for name in ('one', 'two'))
    assert results['one'] == results['two']
    assert [row['lr'] for row in results['one']['learning_rates']] == [0.01, 1, 9]
    recipe = LinearRecipe((0.01, 1.0, 9.0), epochs=10, batch_size=16, held_out=0.2)
    sets = load_features(parsed(*DINO, *places(folders), '--cache', tmp_path / 'one'), 'linear')
    expected = evaluate_linear(sets.train, sets.val, recipe, 'cpu')
    assert results['one']['linear_top1_best_on_val'] == round(expected.metrics['linear_top1_best_on_val'], 2)
    assert torch.equal(one['weight'], expected.classifier.weight[0])
    assert one['classes'] == ['blue', 'green', 'red']
    torch.testing.assert_close(one['weight'], two['weight'], rtol=0, atol=1e-4)
    for split, count in (('train', 33), ('val', 15)):
        caches = [tmp_path / name / f'{split}-cls4' for name in ('one', 'two')]
        rows = [np.concatenate([np.load(file) for file in sorted(cache.glob('features-*'))]) for cache in caches]
        assert [len(list(cache.glob('features-*'))) for cache in caches] == [1, 2]
        assert rows[0].shape == rows[1].shape == (count, 24)
        np.testing.assert_allclose(rows[0], rows[1], rtol=2e-3, atol=1e-5)
        assert [np.load(cache / 'indices.npy').tolist() for cache in caches] == [list(range(count))] * 2


def test_knn_needs_no_config(folders, tmp_path):
    settings = ['--k', 3, 10, '--temperature', 0.04, 0.07]
    done = tool('knn', *DINO, *places(folders), *settings, '--cache', tmp_path)
    names = {f'knn{k}_T{t}_top{top}' for k in (3, 10) for t in (0.04, 0.07) for top in (1, 5)}
    result = printed(done)
    assert set(result) == names | {'features', 'resize', 'size', 'read', 'precision', 'shots', 'train_images', 'val_images'}
    assert (result['features'], result['resize'], result['size']) == ('cls', 37, 32)
    assert (tmp_path / 'val-cls' / 'cache.json').is_file()


READERS = ('knn', 'linear', 'dense_probe', 'export', 'convert')


def help_of(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [name, '--help'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(REPO / 'tools' / f'{name}.py'), run_name='__main__')
    return ' '.join(capsys.readouterr().out.split())


def test_every_tool_that_reads_weights_chooses_networks_alike(monkeypatch, capsys):
    texts = {name: help_of(name, monkeypatch, capsys) for name in READERS}
    for option in ('--which {teacher,student} ', '--prefix PREFIX ', '--num-heads N '):
        meanings = {text.rpartition(option)[2].partition(' --')[0] for text in texts.values()}
        assert len(meanings) == 1, option
        assert len(meanings.pop()) > 20


def test_networks_of_other_trainers_are_chosen_on_the_command_line(folders, tmp_path):
    whole = torch.load(DINO[0], weights_only=True)
    pair = {'student_backbone.vit.': -1, 'teacher_backbone.vit.': 1}
    content = {f'{prefix}{name}': sign * t for prefix, sign in pair.items() for name, t in whole.items()}
    torch.save({'state_dict': content, 'hyper_parameters': {}}, tmp_path / 'a.ckpt')
    for options, sign in (([], 1), (['--which', 'student'], -1), (['--prefix', 'student_backbone.vit.'], -1)):
        opened = open_source(parsed(tmp_path / 'a.ckpt', '--num-heads', 3, *options, *places(folders)))
        assert torch.equal(opened.model.cls_token, sign * whole['cls_token'])
    sets = load_features(
        parsed(tmp_path / 'a.ckpt', '--num-heads', 3, '--prefix', 'student_backbone.vit', *places(folders)), 'knn'
    )
    assert sets.about['inputs']['prefix'] == 'student_backbone.vit'


def test_a_config_stands_for_its_random_initialization(folders):
    before = torch.get_rng_state()
    first, second = open_config(SMALL_CONFIG), open_config(SMALL_CONFIG)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.img_size == (48, 48)
    assert first.mean == pytest.approx((0.485, 0.456, 0.406))
    assert first.model.blocks[0].attn.num_heads == 4
    for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    sets = load_features(parsed(SMALL_CONFIG, *places(folders), '--dtype', 'float32'), 'linear')
    images = ImageDataset(str(folders[1]), dict(type='ResizeCenterCrop', resize=37, size=32))[3]['images']
    tokens = first.model.intermediate_tokens(normalize(images / 255, first.mean, first.std)[None], 4)
    torch.testing.assert_close(sets.val.rows[3:4], torch.cat([part[:, 0] for part in tokens], dim=1), rtol=0, atol=1e-5)


DEMOS = sorted((REPO / 'configs/demo').glob('*.py'))


@pytest.mark.parametrize('path', DEMOS, ids=lambda path: path.stem)
def test_a_config_is_what_a_checkpoint_before_the_first_step_is(path, tmp_path):
    cfg = Config.fromfile(path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(data_root=str(tmp_path / 'shapes'), num_train=64, num_val=2)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.randomness.seed = 3
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'run'), f'{tmp_path.name}_{path.stem}'
    file = tmp_path / 'config.py'
    file.write_text(cfg.pretty_text)
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights()
    torch.save({'meta': runner.checkpoint_meta(0), 'state_dict': runner.model.state_dict()}, tmp_path / 'epoch_0.pth')
    found, expected = open_config(str(file)), open_backbone(tmp_path / 'epoch_0.pth')
    assert found[1:] == expected[1:]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features, reference = found.model(images), expected.model(images)
    assert torch.equal(features.patches, reference.patches)
    if cfg.model.type == 'SelfPatch':
        assert features.cls is None
        assert not {'cls_token', 'norm.weight'} & found.model.state_dict().keys()
    else:
        assert torch.equal(features.cls, reference.cls)


def test_few_shot_draws_are_averaged(folders, tmp_path):
    arguments = [*DINO, *places(folders), '--dtype', 'float32', '--shots', 2, '--seed', 5]
    metric = WeightedKNN(3)

    def accuracy(*more):
        sets = load_features(parsed(*arguments, *more), 'knn')
        return over_draws(sets, lambda train: evaluate_knn(metric, train, sets.val, 'cpu'))

    single = [accuracy('--seed', seed) for seed in (5, 6, 7)]
    for cache in ([], ['--cache', tmp_path]):
        found = accuracy('--runs', 3, *cache)
        assert found['runs'] == single
        for name in single[0]:
            values = [run[name] for run in single]
            assert found[name] == pytest.approx(sum(values) / 3)
            assert found[f'{name}_std'] == pytest.approx(statistics.stdev(values))


def test_few_shot_encodes_the_drawn_images_alone(folders):
    sets = load_features(parsed(*DINO, *places(folders), '--shots', 2, '--runs', 2), 'knn')
    assert sets.train.indices.tolist() == sorted({int(index) for drawn in sets.draws for index in drawn})
    assert [np.bincount(sets.train.select(drawn).labels).tolist() for drawn in sets.draws] == [[2, 2, 2]] * 2


def test_summaries_average_accuracies_alone():
    runs = [dict(linear_top1=top1, linear_lr=lr) for top1, lr in ((50.0, 0.1), (60.0, 0.3))]
    assert summarize(runs) == dict(linear_top1=55.0, linear_top1_std=pytest.approx(50**0.5), runs=runs)


def test_accuracies_have_the_interval_of_wilson():
    binomtest = pytest.importorskip('scipy.stats', reason='needs scipy').binomtest
    for hits, images in ((0, 7), (18, 40), (40, 40)):
        found = with_intervals({'knn20_T0.07_top1': 100 * hits / images, 'size': 224, 'val_images': images})
        ends = binomtest(hits, images).proportion_ci(method='wilson')
        assert found['knn20_T0.07_top1_ci95'] == pytest.approx([100 * ends.low, 100 * ends.high], abs=1e-6)
        assert len(found) == 4
    several = {'top1': 50.0, 'top1_std': 1.0, 'val_images': 10}
    assert with_intervals(several) == several


def test_lists_name_images_and_labels(folders, tmp_path):
    lists = {}
    for name, root in zip(('train', 'val'), folders, strict=True):
        lists[name] = tmp_path / f'{name}.txt'
        lines = [
            f'{path.relative_to(root)} {label}' for label in (0, 1, 2) for path in sorted(root.glob('*/0[02].png'))[label::3]
        ]
        lists[name].write_text('\n'.join(lines))
    arguments = [*DINO, *places(folders), '--train-list', lists['train'], '--val-list', lists['val']]
    sets = load_features(parsed(*arguments), 'knn')
    assert sets.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert sets.train.classes == ('0', '1', '2')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('empty', 'class folder .*yellow contains no images: add images or remove the folder'),
        ('differ', r'have different classes, 3 and 3 of them \(in only one: red, rot\)'),
        ('fewer', r'have different classes, 3 and 2 of them \(in only one: red\)'),
    ],
)
def test_class_folders_that_do_not_match_are_explained(tmp_path, change, message):
    write_classes(tmp_path / 'train', 2, seed=0)
    names = {'differ': ('blue', 'green', 'rot'), 'fewer': ('blue', 'green')}.get(change, ('blue', 'green', 'red'))
    write_classes(tmp_path / 'val', 2, seed=1, names=names)
    if change == 'empty':
        (tmp_path / 'train' / 'yellow').mkdir()
        (tmp_path / 'val' / 'yellow').mkdir()
    with pytest.raises(ValueError, match=message):
        load_features(parsed(*DINO, *places((tmp_path / 'train', tmp_path / 'val'))), 'knn')


def test_a_class_without_training_images_is_explained(folders, tmp_path):
    for name, labels in (('train', (0, 2)), ('val', (0, 1, 2))):
        (tmp_path / name).write_text('\n'.join(f'blue/0{label}.png {label}' for label in labels))
    lists = ['--train-list', tmp_path / 'train', '--val-list', tmp_path / 'val']
    with pytest.raises(ValueError, match='class 1 has no training images'):
        load_features(parsed(*DINO, *places(folders), *lists), 'knn')


def test_options_that_cannot_be_met_are_explained(folders):
    with pytest.raises(ValueError, match='--runs 3 requires --shots, the number of images to draw for each class'):
        load_features(parsed(*DINO, *places(folders), '--runs', 3), 'knn')
    with pytest.raises(ValueError, match='--refresh requires --cache DIR, the cache to extract again'):
        load_features(parsed(*DINO, *places(folders), '--refresh'), 'knn')
    with pytest.raises(ValueError, match='shots=12: class blue has only 11 images'):
        load_features(parsed(*DINO, *places(folders), '--shots', 12), 'knn')
    with pytest.raises(ValueError, match='--k 7 requires 7 images to learn from, but there are only 6: choose a smaller k'):
        load_features(parsed(*DINO, *places(folders), '--shots', 2), 'knn', least=7)
    with pytest.raises(ValueError, match='--num-heads 3: .* sets the number of heads; omit the option'):
        open_source(parsed(SMALL_CONFIG, '--num-heads', 3, *places(folders)))
    with pytest.raises(ValueError, match='--prefix a.: .* is a config and contains no weights; omit the option'):
        open_source(parsed(SMALL_CONFIG, '--prefix', 'a.', *places(folders)))
    with pytest.raises(FileNotFoundError, match='config nowhere.py does not exist'):
        open_source(parsed('nowhere.py', *places(folders)))


@pytest.mark.parametrize(
    ('config', 'model'),
    [
        ('_base_/default_runtime', 'None'),
        ('mmpretrain/mae_vittiny_shapes', r'mmpretrain\.MAE'),
        ('benchmarks/classification/linear_vits16_in1k', 'ImageClassifier'),
    ],
)
def test_a_config_without_a_method_of_ours_is_refused(config, model):
    message = rf'its model \({model}\) is not a pretraining method of mmadclr; give a pretraining config or a checkpoint'
    with pytest.raises(ValueError, match=message):
        open_config(f'configs/{config}.py')


def test_a_config_with_another_backbone_is_refused(tmp_path):
    cfg = Config.fromfile(REPO / SMALL_CONFIG)
    cfg.model.backbone = dict(type='mmpretrain.ResNet', depth=18)
    (tmp_path / 'config.py').write_text(cfg.pretty_text)
    with pytest.raises(ValueError, match=r'its backbone \(mmpretrain\.ResNet\) is not a QueryViT of mmadclr'):
        open_config(str(tmp_path / 'config.py'))


def test_mistakes_end_with_a_message_not_a_traceback(folders, tmp_path):
    done = tool('knn', *DINO, *places(folders), '--k', 34, '--out', tmp_path / 'result.json', check=False)
    assert done.returncode != 0
    assert 'error: --k 34 requires 34 images to learn from, but there are only 33: choose a smaller k' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('option', 'value'),
    [('--size', 0), ('--size', -8), ('--batch-size', 0), ('--workers', -1), ('--shots', 0), ('--runs', 0), ('--seed', 'a')],
)
def test_numbers_that_cannot_be_are_refused_by_the_parser(option, value, capsys):
    with pytest.raises(SystemExit):
        parsed(*DINO, '--train', 'a', '--val', 'b', option, value)
    least = 0 if option in ('--workers', '--seed') else 1
    assert f"argument {option}: '{value}' is not an integer of {least} or more" in capsys.readouterr().err


def test_outputs_are_tried_before_the_work(tmp_path):
    arguments = parsed(*DINO, '--train', 'a', '--val', 'b', '--out', tmp_path)
    with pytest.raises(UnwritableError, match=f'{tmp_path} is a folder, not a file name'):
        start_processes(arguments)
    with pytest.raises(UnwritableError, match=f'{tmp_path} is a folder, not a file name'):
        start_processes(parsed(*DINO, '--train', 'a', '--val', 'b'), None, str(tmp_path))


def test_images_of_12_bits_are_read_as_told(folders, tmp_path):
    """The same images in 8 bits, and in 12 of 16 bits."""
    for folder in folders:
        for path in folder.rglob('*.png'):
            gray = np.asarray(Image.open(path).convert('L'))
            for kind, levels in (('8', gray), ('12', gray.astype(np.uint16) * 16)):
                target = tmp_path / kind / folder.name / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(levels).save(target)
    sets = {}
    for kind, more in (('8', ()), ('12', ('--value-range', 0, 4080))):
        places_of_kind = places([tmp_path / kind / part for part in ('train', 'val')])
        sets[kind] = load_features(parsed(*DINO, *places_of_kind, *more), 'knn')
    assert torch.equal(sets['8'].train.rows[:], sets['12'].train.rows[:])
    assert torch.equal(sets['8'].val.rows[:], sets['12'].val.rows[:])
    with pytest.raises(UnreadableImageError, match=r'16-bit pixels use only \d+ to \d+ of 0 to 65535: set value_range'):
        load_features(parsed(*DINO, *places_of_kind), 'knn')


@pytest.mark.slow
@pytest.mark.parametrize('environment', [dict(PYTHONUTF8='1'), dict(LC_ALL='C', PYTHONUTF8='0'), dict(LC_ALL='C.UTF-8')])
def test_names_that_are_no_unicode_in_every_locale(tmp_path, environment):
    """Of folders, classes, images and an unreadable one: through both tools, the cache and the result."""
    names = ('blue', os.fsdecode(b'gr\xfcn'), 'two\nlines')
    for part, count in (('train', 6), ('val', 3)):
        folder = tmp_path / os.fsdecode(b'caf\xe9') / part
        write_classes(folder, count, seed=0, names=names)
        (folder / names[1] / os.fsdecode(b'\xe9.png')).write_bytes(b'')
    folders = [tmp_path / os.fsdecode(b'caf\xe9') / part for part in ('train', 'val')]
    for name, more in (('knn', ('--k', 3)), ('linear', ('--lr', 0.1, '--epochs', 2))):
        command = [sys.executable, f'tools/{name}.py', *DINO, *places(folders), *more, '--features', 'cls']
        command += ['--cache', tmp_path / 'cache', '--out', tmp_path / f'{name}.json']
        env = {**os.environ, **environment, 'OMP_NUM_THREADS': '1'}
        done = subprocess.run([str(part) for part in command], cwd=REPO, env=env, capture_output=True, check=False)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        assert b'Traceback' not in output
        assert b'Logging error' not in output
        assert b'/\\xe9.png: cannot identify image file' in output
        result = json.loads((tmp_path / f'{name}.json').read_text())
        assert (result['train_images'], result['val_images']) == (18, 9)


def test_images_are_read_and_encoded_as_asked_for(folders):
    """Fast in single precision by default, and what a result says about it."""
    ask = [GOLDEN_CHECKPOINTS / 'dino_backbone.pth', '--num-heads', 3, '--dtype', 'float32', *places(folders)]
    found = {options: load_features(parsed(*ask, *options), 'knn') for options in ((), ('--read', 'pillow'))}
    half = load_features(parsed(*ask, '--precision', 'bf16'), 'knn')
    fast, pillow = found.values()
    assert [sets.about['read'] for sets in (fast, pillow, half)] == ['fast', 'pillow', 'fast']
    assert [sets.about['precision'] for sets in (fast, pillow, half)] == ['fp32', 'fp32', 'bf16']
    for sets in (pillow, half):
        a, b = fast.val.rows[:], sets.val.rows[:]
        assert not torch.equal(a, b)
        assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999
