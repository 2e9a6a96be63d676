"""Golden files of networks, training steps and checkpoints with sizes of our own choice, computed by the plain forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import plain_forms as plain
import torch
from golden_losses import config, f32, rounded
from torch import Tensor

EPS = dict(layer_norm_eps=1e-6)


# --- weights ---------------------------------------------------------------------------------------------------------------


def block_weights(prefix: str, dim: int, hidden: int, attention: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    shapes = {f'attn.{name}': shape for name, shape in attention.items()}
    shapes |= {'attn.proj': (dim, dim), 'mlp.fc1': (hidden, dim), 'mlp.fc2': (dim, hidden)}
    found = {}
    for name in ('norm1', *(n for n in shapes if 'attn' in n), 'norm2', 'mlp.fc1', 'mlp.fc2'):
        rows, columns = shapes.get(name, (dim, None))
        weight = rounded(rows, columns, scale=columns**-0.5) if columns else 1 + rounded(rows, scale=0.1)
        found |= {f'{prefix}{name}.weight': weight.bfloat16().double(), f'{prefix}{name}.bias': rounded(rows, scale=0.2)}
    return found


def vit_weights(sizes: dict, img_size: int, mask_token: bool = False, plain_tokens: bool = False) -> dict[str, Tensor]:
    """In the order of the published module; ``plain_tokens``: neither class token nor norm."""
    dim, patch, grid = sizes['embed_dim'], sizes['patch_size'], img_size // sizes['patch_size']
    found = {} if plain_tokens else {'cls_token': rounded(1, 1, dim)}
    found['pos_embed'] = rounded(1, grid**2 + (not plain_tokens), dim, scale=0.5)
    found |= {'masked_embed': rounded(1, dim)} if mask_token else {}
    found |= {'patch_embed.proj.weight': rounded(dim, 3, patch, patch, scale=0.5 / patch)}
    found |= {'patch_embed.proj.bias': rounded(dim, scale=0.2)}
    hidden = int(dim * sizes.get('mlp_ratio', 4.0))
    for number in range(sizes['depth']):
        found |= block_weights(f'blocks.{number}.', dim, hidden, {'qkv': (3 * dim, dim)})
    final = {'norm.weight': (1 + rounded(dim, scale=0.1)).bfloat16().double(), 'norm.bias': rounded(dim, scale=0.2)}
    return found if plain_tokens else found | final


def head_weights(dims: list[int], prototypes: int, learn_norm: bool, second: int | str | None = None) -> dict[str, Tensor]:
    """An MLP of these widths and the prototypes; ``second``: number of those of patches, or 'alias'."""
    found = {}
    for number, (columns, rows) in enumerate(pairwise(dims)):
        found |= {f'mlp.{2 * number}.weight': rounded(rows, columns, scale=columns**-0.5)}
        found |= {f'mlp.{2 * number}.bias': rounded(rows, scale=0.2)}
    layers = {'last_layer': prototypes} | ({'last_layer2': second} if isinstance(second, int) else {})
    for name, count in layers.items():
        g = 1 + rounded(count, 1, scale=0.3) if learn_norm else torch.ones(count, 1).double()
        found |= {f'{name}.weight_g': g.bfloat16().double(), f'{name}.weight_v': rounded(count, dims[-1], scale=0.5)}
    if second == 'alias':
        found |= {f'last_layer2.{key}': found[f'last_layer.{key}'] for key in ('weight_g', 'weight_v')}
    return found


def class_attention_weights(dim: int, depth: int, hidden: int) -> dict[str, Tensor]:
    found = {'cls_token': rounded(1, 1, dim)}
    for number in range(depth):
        found |= block_weights(f'cls_blocks.{number}.', dim, hidden, dict.fromkeys('qkv', (dim, dim)))
    return found | {'norm.weight': (1 + rounded(dim, scale=0.1)).bfloat16().double(), 'norm.bias': rounded(dim, scale=0.2)}


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f'{prefix}{name}': tensor.detach().float() for name, tensor in tensors.items()}


# --- networks --------------------------------------------------------------------------------------------------------------


def dino_vit() -> dict:
    sizes = dict(patch_size=4, embed_dim=20, depth=2, num_heads=2, mlp_ratio=3.0)
    state, heads = vit_weights(sizes, img_size=20), sizes['num_heads']
    found = config(img_size=20, **sizes, **EPS) | named('params/', state)
    for name, side in dict(
        native=(20, 20), larger=(32, 32), nonsquare=(12, 24), smaller=(8, 8), same_count=(100, 4)
    ).items():
        images = rounded(2, 3, *side)
        tokens = plain.vit(state, images, heads)
        outputs = dict(image=images, cls=tokens[:, 0], tokens=tokens, attention=plain.last_attention(state, images, heads))
        outputs['pos_embed'] = plain.positions(state, side[0] // 4, side[1] // 4)
        found |= {f'{key}/{name}': f32(value) for key, value in outputs.items()}
    layers = plain.run_blocks(state, plain.embed(state, found['image/native'].double()), heads)
    return found | {'layers/native': f32(torch.stack(layers))}


def dino_head() -> dict:
    dims, out_dim = [18, 26, 26, 26, 14], 40
    found = config(in_dim=18, out_dim=out_dim, hidden_dim=26, bottleneck_dim=14, nlayers=4)
    x, tokens, upstream = rounded(5, 18), rounded(3, 4, 18), rounded(5, out_dim)
    found |= dict(input=f32(x), input_tokens=f32(tokens), upstream=f32(upstream))
    for name, learn_norm in (('fixed_norm', False), ('free_norm', True)):
        state = head_weights(dims, out_dim, learn_norm)
        trained = {key: p.requires_grad_() for key, p in state.items() if learn_norm or 'weight_g' not in key}
        x.requires_grad_()
        logits = plain.head(state, x)
        gradient, *gradients = torch.autograd.grad((logits * upstream).sum(), [x, *trained.values()])
        outputs = dict(logits=logits, logits_tokens=plain.head(state, tokens), grad_input=gradient)
        outputs['effective_last_weight'] = plain.prototypes(state)
        found |= {f'{name}/{key}': f32(value) for key, value in outputs.items()} | named(f'{name}/params/', state)
        found |= {f'{name}/trainable/{key}': np.array(key in trained) for key in state}
        found |= named(f'{name}/grad/', dict(zip(trained, gradients, strict=True)))
    return found


def ibot_vit() -> dict:
    sizes = dict(patch_size=6, embed_dim=28, depth=3, num_heads=4, mlp_ratio=2.0)
    widths = dict(out_dim=32, patch_out_dim=24, hidden_dim=30, bottleneck_dim=18)
    state, heads = vit_weights(sizes, img_size=18, mask_token=True), sizes['num_heads']
    image, local, mask = rounded(4, 3, 18, 18), rounded(4, 3, 12, 12), torch.rand(4, 3, 3) < 0.5
    mask[-1] = False
    state['masked_embed'].requires_grad_()
    tokens = plain.vit(state, image, heads, mask)
    upstream, unmasked = rounded(*tokens.shape), plain.vit(state, image, heads)
    (gradient,) = torch.autograd.grad((tokens * upstream).sum(), state['masked_embed'])
    outputs = dict(
        image=image, image_local=local, prepared_masked=plain.embed(state, image, mask), tokens_masked=tokens,
        tokens_unmasked=unmasked, tokens_zero_mask=unmasked, tokens_local=plain.vit(state, local, heads), upstream=upstream,
        grad_masked_embed=gradient,
    )  # fmt: skip
    found = config(img_size=18, **sizes, **EPS, **widths) | named('params/', state) | dict(mask=mask)
    found |= {key: f32(value) for key, value in outputs.items()}
    for name, second in (('head_shared', 'alias'), ('head_separate', widths['patch_out_dim'])):
        head = head_weights([28, 30, 30, 18], widths['out_dim'], True, second)
        cls, given = plain.head(head, f32(tokens).double()[:, 0]), f32(tokens).double()
        found |= named(f'{name}/params/', head) | {
            f'{name}/{key}': f32(cls) for key in ('cls_logits', 'logits_from_cls_only')
        }
        found[f'{name}/patch_logits'] = f32(plain.head(head, given[:, 1:], 'last_layer2'))
    return found


def rules(raw: int, crops: int, per_crop: int) -> dict[str, Tensor]:
    """May a row (image tokens, then queries) read a column?"""
    total = raw + crops * per_crop
    crop = torch.tensor([-1] * raw + [number // per_crop for number in range(crops * per_crop)])
    is_query, of_image = crop >= 0, (crop < 0).expand(total, total)
    queries = is_query[:, None] & is_query
    extra = dict(
        raw_and_all_queries=queries,
        raw_only=torch.zeros_like(queries),
        raw_and_self=queries & torch.eye(total, dtype=torch.bool),
        raw_and_own_crop=queries & (crop[:, None] == crop),
    )
    return {name: of_image | more for name, more in extra.items()}


def query_attention() -> dict:
    sizes = dict(patch_size=4, embed_dim=24, depth=2, num_heads=2, mlp_ratio=3.0)
    img_size, crops, per_crop = 16, 2, 9
    raw, heads = 1 + (img_size // 4) ** 2, sizes['num_heads']
    state, first = vit_weights(sizes, img_size), None
    first = plain.blocks_of(state)[0]
    tokens = [rounded(3, raw, 24), rounded(3, crops * per_crop, 24)]
    upstream = [rounded(*x.shape) for x in tokens]
    found = config(img_size=img_size, **sizes, **EPS, tokens_per_query_crop=per_crop, num_query_crops=crops)
    found |= named('params/', state)

    def outputs(x: Tensor, allow: Tensor) -> dict[str, Tensor]:
        stack = plain.run_blocks(state, x, heads, allow)[-1]
        block = plain.transformer_block(x, first, heads, allow)
        return dict(attention=plain.attention(x, first, heads, allow)[0], block=block, stack=stack)

    for kind, x, g in zip(('raw', 'query'), tokens, upstream, strict=True):
        found |= {f'{kind}_tokens': f32(x), f'upstream_{kind}': f32(g)}
        x.requires_grad_()
    x = torch.cat(tokens, 1)
    for rule, allow in rules(raw, crops, per_crop).items():
        found[f'ref64/{rule}/allow'] = allow
        for name, out in outputs(x, allow).items():
            found[f'ref64/{rule}/{name}/query'] = out[:, raw:].detach()
            if rule == 'raw_and_all_queries':
                found |= {f'ref64/{rule}/{name}/raw': out[:, :raw].detach(), f'official/{name}/raw': f32(out[:, :raw])}
                found[f'official/{name}/query'] = f32(out[:, raw:])
    allow = rules(raw, crops, per_crop)['raw_and_all_queries']
    found['official/attention/raw_map'] = f32(plain.attention(x, first, heads, allow)[1][:, :, :raw, :raw])
    found['official/block/raw_without_queries'] = f32(plain.transformer_block(tokens[0], first, heads))
    gradients = torch.autograd.grad((outputs(x, allow)['stack'] * torch.cat(upstream, 1)).sum(), tokens)
    found |= {f'official/stack/grad_{k}_tokens': f32(g) for k, g in zip(('raw', 'query'), gradients, strict=True)}
    return found | composed(state, heads, allow, img_size, crops)


def composed(state, heads, allow, img_size, crops) -> dict:
    """From pixels; crops enter as patches without positions, one after the other."""
    image, pixels = rounded(3, 3, img_size, img_size), rounded(3, crops, 3, 12, 12)
    raw = plain.embed(state, image)
    queries = torch.cat([plain.patch_tokens(state, crop) for crop in pixels.transpose(0, 1)], 1)
    out = plain.run_blocks(state, torch.cat((raw, queries), 1), heads, allow)[-1]
    count = raw.shape[1]
    outputs = dict(raw_input=raw, query_input=queries, raw=out[:, :count], query=out[:, count:])
    outputs['raw_without_queries'] = plain.run_blocks(state, raw, heads)[-1]
    return dict(image=f32(image), query_crops=f32(pixels)) | {f'composed/{key}': f32(x) for key, x in outputs.items()}


def selfpatch_head() -> dict:
    sizes, img_size, k, heads = dict(patch_size=3, embed_dim=12, depth=3), 24, 3, 3
    backbone = vit_weights(sizes, img_size, plain_tokens=True)
    head = class_attention_weights(12, depth=3, hidden=24)
    found = config(**sizes, num_heads=heads, k_num=k, kernel=3, img_size=img_size)
    found |= named('backbone/params/', backbone) | named('head/params/', head)
    for size, side in dict(**{'global': img_size}, local=12).items():
        number = (side // 3) ** 2
        found[f'neighbours{number}'] = plain.around(side // 3, side // 3)
        for _ in range(50):  # until no rounding can choose another neighbor
            image, given = rounded(2, 3, side, side), rounded(2, number, 12)
            tokens = plain.vit(backbone, image, heads)
            pairs = {f'given_{{}}/{size}': given, f'{{}}/{size}': f32(tokens).double()}
            taught = {key: plain.selfpatch_teacher(head, x, heads, k) for key, x in pairs.items()}
            if min(gaps.min() for _, gaps in taught.values()) > 1e-5:
                break
        else:
            raise AssertionError('no tokens with a clear ranking were drawn')
        found |= {f'image/{size}': f32(image), f'backbone/tokens/{size}': f32(tokens), f'given_tokens/{size}': f32(given)}
        found |= {key.format('teacher'): f32(rows) for key, (rows, _) in taught.items()}
        found |= {key.format('student'): f32(plain.selfpatch_student(head, x, heads)) for key, x in pairs.items()}
    return found


# --- training steps --------------------------------------------------------------------------------------------------------


STEP = dict(
    img_size=24, local_size=12, patch_size=6, embed_dim=20, depth=3, num_heads=2, out_dim=44, hidden_dim=36,
    bottleneck_dim=14, batch=4, n_local_crops=3, warmup_teacher_temp=0.06, teacher_temp=0.1,
    warmup_teacher_temp_epochs=3, epochs=4,
    iters_per_epoch=3, warmup_epochs=1, lr=0.128, min_lr=2e-5, weight_decay=0.06, weight_decay_end=0.3, momentum_teacher=0.8,
    clip_grad=0.7, freeze_last_layer=1,
)  # fmt: skip
STEPS = 5


class PlainRun:
    """Steps of DINO, or with masks those of iBOT, on random crops."""

    def __init__(self, c: dict, student: dict[str, Tensor], masked: bool) -> None:
        self.c, self.masked = c, masked
        self.student = {k: p.clone() for k, p in student.items() if not (c.get('shared_head') and 'last_layer2' in k)}
        self.teacher = {k: p.clone() for k, p in self.student.items() if 'masked_embed' not in k}
        self.trained = [k for k in self.student if c['norm_last_layer'] is False or 'weight_g' not in k]
        for name in self.trained:
            self.student[name].requires_grad_()
        self.optimizer = plain.PlainAdamW({k: self.student[k] for k in self.trained}, c['clip_grad'])
        self.centers = [torch.zeros(c[k]).double() for k in ('out_dim', 'patch_out_dim')[: 1 + masked]]
        total, warmup = c['epochs'] * c['iters_per_epoch'], c['warmup_epochs'] * c['iters_per_epoch']
        self.lr = plain.cosine(c['lr'] * c['batch'] / 256, c['min_lr'], total, warmup)
        self.decay = plain.cosine(c['weight_decay'], c['weight_decay_end'], total)
        self.momentum = plain.cosine(c['momentum_teacher'], 1.0, total)
        self.patch_layer = 'last_layer2' if masked and not c['shared_head'] else 'last_layer'

    def temps(self, kind: str, epoch: int) -> tuple[float, float]:
        ends = (self.c[f'warmup_teacher_{kind}temp'], self.c[f'teacher_{kind}temp'])
        return plain.warmed_up(*ends, self.c['warmup_teacher_temp_epochs'], self.c['epochs'])[epoch], 0.1

    def tokens(self, network: dict, views: list[Tensor], masks: list[Tensor] | None = None) -> list[Tensor]:
        backbone = plain.part(network, 'backbone.')
        masks = masks or [None] * len(views)
        return [plain.vit(backbone, view, self.c['num_heads'], mask) for view, mask in zip(views, masks, strict=True)]

    def losses(self, views: list[Tensor], masks: list[Tensor] | None, epoch: int) -> list[Tensor]:
        heads = [plain.part(network, 'head.') for network in (self.teacher, self.student)]
        taught = self.tokens(self.teacher, views[:2])
        learned = self.tokens(self.student, views[:2], masks) + self.tokens(self.student, views[2:])
        logits = [torch.stack([plain.head(h, x[:, 0]) for x in xs]) for h, xs in zip(heads, (taught, learned), strict=True)]
        terms = [self.c.get('lambda1', 1.0) * plain.cross_view(*logits, self.centers[0], *self.temps('', epoch))]
        targets = [logits[0]]
        if self.masked:
            patches = [
                torch.stack([plain.head(h, x[:, 1:], self.patch_layer) for x in xs[:2]])
                for h, xs in zip(heads, (taught, learned), strict=True)
            ]
            hidden, temps = torch.stack(masks).flatten(2), self.temps('patch_', epoch)
            terms.append(self.c['lambda2'] * plain.masked_patches(*patches, hidden, self.centers[1], *temps))
            targets.append(patches[0])
        self.centers = [plain.moved(center, target, 0.9) for center, target in zip(self.centers, targets, strict=True)]
        return terms

    def step(self, number: int, views: list[Tensor], masks: list[Tensor] | None) -> dict:
        epoch, c = number // self.c['iters_per_epoch'], self.c
        terms = self.losses(views, masks, epoch)
        parameters = [self.student[k] for k in self.trained]
        gradients = torch.autograd.grad(sum(terms), parameters, allow_unused=True)
        gradients = dict(zip(self.trained, gradients, strict=True))
        frozen = ['last_layer'] if epoch < c['freeze_last_layer'] else []
        self.optimizer.step(gradients, self.lr[number], self.decay[number], frozen)
        for name, tensor in self.teacher.items():
            self.teacher[name] = self.momentum[number] * tensor + (1 - self.momentum[number]) * self.student[name].detach()
        parts = dict(zip(('loss_cls', 'loss_patch'), terms, strict=False)) if self.masked else {}
        seen = {name: value.item() for name, value in (dict(loss=sum(terms)) | parts).items()}
        seen |= dict(lr=self.lr[number], weight_decay=self.decay[number], momentum=self.momentum[number], epoch=epoch)
        seen |= dict(zip(('center', 'center2'), (c.numpy() for c in self.centers), strict=False))
        return seen | dict(grad_norm_before_clip=[gradient.norm().item() for gradient in gradients.values()])


def steps(c: dict, state: dict[str, Tensor], masked: bool) -> dict:
    run, found, log = PlainRun(c, state, masked), config(**c) | named('init/', state), []
    for number in range(STEPS):
        views = [rounded(c['batch'], 3, c['img_size'], c['img_size']) for _ in range(2)]
        views += [rounded(c['batch'], 3, c['local_size'], c['local_size']) for _ in range(c['n_local_crops'])]
        names = ['global0', 'global1', *(f'local{i}' for i in range(c['n_local_crops']))]
        found |= {f'crops/step{number}/{name}': f32(view) for name, view in zip(names, views, strict=True)}
        masks, grid = None, c['img_size'] // c['patch_size']
        if masked:
            masks = [torch.rand(c['batch'], grid, grid) < 0.4 for _ in range(2)]
            masks[0][0] &= number > 0
            found |= {f'masks/step{number}/global{i}': mask for i, mask in enumerate(masks)}
        log.append(run.step(number, views, masks))
    found |= {key: np.array([seen[key] for seen in log]) for key in log[0] if not key.startswith('loss')}
    for key in [key for key in log[0] if key.startswith('loss')]:
        values = np.array([seen[key] for seen in log])
        found |= {f'{key}_f64': values, f'{key}_f32': values.astype(np.float32)}
    found |= dict(trainable_names=np.array(run.trained))
    found['trainable_decayed'] = np.array([plain.PlainAdamW.decays(name, run.student[name]) for name in run.trained])
    for which, network in (('student', run.student), ('teacher', run.teacher)):
        alias = {k.replace('last_layer', 'last_layer2'): p for k, p in network.items() if 'last_layer.' in k}
        found |= named(f'{which}_after/', network | (alias if c.get('shared_head') else {}))
    return found


def dino_step() -> dict:
    c = STEP | dict(norm_last_layer=True)
    dims = [c['embed_dim'], c['hidden_dim'], c['hidden_dim'], c['bottleneck_dim']]
    state = {f'backbone.{k}': p for k, p in vit_weights(c, c['img_size']).items()}
    return steps(c, state | {f'head.{k}': p for k, p in head_weights(dims, c['out_dim'], False).items()}, masked=False)


def ibot_step() -> dict:
    c = STEP | dict(norm_last_layer=False, shared_head=False, patch_out_dim=30, lambda1=0.8, lambda2=1.3)
    c |= dict(warmup_teacher_patch_temp=0.05, teacher_patch_temp=0.08)
    dims = [c['embed_dim'], c['hidden_dim'], c['hidden_dim'], c['bottleneck_dim']]
    state = {f'backbone.{k}': p for k, p in vit_weights(c, c['img_size'], mask_token=True).items()}
    heads = head_weights(dims, c['out_dim'], True, c['patch_out_dim'])
    return steps(c, state | {f'head.{k}': p for k, p in heads.items()}, masked=True)
