"""Names of metrics, overrides of settings, and published results under the same settings."""

from dataclasses import replace

import pytest

from mmadclr.evaluation.suite.published import COUNTS, PUBLISHED, comparable
from mmadclr.evaluation.suite.records import differences
from mmadclr.evaluation.suite.settings import PROTOCOLS, Hummingbird, Linear, build_settings, metric_base, short


@pytest.mark.parametrize(
    ('number', 'text'), [(0.1, '0.1'), (500, '500'), (10_000, '1e4'), (102_400, '1.024e5'), (10_240_000, '1.024e7')]
)
def test_short_numbers(number, text):
    assert short(number) == text


def test_names_contain_what_moves_the_metric():
    assert metric_base('hummingbird', Hummingbird()) == 'hummingbird30_512_mem1.024e5'
    assert metric_base('hummingbird', Hummingbird(size=448, memory=100_000)) == 'hummingbird30_448_mem1e5'
    changed = Hummingbird(memory=0, epochs=1, std=(0.229, 0.224, 0.225))
    assert metric_base('hummingbird', changed) == 'hummingbird30_512_memall_epochs=1_std=0.229,0.224,0.225'
    settings = build_settings(
        ['cluster', 'overcluster', 'spair', 'davis', 'patch-knn'], {'patch-knn.distance': 'cosine'}, 448
    )
    names = {name: metric_base(name, each, 21) for name, each in settings.items()}
    assert names == {
        'cluster': 'cluster21_448',
        'overcluster': 'overcluster500_448',
        'spair': 'spair_800_pck0.1',
        'davis': 'davis_480',
        'patch-knn': 'patch_knn_448_distance=cosine',
    }


def test_every_setting_that_differs_changes_the_name_of_the_metric():
    for name, protocol in PROTOCOLS.items():
        plain = protocol.settings()
        for key, value in vars(plain).items():
            other = value + 1 if isinstance(value, (int, float)) and not isinstance(value, bool) else None
            other = not value if isinstance(value, bool) else other
            other = (*value, 9) if isinstance(value, tuple) else other
            other = f'{value}_' if isinstance(value, str) else other
            if key != 'size' or '{size}' in protocol.base:
                assert metric_base(name, replace(plain, **{key: other})) != metric_base(name, plain), (name, key)


def test_overrides_are_converted_without_loss():
    found = build_settings(
        ['hummingbird', 'linear', 'patch-knn'], {'hummingbird.memory': 1e6, 'linear.lr': 1, 'patch-knn.k': 5}
    )
    assert found['hummingbird'] == Hummingbird(memory=1_000_000)
    assert found['linear'] == Linear(lr=1.0)
    assert found['patch-knn'].k == (5,)
    assert build_settings(['hummingbird', 'davis'], {'hummingbird.size': 64}, 32)['hummingbird'].size == 64


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ({'hummingbird.k': 0}, r'hummingbird\.k=0: must be above 0'),
        ({'hummingbird.k': True}, 'must be of type int'),
        ({'hummingbird.k': 2.5}, 'must be of type int'),
        ({'hummingbird.augment': 1}, 'must be of type bool'),
        ({'hummingbird.matching': 'iou'}, 'must be one of hungarian, none'),
        ({'hummingbird.std': [0.1, 0.2]}, 'must have 3 values'),
        ({'hummingbird.std': [0.1, 0.2, 0]}, 'std=0.0: must be above 0'),
        ({'hummingbird.memory': -1}, 'must be at least 0'),
        ({'hummingbird.beat': 1}, "unknown setting of hummingbird 'beat'; did you mean beta"),
        ({'humingbird.k': 1}, "unknown protocol 'humingbird'; did you mean hummingbird"),
        ({'davis.size': 64}, 'protocol davis is not among those to run'),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ValueError, match=message):
        build_settings(['hummingbird'], override)


def test_published_results_need_the_same_images_and_settings():
    def metrics(*arguments):
        return [each.values['DINO ViT-S/16'] for each in comparable(*arguments)]

    assert metrics('voc', 1449, 'hummingbird', Hummingbird(), 16) == [37.2]
    assert metrics('voc', 1449, 'hummingbird', Hummingbird(memory=1_024_000), 16) == [43.1]
    assert metrics('voc', 1449, 'hummingbird', Hummingbird(size=504), 14) == [37.2]
    for count, settings, patch in (
        (1448, Hummingbird(), 16),
        (1449, Hummingbird(size=448), 16),
        (1449, Hummingbird(size=512), 14),
        (1449, Hummingbird(epochs=1), 16),
        (1449, Hummingbird(std=(0.229, 0.224, 0.225)), 16),
    ):
        assert metrics('voc', count, 'hummingbird', settings, patch) == []
    assert comparable('voc', 1449, 'linear', Linear(), 16) == []
    assert [each.source for each in comparable('voc', 1449, 'linear', Linear(drop_last=True), 16)] == [
        'README of vpariza/NeCo',
        'README of MkuuWaUjinga/leopart',
    ]


def test_published_results_are_of_known_protocols_and_settings():
    for each in PUBLISHED:
        settings = replace(PROTOCOLS[each.protocol].settings(), **each.settings)
        assert each in comparable(each.benchmark, COUNTS.get(each.benchmark, 1), each.protocol, settings, 1)
        assert all(0 < value < 100 for value in each.values.values())


def test_differences_of_identities_in_words():
    old = {'weights': 'a' * 64, 'dtype': 'float32', 'settings': {'k': 3}}
    assert differences(old, old) == []
    new = {'weights': 'b' * 64, 'dtype': 'float16', 'settings': {'k': 5}}
    assert differences(old, new) == ['dtype was float32, is float16', 'k was 3, is 5', 'weights differ']
