"""ADCLR against a slow float64 reference that shares nothing with it but the weights, and against DINO."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmadclr.registry import MODELS

ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)
RULES = {'image': (), 'image+self': ('self',), 'image+queries': ('self', 'others')}


def build(type='ADCLR', seed=0, query_keys='image', spread=True, **kwargs):
    torch.manual_seed(seed)
    model = MODELS.build(
        dict(
            type=type,
            backbone=dict(type='QueryViT', arch=ARCH, img_size=32, query_keys=query_keys),
            head=dict(type='DINOHead', out_dim=40, hidden_dim=32, bottleneck_dim=16, norm_last_layer=False),
            **kwargs,
        )
    ).double()
    if spread:  # weights large enough that every tensor moves the result; teacher unlike student
        with torch.no_grad():
            for network in (model.student, model.teacher):
                for p in network.parameters():
                    p.add_(0.2 * torch.randn_like(p))
    return model


def make_views(num_local=3, num_query=2, query_side=16, batch=2):
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return dict(
        global_views=draw(batch, 2, 3, 32, 32),
        local_views=draw(batch, num_local, 3, 16, 16),
        query_crops=draw(batch, 2, num_query, 3, query_side, query_side),
    )


# --- the reference: one image and one view at a time, explicit masks, no fused operation ----------------------------------


def reference_tokens(weights, image):
    """Patch by patch: (3, H, W) -> list of tokens (D,)."""
    kernel, bias = weights['backbone.patch_embed.proj.weight'], weights['backbone.patch_embed.proj.bias']
    size = kernel.shape[-1]
    return [
        torch.einsum('dchw,chw->d', kernel, image[:, i : i + size, j : j + size]) + bias
        for i in range(0, image.shape[1], size)
        for j in range(0, image.shape[2], size)
    ]


def reference_positions(weights, grid):
    stored = weights['backbone.pos_embed']
    side = math.isqrt(stored.shape[1] - 1)
    if grid == side:
        return stored[0]
    patches = stored[0, 1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(patches, scale_factor=(grid + 0.1) / side, mode='bicubic')
    return torch.cat((stored[0, :1], resized[0].flatten(1).T))


def layer_norm(x, weights, name):
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f'{name}.weight'] + weights[f'{name}.bias']


def reference_block(x, weights, name, allowed):
    """x (S, D); ``allowed`` (S, S) says which row may read which column."""
    h = layer_norm(x, weights, f'{name}.norm1')
    q, k, v = (h @ weights[f'{name}.attn.qkv.weight'].T + weights[f'{name}.attn.qkv.bias']).chunk(3, dim=-1)
    outputs, width = [], q.shape[-1] // 3
    for head in range(3):
        part = slice(head * width, (head + 1) * width)
        scores = (q[:, part] @ k[:, part].T / math.sqrt(width)).masked_fill(~allowed, -math.inf)
        outputs.append(scores.softmax(-1) @ v[:, part])
    x = x + torch.cat(outputs, -1) @ weights[f'{name}.attn.proj.weight'].T + weights[f'{name}.attn.proj.bias']
    h = layer_norm(x, weights, f'{name}.norm2')
    h = F.gelu(h @ weights[f'{name}.mlp.fc1.weight'].T + weights[f'{name}.mlp.fc1.bias'])
    return x + h @ weights[f'{name}.mlp.fc2.weight'].T + weights[f'{name}.mlp.fc2.bias']


def reference_forward(weights, image, crops, rule):
    """[CLS] logits and the logits of each query token, for one view and its crops (Q, 3, q, q)."""
    patches = reference_tokens(weights, image)
    tokens = [weights['backbone.cls_token'][0, 0], *patches]
    tokens = torch.stack(tokens) + reference_positions(weights, math.isqrt(len(patches)))
    owners = [None] * len(tokens)
    for number, crop in enumerate(crops):
        for token in reference_tokens(weights, crop):
            tokens = torch.cat((tokens, token[None]))
            owners.append(number)
    allowed = torch.tensor(
        [
            [
                column is None
                or (row is not None and row == column and 'self' in rule)
                or (row is not None and row != column and 'others' in rule)
                for column in owners
            ]
            for row in owners
        ]
    )
    for block in range(ARCH['depth']):
        tokens = reference_block(tokens, weights, f'backbone.blocks.{block}', allowed)
    tokens = layer_norm(tokens, weights, 'backbone.norm')
    kept = torch.stack([tokens[0], *(token for token, owner in zip(tokens, owners, strict=True) if owner is not None)])
    logits = reference_head(weights, kept)
    return logits[0], logits[1:]


def reference_head(weights, x):
    for i in (0, 2, 4):
        x = x @ weights[f'head.mlp.{i}.weight'].T + weights[f'head.mlp.{i}.bias']
        x = F.gelu(x) if i < 4 else x
    x = x / x.norm(dim=-1, keepdim=True)
    direction = weights['head.last_layer.weight_v']
    return x @ (weights['head.last_layer.weight_g'] * direction / direction.norm(dim=1, keepdim=True)).T


def cross_entropy(teacher, student, center, teacher_temp, student_temp=0.1):
    target = ((teacher - center) / teacher_temp).softmax(-1)
    return -(target * (student / student_temp).log_softmax(-1)).sum()


def reference_losses(student, teacher, views, centers, temps, rule):
    cls_terms, query_terms = [], []
    for image in range(len(views['global_views'])):
        pairs = zip(views['global_views'][image], views['query_crops'][image], strict=True)
        per_view = [(view, crops) for view, crops in pairs]
        with torch.no_grad():
            taught = [reference_forward(teacher, view, crops, rule) for view, crops in per_view]
        learned = [reference_forward(student, view, crops, rule) for view, crops in per_view]
        learned += [reference_forward(student, view, [], rule) for view in views['local_views'][image]]
        for u, (teacher_cls, teacher_queries) in enumerate(taught):
            for v, (student_cls, student_queries) in enumerate(learned):
                if u == v:
                    continue
                cls_terms.append(cross_entropy(teacher_cls, student_cls, centers[0], temps[0]))
                for t, s in zip(teacher_queries, student_queries, strict=True) if v < len(taught) else ():
                    query_terms.append(cross_entropy(t, s, centers[1], temps[1]))
    return torch.stack(cls_terms).mean(), torch.stack(query_terms).mean()


@pytest.mark.parametrize('query_keys', RULES)
@pytest.mark.parametrize(('num_local', 'query_side'), [(3, 16), (0, 8)])
def test_losses_and_gradients_equal_the_slow_reference(query_keys, num_local, query_side):
    model = build(
        query_keys=query_keys, query_weight=0.7, loss_cls=dict(teacher_temp=0.5), loss_query=dict(teacher_temp=0.3)
    )
    for loss in model.distillation_losses():
        loss.center.normal_()
    views = make_views(num_local=num_local, query_side=query_side)
    losses = model.loss(**views)
    sum(losses.values()).backward()

    student = {k: v.detach().clone().requires_grad_() for k, v in model.student.state_dict().items()}
    centers = (model.loss_cls.center, model.loss_query.center)
    expected = reference_losses(student, model.teacher.state_dict(), views, centers, (0.5, 0.3), RULES[query_keys])
    (expected[0] + 0.7 * expected[1]).backward()
    torch.testing.assert_close(losses['loss_cls'], expected[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(losses['loss_query'], 0.7 * expected[1], rtol=0, atol=1e-10)
    for name, parameter in model.student.named_parameters():
        torch.testing.assert_close(parameter.grad, student[name].grad, rtol=0, atol=1e-9, msg=name)


def test_centers_are_separate_and_follow_their_own_tokens():
    model = build()
    views = make_views()
    model.loss(**views)
    weights = model.teacher.state_dict()
    cls, queries = [], []
    for image, crops in zip(views['global_views'].flatten(0, 1), views['query_crops'].flatten(0, 1), strict=True):
        logits = reference_forward(weights, image, crops, ())
        cls.append(logits[0])
        queries.extend(logits[1])
    model.after_step()
    torch.testing.assert_close(model.loss_cls.center, 0.1 * torch.stack(cls).mean(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(model.loss_query.center, 0.1 * torch.stack(queries).mean(0), rtol=0, atol=1e-10)


def test_without_queries_adclr_is_dino_exactly():
    adclr, dino = build('ADCLR', spread=False), build('DINO', spread=False)
    views = make_views(num_query=0)
    for model in (adclr, dino):
        optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
        for _ in range(3):
            losses = model.loss(**views)
            assert set(losses) == {'loss_cls'}
            optimizer.zero_grad()
            losses['loss_cls'].backward()
            optimizer.step()
            model.after_step()
    for (name, a), b in zip(adclr.student.named_parameters(), dino.student.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(a, b) for a, b in zip(adclr.teacher.parameters(), dino.teacher.parameters(), strict=True))
    assert torch.equal(adclr.loss_cls.center, dino.loss_cls.center)


def test_cls_term_does_not_depend_on_queries():
    model = build()
    views = make_views()
    with_queries = model.loss(**views)['loss_cls']
    without = model.loss(**(views | dict(query_crops=views['query_crops'][:, :, :0])))['loss_cls']
    torch.testing.assert_close(with_queries, without, rtol=0, atol=1e-12)


def test_crops_encoded_alone_are_the_same_target_for_both_views():
    """The released code's targets: patch tokens of the crop as an image of its own; here in closed form from the parts."""
    model = build(teacher_queries='alone')
    views = make_views()
    shared = views['query_crops'][:, :1].expand(-1, 2, -1, -1, -1, -1)
    projection = model.project_alone(shared)
    got = projection.logits()
    assert torch.equal(got[0], got[1])
    teacher = model.teacher
    for image in range(2):
        expected = [teacher['head'](teacher['backbone'](crop[None]).patches[0]) for crop in shared[image, 0]]
        torch.testing.assert_close(got[0, image], torch.cat(expected), rtol=0, atol=1e-10)
    loss = model.loss(**(views | dict(query_crops=shared)))['loss_query']
    student = model.project_with_queries(model.student, shared, views['global_views'])[1]
    torch.testing.assert_close(loss, model.loss_query(student, projection))
    assert abs(loss - build().loss(**(views | dict(query_crops=shared)))['loss_query']) > 1e-6


def test_separate_query_head():
    """A second head: [CLS] does not use it, query tokens use nothing else, and the teacher follows it."""
    model = build(shared_head=False)
    losses = model.loss(**make_views())
    gradients = torch.autograd.grad(
        losses['loss_cls'], model.student['query_head'].parameters(), allow_unused=True, retain_graph=True
    )
    assert all(g is None for g in gradients)
    trainable = [p for p in model.student['head'].parameters() if p.requires_grad]
    gradients = torch.autograd.grad(losses['loss_query'], trainable, allow_unused=True)
    assert all(g is None for g in gradients)
    before = model.teacher['query_head'].last_layer.weight_v.clone()
    model.after_step()
    assert not torch.equal(model.teacher['query_head'].last_layer.weight_v, before)


def test_unknown_teacher_queries_are_explained():
    with pytest.raises(ValueError, match="teacher_queries='both': choose 'with_view' or 'alone'"):
        build(teacher_queries='both')


def test_adclr_adds_no_parameter():
    names = [{name for name, _ in build(kind).named_parameters()} for kind in ('ADCLR', 'DINO')]
    assert names[0] == names[1]


def test_lambda_scales_the_query_term():
    views = make_views()
    losses = [build(query_weight=weight).loss(**views)['loss_query'] for weight in (1.0, 2.5)]
    torch.testing.assert_close(losses[1], 2.5 * losses[0])
