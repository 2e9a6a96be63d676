"""PQCL: the published loss, its queries, and iBOT plus the query term of ADCLR against both of them."""

import numpy as np
import pytest
import torch

from mmadclr.models.backbones import PositionQueryViT
from mmadclr.models.heads.dino_head import PrototypeLayer
from mmadclr.models.losses.self_distillation import ProjectedFeatures
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.models.positions import grid_places, sincos_code
from mmadclr.registry import MODELS
from mmadclr.schedules import linear_warmup

FORMS = pytest.mark.parametrize('logits_mib', [None, 64, 1e-3], ids=['plain', 'one chunk', 'chunks'])
ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)
HEAD = dict(type='DINOHead', out_dim=40, hidden_dim=32, bottleneck_dim=16, norm_last_layer=False)


def build(type='PQCL', head=HEAD, **kwargs):
    backbone = dict(type='PositionQueryViT' if type == 'PQCL' else 'QueryViT', arch=ARCH, img_size=32)
    backbone |= dict(query_keys='image+queries') if type == 'PQCL' else {}
    return MODELS.build(dict(type=type, backbone=backbone, head=head) | kwargs)


def make_views(batch=2, num_local=2, num_query=2, dtype=torch.float64):
    views = dict(
        global_views=torch.randn(batch, 2, 3, 32, 32),
        local_views=torch.randn(batch, num_local, 3, 16, 16),
        query_crops=torch.randn(batch, 2, num_query, 3, 16, 16),
    )
    masks = PatchMasks.of(torch.rand(batch, 2, 4, 4) < 0.4)
    return {name: view.to(dtype) for name, view in views.items()} | dict(masks=masks)


def make_boxes(batch=2, num_query=2, dtype=torch.float64):
    first = torch.rand(batch, 2, num_query, 2, dtype=dtype)
    return torch.cat((first, first + 0.3), dim=-1)


def spread(model):
    """Weights large enough that every tensor moves the result; teacher unlike student."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if 'pos_embed' not in name:
                p.add_(0.2 * torch.randn_like(p))
    for loss in model.distillation_losses():
        loss.center.normal_()
    return model


# --- published numbers -----------------------------------------------------------------------------------------------------


def as_projection(values):
    """Logits (views, ..., K) as they are: one prototype along every axis."""
    prototypes = PrototypeLayer(values.shape[-1], values.shape[-1], learn_norm=False).to(values.dtype)
    with torch.no_grad():
        prototypes.weight_v.copy_(torch.eye(values.shape[-1]))
    return ProjectedFeatures(values, prototypes)


def image_tokens(logits, rows=None):
    """Logits (2 * B, 1 + N, K) of both views -> those of [CLS], and of all patches or of ``rows``."""
    patches = logits[:, 1:].flatten(0, 1)
    return as_projection(logits[:, 0].unflatten(0, (2, -1))), as_projection(
        (patches if rows is None else patches[rows])[None]
    )


def stand_in(model, monkeypatch, student, teacher, teacher_query, rows):
    """Published logits in the place of what the networks return."""

    def project(network, *_, queries=None, **__):
        if network is model.teacher:
            return image_tokens(teacher)
        return *image_tokens(student['global'], rows), as_projection(student['query'].unflatten(0, (2, -1)))

    monkeypatch.setattr(model, 'project_with_patches', project)
    monkeypatch.setattr(model, 'project_alone', lambda crops: as_projection(teacher_query[None]))


TERMS = {'cls': 'center', 'patch': 'center2', 'query': 'center3'}


def published_model(config, logits_mib):
    losses = dict(logits_mib=logits_mib, student_temp=config['student_temp'], center_momentum=config['center_momentum'])
    weights = dict(cls_weight=config['lambda1'], patch_weight=config['lambda2'], query_weight=config['lambda3'])
    head = HEAD | dict(out_dim=config['out_dim'])
    return build(head=head, **weights, **{f'loss_{kind}': losses for kind in TERMS})


def published_temperatures(arrays):
    """Temperatures by term and epoch, equal to the published ones."""
    config, tables = arrays.config, {}
    for kind in TERMS:
        middle = 'teacher_temp' if kind == 'cls' else f'teacher_{kind}_temp'
        ends = config[f'warmup_{middle}'], config[middle]
        tables[kind] = linear_warmup(*ends, config['epochs'], config['warmup_teacher_temp_epochs'])
        np.testing.assert_allclose(tables[kind], arrays[f'teacher_temp_schedule_{kind}'], rtol=0, atol=1e-12)
    return tables


@FORMS
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_equals_the_published_loss(golden, monkeypatch, logits_mib, dtype):
    arrays = golden('query_loss')
    config, tables = arrays.config, published_temperatures(arrays)
    model = published_model(config, logits_mib).to(dtype)
    assert arrays['student_query'].shape[1:3] == (2 * config['batch'], config['num_queries'])
    assert arrays['masks'].shape[1:] == (2, config['batch'], config['grid'], config['grid'])
    suffix, atol = ('', 1e-5) if dtype == torch.float32 else ('_f64', 1e-10)
    for call, epoch in enumerate(arrays['epoch']):
        for kind, table in tables.items():
            getattr(model, f'loss_{kind}').teacher_temp = table[epoch]
        student = {k: torch.from_numpy(arrays[f'student_{k}'][call]).to(dtype).requires_grad_() for k in ('global', 'query')}
        teacher, teacher_query = (torch.from_numpy(arrays[f'teacher_{k}'][call]).to(dtype) for k in ('global', 'query'))
        masks = PatchMasks.of(torch.from_numpy(arrays['masks'][call]).transpose(0, 1))  # (B, V, h, w)
        stand_in(model, monkeypatch, student, teacher, teacher_query, masks.rows)
        views = make_views(config['batch'], dtype=dtype) | dict(masks=masks)
        got = model.loss(**views, query_boxes=make_boxes(config['batch'], dtype=dtype))
        total = sum(got.values())
        total.backward()
        assert total.item() == pytest.approx(arrays[f'official/loss{suffix}'][call], rel=0, abs=2 * atol)
        for loss in model.distillation_losses():
            loss.update_center()
        for kind, center in TERMS.items():
            expected = arrays[f'official/loss_{kind}{suffix}'][call]
            assert got[f'loss_{kind}'].item() == pytest.approx(expected, rel=0, abs=atol), kind
            found = getattr(model, f'loss_{kind}').center.numpy()
            np.testing.assert_allclose(found, arrays[f'official/{center}'][call].ravel(), rtol=0, atol=1e-6)
        for kind, values in student.items():
            expected = torch.from_numpy(arrays[f'official/grad_student_{kind}'][call]).to(dtype)
            torch.testing.assert_close(values.grad, expected, rtol=0, atol=1e-6, msg=kind)


# --- queries ---------------------------------------------------------------------------------------------------------------


def test_positions_are_fixed_and_those_of_the_code():
    model = build()
    for network in (model.student, model.teacher):
        positions = network['backbone'].pos_embed
        assert not positions.requires_grad
        assert torch.equal(positions[0, 1:], sincos_code(grid_places(4, 4), 24))
        assert not positions[0, 0].any()
    model.init_weights()
    assert torch.equal(model.teacher['backbone'].pos_embed[0, 1:], sincos_code(grid_places(4, 4), 24))


def test_a_query_on_a_patch_enters_as_that_patch_would_if_it_were_hidden():
    """Closed form of the code's origin and scale: same place, same token."""
    backbone = build().student['backbone']
    with torch.no_grad():
        backbone.mask_token.normal_()
    whole = torch.ones(1, 4, 4, dtype=torch.bool)
    hidden = backbone.embed_image(torch.randn(1, 3, 32, 32), whole)[0, 1:]
    queries = backbone.embed_queries(grid_places(4, 4)[None, None])
    torch.testing.assert_close(queries[0, 0], hidden)


def definition(model, views, boxes):
    """The query term written out: one image, one view, one crop's token at a time."""
    student, teacher, terms = model.student, model.teacher, []
    for image, image_boxes, masks, crops in zip(
        views['global_views'], boxes, views['masks'].hidden, views['query_crops'][:, 0], strict=True
    ):
        with torch.no_grad():
            target = torch.cat([teacher['head'](teacher['backbone'](crop[None]).patches[0]) for crop in crops])
        target = ((target - model.loss_query.center) / model.loss_query.teacher_temp).softmax(-1)
        for view, mask, boxes_of_view in zip(image, masks, image_boxes, strict=True):
            places = [
                [4 * (left + j * (right - left) / 2), 4 * (top + i * (bottom - top) / 2)]
                for left, top, right, bottom in boxes_of_view.tolist()
                for i in range(2)
                for j in range(2)
            ]
            places = torch.tensor(places, dtype=torch.float64).view(1, len(crops), 4, 2)
            queries = student['backbone'](view[None], places, mask=mask[None]).queries[0].flatten(0, 1)
            log_probs = (student['head'](queries) / model.loss_query.student_temp).log_softmax(-1)
            terms.append(-(target * log_probs).sum(-1).mean())
    return torch.stack(terms).mean()


@FORMS
def test_query_term_and_its_gradients_equal_the_definition(logits_mib):
    model = spread(build(query_weight=0.6, loss_query=dict(logits_mib=logits_mib, teacher_temp=0.3)).double())
    views, boxes = make_views(), make_boxes()
    results = []
    for loss in (model.loss(**views, query_boxes=boxes)['loss_query'], 0.6 * definition(model, views, boxes)):
        model.zero_grad()
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in model.student.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-10)
    assert results[0][1].keys() == results[1][1].keys()
    for name, expected in results[1][1].items():
        torch.testing.assert_close(results[0][1][name], expected, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize('kind', ['PQCL', 'QueryIBOT'])
def test_the_other_terms_are_those_of_ibot(kind):
    """Image tokens never read queries, so whatever is added beside iBOT leaves its terms as they are."""
    model, views = spread(build(kind).double()), make_views()
    ibot = MODELS.build(
        dict(type='IBOT', backbone=dict(type='QueryViT', arch=ARCH, img_size=32, mask_token=True), head=HEAD)
    ).double()
    ibot.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith('loss_query')})
    extra = dict(query_boxes=make_boxes()) if kind == 'PQCL' else {}
    got = model.loss(**views, **extra)
    for name, expected in ibot.loss(**{k: v for k, v in views.items() if k != 'query_crops'}).items():
        torch.testing.assert_close(got[name], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('teacher_queries', ['with_view', 'alone'])
def test_on_whole_views_ibots_query_term_is_that_of_adclr(teacher_queries):
    model = spread(build('QueryIBOT', query_weight=0.6, teacher_queries=teacher_queries).double())
    views = make_views()
    views['masks'] = PatchMasks.of(torch.zeros_like(views['masks'].hidden))
    adclr = build('ADCLR', query_weight=0.6, teacher_queries=teacher_queries).double()
    state = {k: v for k, v in model.state_dict().items() if 'mask_token' not in k and not k.startswith('loss_patch')}
    adclr.load_state_dict(state)
    expected = adclr.loss(**{k: v for k, v in views.items() if k != 'masks'})
    got = model.loss(**views)
    for name in ('loss_cls', 'loss_query'):
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-10)


def test_without_queries_it_is_ibot():
    views = make_views(num_query=0, dtype=torch.float32)
    assert set(build('QueryIBOT').loss(**views)) == {'loss_cls', 'loss_patch'}


# --- bad input -------------------------------------------------------------------------------------------------------------


def test_what_samples_lack_is_explained():
    model, views, boxes = build(), make_views(dtype=torch.float32), make_boxes(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"PQCL: the samples have no masks; set mask=dict\(type='BlockMasking'\)"):
        model.loss(**views | dict(masks=None), query_boxes=boxes)
    with pytest.raises(ValueError, match='PQCL: the samples have no query crops; set num_query of MultiCrop'):
        model.loss(**make_views(num_query=0, dtype=torch.float32), query_boxes=boxes)
    with pytest.raises(ValueError, match=r"no query_boxes; use data_preprocessor=dict\(type='QueryBoxPreprocessor'\)"):
        model.loss(**views)
    with pytest.raises(ValueError, match='IBOT does not use the query_boxes of the samples'):
        build('IBOT')(views=views | dict(query_boxes=boxes), mode='loss')


def test_backbones_that_cannot_hold_queries_are_explained():
    with pytest.raises(ValueError, match='sine-cosine positions: the number of channels 18 must be a multiple of 4'):
        PositionQueryViT(dict(embed_dim=18, depth=1, num_heads=3, patch_size=8), img_size=32)
    with pytest.raises(ValueError, match='class_token=True, reg_tokens=0'):
        PositionQueryViT(ARCH, img_size=32, class_token=False)
    with pytest.raises(ValueError, match='no mask token, so it supports no queries'):
        build().teacher['backbone'](torch.randn(1, 3, 32, 32), torch.zeros(1, 1, 4, 2))
