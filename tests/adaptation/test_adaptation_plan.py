"""What an adaptation does, by backbone, images and time."""

import math

import pytest

from mmadclr.adaptation.plan import (
    LEAST_STEPS,
    Masked,
    choose_batch,
    choose_prototypes,
    choose_rate,
    choose_sizes,
    describe,
    head_scale,
    make_plan,
    shown,
)

SMALL = dict(embed_dim=384, depth=12)


@pytest.mark.parametrize(
    ('patch', 'trained', 'size', 'expected'),
    [
        (14, (518, 518), None, (14, 224, 98, 14)),
        (16, (224, 224), None, (16, 224, 96, 16)),
        (8, (224, 224), None, (8, 224, 96, 16)),
        (14, (518, 518), 56, (14, 56, 28, 14)),
        (16, (96, 128), None, (16, 96, 48, 16)),
        (32, (384, 384), None, (32, 224, 96, 32)),
    ],
)
def test_views_are_whole_patches(patch, trained, size, expected):
    assert choose_sizes(patch, trained, size) == expected


@pytest.mark.parametrize(('size', 'hint'), [(100, '98 or 112'), (14, '28 or 42'), (10, '28 or 42')])
def test_other_sizes_are_refused_with_sizes_that_work(size, hint):
    with pytest.raises(ValueError, match=f'--size {size} must be a multiple of the patch size 14 .*: {hint}$'):
        choose_sizes(14, (518, 518), size)


def test_batches_are_powers_of_two_of_at_most_half_of_the_images():
    assert [choose_batch(images, True) for images in (16, 50, 127, 128, 10**6)] == [8, 16, 32, 64, 64]
    assert choose_batch(10**6, False) == 16
    with pytest.raises(ValueError, match='15 images are too few to adapt to: at least 16'):
        choose_batch(15, True)


def test_prototypes_grow_with_the_images_and_are_never_more():
    assert [choose_prototypes(images) for images in (50, 500, 5000, 30_000, 10**6)] == [64, 256, 1024, 2048, 65_536]


def test_rates_follow_width_and_the_square_root_of_the_batch():
    assert choose_rate(384, 1024) == 3e-4
    assert choose_rate(768, 64) == pytest.approx(2e-4 / 4)
    assert choose_rate(1024, 64) * head_scale(1024) == pytest.approx(1e-3 / 4)


@pytest.mark.parametrize('step_s', [0.05, 0.4, 2.0])
@pytest.mark.parametrize('images', [16, 50, 1000, 30_000, 10**7])
@pytest.mark.parametrize('budget', [1800, 7200, 86400])
def test_a_plan_fits_the_time(step_s, images, budget):
    batch = choose_batch(images, True)
    plan = make_plan(choose_sizes(14, (518, 518), None), images, batch, SMALL, step_s, budget)
    measuring = (plan.evaluations + 4) * plan.measured * step_s / batch * 0.5
    assert plan.training_s + measuring <= budget
    assert plan.steps == plan.epochs * (plan.images // plan.batch) >= 0.9 * LEAST_STEPS
    assert plan.images <= images
    assert 1 <= plan.evaluations <= plan.epochs
    assert 0 < plan.heads_epochs < plan.epochs
    assert plan.prototypes <= max(64, plan.images)


def test_long_runs_end_early_on_few_images():
    plan = make_plan(choose_sizes(14, (518, 518), None), 640, 64, SMALL, 0.1, 10**6)
    assert plan.epochs == 100


def test_a_short_time_gets_a_part_of_many_images_in_several_passes():
    plan = make_plan(choose_sizes(14, (518, 518), None), 10**6, 64, SMALL, 1.0, 3600)
    assert plan.images == plan.steps * 64 / plan.epochs
    assert plan.epochs == 4
    assert ('images', f'{plan.images} drawn from 1000000') in describe(plan, 'dino')


def test_a_small_set_trains_the_last_third_of_the_blocks():
    assert make_plan(choose_sizes(14, (518, 518), None), 1000, 64, SMALL, 0.1, 3600).frozen_blocks == 8
    assert make_plan(choose_sizes(14, (518, 518), None), 30_000, 64, SMALL, 0.1, 36000).frozen_blocks == 0


def test_a_time_that_is_too_short_is_said_with_the_time_of_a_step_and_the_next_one_works():
    sizes = choose_sizes(14, (518, 518), None)
    with pytest.raises(ValueError, match=r'--budget is too short: 1m are left|2m are left') as caught:
        make_plan(sizes, 5000, 64, SMALL, 3.25, 120)
    assert 'a step of 64 images takes 3.2 s (measured)' in str(caught.value)
    assert '\n' not in str(caught.value)
    advised = str(caught.value).partition('give about ')[2].partition(',')[0]
    hours, _, minutes = advised.rpartition('h')
    make_plan(sizes, 5000, 64, SMALL, 3.25, 3600 * int(hours or 0) + 60 * int(minutes.rstrip('m')))


def test_few_images_are_warned_of():
    text = dict(describe(make_plan(choose_sizes(14, (518, 518), None), 50, 16, SMALL, 0.1, 3600), 'adclr'))
    assert text['images'] == '50, fewer than 2000: an improvement is unlikely'
    assert 'query crops 14' in text['views']


@pytest.mark.parametrize(('seconds', 'text'), [(0.2, '1s'), (99, '99s'), (100, '2m'), (3600, '1h00m'), (7500, '2h05m')])
def test_durations_are_short(seconds, text):
    assert shown(seconds) == text
    assert math.isfinite(seconds)


def test_processes_share_a_step_of_at_most_half_of_the_images():
    assert [choose_batch(images, True, 4) for images in (16, 100, 512, 10**6)] == [2, 8, 64, 64]
    assert [choose_batch(images, False, 3) for images in (16, 10**6)] == [2, 16]
    with pytest.raises(ValueError, match='20 images are too few for 16 processes: at most 10, or add images'):
        choose_batch(20, True, 16)
    plan = make_plan(choose_sizes(14, (518, 518), None), 5000, 256, SMALL, 0.5, 3600, processes=4)
    assert '256 images (64 on each of 4 processes)' in dict(describe(plan, 'dino'))['length']
    assert plan.lr == pytest.approx(3e-4 / 2)
    assert plan.steps == plan.epochs * (plan.images // 256)


@pytest.mark.parametrize('step_s', [0.05, 2.0])
@pytest.mark.parametrize('masks', [(12, 4), (1464, 1449), (20_000, 2000)])
@pytest.mark.parametrize('budget', [1800, 86400])
def test_a_plan_with_masks_fits_the_time_and_measures_fewer_of_them_in_the_run(step_s, masks, budget):
    masks, sizes = Masked(*masks), choose_sizes(14, (518, 518), None)
    plan, without = (make_plan(sizes, 5000, 64, SMALL, step_s, budget, each) for each in (masks, None))
    image, with_mask = (cost * step_s / 64 for cost in (0.5, 0.2))
    measuring = (plan.evaluations + 4) * plan.measured * image + with_mask * (
        (plan.evaluations + 1) * sum(plan.masked_often) + 3 * sum(plan.masked)
    )
    assert plan.training_s + measuring <= budget
    assert plan.spare_s == pytest.approx(budget - plan.training_s - measuring)
    more = plan._replace(evaluations=plan.evaluations + 1)
    assert plan.spare_s - more.spare_s == pytest.approx(plan.measured * image + sum(plan.masked_often) * with_mask)
    for often, before, there in zip(plan.masked_often, plan.masked, masks, strict=True):
        assert min(there, 32) <= often <= before <= min(there, 1000)
    assert min(5000, 64) <= plan.measured <= without.measured
    assert f'mIoU of {plan.masked.val} images' in dict(describe(plan, 'dino'))['masks']
    assert 'masks' not in dict(describe(without, 'dino'))


def test_a_chosen_length_takes_all_images_and_says_if_it_takes_longer_than_the_time():
    sizes = choose_sizes(14, (518, 518), None)
    short, long = (make_plan(sizes, 1000, 64, SMALL, 0.1, 600, epochs=epochs) for epochs in (2, 400))
    assert (short.steps, short.images, short.heads_epochs) == (30, 1000, 0.4)
    assert (long.epochs, long.steps) == (400, 6000)
    assert 'more than --budget' in dict(describe(long, 'dino'))['time']
    assert 'more than' not in dict(describe(short, 'dino'))['time']
