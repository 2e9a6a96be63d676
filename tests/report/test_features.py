"""Features over a run as the report reads them: from the sessions, and of the newest checkpoint."""

import io
import shutil

import pytest
import torch
from PIL import Image
from written_runs import STAMP, train_record, write_session

from mmadclr.models.backbones.feature_vit import FeatureViT
from mmadclr.report.collect import collect
from mmadclr.report.features import FOLDER, SIDE, image_file, thumbnail, with_newest
from mmadclr.show.snapshots import Snapshot, write_snapshot

NAMES = ('a/1.png', 'a/2.png')
ARCH = dict(embed_dim=64, depth=2, num_heads=1, patch_size=8)


def moment(iteration, seed=0, names=NAMES, grid=(4, 6)):
    generator = torch.Generator().manual_seed(100 * seed + iteration)
    scores = [torch.randn(*grid, 3, generator=generator) for _ in names]
    return Snapshot(iteration, iteration / 10, names, scores, [part[..., 0].abs() for part in scores])


def write_features(session, *moments):
    for each in moments:
        write_snapshot(each, session / FOLDER)
    for number in range(len(NAMES)):
        (session / FOLDER / image_file(number)).write_bytes(thumbnail(Image.new('RGB', (640, 400), (number, 90, 200))))


def iterations(history):
    return [each.iteration for each in history.snapshots]


def test_snapshots_are_read_in_order_with_their_images(tmp_path):
    write_features(write_session(tmp_path, records=[train_record(1)]), *(moment(i) for i in (10, 0, 2)))
    run = collect(tmp_path)
    assert iterations(run.features) == [0, 2, 10]
    torch.testing.assert_close(run.features.snapshots[1].scores, moment(2).scores, atol=2e-3, rtol=2e-3)
    sizes = [Image.open(io.BytesIO(content)).size for content in run.features.images]
    assert sizes == [(SIDE, 200)] * 2
    assert not any('features' in note for note in run.notes)


def test_runs_without_have_none(tmp_path):
    write_session(tmp_path, records=[train_record(1)])
    assert collect(tmp_path).features is None


def test_what_a_later_session_repeats_replaces_the_first_attempt(tmp_path):
    first = write_session(tmp_path, '20260101_120000', [train_record(9)])
    second = write_session(tmp_path, '20260101_130000', [train_record(7)], start='a.pth, resumed after 6 iterations')
    write_features(first, *(moment(i) for i in (0, 4, 8)))
    write_features(second, *(moment(i, seed=1) for i in (6, 8, 10)))
    found = collect(tmp_path).features
    assert iterations(found) == [0, 4, 6, 8, 10]
    torch.testing.assert_close(found.snapshots[3].scores, moment(8, seed=1).scores, atol=2e-3, rtol=2e-3)


def test_an_earlier_run_in_the_same_folder_is_left_out(tmp_path):
    write_features(write_session(tmp_path, '20260101_120000', [train_record(5)]), moment(0), moment(5))
    write_features(write_session(tmp_path, '20260101_130000', [train_record(1)]), moment(0, 1), moment(1, 1))
    assert iterations(collect(tmp_path).features) == [0, 1]


@pytest.mark.parametrize('other', [moment(0, names=('b', 'c')), moment(0, grid=(5, 6))], ids=['names', 'sizes'])
def test_snapshots_of_other_images_are_left_out_and_said(tmp_path, other):
    write_features(write_session(tmp_path, records=[train_record(1)]), other, moment(2), moment(4))
    run = collect(tmp_path)
    assert iterations(run.features) == [2, 4]
    assert '1 of 3 pictures of features are of other images or sizes, and were left out' in run.notes


def test_damaged_files_are_said_and_the_rest_is_shown(tmp_path):
    session = write_session(tmp_path, records=[train_record(1)])
    write_features(session, moment(0), moment(2), moment(4))
    (session / FOLDER / 'iter_2.npz').write_bytes(b'PK')
    run = collect(tmp_path)
    assert iterations(run.features) == [0, 4]
    assert [note for note in run.notes if 'iter_2.npz is not readable as features' in note]
    (session / FOLDER / image_file(1)).write_bytes(b'no image')
    run = collect(tmp_path)
    assert run.features is None
    assert [note for note in run.notes if f'{image_file(1)} cannot be read' in note]


# --- the newest checkpoint -------------------------------------------------------------------------------------------------


@pytest.fixture
def newest(tmp_path, image_folder):
    """A checkpoint with what its run says about itself: (config, file, meta, images)."""
    folder = image_folder(8, classes=2)
    transform = dict(type='ResizeCenterCrop', resize=32, size=32)
    config = dict(val_dataloader=dict(dataset=dict(type='ImageDataset', data_root=str(folder), transform=transform)))
    path = tmp_path / 'epoch_3.pth'
    torch.save(FeatureViT(ARCH, img_size=32, init='xavier').state_dict(), path)
    return config, path, dict(iter=30, epoch=3), folder


def test_of_a_run_without_pictures_the_newest_checkpoint_is_shown(newest):
    config, path, meta, _ = newest
    history, notes = with_newest(None, config, path, meta)
    (only,) = history.snapshots
    assert (notes, only.iteration, only.epoch, len(history.images)) == ([], 30, 3.0, 4)
    assert only.names == ('class0/002.png', 'class0/006.png', 'class1/003.png', 'class1/007.png')


def test_it_is_added_to_those_of_the_run_unless_they_have_it(newest):
    config, path, meta, _ = newest
    start, _ = with_newest(None, config, path, dict(iter=10))
    assert (start.snapshots[0].iteration, start.snapshots[0].epoch) == (10, None)
    history, notes = with_newest(start, config, path, meta)
    assert (iterations(history), notes) == ([10, 30], [])
    again, _ = with_newest(history, config, path.with_name('not_there.pth'), meta)
    assert again is history


def test_what_prevents_it_is_said(newest, tmp_path):
    config, path, meta, folder = newest
    start, _ = with_newest(None, config, path, dict(iter=10))
    same, (note,) = with_newest(start, config, path.with_name('epoch_9.pth'), meta)
    assert same is start
    assert note.startswith(f'no pictures of the features of {tmp_path / "epoch_9.pth"} (')
    shutil.rmtree(folder / 'class0')
    same, (note,) = with_newest(start, config, path, meta)
    assert same is start
    assert 'the images of the run have changed' in note
    folder.rename(tmp_path / 'moved')
    same, (note,) = with_newest(start, config, path, meta)
    assert same is start
    assert f'{folder} does not exist here: run the command where the images are' in note


def test_data_of_other_kinds_and_checkpoints_that_tell_nothing_are_no_problem(newest):
    config, path, meta, _ = newest
    for settings, facts in (
        ({}, meta),
        (dict(train_dataloader=dict(dataset=dict(type='NotOurs'))), meta),
        (config, {}),
        (dict(val_dataloader=None, train_dataloader=None), meta),
    ):
        assert with_newest(None, settings, path, facts) == (None, [])


def test_collecting_adds_it_only_when_asked_and_in_silence(newest, tmp_path, capfd):
    config, path, _, _ = newest
    session = write_session(tmp_path, STAMP, [train_record(30)])
    lines = [f'{name} = {value!r}' for name, value in (config | {'default_scope': 'mmadclr'}).items()]
    (session / 'vis_data' / 'config.py').write_text('\n'.join(lines) + '\n')
    torch.save({'state_dict': torch.load(path), 'meta': dict(iter=30, epoch=3)}, path)
    assert collect(tmp_path).features is None
    assert iterations(collect(tmp_path, newest=True).features) == [30]
    assert capfd.readouterr() == ('', '')
