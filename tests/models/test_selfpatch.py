"""SelfPatch: the published loss, a slow reference of it view by view, and what a run of it needs."""

import numpy as np
import pytest
import torch

from mmadclr.engine.optimizers.constructors import split_by_decay
from mmadclr.models.heads.dino_head import PrototypeLayer
from mmadclr.models.losses.self_distillation import ProjectedFeatures
from mmadclr.registry import MODELS
from mmadclr.schedules import linear_warmup

FORMS = pytest.mark.parametrize('logits_mib', [None, 64, 1e-3], ids=['plain', 'one chunk', 'chunks'])
TINY = dict(
    backbone=dict(type='QueryViT', arch=dict(embed_dim=24, depth=2, num_heads=3, patch_size=8), img_size=32),
    head=dict(type='DINOHead', out_dim=40, hidden_dim=32, bottleneck_dim=16, norm_last_layer=False),
    patch_head=dict(out_dim=20),
)


def build(**kwargs):
    return MODELS.build(dict(type='SelfPatch') | TINY | kwargs)


def make_views(num_local=3, batch=2, dtype=torch.float64, local_size=16):
    views = dict(
        global_views=torch.randn(batch, 2, 3, 32, 32), local_views=torch.randn(batch, num_local, 3, local_size, local_size)
    )
    return {name: view.to(dtype) for name, view in views.items()}


# --- published numbers -----------------------------------------------------------------------------------------------------


def as_projection(values):
    """Logits (views, ..., K) as they are: one prototype along every axis."""
    prototypes = PrototypeLayer(values.shape[-1], values.shape[-1], learn_norm=False).to(values.dtype)
    with torch.no_grad():
        prototypes.weight_v.copy_(torch.eye(values.shape[-1]))
    return ProjectedFeatures(values, prototypes)


def projections(parts, batch):
    """Published logits (crops * B, tokens, K), crop by crop -> those of [CLS] (V, B, K) and of all patches (1, R, K)."""
    sizes = [size for size in ('global', 'local') if f'cls_{size}' in parts]
    cls = torch.cat([parts[f'cls_{size}'][:, 0].unflatten(0, (-1, batch)) for size in sizes])
    patches = torch.cat([parts[f'patch_{size}'].flatten(0, 1) for size in sizes])
    return as_projection(cls), as_projection(patches[None])


def published_model(config, logits_mib):
    losses = dict(logits_mib=logits_mib, student_temp=config['student_temp'], center_momentum=config['center_momentum'])
    return build(
        head=TINY['head'] | dict(out_dim=config['out_dim']),
        patch_head=dict(out_dim=config['out_dim_selfpatch']),
        loss_cls=losses,
        loss_patch=losses,
        patch_weight=config['patch_loss_weight'],
    )


def views_of(arrays, dtype):
    """Views, of no matter what, of which the model would make as many logits as the golden file has: one row of patches."""
    batch, views, patch = arrays.config['batch'], {'global': 2, 'local': arrays.config['n_local_crops']}, 8
    found = {}
    for kind, count in views.items():
        assert not count or arrays[f'student/cls_{kind}'].shape[1] == count * batch
        tokens = arrays[f'student/patch_{kind}'].shape[2] if count else 1
        found[f'{kind}_views'] = torch.zeros(batch, count, 3, patch, patch * tokens, dtype=dtype)
    return found


@FORMS
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_equals_the_published_loss(golden, tensors, monkeypatch, logits_mib, dtype):
    arrays = golden('selfpatch_loss')
    config, views = arrays.config, views_of(arrays, dtype)
    model = published_model(config, logits_mib).to(dtype)
    ends, warmup = (config['warmup_teacher_temp'], config['teacher_temp']), config['warmup_teacher_temp_epochs']
    temperatures = linear_warmup(*ends, config['epochs'], warmup)
    np.testing.assert_allclose(temperatures, arrays['teacher_temp_schedule'], rtol=0, atol=1e-12)
    suffix, atol = ('', 1e-5) if dtype == torch.float32 else ('_f64', 1e-10)
    for call, epoch in enumerate(arrays['epoch']):
        for loss in model.distillation_losses():
            loss.teacher_temp = temperatures[epoch]
        student, teacher = ({k: v[call].to(dtype) for k, v in tensors(arrays, p).items()} for p in ('student/', 'teacher/'))
        student = {name: values.requires_grad_() for name, values in student.items()}
        networks = ((model.student, student), (model.teacher, teacher))
        given = {id(network): projections(parts, config['batch']) for network, parts in networks}
        monkeypatch.setattr(model, 'project_views', lambda network, *_, given=given, **__: given[id(network)])
        got = model.loss(**views)
        sum(got.values()).backward()
        for loss in model.distillation_losses():
            loss.update_center()
        patch = config['patch_loss_weight'] * arrays[f'loss_patch{suffix}'][call]
        assert got['loss_cls'].item() == pytest.approx(arrays[f'loss_cls{suffix}'][call], rel=0, abs=atol)
        assert got['loss_patch'].item() == pytest.approx(patch, rel=0, abs=atol)
        assert sum(got.values()).item() == pytest.approx(arrays[f'loss{suffix}'][call], rel=0, abs=atol)
        for name, values in student.items():
            expected = torch.from_numpy(arrays[f'grad_student/{name}'][call]).to(dtype)
            torch.testing.assert_close(values.grad, expected, rtol=0, atol=1e-6, msg=name)
        for loss, name in ((model.loss_cls, 'center'), (model.loss_patch, 'patch_center')):
            np.testing.assert_allclose(loss.center.numpy(), arrays[name][call].ravel(), rtol=0, atol=1e-6)


# --- a slow reference ------------------------------------------------------------------------------------------------------


def cross_entropy(teacher, student, loss):
    target = ((teacher - loss.center) / loss.teacher_temp).softmax(-1)
    return -(target * (student / loss.student_temp).log_softmax(-1)).sum(-1)


def definition(model, global_views, local_views):
    """Both terms written out image by image and view by view."""

    def logits(network, view, teaches):
        grid = (view.shape[1] // 8, view.shape[2] // 8) if teaches else None
        cls, patches = network['class_attention'](network['backbone'](view[None]).patches, grid)
        return network['head'](cls)[0], network['patch_head'](patches)[0]

    cls_terms, patch_terms = [], []
    for image, local in zip(global_views, local_views, strict=True):
        views = [*image, *local]
        with torch.no_grad():
            taught = [logits(model.teacher, view, True) for view in views]
        learned = [logits(model.student, view, False) for view in views]
        for u, (teacher_cls, teacher_patches) in enumerate(taught):
            patch_terms.append(cross_entropy(teacher_patches, learned[u][1], model.loss_patch).mean())
            others = [cls for v, (cls, _) in enumerate(learned) if u != v] if u < 2 else []
            cls_terms += [cross_entropy(teacher_cls, cls, model.loss_cls) for cls in others]
    return torch.stack(cls_terms).mean(), torch.stack(patch_terms).mean()


@FORMS
@pytest.mark.parametrize('num_local', [0, 3])
@pytest.mark.parametrize('wrap', [True, False])
def test_losses_and_gradients_equal_the_definition(logits_mib, num_local, wrap):
    losses = dict(logits_mib=logits_mib)
    model = build(
        class_attention=dict(wrap=wrap),
        loss_cls=losses | dict(teacher_temp=0.5),
        loss_patch=losses | dict(teacher_temp=0.3),
        patch_weight=0.7,
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    for loss in model.distillation_losses():
        loss.center.normal_()
    views = make_views(num_local)
    results = []
    for (cls, patch), weight in ((model.loss(**views).values(), 1.0), (definition(model, **views), 0.7)):
        model.zero_grad()
        (cls + weight * patch).backward()
        gradients = {name: p.grad.clone() for name, p in model.student.named_parameters()}
        results.append((cls.detach(), weight * patch.detach(), gradients))
    for got, expected in zip(*(result[:2] for result in results), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    for name, expected in results[1][2].items():
        torch.testing.assert_close(results[0][2][name], expected, rtol=0, atol=1e-9, msg=name)
    assert all(p.grad is None for p in model.teacher.parameters())


def test_centers_follow_the_teachers_tokens_of_all_views():
    model = build().double()
    views = make_views()
    model.loss(**views)
    cls, patches = model.project_views(model.teacher, list(views.values()), summarize=True)
    model.after_step()
    torch.testing.assert_close(model.loss_cls.center, 0.1 * cls.logits().mean((0, 1)), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.loss_patch.center, 0.1 * patches.logits().mean((0, 1)), rtol=0, atol=1e-12)
    assert cls.features.shape[:2] == (5, 2)
    assert patches.features.shape[1] == 2 * (2 * 16 + 3 * 4)


def test_features_are_the_class_tokens_and_the_raw_patches():
    model = build()
    images = torch.randn(2, 3, 32, 32)
    patches = model.teacher['backbone'](images).patches
    assert torch.equal(model(images=images), model.teacher['class_attention'](patches)[0])
    assert torch.equal(model(images=images, mode='patches'), patches)


def test_the_backbone_has_neither_class_token_nor_norm_and_all_parameters_are_trained():
    model = build(head=TINY['head'])
    assert {'backbone.cls_token', 'backbone.norm.weight'}.isdisjoint(model.student.state_dict())
    sum(model.loss(**make_views(dtype=torch.float32)).values()).backward()
    assert all(p.grad is not None for p in model.student.parameters())
    decayed, exempt = split_by_decay(model.student.named_parameters())
    assert len(decayed) + len(exempt) == len(list(model.student.parameters()))


def test_weights_are_drawn_anew_and_the_teacher_starts_from_them():
    model = build()
    before = {name: p.clone() for name, p in model.student['class_attention'].named_parameters() if p.ndim > 1}
    model.init_weights()
    for name, p in model.student['class_attention'].named_parameters():
        assert name not in before or not torch.equal(p, before[name]), name
    student = model.student.state_dict()
    assert all(torch.equal(value, student[name]) for name, value in model.teacher.state_dict().items())


def test_local_views_of_one_patch_are_explained():
    with pytest.raises(ValueError, match=r'1 x 1 patches has no neighbors: .*\(global_size and local_size of MultiCrop\)'):
        build().loss(**make_views(dtype=torch.float32, local_size=8))
