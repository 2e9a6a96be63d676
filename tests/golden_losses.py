"""Golden files of losses, schedules and k-NN with sizes of our own choice, computed by the plain forms."""

from __future__ import annotations

import itertools
import random

import numpy as np
import plain_forms as plain
import torch
from torch import Tensor

LOSS = dict(
    warmup_teacher_temp=0.05,
    teacher_temp=0.09,
    warmup_teacher_temp_epochs=3,
    epochs=8,
    student_temp=0.15,
    center_momentum=0.8,
)
EPOCHS = torch.tensor([1, 3, 7])


def config(**values) -> dict:
    return {f'config/{name}': np.array(value) for name, value in values.items()}


def rounded(*shape: int, scale: float = 1.0) -> Tensor:
    """Random numbers that are the same in every precision: sixteenths, or a bfloat16's bits."""
    return (scale * torch.randn(*shape)).bfloat16().double()


def temperatures(kind: str = '', settings: dict = LOSS) -> list[float]:
    ends = settings[f'warmup_teacher_{kind}temp'], settings[f'teacher_{kind}temp']
    return plain.warmed_up(*ends, settings['warmup_teacher_temp_epochs'], settings['epochs'])


def f32(tensor: Tensor) -> Tensor:
    return tensor.detach().float()


def with_losses(prefix: str, names: tuple[str, ...], values: list[tuple]) -> dict:
    columns = {
        name: torch.stack([v.detach() for v in column])
        for name, column in zip(names, zip(*values, strict=True), strict=True)
    }
    return {f'{prefix}{name}': f32(c) for name, c in columns.items()} | {
        f'{prefix}{name}_f64': c for name, c in columns.items()
    }


def dino_loss() -> dict:
    batch, out_dim, temps = 4, 30, temperatures()
    found = config(batch=batch, out_dim=out_dim, **LOSS) | {'teacher_temp_schedule': np.array(temps)}
    for name, n_crops in (('multicrop', 7), ('two_views', 2)):
        student = rounded(3, n_crops * batch, out_dim).requires_grad_()
        teacher, center, losses, centers = rounded(3, 2 * batch, out_dim), torch.zeros(out_dim).double(), [], []
        for s, t, epoch in zip(student, teacher, EPOCHS, strict=True):
            t, s = (x.unflatten(0, (-1, batch)) for x in (t, s))
            losses.append(plain.cross_view(t, s, center, temps[epoch], LOSS['student_temp']))
            center = plain.moved(center, t, LOSS['center_momentum'])
            centers.append(center[None])
        (gradient,) = torch.autograd.grad(sum(losses), student)
        found |= with_losses(f'{name}/', ('loss',), [(x,) for x in losses])
        outputs = dict(student=student, teacher=teacher, center=torch.stack(centers), grad_student=gradient)
        found |= {f'{name}/{key}': f32(value) for key, value in outputs.items()}
        found |= {f'{name}/epoch': EPOCHS, f'{name}/n_crops': np.array(n_crops)}
    return found


def views_of_masks(batch: int, grid: int, empty: int) -> Tensor:
    """Masks (call, view, B, h, w), one of the first view's images without any."""
    masks = torch.rand(3, 2, batch, grid, grid) < 0.4
    masks[:, 0, empty] = False
    return masks


def ibot_loss() -> dict:
    settings = LOSS | dict(
        warmup_teacher_patch_temp=0.04, teacher_patch_temp=0.07, center_momentum2=0.7, lambda1=0.6, lambda2=1.4
    )
    batch, grid, k, k2, late = 2, 3, 26, 34, 2
    tables = temperatures(settings=settings), temperatures('patch_', settings)
    sizes = dict(batch=batch, grid=grid, out_dim=k, patch_out_dim=k2, mim_start_epoch_of_late_schedule=late)
    found = config(**sizes, **settings) | dict(teacher_temp_schedule=np.array(tables[0]))
    found['teacher_patch_temp_schedule'] = np.array(tables[1])
    found['teacher_patch_temp_schedule_late'] = np.array(([tables[1][0]] * late + tables[1])[: settings['epochs']])
    for name, local in (('multicrop', 4), ('two_views', 0)):
        leaves = dict(student_cls=rounded(3, 2 * batch, k), student_patch=rounded(3, 2 * batch, grid**2, k2))
        leaves |= dict(student_local_cls=rounded(3, local * batch, k)) if local else {}
        teacher = dict(teacher_cls=rounded(3, 2 * batch, k), teacher_patch=rounded(3, 2 * batch, grid**2, k2))
        masks = views_of_masks(batch, grid, 1)
        for leaf in leaves.values():
            leaf.requires_grad_()
        losses, centers = ibot_calls(settings, tables, batch, leaves, teacher, masks)
        gradients = torch.autograd.grad(sum(total for total, _, _ in losses), list(leaves.values()))
        found |= with_losses(f'{name}/', ('loss', 'loss_cls', 'loss_patch'), losses)
        found |= {f'{name}/{key}': f32(value) for key, value in (leaves | teacher | centers).items()}
        found |= {f'{name}/grad_{key}': f32(g) for key, g in zip(leaves, gradients, strict=True)}
        found |= {f'{name}/masks': masks, f'{name}/epoch': EPOCHS, f'{name}/n_local_crops': np.array(local)}
    return found


def ibot_calls(settings, tables, batch, leaves, teacher, masks):
    """(total, class, patch) losses of every call and both centers after it."""
    center, center2 = (torch.zeros(teacher[f'teacher_{part}'].shape[-1]).double() for part in ('cls', 'patch'))
    losses, centers, student_temp = [], [], settings['student_temp']
    for call, epoch in enumerate(EPOCHS):
        taught, patches, learned = (
            x[call].unflatten(0, (2, batch))
            for x in (teacher['teacher_cls'], teacher['teacher_patch'], leaves['student_patch'])
        )
        views = torch.cat([leaves[name][call] for name in ('student_cls', 'student_local_cls') if name in leaves])
        views = views.unflatten(0, (-1, batch))
        cls = settings['lambda1'] * plain.cross_view(taught, views, center, tables[0][epoch], student_temp)
        hidden = masks[call].flatten(2)
        patch = plain.masked_patches(patches, learned, hidden, center2, tables[1][epoch], student_temp)
        patch = settings['lambda2'] * patch
        center = plain.moved(center, taught, settings['center_momentum'])
        center2 = plain.moved(center2, patches, settings.get('center_momentum2', settings['center_momentum']))
        losses.append((cls + patch, cls, patch))
        centers.append((center[None], center2[None, None]))
    first, second = (torch.stack(part) for part in zip(*centers, strict=True))
    return losses, dict(center=first, center2=second)


def query_loss() -> dict:
    settings = LOSS | dict(
        warmup_teacher_patch_temp=0.04, teacher_patch_temp=0.07, warmup_teacher_query_temp=0.06, teacher_query_temp=0.08,
        lambda1=0.7, lambda2=1.2, lambda3=0.4,
    )  # fmt: skip
    batch, grid, queries, k = 3, 4, 5, 22
    tables = {kind: temperatures('' if kind == 'cls' else f'{kind}_', settings) for kind in ('cls', 'patch', 'query')}
    found = config(batch=batch, grid=grid, num_queries=queries, out_dim=k, **settings)
    found |= {f'teacher_temp_schedule_{kind}': np.array(table) for kind, table in tables.items()}
    leaves = [rounded(3, 2 * batch, tokens, k).requires_grad_() for tokens in (1 + grid**2, queries)]
    teacher, masks = rounded(3, 2 * batch, 1 + grid**2, k), views_of_masks(batch, grid, 0)
    teacher_query, per_view = rounded(3, batch, queries, k), rounded(3, 2 * batch, queries, k)
    parts = dict(student_cls=leaves[0][:, :, 0], student_patch=leaves[0][:, :, 1:])
    taught = dict(teacher_cls=teacher[:, :, 0], teacher_patch=teacher[:, :, 1:])
    image, centers = ibot_calls(settings, (tables['cls'], tables['patch']), batch, parts, taught, masks)
    student_query = leaves[1].unflatten(1, (2, batch))
    same = [pair.expand(2, -1, -1, -1) for pair in teacher_query]
    query, center3 = query_calls(settings, tables['query'], student_query, same)
    query = [settings['lambda3'] * loss for loss in query]
    losses = [(total + q, cls, patch, q) for (total, cls, patch), q in zip(image, query, strict=True)]
    gradients = torch.autograd.grad(sum(total for total, *_ in losses), leaves)
    found |= with_losses('official/', ('loss', 'loss_cls', 'loss_patch', 'loss_query'), losses)
    found |= {f'official/{name}': f32(center) for name, center in (centers | dict(center3=center3)).items()}
    for name, leaf, gradient in zip(('student_global', 'student_query'), leaves, gradients, strict=True):
        found |= {name: f32(leaf), f'official/grad_{name}': f32(gradient)}
    cross, center = query_calls(settings, tables['query'], student_query, per_view.unflatten(1, (2, batch)))
    found |= {'ref64/cross_view/loss_query': torch.stack(cross).detach(), 'ref64/cross_view/center': center}
    inputs = dict(teacher_global=teacher, teacher_query=teacher_query, teacher_query_per_view=per_view)
    return found | {name: f32(x) for name, x in inputs.items()} | dict(masks=masks, epoch=EPOCHS)


def query_calls(settings, table, student, teacher):
    """Losses of every call, teacher views (2, B, L, K) against the other student view, and the centers (call, 1, 1, K)."""
    center, losses, centers = torch.zeros(student.shape[-1]).double(), [], []
    for s, t, epoch in zip(student, teacher, EPOCHS, strict=True):
        losses.append(plain.cross_view(t, s, center, table[epoch], settings['student_temp']))
        center = plain.moved(center, t, settings['center_momentum'])
        centers.append(center[None, None])
    return losses, torch.stack(centers)


def selfpatch_loss() -> dict:
    batch, local, k, kp, weight = 3, 2, 28, 18, 0.25
    found = config(batch=batch, n_local_crops=local, out_dim=k, out_dim_selfpatch=kp, patch_loss_weight=weight, **LOSS)
    temps = temperatures()
    found |= dict(epoch=EPOCHS, teacher_temp_schedule=np.array(temps))
    shapes = {'cls_global': (2, 1, k), 'patch_global': (2, 9, kp), 'cls_local': (local, 1, k), 'patch_local': (local, 4, kp)}
    student, teacher = ({n: rounded(3, v * batch, t, d) for n, (v, t, d) in shapes.items()} for _ in range(2))
    for leaf in student.values():
        leaf.requires_grad_()
    center, patch_center, losses, centers = torch.zeros(k).double(), torch.zeros(kp).double(), [], []
    for call, epoch in enumerate(EPOCHS):
        temp = temps[epoch], LOSS['student_temp']
        t, s = ({n: list(x[call].unflatten(0, (-1, batch))) for n, x in net.items()} for net in (teacher, student))
        cls = plain.cross_view(t['cls_global'], s['cls_global'] + s['cls_local'], center, *temp)
        crops = list(zip(t['patch_global'] + t['patch_local'], s['patch_global'] + s['patch_local'], strict=True))
        patch = sum(plain.cross_entropy(a, b, patch_center, *temp).mean() for a, b in crops) / len(crops)
        every = torch.stack(t['cls_global'] + t['cls_local'])
        center = plain.moved(center, every, LOSS['center_momentum'])
        tokens = torch.cat([a.flatten(0, 1) for a, _ in crops])
        patch_center = plain.moved(patch_center, tokens, LOSS['center_momentum'])
        losses.append((cls + weight * patch, cls, patch))
        centers.append((center[None, None], patch_center[None]))
    gradients = torch.autograd.grad(sum(total for total, _, _ in losses), list(student.values()))
    found |= with_losses('', ('loss', 'loss_cls', 'loss_patch'), losses)
    for name, column in zip(('center', 'patch_center'), zip(*centers, strict=True), strict=True):
        found[name] = f32(torch.stack(column))
    found |= {f'grad_student/{n}': f32(g) for n, g in zip(student, gradients, strict=True)}
    networks = {'student': student, 'teacher': teacher}
    return found | {f'{which}/{n}': f32(x) for which, net in networks.items() for n, x in net.items()}


def dino_schedules() -> dict:
    c = dict(epochs=5, iters_per_epoch=13, warmup_epochs=3, lr=0.002, batch_size_total=384, min_lr=2e-5)
    c |= dict(weight_decay=0.1, weight_decay_end=0.3, momentum_teacher=0.98, start_warmup_value=3e-5)
    total, warmup = c['epochs'] * c['iters_per_epoch'], c['warmup_epochs'] * c['iters_per_epoch']
    peak = c['lr'] * c['batch_size_total'] / 256
    tables = dict(
        lr=plain.cosine(peak, c['min_lr'], total, warmup),
        lr_without_warmup=plain.cosine(peak, c['min_lr'], total),
        lr_start_value=plain.cosine(peak, c['min_lr'], total, warmup, c['start_warmup_value']),
        weight_decay=plain.cosine(c['weight_decay'], c['weight_decay_end'], total),
        momentum=plain.cosine(c['momentum_teacher'], 1.0, total),
    )
    return config(**c) | {name: np.array(table) for name, table in tables.items()}


def knn_eval() -> dict:
    classes, temperature, ks = 8, 0.12, (3, 12, 15)
    middles = torch.randn(classes, 10)
    sets = {}
    for name, count in (('train', 160), ('test', 110)):
        labels = torch.randint(classes, (count,))
        features = middles[labels] + 1.4 * torch.randn(count, 10)
        sets[name] = features / features.norm(dim=1, keepdim=True), labels
    votes = {k: votes_of(*sets['train'], sets['test'][0], k, temperature, classes) for k in ks}
    # Of queries that two classes claim almost equally, single precision may choose the other one.
    top = torch.stack([v.topk(2).values for v in votes.values()])
    clear = ((top[..., 0] - top[..., 1]) / top[..., 0] > 1e-4).all(0)
    labels = sets['test'][1][clear]
    found = config(num_classes=classes, temperature=temperature)
    found |= dict(zip(('train_features', 'train_labels'), sets['train'], strict=True))
    found |= dict(test_features=sets['test'][0][clear], test_labels=labels)
    for k in ks:
        v = votes[k][clear]
        top1 = (v.argmax(1) == labels).double().mean() * 100
        bounds = [sum(ranks(row, label, worst) < 5 for row, label in zip(v, labels, strict=True)) for worst in (True, False)]
        bounds = 100 * torch.tensor(bounds).double() / len(labels)
        top5 = (v.argsort(dim=1, descending=True, stable=True)[:, :5] == labels[:, None]).any(1).double().mean() * 100
        found |= {f'official/k{k}/top1': top1, f'official/k{k}/top5': top5, f'ref64/k{k}/prediction': v.argmax(1)}
        found |= {f'ref64/k{k}/top1': top1, f'ref64/k{k}/top5_bounds': bounds}
    return found


def votes_of(bank: Tensor, bank_labels: Tensor, queries: Tensor, k: int, temperature: float, classes: int) -> Tensor:
    votes = torch.zeros(len(queries), classes, dtype=torch.float64)
    for query, row in zip(queries.double(), votes, strict=True):
        cosines = [float(query @ feature) for feature in bank.double()]
        for index in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            row[bank_labels[index]] += np.exp(cosines[index] / temperature)
    return votes


def ranks(votes: Tensor, label: Tensor, worst: bool) -> int:
    """Place of a class, from 0, if ties are broken against it or for it."""
    ahead = [v > votes[label] or (worst and v == votes[label] and i != label) for i, v in enumerate(votes)]
    return sum(map(bool, ahead))


def ibot_masks() -> dict:
    """Statistics over masks drawn by the published rule, bytedance/ibot ``loader.py: ImageFolderMask``."""
    edges, levels, draws, grid = np.linspace(0, 1, 41), np.array([0.05, 0.25, 0.5, 0.75, 0.95]), 1500, 10
    found, rng = dict(histogram_bin_edges=edges, quantile_levels=levels), random.Random(5)
    cases = dict(
        published=([0.0, 0.25], [0.0, 0.15], True), fixed_block=(0.5, 0.0, True), random=([0.1, 0.6], [0.05, 0.1], False)
    )
    for name, (ratio, spread, block) in cases.items():
        pairs = list(zip(np.atleast_1d(ratio), np.atleast_1d(spread), strict=True))
        masks = []
        for _ in range(draws):
            middle, half = rng.choice(pairs)
            wanted = rng.uniform(middle - half, middle + half) * grid**2
            masks.append(mask_of_blocks(rng, grid, wanted) if block else mask_of_patches(rng, grid, wanted))
        masks = np.stack(masks)
        shares = masks.mean((1, 2))
        stats = dict(
            grid=grid, pred_ratio=ratio, pred_ratio_var=spread, block=block, draws=draws,
            ratio_histogram=np.histogram(shares, edges)[0], ratio_mean=shares.mean(), ratio_std=shares.std(),
            ratio_quantiles=np.quantile(shares, levels), fraction_without_mask=(shares == 0).mean(),
            mask_probability_map=masks.mean(0).astype(np.float32),
            right_neighbour_masked=(masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks[:, :, :-1].sum(),
            lower_neighbour_masked=(masks[:, 1:] & masks[:, :-1]).sum() / masks[:, :-1].sum(),
        )  # fmt: skip
        found |= {f'{name}/{key}': np.array(value) for key, value in stats.items()}
    return found


def mask_of_patches(rng: random.Random, grid: int, wanted: float) -> np.ndarray:
    mask = np.zeros(grid**2, dtype=bool)
    mask[rng.sample(range(grid**2), int(wanted))] = True
    return mask.reshape(grid, grid)


def mask_of_blocks(rng: random.Random, grid: int, wanted: float) -> np.ndarray:
    """Rectangles, each in one of ten attempts, until as many patches as wanted are hidden or none fits any more."""
    mask = np.zeros((grid, grid), dtype=bool)
    while mask.sum() < wanted:
        missing = wanted - mask.sum()
        for _ in range(10):
            area, aspect = rng.uniform((grid // 3) ** 2, missing), np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if max(h, w) >= grid:
                continue
            top, left = rng.randint(0, grid - h), rng.randint(0, grid - w)
            fresh = [c for c in itertools.product(range(top, top + h), range(left, left + w)) if not mask[c]]
            if 0 < len(fresh) <= missing:
                mask[top : top + h, left : left + w] = True
                break
        else:
            break
    return mask
