"""The command ``mmadclr dense`` on miniatures: all protocols, shared features, continued and shared out runs, bad input."""

import json
import re

import pytest
import suite_cases
import torch
from mmengine.device import get_device
from PIL import Image
from programs import python_on_ranks
from suite_cases import SEGMENTATION, SEGMENTATIONS, SMALL, arguments, dense, values, write_checkpoint, write_data

from mmadclr.cli import choices
from mmadclr.cli.main import main
from mmadclr.datasets.benchmarks import BENCHMARKS
from mmadclr.evaluation.suite import encoder
from mmadclr.evaluation.suite.settings import PROTOCOLS

ALL = 'folder,voc,davis,spair,voc07'
CROPS = ('linear-dinov2', 'linear-dinov3', 'linear-ibot')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'), *SEGMENTATIONS, 'davis', 'spair', 'voc07', 'voc12', 'coco20k')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.pth')


@pytest.fixture(scope='module')
def whole(data, checkpoint, tmp_path_factory):
    """All protocols in one run."""
    out = tmp_path_factory.mktemp('whole')
    return dense(checkpoint, data, ALL, out), out


@pytest.fixture
def encoded(monkeypatch):
    """Number of images and kinds of features of every call of the backbone."""
    calls, itself = [], encoder.dense_features

    def counted(backbone, images, kinds):
        calls.append((len(images), tuple(sorted(kinds))))
        return itself(backbone, images, kinds)

    monkeypatch.setattr(encoder, 'dense_features', counted)
    return calls


def images_in(calls):
    return sum(number for number, _ in calls)


def refused(checkpoint, data, suite, *options, settings=None):
    """The message of a command that ends with an error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments(checkpoint, data, suite, data / 'refused', *options, settings=settings))
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_choices_are_those_of_the_modules():
    assert tuple(BENCHMARKS) == choices.BENCHMARKS
    assert tuple(PROTOCOLS) == choices.PROTOCOLS


def test_every_protocol_has_a_result_on_every_benchmark_of_its_kind(whole):
    result, out = whole
    kinds = {'folder': 'segmentation', 'voc': 'segmentation', 'davis': 'video', 'spair': 'pairs', 'voc07': 'boxes'}
    expected = {
        f'{benchmark}.{name}'
        for benchmark, kind in kinds.items()
        for name, protocol in PROTOCOLS.items()
        if protocol.kind == kind and not protocol.by_name_only
    }
    assert set(result['results']) == expected
    for name, each in result['metrics'].items():
        assert 0 <= each['value'] <= 100 or 'decay' in name
        assert each['low'] <= each['high'], name  # every measure has an interval
    assert 'folder/hummingbird5_32_mem200_mIoU' in result['metrics']
    assert 'voc/cluster21_32_pca=8_mIoU' in result['metrics']
    assert 'davis/davis_64_J&F' in result['metrics']
    assert 'voc07/corloc_tokencut' in result['metrics']
    text = (out / 'result.txt').read_text()
    assert all(name.partition('/')[2] in text for name in result['metrics'])
    assert not (out / 'features/voc').exists()  # removed when no protocol needs them


def test_absent_classes_are_named_with_their_effect(whole):
    notes = '\n'.join(whole[0]['notes'])
    assert re.search(
        r'voc hummingbird: not annotated in the validation images: bicycle, .*; they count 0 in the mean', notes
    )
    assert re.search(r'voc patch-knn: not annotated in the validation images: bicycle, .*; they are not in the mean', notes)
    assert 'davis davis: objects that are not in the first frame and are not scored: judo 2' in notes
    assert 'spair spair: 1 of 5 pairs without a common point are not scored' in notes


@pytest.mark.parametrize('name', [name for name in SEGMENTATIONS if name not in ('voc', 'folder')])
def test_other_segmentation_benchmarks(name, data, checkpoint, tmp_path):
    options = [text for text in SEGMENTATION if text.split('.')[0] in ('hummingbird', 'patch-knn')]
    result = dense(checkpoint, data, name, tmp_path, '--protocols', 'hummingbird,patch-knn', settings=options)
    assert len(result['metrics']) == 4
    assert values(result)[f'{name}/patch_knn_32_k=3_distance=cosine_accuracy'] > 30


def crops_settings():
    """Short training of the heads that are trained on crops."""
    common = ('iterations=5', 'warmup=2', 'batch=4')
    return [f'{name}.{each}' for name in CROPS for each in common] + ['linear-ibot.blocks=-2,-1', 'linear-dinov3.validate=2']


@pytest.mark.parametrize('name', ['folder', 'voc', 'ade20k_151', 'coco_thing'])
def test_heads_trained_on_crops(name, data, checkpoint, tmp_path):
    result = dense(checkpoint, data, name, tmp_path, '--protocols', ','.join(CROPS), settings=crops_settings())
    assert set(result['results']) == {f'{name}.{protocol}' for protocol in CROPS}
    assert set(result['metrics']) == {
        f'{name}/linear_dinov2_32_iterations=5_batch=4_warmup=2_mIoU',
        f'{name}/linear_dinov3_32_iterations=5_batch=4_warmup=2_validate=2_mIoU',
        f'{name}/linear_dinov3_32_iterations=5_batch=4_warmup=2_validate=2_mIoU_best_on_val',
        f'{name}/linear_ibot_32_iterations=5_batch=4_warmup=2_blocks=-2,-1_mIoU',
    }
    for each in result['metrics'].values():
        assert 0 <= each['low'] <= each['high'] <= 100


@pytest.mark.long
def test_two_processes_train_the_same_heads(data, checkpoint, tmp_path):
    options = ['--protocols', ','.join(CROPS), '--batch-size', '3']
    one = dense(checkpoint, data, 'folder', tmp_path / 'one', *options, settings=crops_settings())
    with_two = [*options, '--launcher', 'pytorch']
    python_on_ranks(
        2, '-m', 'mmadclr', *arguments(checkpoint, data, 'folder', tmp_path / 'two', *with_two, settings=crops_settings())
    )
    assert json.loads((tmp_path / 'two/result.json').read_text())['metrics'] == one['metrics']
    workers = dense(checkpoint, data, 'folder', tmp_path / 'b', *options, '--workers', '2', settings=crops_settings())
    assert workers['metrics'] == one['metrics']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (['linear-dinov2.iterations=9'], 'linear-dinov2.warmup=1500 must be below linear-dinov2.iterations=9'),
        (['linear-dinov2.stride=33'], 'linear-dinov2.stride=33 must be at most linear-dinov2.size=32'),
        (['linear-dinov2.size=0'], 'linear-dinov2.size=0 must be at least the patch size 8'),
        (['linear-dinov2.size=36'], 'linear-dinov2.size=36 must be a multiple of the patch size 8'),
        (['linear-dinov3.dropout=1'], 'linear-dinov3.dropout=1.0 must be below 1'),
        (['linear-dinov3.decay=-1'], 'linear-dinov3.decay=-1.0: must be at least 0'),
        (['linear-dinov2.test=both'], "linear-dinov2.test='both': must be one of slide, whole"),
        (['linear-dinov2.most_of_class=0'], 'linear-dinov2.most_of_class=0.0: must be above 0'),
        ([], 'linear-ibot.blocks=[3, 5, 7, 11] must be indices from -2 to 1, at least one: choose others with --set'),
    ],
)
def test_recipes_that_do_not_fit(settings, message, data, checkpoint):
    assert message in refused(checkpoint, data, 'folder', '--protocols', ','.join(CROPS), settings=settings or None)


@pytest.mark.parametrize('name', ['voc12', 'coco20k'])
def test_other_box_benchmarks(name, data, checkpoint, tmp_path):
    assert len(dense(checkpoint, data, name, tmp_path, settings=None)['metrics']) == 3


def test_protocols_with_the_same_input_share_features(data, checkpoint, tmp_path, encoded):
    dense(checkpoint, data, 'folder', tmp_path / 'a', settings=SEGMENTATION)
    bank, of_hummingbird, of_capi, of_neco, training = 2 * 6, 4, 6 + 4, 4, 2 * 6  # 6 training and 4 validation images
    assert images_in(encoded) == bank + of_hummingbird + of_capi + of_neco + training
    assert [kinds for _, kinds in encoded if 'attention' in kinds] == [('attention', 'patch')]
    encoded.clear()
    dense(checkpoint, data, 'voc07', tmp_path / 'b', settings=None)
    assert encoded == [(1, ('attention', 'keys'))] * 4
    encoded.clear()
    dense(checkpoint, data, 'spair', tmp_path / 'c', settings=['spair.size=64'])
    assert images_in(encoded) == 8  # of 5 pairs


def test_a_second_start_runs_only_what_is_missing_or_has_changed(whole, data, checkpoint, tmp_path, encoded, capsys):
    options = [text for text in SMALL if text.startswith(('patch-knn', 'patch-logistic'))]
    dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'patch-knn,patch-logistic', settings=options)
    encoded.clear()
    result = dense(checkpoint, data, ALL, tmp_path)
    output = capsys.readouterr().out
    assert re.search(r'^folder +patch-knn +32 +6 \+ 4 +finished$', output, re.MULTILINE)
    assert not any(kinds == ('labels',) for _, kinds in encoded)
    assert values(result) == values(whole[0])
    encoded.clear()
    again = dense(checkpoint, data, ALL, tmp_path)
    assert not encoded
    assert again['metrics'] == result['metrics']
    changed = [text.replace('k=3', 'k=5') for text in options]
    dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'patch-knn,patch-logistic', settings=changed)
    assert re.search(r'patch-knn .* run again: k was \[3\], is \[5\]$', capsys.readouterr().out, re.MULTILINE)
    assert images_in(encoded) == 10


def test_kept_features_serve_other_protocols(data, checkpoint, tmp_path, encoded):
    of_clusters = [text for text in SMALL if text.startswith('overcluster')]
    both = 'attention,overcluster'
    dense(checkpoint, data, 'folder', tmp_path, '--protocols', both, '--keep-features', settings=of_clusters)
    assert len(list(tmp_path.rglob('patch.npy'))) == 1
    encoded.clear()
    settings = [text for text in SMALL if text.startswith('cluster')]
    dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'cluster', settings=settings)
    assert not encoded
    assert not list(tmp_path.rglob('*.npy'))


def test_an_interrupted_bank_outlives_other_protocols(data, checkpoint, tmp_path, encoded, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    mine = [text for text in SMALL if text.startswith('hummingbird')]
    with monkeypatch.context() as patched:
        patched.setattr('mmadclr.evaluation.suite.segmentation.propagate_shares', interrupted)
        with pytest.raises(SystemExit):
            dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'hummingbird', settings=mine)
    others = [text for text in SMALL if text.startswith('cluster')]
    dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'cluster', settings=others)
    encoded.clear()
    dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'hummingbird', settings=mine)
    assert not encoded
    assert not (tmp_path / 'features').exists()


def test_results_of_another_checkpoint_are_not_reused(data, tmp_path, capsys):
    one, other = write_checkpoint(tmp_path / 'a.pth'), tmp_path / 'b.pth'
    state = torch.load(one)
    torch.save(state | {'norm.bias': state['norm.bias'] + 1}, other)
    options = [text for text in SMALL if text.startswith('hummingbird')]
    for path in (one, other):
        dense(path, data, 'folder', tmp_path / 'out', '--protocols', 'hummingbird', settings=options)
    assert 'run again: weights differ' in capsys.readouterr().out


def test_differences_from_another_checkpoint_have_intervals(whole, data, tmp_path, capsys):
    result, out = whole
    other = tmp_path / 'other.pth'
    torch.save({key: value.flip(0) for key, value in suite_cases.timm_model().state_dict().items()}, other)
    options = ('--protocols', 'patch-knn,cluster', '--against', str(out))
    settings = [text for text in SMALL if text.startswith(('patch-knn', 'cluster'))]
    found = dense(other, data, 'folder', tmp_path / 'out', *options, settings=settings)
    rows = {row['metric']: row for row in found['against'][str(out)]}
    assert set(rows) == {name.removeprefix('folder/') for name in found['metrics']}
    for name, row in rows.items():
        assert (row['this'], row['other']) == tuple(values(each)[f'folder/{name}'] for each in (found, result))
        assert ('p_value' in row) == name.endswith(('mIoU', 'accuracy'))
        assert name.endswith('accuracy') or (row['low'] <= row['high'] and 0 < row['p_value'] <= 1)
    assert f'against {out}:' in capsys.readouterr().out
    options = ('--protocols', 'cluster', '--against', str(tmp_path / 'out'))
    same = dense(other, data, 'folder', tmp_path / 'out', *options, settings=['cluster.pca=8'])
    assert all(row['p_value'] == 1 and row['low'] == 0 for row in same['against'][str(tmp_path / 'out')])


def test_results_with_other_settings_are_not_compared(whole, data, checkpoint, tmp_path, capsys):
    settings = [text.replace('patch-knn.k=3', 'patch-knn.k=5') for text in SMALL if text.startswith('patch-knn')]
    options = ('--protocols', 'patch-knn', '--against', str(whole[1]))
    found = dense(checkpoint, data, 'folder', tmp_path, *options, settings=settings)
    assert found['against'] == {str(whole[1]): []}
    assert 'folder patch-knn: not compared, k was [3], is [5]' in capsys.readouterr().out
    message = refused(checkpoint, data, 'folder', '--protocols', 'cluster', '--against', str(tmp_path), settings=None)
    assert f'{tmp_path} has no result of folder cluster: it must be the --out of another mmadclr dense' in message


@pytest.mark.long
def test_two_processes_find_what_one_does(whole, data, checkpoint, tmp_path):
    command = arguments(checkpoint, data, ALL, tmp_path, '--launcher', 'pytorch')
    first, second = python_on_ranks(2, '-m', 'mmadclr', *command)
    several = json.loads((tmp_path / 'result.json').read_text())
    assert values(several) == values(whole[0])
    assert several['metrics'] == whole[0]['metrics']  # intervals
    assert 'benchmark' in first.stdout
    assert 'benchmark' not in second.stdout


def test_a_broken_image_of_one_process_ends_both(checkpoint, tmp_path):
    root = write_data(tmp_path / 'data', 'folder')
    (root / 'folder/images/val/l.jpg').write_bytes(b'no image')  # the last one
    options = [text for text in SMALL if text.startswith('linear')]
    flags = ['--protocols', 'linear', '--batch-size', '2', '--launcher', 'pytorch']
    command = arguments(checkpoint, root, 'folder', tmp_path / 'out', *flags, settings=options)
    first, second = python_on_ranks(2, '-m', 'mmadclr', *command, check=False, timeout=120)
    assert first.returncode
    assert second.returncode
    assert 'error: process 1 failed: ValueError: image' in first.stderr
    assert 'l.jpg cannot be read (not an image)' in second.stderr


@pytest.mark.long
def test_loader_workers_change_nothing(whole, data, checkpoint, tmp_path):
    result = dense(checkpoint, data, 'folder,voc07', tmp_path, '--workers', '2', settings=SEGMENTATION)
    expected = values(whole[0])
    assert values(result) == {name: expected[name] for name in result['metrics']}


def test_stored_half_precision_is_close(whole, data, checkpoint, tmp_path):
    options = [text for text in SMALL if text.startswith('patch-knn')]
    result = dense(checkpoint, data, 'folder', tmp_path, '--protocols', 'patch-knn', '--dtype', 'float16', settings=options)
    expected = values(whole[0])
    assert values(result) == pytest.approx({name: expected[name] for name in result['metrics']}, abs=1)


def test_published_results_are_shown_only_for_the_same_images_and_settings(whole):
    assert whole[0]['published'] == []  # miniatures


def test_a_config_gives_its_random_backbone(data, tmp_path):
    options = ['hummingbird.size=32', 'hummingbird.k=5', 'hummingbird.memory=200']
    out = tmp_path / 'out'
    command = [
        'dense',
        'adclr/vits16_in1k',
        '--suite',
        f'folder={data}/folder',
        '--protocols',
        'hummingbird',
        '--out',
        str(out),
    ]
    main([*command, '--set', *options, '--draws', '0', '--workers', '0', '--device', get_device()])
    metrics = json.loads((out / 'result.json').read_text())['metrics']
    assert metrics['folder/hummingbird5_32_mem200_mIoU']['low'] is None


def test_unknown_names(data, checkpoint):
    assert "unknown benchmark 'vok'; did you mean voc" in refused(checkpoint, data, 'vok')
    assert "unknown protocol 'humingbird'; did you mean hummingbird?" in refused(
        checkpoint, data, 'voc', '--protocols', 'humingbird'
    )
    assert "unknown setting of hummingbird 'memori'; did you mean memory?" in refused(
        checkpoint, data, 'voc', settings=['hummingbird.memori=3']
    )
    assert 'hummingbird.k=2.5: must be of type int' in refused(checkpoint, data, 'voc', settings=['hummingbird.k=2.5'])
    assert 'must be one of cosine, L2' in refused(checkpoint, data, 'voc', settings=['patch-knn.distance=l1'])
    assert 'voc is listed twice' in refused(checkpoint, data, 'voc,voc')
    assert 'davis needs a benchmark of another kind: davis' in refused(checkpoint, data, 'voc', '--protocols', 'davis')
    assert 'protocol davis is not among those to run' in refused(checkpoint, data, 'voc', settings=['davis.size=64'])


def test_several_folders_have_names_of_their_own(data, checkpoint, tmp_path):
    suite = f'folder:one={data}/folder,folder:two={data}/folder'
    found = values(dense(checkpoint, data, suite, tmp_path, '--protocols', 'cluster', settings=['cluster.pca=8']))
    assert set(found) == {'folder:one/cluster4_32_pca=8_mIoU', 'folder:two/cluster4_32_pca=8_mIoU'}
    assert len(set(found.values())) == 1
    message = refused(checkpoint, data, f'folder={data}/folder,folder={data}', settings=None)
    assert '--suite: folder is listed twice; give each a name of its own: folder:one=DIR,folder:two=DIR' in message
    assert 'only letters, digits, _ and -' in refused(checkpoint, data, f'folder:a/b={data}', settings=None)
    assert "unknown benchmark 'folders'" in refused(checkpoint, data, f'folders:a={data}', settings=None)


def test_missing_benchmarks_are_named_together(checkpoint, tmp_path):
    message = refused(checkpoint, tmp_path, 'voc,ade20k,davis')
    assert message.startswith('error: 3 benchmarks: voc: ')
    assert '; ade20k: ' in message
    assert '; davis: ' in message
    assert 'get it from' in message


def test_numbers_that_do_not_fit(data, checkpoint):
    assert 'hummingbird.k=999 must be at most 60, the number of patches in the bank of folder' in refused(
        checkpoint, data, 'folder', '--protocols', 'hummingbird', settings=['hummingbird.k=999', 'hummingbird.memory=60']
    )
    assert 'patch-knn.k=97 must be at most 96, the number of training patches of folder' in refused(
        checkpoint, data, 'folder', '--protocols', 'patch-knn', settings=['patch-knn.k=97']
    )
    assert 'overcluster.k=500 must be at most 64, the number of patches of the validation images' in refused(
        checkpoint, data, 'folder', '--protocols', 'overcluster'
    )
    assert 'none is held out to choose C' in refused(checkpoint, data, 'folder', '--protocols', 'patch-logistic')
    assert 'hummingbird.size=30 must be a multiple of the patch size 8' in refused(
        checkpoint, data, 'folder', '--size', '30', '--protocols', 'hummingbird'
    )
    assert 'hummingbird.size=4 must be at least the patch size 8' in refused(
        checkpoint, data, 'folder', '--size', '4', '--protocols', 'hummingbird'
    )
    assert 'dino-seg.head=8: the backbone has 8 heads' in refused(checkpoint, data, 'voc07', settings=['dino-seg.head=8'])


def test_a_backbone_without_class_token(data, tmp_path, capsys):
    state = suite_cases.timm_model().state_dict()
    state['pos_embed'] = state['pos_embed'][:, 1:]
    del state['cls_token']
    torch.save(state, tmp_path / 'a.pth')
    assert 'attention needs attention of [CLS], but the backbone has no class token' in refused(
        tmp_path / 'a.pth', data, 'folder', '--protocols', 'attention'
    )
    result = dense(tmp_path / 'a.pth', data, 'voc07', tmp_path / 'out', settings=None)
    assert set(result['metrics']) == {'voc07/corloc_lost', 'voc07/corloc_tokencut'}
    assert (
        'dino-seg is left out: it needs attention of [CLS], but the backbone has no class token' in capsys.readouterr().out
    )


def test_an_image_that_cannot_be_read_is_named_and_finished_results_are_kept(data, checkpoint, tmp_path):
    root = write_data(tmp_path / 'data', 'voc07', 'folder')
    broken = root / 'VOCdevkit/VOC2007/JPEGImages/000009.jpg'
    broken.write_bytes(broken.read_bytes()[:200])
    options = [text for text in SMALL if text.startswith('hummingbird')]
    with pytest.raises(SystemExit, match=r'error: image .*000009\.jpg cannot be read'):
        dense(checkpoint, root, 'folder,voc07', tmp_path, '--protocols', 'hummingbird,lost', settings=options)
    assert (tmp_path / 'results/folder.hummingbird.json').exists()


def test_an_image_smaller_than_a_patch(data, checkpoint, tmp_path):
    root = write_data(tmp_path / 'data', 'voc07')
    for path in (root / 'VOCdevkit/VOC2007/JPEGImages').iterdir():
        Image.open(path).resize((5, 6)).save(path)
    message = r'error: image .*000005\.jpg: TokenCut needs at least two patches'
    with pytest.raises(SystemExit, match=message):
        dense(checkpoint, root, 'voc07', tmp_path, '--protocols', 'tokencut', settings=None)
    with pytest.raises(SystemExit, match=r'000005\.jpg: .*'):
        dense(checkpoint, root, 'voc07', tmp_path, '--protocols', 'lost,tokencut', settings=None)


def test_masks_of_another_size_and_broken_results_are_named(checkpoint, tmp_path):
    root = write_data(tmp_path / 'data', 'folder')
    mask = root / 'folder/masks/val/l.PNG'
    Image.open(mask).resize((10, 10)).save(mask)
    options = [text for text in SMALL if text.startswith('hummingbird')]
    with pytest.raises(SystemExit, match=r'l\.PNG.*10'):
        dense(checkpoint, root, 'folder', tmp_path, '--protocols', 'hummingbird', settings=options)
    (tmp_path / 'results').mkdir(exist_ok=True)
    (tmp_path / 'results/folder.hummingbird.json').write_text('{}')
    with pytest.raises(SystemExit, match='is not a result of this version of the dense suite: remove it'):
        dense(checkpoint, root, 'folder', tmp_path, '--protocols', 'hummingbird', settings=options)
