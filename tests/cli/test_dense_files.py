"""``mmadclr dense`` and its files: when results are used again or compared, and what is left out of the default."""

import os
import shutil

import benchmark_miniatures
import numpy as np
import pytest
import torch
from PIL import Image
from suite_cases import arguments, dense, timm_model, values, write_checkpoint

from mmadclr.cli.main import main

CHEAP = ('--protocols', 'patch-knn')
SETTINGS = ['patch-knn.k=3', 'patch-knn.distance=cosine']


@pytest.fixture
def data(tmp_path):
    benchmark_miniatures.make('folder', tmp_path / 'data' / 'folder')
    return tmp_path / 'data'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.pth')


def run(checkpoint, data, out, *options, settings=SETTINGS):
    return dense(checkpoint, data, 'folder', out, *CHEAP, *options, settings=settings)


def masks_of(data):
    return sorted(path for path in (data / 'folder').rglob('*.png') if 'mask' in str(path.parent))


def turned(path):
    """Another mask in the same place, whose file may be as large."""
    with Image.open(path) as image:
        flipped = Image.fromarray(np.asarray(image)[::-1].copy())
        if image.mode == 'P':
            flipped.putpalette(image.getpalette())
    flipped.save(path)


def test_edited_masks_are_not_taken_for_the_old_ones(data, checkpoint, tmp_path, capsys):
    before = run(checkpoint, data, tmp_path / 'out')
    again = run(checkpoint, data, tmp_path / 'out')
    assert again['metrics'] == before['metrics']
    assert 'finished' in capsys.readouterr().out
    for path in masks_of(data):
        turned(path)
    edited = run(checkpoint, data, tmp_path / 'out')
    assert 'run again' in capsys.readouterr().out
    assert edited['metrics'] == run(checkpoint, data, tmp_path / 'fresh')['metrics'] != before['metrics']


def test_copies_are_compared_and_other_images_of_the_same_names_are_not(data, checkpoint, tmp_path, capsys):
    run(checkpoint, data, tmp_path / 'first')
    shutil.copytree(data, tmp_path / 'copy', copy_function=shutil.copyfile)  # with new times
    against = ('--against', str(tmp_path / 'first'))
    rows = run(checkpoint, tmp_path / 'copy', tmp_path / 'second', *against)['against'][str(tmp_path / 'first')]
    assert rows
    assert all(row['this'] == row['other'] for row in rows)
    for path in (tmp_path / 'copy').rglob('*.jpg'):
        Image.effect_noise((40, 40), 90).convert('RGB').resize(Image.open(path).size).save(path)
    capsys.readouterr()
    found = run(checkpoint, tmp_path / 'copy', tmp_path / 'third', *against)
    assert found['against'][str(tmp_path / 'first')] == []
    assert 'not compared, images differ' in capsys.readouterr().out


def test_precision_is_named_where_it_differs(data, checkpoint, tmp_path, capsys):
    run(checkpoint, data, tmp_path / 'out')
    run(checkpoint, data, tmp_path / 'out', '--precision', 'bf16')
    assert 'run again: precision was fp32, is bf16' in capsys.readouterr().out


def test_voc_without_augmented_masks_is_called_what_it_is(checkpoint, tmp_path, capsys):
    benchmark_miniatures.make('voc', tmp_path / 'data')
    for path in sorted((tmp_path / 'data').rglob('SegmentationClassAug')):
        shutil.rmtree(path)
    for path in sorted((tmp_path / 'data').rglob('*aug.txt')):
        path.unlink()
    found = dense(checkpoint, tmp_path / 'data', 'voc', tmp_path / 'out', *CHEAP, settings=SETTINGS)
    assert {name.partition('/')[0] for name in found['metrics']} == {'voc_train'}
    assert set(found['results']) == {'voc_train.patch-knn'}
    with pytest.raises(SystemExit, match='voc_train, which is listed as well'):
        main(arguments(checkpoint, tmp_path / 'data', 'voc,voc_train', tmp_path / 'out', *CHEAP, settings=SETTINGS))


def test_the_usual_short_name_of_ade20k(checkpoint, tmp_path):
    benchmark_miniatures.make('ade20k', tmp_path / 'data')
    found = dense(checkpoint, tmp_path / 'data', 'ade', tmp_path / 'out', *CHEAP, settings=SETTINGS)
    assert set(found['results']) == {'ade20k.patch-knn'}


def test_attention_is_scored_where_a_class_is_background(data, checkpoint, tmp_path, capsys):
    options = ('--size', '64', '--protocols', 'attention')
    (data / 'folder' / 'classes.txt').unlink(missing_ok=True)
    with pytest.raises(SystemExit, match='no class is background.*attention.objects=labels'):
        main(arguments(checkpoint, data, 'folder', tmp_path / 'out', *options, settings=None))
    found = dense(checkpoint, data, 'folder', tmp_path / 'out', *options, settings=['attention.objects=labels'])
    chosen = values(found)
    labels = {int(label) for path in masks_of(data) for label in np.unique(np.asarray(Image.open(path)))} - {255}
    names = ['background', *(f'class {label}' for label in range(1, max(labels) + 1))]
    (data / 'folder' / 'classes.txt').write_text('\n'.join(names) + '\n')
    named = values(dense(checkpoint, data, 'folder', tmp_path / 'named', *options, settings=None))
    assert named == chosen
    assert max(named.values()) > 0


def test_what_does_not_fit_is_left_out_of_the_default_with_a_note(checkpoint, tmp_path, capsys):
    benchmark_miniatures.make('voc07', tmp_path / 'data')
    model = timm_model()
    torch.save(model.state_dict(), tmp_path / 'few.pth')
    text = arguments(tmp_path / 'few.pth', tmp_path / 'data', 'voc07', tmp_path / 'out', settings=None)
    text[text.index('--num-heads') + 1] = '2'  # the published choice is the fifth head
    main(text)
    shown = capsys.readouterr().out
    assert (
        'voc07 dino-seg is left out: dino-seg.head=4: the backbone has 2 heads; choose one: --set dino-seg.head=0' in shown
    )
    assert 'corloc_lost' in shown
    with pytest.raises(SystemExit, match='dino-seg.head=4'):
        main([*text, '--protocols', 'dino-seg'])


def test_videos_with_gaps_in_the_numbers_of_objects_or_other_sizes(checkpoint, tmp_path):
    benchmark_miniatures.make('davis', tmp_path / 'data')
    (folder,) = {path.parent for path in sorted((tmp_path / 'data').rglob('*.png'))[:1]}
    first = sorted(folder.glob('*.png'))
    stored = {path: path.read_bytes() for path in first}

    def written(path, change):
        with Image.open(path) as image:
            found = Image.fromarray(change(np.asarray(image)))
            found.putpalette(image.getpalette())
        found.save(path)

    for path in first:
        written(path, lambda labels: np.where((labels > 0) & (labels < 255), labels + 5, labels).astype(np.uint8))
    options = arguments(checkpoint, tmp_path / 'data', 'davis', tmp_path / 'out', settings=['davis.size=64'])
    with pytest.raises(SystemExit, match=rf'video {folder.name}: objects 1, 2, 3, 4, 5 .*are in no frame'):
        main(options)
    for path, content in stored.items():
        path.write_bytes(content)
    frame = next(path for path in (tmp_path / 'data').rglob(f'{folder.name}/{first[-1].stem}.jpg'))
    with Image.open(frame) as image:
        image.resize((image.width + 8, image.height)).save(frame)
    written(first[-1], lambda labels: np.pad(labels, ((0, 0), (0, 8))))
    with pytest.raises(SystemExit, match=rf'{os.path.join(folder.name, first[-1].name)} has .* pixels, but the first frame'):
        main(options)
