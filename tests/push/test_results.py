"""Numbers of the files that evaluations write."""

import json

import pytest

from mmadclr.push.results import Result, dataset_name, results_of_file


@pytest.fixture
def read(tmp_path):
    def results(content, data=None, name='found.json'):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return results_of_file(tmp_path / name, data)

    return results


def test_of_linear_classifiers_only_what_was_not_chosen_on_the_validation_images(read):
    content = dict(
        linear_top1=70.1,
        linear_top5=90.2,
        linear_lr=0.01,
        linear_top1_held_out=69.0,
        linear_top1_best_on_val=71.0,
        linear_lr_best_on_val=0.02,
        learning_rates=[dict(lr=0.01, top1=70.1)],
        size=224,
        resize=256,
        shots=None,
        train_images=100,
        val_images=50,
        inputs=dict(train='/data/birds/train', val='/data/birds/val'),
    )
    assert read(content) == [
        Result('birds', 'linear_top1', 70.1, 'found.json'),
        Result('birds', 'linear_top5', 90.2, 'found.json'),
    ]


def test_means_over_draws_keep_their_name(read):
    content = dict(knn20_T0_07_top1=50.0, knn20_T0_07_top1_std=2.0, runs=[{}], inputs=dict(val='birds'))
    assert read(content) == [Result('birds', 'knn20_T0_07_top1', 50.0, 'found.json')]


def test_of_the_suite_each_benchmark_is_a_data_set(read):
    metrics = {
        'voc/knn_mIoU': dict(value=61.5, low=60.0, high=63.0),
        'ade20k/knn_mIoU': dict(value=30.0, low=None, high=None),
    }
    found = read(dict(checkpoint='a.pth', metrics=metrics, results={'voc.knn': dict(seconds=3.0)}, notes=[]))
    assert found == [
        Result('voc', 'knn_mIoU', 61.5, 'found.json', 60.0, 63.0),
        Result('ade20k', 'knn_mIoU', 30.0, 'found.json'),
    ]


def test_of_an_adaptation_those_of_the_adapted_model(read):
    values = {'original': dict(value=1.0), 'adapted': dict(value=2.0, low=1.5, high=2.5), 'random': dict(value=0.5)}
    undefined = {'original': dict(value=None), 'adapted': dict(value=None)}
    found = read(dict(measures={'retrieval': values, 'masks': undefined}, images=50, level=0.95), data='photos')
    assert found == [Result('photos', 'retrieval', 2.0, 'found.json', 1.5, 2.5)]


def test_of_other_files_all_numbers_by_path(read):
    found = read({'a': {'b_mIoU': 10.0}, 'text': 'x', 'seed': 3, 'flag': True, 'bad': float('nan')}, name='mine.json')
    assert found == [Result('mine', 'a.b_mIoU', 10.0, 'mine.json')]


@pytest.mark.parametrize(
    ('metric', 'task', 'kind'),
    [
        ('knn20_T0.07_top1', 'image-classification', 'accuracy'),
        ('knn20_T0.07_top5', 'image-classification', 'knn20_T0.07_top5'),
        ('hummingbird_mIoU', 'image-segmentation', 'mean_iou'),
        ('attention_jaccard_best', 'image-segmentation', 'attention_jaccard_best'),
        ('spair_pck', 'image-feature-extraction', 'spair_pck'),
    ],
)
def test_names_of_the_hub(metric, task, kind):
    result = Result('x', metric, 1.0, 'x.json')
    assert (result.task, result.kind) == (task, kind)


@pytest.mark.parametrize(
    ('folder', 'name'),
    [
        ('/home/me/imagenet/val', 'imagenet'),
        ('/home/me/birds', 'birds'),
        ('birds/', 'birds'),
        ('s3://bucket/birds/test', 'birds'),
        ('https://host/birds?signature=secret', 'birds'),
        ('val', 'val'),
        ('.', 'images'),
    ],
)
def test_data_sets_are_named_by_their_folder_alone(folder, name):
    assert dataset_name(folder) == name


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"a": ', 'evaluation .*found.json is not a JSON file'),
        ('[1, 2]', 'evaluation .*found.json is not a JSON object'),
        ('{"a": "b"}', 'evaluation .*found.json has no numbers'),
        ('{"size": 3}', 'evaluation .*found.json has no numbers'),
    ],
)
def test_files_without_results(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(content)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='evaluation .*none.json does not exist'):
        results_of_file(tmp_path / 'none.json')
