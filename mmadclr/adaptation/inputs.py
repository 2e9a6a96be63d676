"""What an adaptation is given: weights, images, masks and changes of the recipe, checked before anything takes time."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from mmadclr.adaptation.changes import TRANSFORM, check_changes, is_part
from mmadclr.adaptation.plan import Masked, Sizes, choose_batch, choose_sizes
from mmadclr.adaptation.settings import base_options, build_config, evaluation_set, reading
from mmadclr.console.libraries import without_messages
from mmadclr.evaluation.adaptation import FolderProbe
from mmadclr.hub.starting import Start, read_start
from mmadclr.registry import DATASETS


class Inputs(NamedTuple):
    """``start``: what the weights say. ``sizes``: of views. ``images``: their number. ``batch``: images of a step, over all
    processes. ``options``: overrides of the config that follow from these.
    """

    start: Start
    sizes: Sizes
    images: int
    batch: int
    options: dict[str, Any]


def read_inputs(args: Namespace, processes: int) -> Inputs:
    """Reads and checks the input; not a collective call.

    Raises:
        FileNotFoundError, ValueError: Weights or images cannot be read or do not suit each other, there are too few images,
            or an argument or a change of the config is not possible.
    """
    check_changes(args.cfg_options)
    if not Path(args.data).is_dir():
        raise FileNotFoundError(f'--data {args.data}: there is no such folder')
    start = read_start(args.weights, **reading(args))
    check_backbone_changes(args.cfg_options, start)
    if not start.settings.get('class_token', True):
        raise ValueError(
            f'{args.weights}: the backbone has no class token, from which the methods of adapt compute their losses'
        )
    sizes = choose_sizes(start.settings['arch']['patch_size'], start.settings['img_size'], args.size)
    images = count_images(args.data, sizes.large, args.labels)
    batch = choose_batch(images, torch.cuda.is_available(), processes)
    options = base_options(sizes, batch, start, args)
    with without_messages():  # of the weights, which are told above
        cfg = build_config(args, options, args.seed)
    each, transform = cfg.train_dataloader.batch_size, cfg.train_dataloader.dataset.transform
    if each * processes > images:
        raise ValueError(
            f'train_dataloader.batch_size={each} on {processes} process(es) is more than the {images} images in '
            f'{args.data}: at most {images // processes}'
        )
    sizes = sizes._replace(small=transform.local_size, query=transform.query_size)
    check_views(sizes)
    return Inputs(start, sizes, images, each * processes, options)


def check_backbone_changes(changes: Mapping[str, Any], start: Start) -> None:
    """Raises ValueError if a change is of what the weights say, with which the original is measured as well."""
    of_weights = [*(f'model.backbone.{name}' for name in start.settings), 'model.backbone.type']
    of_weights += ['model.data_preprocessor.mean', 'model.data_preprocessor.std']
    for key, value in changes.items():
        if any(is_part(key, one) or is_part(one, key) for one in of_weights):
            raise ValueError(
                f'--cfg-options {key}={value} is not possible in adapt: it is a property of the weights; what their file '
                'does not say is set by --num-heads, or --fact KEY=VALUE with mean, std (of values in [0, 1]), norm_eps, '
                'pos_embed_resize, img_size or rope'
            )


def check_views(sizes: Sizes) -> None:
    """Raises ValueError if changed sides of small views or query crops are not whole patches."""
    for key, side in (('local_size', sizes.small), ('query_size', sizes.query)):
        if type(side) is not int or side < 1 or side % sizes.patch:
            raise ValueError(f'{TRANSFORM}.{key}={side} must be a multiple of the patch size {sizes.patch} of the weights')


def count_images(data: str, side: int, labels: bool) -> int:
    """Number of images in a folder.

    Raises:
        FileNotFoundError, ValueError: There is no such folder, or it has no images or, with ``labels``, no class folders.
    """
    return len(DATASETS.build(evaluation_set(data, side, labels)))


def count_masks(masks: str | None, side: int) -> Masked | None:
    """Numbers of images with masks, which are read and checked; None without a folder. Collective call.

    Raises:
        FileNotFoundError, ValueError: See ``FolderProbe``.
    """
    if masks is None:
        return None
    probe = FolderProbe(masks, side)
    return Masked(len(probe.train), len(probe.val))


def describe_weights(args: Namespace, start: Start, cfg: Config) -> str:
    """The weights in words, and whether their mask token is used."""
    arch = start.settings['arch']
    text = f'{args.weights}: {arch["depth"]} blocks of {arch["embed_dim"]} channels, {start.settings["img_size"][0]} pixels'
    if args.method != 'ibot' or start.mask_token_trained:
        return text
    masked = 'but patches are masked all the same' if cfg.model.get('mask_student', True) else 'so no patches are masked'
    return f'{text}; its mask token was never trained, {masked}'
