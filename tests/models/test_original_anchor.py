"""The anchor: its two distances, their weights over a run, and what it sees of the methods."""

import math

import pytest
import torch
import torch.nn.functional as F
from golden_files import GoldenFolder
from mmengine.config import Config
from places import REPO

from mmadclr.models.losses.original_anchor import cosine_distance, gram_distance
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.models.selfsup.base import freeze_first
from mmadclr.registry import MODELS

METHODS = ('adclr', 'dino', 'ibot', 'selfpatch', 'pqcl', 'mocov3', 'adclr_ibot', 'adclr_mocov3')
golden = GoldenFolder(REPO / 'tests/data/golden_modern')


def test_gram_distance_and_gradient_are_those_of_the_definition_in_float64():
    arrays = golden('dinov3_ref64')
    student = torch.tensor(arrays['gram/student'], requires_grad=True)
    teacher = torch.tensor(arrays['gram/teacher'], requires_grad=True)
    loss = gram_distance(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays['gram/image/loss']), abs=1e-10)
    torch.testing.assert_close(student.grad, torch.tensor(arrays['gram/image/grad_student']), rtol=0, atol=1e-10)
    assert teacher.grad is None


def test_gram_distance_lets_features_rotate_and_scale():
    patches = torch.randn(2, 5, 8, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert gram_distance(3 * patches @ rotation, patches).item() == pytest.approx(0, abs=1e-15)
    assert gram_distance(patches.flip(-1) * torch.arange(8), patches).item() > 1e-3


def test_cosine_distance_is_one_minus_the_mean_cosine():
    rows, others = torch.tensor([[2.0, 0], [0, 1], [1, 0]]), torch.tensor([[5.0, 0], [1, 0], [-1, 0]])
    assert cosine_distance(rows, others).item() == pytest.approx((0 + 1 + 2) / 3)


def build(method, anchor=None, **model):
    cfg = Config(dict(model=Config.fromfile(REPO / f'configs/demo/{method}_vittiny_shapes.py').model))
    cfg.merge_from_dict({f'model.{key}': value for key, value in ({'anchor': anchor} | model).items()})
    built = MODELS.build(cfg.model)
    built.init_weights()
    return built


def views_of(method, batch=2):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    views = dict(
        global_views=draw(batch, 2, 3, 32, 32), local_views=draw(batch, 2, 3, 16, 16), query_crops=draw(batch, 2, 0, 3, 8, 8)
    )
    if 'mocov3' in method:
        views['local_views'] = views['local_views'][:, :0]
    if 'adclr' in method:
        views['query_crops'] = draw(batch, 2, 3, 3, 8, 8)
    if method in ('ibot', 'pqcl', 'adclr_ibot'):
        views['masks'] = PatchMasks.of(draw(batch, 2, 4, 4) > 0.5)
    if method == 'pqcl':
        views['query_crops'] = draw(batch, 2, 1, 3, 16, 16)
        views['query_boxes'] = torch.tensor([0.1, 0.1, 0.6, 0.6]).expand(batch, 2, 1, 4)
    return views


@pytest.mark.parametrize('method', METHODS)
def test_every_method_keeps_its_losses_and_adds_the_anchor(method):
    torch.manual_seed(0)
    plain = build(method).double()
    torch.manual_seed(0)
    model = build(method, anchor=dict(gram_weight=(2, 2), cls_weight=(0.5, 0))).double()
    views = {key: value.double() if torch.is_tensor(value) else value for key, value in views_of(method).items()}
    if 'masks' in views:
        views['masks'] = PatchMasks(*(part.double() if part.is_floating_point() else part for part in views['masks']))
    with torch.no_grad():
        for own, other in zip(model.student.parameters(), plain.student.parameters(), strict=True):
            own.add_(0.1 * torch.randn_like(own))
            other.copy_(own)
    wanted, got = plain(views=views, mode='loss'), model(views=views, mode='loss')
    for name, loss in wanted.items():
        torch.testing.assert_close(got[name], loss, rtol=1e-9, atol=1e-11)
    assert got.keys() - wanted.keys() == {'loss_anchor_gram'} | ({'loss_anchor_cls'} if method != 'selfpatch' else set())
    images, mask = views['global_views'].transpose(0, 1).flatten(0, 1), None
    if 'masks' in views:
        mask = views['masks'].hidden.transpose(0, 1).flatten(0, 1)
    student, original = model.student['backbone'](images, mask=mask), model.teacher['backbone'](images)
    x, y = F.normalize(student.patches, dim=-1), F.normalize(original.patches, dim=-1)
    gram = sum(((a @ a.T - b @ b.T) ** 2).mean() for a, b in zip(x, y, strict=True)) / len(x)
    torch.testing.assert_close(got['loss_anchor_gram'], 2 * gram, rtol=1e-9, atol=1e-11)
    if method != 'selfpatch':
        cosines = torch.stack([a @ b / a.norm() / b.norm() for a, b in zip(student.cls, original.cls, strict=True)])
        torch.testing.assert_close(got['loss_anchor_cls'], 0.5 * (1 - cosines).mean(), rtol=1e-9, atol=1e-11)
    assert got['loss_anchor_gram'] > 1e-6


def test_joint_resolutions_show_the_anchor_the_same():
    losses = []
    for joint in (False, True):
        torch.manual_seed(0)
        model = build('adclr', anchor={}, **{'backbone.joint_resolutions': joint}).double()
        with torch.no_grad():
            for parameter in model.student.parameters():
                parameter.mul_(1.5)
        losses.append(model(views={key: value.double() for key, value in views_of('adclr').items()}, mode='loss'))
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('method', ['adclr', 'dino', 'mocov3'])
def test_it_is_zero_at_the_start_and_does_not_train(method):
    model = build(method, anchor={})
    model.train()
    losses = model(views=views_of(method), mode='loss')
    assert losses['loss_anchor_gram'].item() == pytest.approx(0, abs=1e-10)
    assert losses['loss_anchor_cls'].item() == pytest.approx(0, abs=1e-6)
    assert not any(parameter.requires_grad for parameter in model.anchor.parameters())
    assert not model.anchor.original.training


def test_weights_are_held_and_then_fall_to_their_floor():
    anchor = build('dino', anchor=dict(cls_weight=(1.0, 0.1), gram_weight=(2.0, 2.0), hold=0.25)).anchor
    for progress, want in ((0, 1), (0.25, 1), (0.625, 0.55), (1, 0.1)):
        anchor.progress = progress
        assert anchor.weights == {'gram': 2.0, 'cls': pytest.approx(want)}
    anchor.progress = 0.5
    assert anchor.weights['cls'] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 3)))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(gram_weight=(1,)), 'gram_weight=.* must be two weights'),
        (dict(cls_weight=(1, -1)), 'cls_weight=.* must be two weights of at least 0'),
        (dict(hold=1), r'hold=1 must be in \[0, 1\)'),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build('dino', anchor=settings)


def test_frozen_blocks_and_embeddings_do_not_train():
    model = build('dino', frozen_blocks=2)
    frozen = {name for name, p in model.student['backbone'].named_parameters() if not p.requires_grad}
    assert {name.split('.')[0] for name in frozen} == {'patch_embed', 'pos_embed', 'cls_token', 'blocks'}
    assert {name.split('.')[1] for name in frozen if name.startswith('blocks')} == {'0', '1'}
    model.train()
    assert [block.training for block in model.student['backbone'].blocks] == [False, False, True]
    assert freeze_first(build('dino').student['backbone'], 0) == []
    with pytest.raises(ValueError, match='frozen_blocks=4 must be between 0 .* and 3'):
        build('dino', frozen_blocks=4)


def test_a_student_that_is_not_masked_sees_what_the_teacher_sees():
    model, views = build('ibot', mask_student=False), views_of('ibot')
    assert model.student['backbone'].mask_token is None
    seen = []
    model.student['backbone'].register_forward_hook(lambda module, args, output: seen.append(args[3]))
    losses = model(views=views, mode='loss')
    assert seen[0] is None
    assert losses['loss_patch'].requires_grad
