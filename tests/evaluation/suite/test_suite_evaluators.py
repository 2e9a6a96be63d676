"""Protocols of the suite as evaluators of pretraining: as the command finds them, and from a config."""

import pytest
import suite_cases

from mmadclr.evaluation.extractor import FeatureExtractor
from mmadclr.evaluation.frozen import RawPixels
from mmadclr.evaluation.suite import evaluators
from mmadclr.evaluation.suite.evaluators import some_of
from mmadclr.hub.opening import open_backbone
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.registry import METRICS


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = suite_cases.write_data(tmp_path_factory.mktemp('data'), 'folder', 'davis')
    suite_cases.write_checkpoint(root / 'tiny.pth')
    return root


def build(kind, root, **settings):
    return METRICS.build(dict(type=kind, data_root=str(root / 'folder'), size=32, batch_size=3, **settings))


def model_of(root):
    return FeatureExtractor(open_backbone(root / 'tiny.pth', num_heads=8), 'mean')


def test_they_find_what_the_command_finds(root, tmp_path):
    model = model_of(root)
    found = build('Hummingbird', root, k=5, memory=100).of_model(model) | build('PatchKNN', root, k=3).of_model(model)
    usual = 'hummingbird.std=.229,.224,.225'
    options = ['hummingbird.k=5', 'hummingbird.memory=100', 'hummingbird.epochs=1', 'hummingbird.augment=false', usual]
    options += ['hummingbird.matching=none', 'patch-knn.k=3', 'patch-knn.distance=cosine']
    result = suite_cases.dense(
        root / 'tiny.pth', root, 'folder', tmp_path, '--protocols', 'hummingbird,patch-knn', settings=options
    )
    expected = {
        name.partition('/')[2].replace('_std=0.229,0.224,0.225', ''): v for name, v in suite_cases.values(result).items()
    }
    assert set(found) <= {name.replace('_std=0.229,0.224,0.225', '') for name in expected}
    assert found == pytest.approx({name: expected[name] for name in found}, abs=0.3)
    assert 'hummingbird5_32_mem100_epochs=1_augment=False_matching=none_mIoU' in found
    assert len(found) == 4


def test_notes_are_said_once(root, monkeypatch):
    said = []
    monkeypatch.setattr(evaluators, 'print_log', lambda text, *_: said.append(text))
    evaluator = build('Hummingbird', root, k=5, memory=100)
    evaluator.benchmark = evaluator.benchmark._replace(classes=(*evaluator.benchmark.classes, 'absent'))
    for _ in range(2):
        evaluator.of_model(model_of(root))
    (note,) = [text for text in said if 'absent' in text]
    assert note.startswith('folder hummingbird: not annotated in the validation images: absent')


def test_raw_pixels_have_a_result_too(root):
    preprocessor = ViewPreprocessor(mean=(120.0,) * 3, std=(60.0,) * 3)
    found = build('PatchKNN', root, k=1).of_model(RawPixels(preprocessor, 8))
    assert found['patch_knn_32_k=1_distance=cosine_accuracy'] > 50


def test_the_model_is_left_in_training_mode(root):
    model = model_of(root).train()
    build('PatchKNN', root, k=1).of_model(model)
    assert model.training


def test_images_are_evenly_spaced():
    assert some_of(list(range(9)), 3) == [0, 4, 8]
    assert some_of(list(range(3)), None) == [0, 1, 2]


def test_bad_input(root):
    with pytest.raises(ValueError, match="benchmark='davis' must be one for segmentation"):
        METRICS.build(dict(type='Hummingbird', data_root=str(root), benchmark='davis'))
    with pytest.raises(FileNotFoundError, match='voc: '):
        METRICS.build(dict(type='Hummingbird', data_root=str(root / 'folder'), benchmark='voc'))
    with pytest.raises(ValueError, match='size=36 must be a multiple of the patch size'):
        METRICS.build(dict(type='PatchKNN', data_root=str(root / 'folder'), size=36)).of_model(model_of(root))
    with pytest.raises(ValueError, match=r'patch-knn\.k=1000 must be at most 96'):
        build('PatchKNN', root, k=1000).of_model(model_of(root))


def test_a_pretraining_run_reports_them(root, train):
    common = dict(data_root=str(root / 'folder'), size=32)
    overrides = {
        'val_evaluator.hummingbird': dict(type='Hummingbird', k=5, memory=100, **common),
        'val_evaluator.patch_knn': dict(type='PatchKNN', k=3, **common),
    }
    runner = train(overrides)
    metrics = runner.val_loop.run()
    assert 0 < metrics['hummingbird5_32_mem100_epochs=1_augment=False_matching=none_mIoU'] < 100
    assert 0 < metrics['patch_knn_32_k=3_distance=cosine_mIoU'] < 100
    assert any(name.startswith('knn') for name in metrics)
