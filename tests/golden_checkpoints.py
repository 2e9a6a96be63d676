"""Files in the form of published training checkpoints, with sizes of our own choice, and what the networks in them make."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import plain_forms as plain
import torch
from golden_losses import config, f32, rounded
from golden_models import class_attention_weights, head_weights, vit_weights
from torch import Tensor

SIZES = dict(embed_dim=16, depth=3, num_heads=2, patch_size=16, img_size=224)
WIDTHS = dict(out_dim=40, hidden_dim=24, bottleneck_dim=12)
EPOCHS, ITERATIONS = 3, 4


def joined(prefix: str, *parts: tuple[str, dict[str, Tensor]]) -> OrderedDict:
    found = ((f'{prefix}{name}.{key}', f32(tensor)) for name, state in parts for key, tensor in state.items())
    return OrderedDict(found)


def optimizer_state(student: OrderedDict, fixed: tuple[str, ...]) -> dict:
    """AdamW's state in the published order: first what is decayed, then the rest, NumPy scalars among the settings."""
    alias = [name for name in student if 'last_layer2' in name]
    names = [name for name in student if name not in alias and not name.endswith(fixed)]
    decayed = [name for name in names if plain.PlainAdamW.decays(name, student[name])]
    exempt = [name for name in names if name not in decayed]
    groups = [dict(params=[torch.nn.Parameter(student[name].clone()) for name in part]) for part in (decayed, exempt)]
    optimizer = torch.optim.AdamW([groups[0], groups[1] | dict(weight_decay=0.0)])
    for group in optimizer.param_groups:
        for parameter in group['params']:
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()
    for number, name in enumerate(decayed + exempt):
        stood_still = ITERATIONS if 'last_layer' in name else 0
        state['state'][number]['step'] = torch.tensor(float(EPOCHS * ITERATIONS - stood_still))
    for group in state['param_groups']:
        group['lr'] = np.float64(0.0002)
    return state


def write_checkpoint(path: Path, networks: dict[str, OrderedDict], fixed: tuple[str, ...], loss: dict) -> None:
    arguments = argparse.Namespace(arch='vit_other', patch_size=SIZES['patch_size'], epochs=EPOCHS, lr=0.05)
    state = dict(**networks, optimizer=optimizer_state(networks['student'], fixed), epoch=EPOCHS, args=arguments)
    torch.save(state | {name: OrderedDict(values) for name, values in loss.items()}, path)


def pictures() -> tuple[dict, dict[int, Tensor]]:
    small, other = rounded(1, 3, 28, 28), rounded(1, 3, 96, 96)
    large = small.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return dict(image_low_resolution=f32(small), image_96=f32(other)), {224: large, 96: other}


def head_of(**kwargs) -> dict[str, Tensor]:
    dims = [SIZES['embed_dim'], WIDTHS['hidden_dim'], WIDTHS['hidden_dim'], WIDTHS['bottleneck_dim']]
    return head_weights(dims, **{'prototypes': WIDTHS['out_dim'], 'learn_norm': True, **kwargs})


def dino(folder: Path) -> dict:
    found, images = pictures()
    found |= config(**SIZES, **WIDTHS, epoch=EPOCHS)
    networks, heads = {}, SIZES['num_heads']
    for which, prefix in (('student', 'module.'), ('teacher', '')):
        backbone, head = vit_weights(SIZES, SIZES['img_size']), head_of()
        networks[which] = joined(prefix, ('backbone', backbone), ('head', head))
        layers = {size: plain.run_blocks(backbone, plain.embed(backbone, image), heads) for size, image in images.items()}
        found |= {f'{which}/features_{size}': f32(tokens[-1][:, 0]) for size, tokens in layers.items()}
        found[f'{which}/logits_224'] = f32(plain.head(head, layers[224][-1][:, 0]))
    found['teacher/last_layers_224'] = f32(torch.cat([tokens[:, 0] for tokens in layers[224]], -1))
    torch.save(OrderedDict({name: f32(p) for name, p in backbone.items()}), folder / 'dino_backbone.pth')
    found['center'] = f32(rounded(1, WIDTHS['out_dim']))
    write_checkpoint(folder / 'dino_checkpoint.pth', networks, (), dict(dino_loss=dict(center=found['center'])))
    return found


def ibot(folder: Path) -> dict:
    found, images = pictures()
    found |= config(**SIZES, **WIDTHS, epoch=EPOCHS)
    networks, heads = {}, SIZES['num_heads']
    mask = torch.rand(1, 14, 14) < 0.4
    for which, prefix in (('student', 'module.'), ('teacher', '')):
        backbone, head = vit_weights(SIZES, SIZES['img_size'], which == 'student'), head_of(second='alias')
        networks[which] = joined(prefix, ('backbone', backbone), ('head', head))
        tokens = {size: plain.vit(backbone, image, heads) for size, image in images.items()}
        found |= {f'{which}/tokens_{size}': f32(x) for size, x in tokens.items()}
        found[f'{which}/cls_logits_224'] = f32(plain.head(head, tokens[224][:, 0]))
        found[f'{which}/patch_logits_224_first5'] = f32(plain.head(head, tokens[224][:, 1:6]))
        if which == 'student':
            found |= dict(mask_224=mask, **{'student/tokens_224_masked': f32(plain.vit(backbone, images[224], heads, mask))})
    flat = {name: f32(p) for name, p in backbone.items()}
    torch.save(dict(state_dict=flat), folder / 'ibot_checkpoint_teacher.pth')
    found |= dict(center=f32(rounded(1, WIDTHS['out_dim'])), center2=f32(rounded(1, 1, WIDTHS['out_dim'])))
    centers = dict(center=found['center'], center2=found['center2'])
    write_checkpoint(folder / 'ibot_checkpoint.pth', networks, (), dict(ibot_loss=centers))
    return found


def selfpatch(folder: Path) -> dict:
    found, images = pictures()
    k, out_patch, heads = 4, 20, SIZES['num_heads']
    found |= config(**SIZES, **WIDTHS, epoch=EPOCHS, k_num=k, out_dim_selfpatch=out_patch)
    networks = {}
    for which, prefix in (('student', 'module.'), ('teacher', '')):
        backbone = vit_weights(SIZES, SIZES['img_size'], plain_tokens=True)
        summary = class_attention_weights(SIZES['embed_dim'], depth=2, hidden=4 * SIZES['embed_dim'])
        projections = head_of(learn_norm=False), head_of(prototypes=out_patch, learn_norm=False)
        parts = zip(('backbone', 'ca_head', 'c_head', 'p_head'), (backbone, summary, *projections), strict=True)
        networks[which] = joined(prefix, *parts)
        for size, image in images.items():
            tokens = plain.vit(backbone, torch.cat((image, image.flip(-1))), heads)
            rows, gaps = plain.selfpatch_teacher(summary, tokens, heads, k)
            clear = torch.cat((torch.ones(2, 1, dtype=torch.bool), gaps > 1e-4), 1)
            outputs = dict(tokens=tokens, ca_teacher=rows, ca_student=plain.class_attention(summary, tokens, heads)[:, None])
            found |= {f'{which}/{name}_{size}': f32(x) for name, x in outputs.items()} | {
                f'{which}/clear_ranking_{size}': clear
            }
    found |= dict(center=f32(rounded(1, 1, WIDTHS['out_dim'])), patch_center=f32(rounded(1, out_patch)))
    centers = dict(center=found['center'], patch_center=found['patch_center'])
    write_checkpoint(folder / 'selfpatch_checkpoint.pth', networks, ('weight_g',), dict(dino_loss=centers))
    return found
