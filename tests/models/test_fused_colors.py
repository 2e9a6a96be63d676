"""Colors written for a compiler are those of the operations one by one, whatever is drawn."""

import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmadclr.datasets.photometric_recipe import COLUMNS, RECIPES, build_recipe, column
from mmadclr.models.compilation import compile_blocks
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.models.preprocessors.photometric_fused import FusedColors, after_blur, before_blur
from mmadclr.registry import MODELS

CLOSE = dict(rtol=0, atol=2e-4)  # of normalized values: .01 levels of 255


def views(number, height, width):
    """uint8 noise, soft shapes and gray."""
    rng = np.random.default_rng(height)
    noise = torch.from_numpy(rng.integers(0, 256, (number, 3, height, width), dtype=np.uint8))
    soft = torch.nn.functional.avg_pool2d(noise.float(), 5, 1, 2).byte()
    return torch.where(torch.arange(number)[:, None, None, None] % 3 == 0, noise, soft)


def draws(number, **settings):
    rng = np.random.default_rng(1)
    recipes = [build_recipe(view, dict(solarize=0.3, blur=0.5) | settings) for view in RECIPES]
    return torch.from_numpy(np.stack([recipes[i % len(recipes)].draw(rng) for i in range(number)]))


def plain_fusion():
    preprocessor = ViewPreprocessor()
    preprocessor.fused = FusedColors(before_blur, after_blur)
    return preprocessor


@pytest.mark.parametrize('size', [(40, 52), (16, 16), (7, 96)])
def test_all_operations_and_orders(size):
    pixels, params = views(48, *size), draws(48)
    orders = {tuple(row) for row in params[:, 1:5].int().tolist()}
    assert len(orders) > 15
    assert all(0 < (column(params, name) > 0).sum() < 48 for name in ('flip', 'gray', 'blur_radius', 'solarize'))
    torch.testing.assert_close(plain_fusion().augment(pixels, params), ViewPreprocessor().augment(pixels, params), **CLOSE)


@pytest.mark.parametrize('blur', [0.0, 1.0])
def test_none_or_all_are_blurred(blur):
    pixels, params = views(9, 24, 24), draws(9, blur=blur)
    torch.testing.assert_close(plain_fusion().augment(pixels, params), ViewPreprocessor().augment(pixels, params), **CLOSE)


def test_views_that_nothing_is_done_to_keep_every_level():
    pixels = views(4, 24, 24)
    params = torch.tensor([[0.0, -1, -1, -1, -1, 1, 1, 1, 0, 0, 0, 0]]).repeat(4, 1)
    assert params.shape[1] == len(COLUMNS)
    preprocessor = plain_fusion()
    assert torch.equal(preprocessor.augment(pixels, params), preprocessor.normalize(pixels.float()))


def test_no_views_of_a_kind():
    assert plain_fusion().augment(torch.empty(2, 0, 3, 8, 8, dtype=torch.uint8), draws(2)[:, None][:, :0]).shape == (
        2,
        0,
        3,
        8,
        8,
    )


def test_parameters_on_a_device_are_refused():
    with pytest.raises(ValueError, match='photometric parameters are on meta'):
        plain_fusion().augment(views(2, 8, 8), draws(2).to('meta'))


def test_sizes_have_a_graph_each_and_batches_add_none():
    counter = CompileCounterWithBackend('aot_eager')
    preprocessor = ViewPreprocessor()
    preprocessor.compile_colors(backend=counter)
    for seed in range(3):
        for size in (24, 16):
            pixels, params = views(6, size, size), draws(12)[seed : seed + 6]
            expected = ViewPreprocessor().augment(pixels, params)
            torch.testing.assert_close(preprocessor.augment(pixels, params), expected, **CLOSE)
    assert counter.frame_count == 2 * 2
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='needs a C++ compiler')
def test_inductor_changes_nothing():
    preprocessor = ViewPreprocessor()
    preprocessor.compile_colors()
    pixels, params = views(48, 40, 52), draws(48)
    torch.testing.assert_close(preprocessor.augment(pixels, params), ViewPreprocessor().augment(pixels, params), **CLOSE)
    torch._dynamo.reset()


def test_exact_arithmetic_is_never_fused():
    preprocessor = ViewPreprocessor(arithmetic='pillow')
    preprocessor.compile_colors(backend='eager')
    assert preprocessor.fused is None


def test_on_a_cpu_colors_stay_as_they_are():
    arch = dict(embed_dim=24, depth=1, num_heads=3, patch_size=8)
    model = MODELS.build(
        dict(type='DINO', backbone=dict(type='QueryViT', arch=arch, img_size=32), head=dict(type='DINOHead', out_dim=8))
    )
    assert compile_blocks(model, dict(backend='eager'))
    assert model.data_preprocessor.fused is None
    torch._dynamo.reset()
