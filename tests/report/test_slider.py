"""The slider over the moments of a run: what it shows, and of how many moments."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_features import NAMES, moment
from test_report_page import Page

from mmadclr.report.features import History, thumbnail
from mmadclr.report.markup import Html
from mmadclr.report.slider import MOMENTS, features, heat, label, png, spread
from mmadclr.show.snapshots import colors_over_time

IMAGES = [thumbnail(Image.new('RGB', (60, 40), 'red'))] * 2


def pixels(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(',')[2]))))


def shown(history):
    """The section's parts: (page, its data)."""
    parsed = Page(features(history).replace('<input', '<meta'))  # which is not closed either
    (box,) = parsed.having('features')
    return parsed, json.loads(box['data-frames'])


def test_every_moment_has_components_and_attention_of_every_image():
    moments = [moment(i) for i in (0, 5, 10)]
    parsed, data = shown(History(moments, IMAGES))
    assert data['labels'] == ['the start', 'epoch 0.5, iteration 5', 'epoch 1, iteration 10']
    colors = colors_over_time(moments)
    for frame, expected, each in zip(data['frames'], colors, moments, strict=True):
        for (components, attention), part, values in zip(frame, expected, each.attention, strict=True):
            np.testing.assert_array_equal(pixels(components), (part * 255 + 0.5).byte().numpy())
            row, column = np.unravel_index(pixels(attention).sum(axis=2).argmax(), values.shape)
            assert values[row, column] == values.max()
    sources = [attributes['src'] for name, attributes in parsed.tags if name == 'img']
    first, second = data['frames'][-1]
    assert sources[1:3] + sources[4:6] == [*first, *second]  # at first the newest, also without JavaScript
    assert all(source.startswith('data:image/jpeg;base64,') for source in (sources[0], sources[3]))
    (slider,) = [attributes for name, attributes in parsed.tags if attributes.get('type') == 'range']
    assert (slider['min'], slider['max'], slider['value']) == ('0', '2', '2')
    assert [text for text in parsed.texts if text in NAMES] == list(NAMES)


def test_a_single_moment_has_no_slider():
    parsed, data = shown(History([moment(4)], IMAGES))
    assert len(data['frames']) == 1
    assert not [attributes for _, attributes in parsed.tags if attributes.get('type') == 'range']
    assert 'epoch 0.4, iteration 4' in parsed.texts


def test_without_class_token_there_are_components_alone():
    parsed, data = shown(History([moment(i)._replace(attention=[]) for i in (0, 1)], IMAGES))
    assert [len(image) for frame in data['frames'] for image in frame] == [1] * 4
    assert 'attention' not in [attributes.get('alt') for _, attributes in parsed.tags]


def test_a_run_without_features_has_no_section():
    assert features(None) == Html('')


def test_of_many_moments_some_are_shown_with_the_first_and_the_last():
    assert spread(range(MOMENTS)) == list(range(MOMENTS))
    found = spread(range(1000))
    assert (len(found), found[0], found[-1]) == (MOMENTS, 0, 999)
    assert max(np.diff(found)) - min(np.diff(found)) <= 1
    text = features(History([moment(i, grid=(28, 28)) for i in range(300)], IMAGES))
    assert len(text) < 1_500_000


def test_names_are_escaped():
    evil = '<img src=x onerror="alert(1)">&\''
    parsed = Page(features(History([moment(0, names=(evil, evil))], IMAGES)))
    assert not [attributes for _, attributes in parsed.tags if 'onerror' in attributes]
    assert parsed.texts.count(evil) == 2


@pytest.mark.parametrize(
    ('moment', 'text'),
    [((0, 0.0), 'the start'), ((1234, 2.5), 'epoch 2.5, iteration 1,234'), ((1234, None), 'iteration 1,234')],
)
def test_moments_in_words(moment, text):
    assert label(*moment) == text


def test_maps_from_their_smallest_to_their_largest_value():
    colors = heat(torch.tensor([[1.0, 3.0], [2.0, 1.0]]))
    assert (colors.shape, colors.dtype.is_floating_point) == ((2, 2, 3), True)
    light = colors.sum(dim=2)
    assert light[0, 1] > light[1, 0] > light[0, 0] == light[1, 1]
    torch.testing.assert_close(heat(torch.tensor([[10.0, 30.0], [20.0, 10.0]])), colors)
    assert heat(torch.ones(2, 2)).isfinite().all()
    np.testing.assert_array_equal(pixels(png(torch.tensor([[[0, 0.5, 1.0]]]))), [[[0, 128, 255]]])
