"""Crops full images of a batch on the device, for ``MultiCrop(backend='device')``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmadclr.datasets.decoding import EncodedImage
from mmadclr.datasets.packed_images import unpack
from mmadclr.datasets.pixels import DecodeError
from mmadclr.datasets.transforms import KINDS
from mmadclr.models.preprocessors.device_crops import crops_of

Decoder = Callable[..., list[Tensor]]


def with_views(data: dict, device: torch.device) -> dict:
    """A collated batch of full images with its ``*_views`` uint8 (B, number, 3, size, size) on the device.

    A batch that already has views is returned unchanged. Boxes stay in pixels of the displayed image.

    Raises:
        ValueError: See ``crops_of``.
        ImportError, DecodeError: See ``decode_files``.
    """
    if 'packed_pixels' not in data:
        return data
    shrink = data['image_shrink'].cpu().view(-1, 1, 1)
    boxes = [shrunk(data[f'{kind}_boxes'].cpu(), shrink) for kind in KINDS]
    crops = crops_of(images_on(data, device), boxes, data['crop_sizes'][0].tolist())
    return {**data, **{f'{kind}_views': some for kind, some in zip(KINDS, crops, strict=True)}}


def shrunk(boxes: Tensor, shrink: Tensor) -> Tensor:
    """Boxes int64 in pixels of images smaller by this factor, edges rounded (half to even)."""
    return (boxes.double() / shrink).round().long()


def images_on(data: dict, device: torch.device) -> list[Tensor]:
    """The images uint8 (3, H, W) of a batch, in any memory layout; decodes undecoded files."""
    pixels = data['packed_pixels'].to(device, non_blocking=True)
    images = [image.permute(2, 0, 1) for image in unpack(pixels, data['packed_sizes'].cpu())]
    files = data['packed_files'].split(data['packed_lengths'].tolist())
    undecoded = [place for place, file in enumerate(files) if len(file)]
    if undecoded:
        numbers = [int(data['index'][place]) for place in undecoded]
        decoded = decode_files([files[place] for place in undecoded], numbers, device)
        for place, image in zip(undecoded, decoded, strict=True):
            images[place] = image
    return images


def decode_files(files: Sequence[Tensor], numbers: Sequence[int], device: torch.device) -> list[Tensor]:
    """Decodes JPEG files on the device with TorchCodec (nvJPEG on a GPU), in one call.

    **Not yet run on a GPU**: tested with TorchCodec 0.17 on a CPU, and with mocks. nvJPEG rounds differently (as does
    every decoder), may not detect damage inside a file, and may block the host. The decoder does not report which file it
    rejects; in that case all are decoded here as in a worker.

    Args:
        files: Contents, uint8 tensors on the CPU.
        numbers: Indices of the images in their data set, for messages.
        device: Of the resulting pixels.

    Returns:
        uint8 (3, H, W) each.

    Raises:
        ImportError: TorchCodec is not installed, or too old.
        DecodeError: A file cannot be decoded; states its index.
    """
    decode = device_decoder()
    try:
        return decode(list(files), mode='RGB', device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        warn_of_refusal(str(error).partition('\n')[0])
    return [decode_here(file, number).to(device) for file, number in zip(files, numbers, strict=True)]


def device_decoder() -> Decoder:
    """``torchcodec.decoders.decode_jpeg``: a list of files (bytes,) -> a list of images (3, H, W) on a device.

    Raises:
        ImportError: It is not available.
    """
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError if its libraries do not match torch
        reason = str(error).partition('\n')[0]
        raise ImportError(
            f"MultiCrop(decode='device') requires TorchCodec 0.16 or newer ({reason}): pip install 'torchcodec>=0.16', or "
            'remove decode'
        ) from error
    return decode_jpeg


def decode_here(file: Tensor, number: int) -> Tensor:
    """Decodes one file on the CPU with the workers' decoders."""
    try:
        pixels = EncodedImage(file.numpy().tobytes(), f'image {number}').decode()
    except DecodeError as error:
        raise DecodeError(
            f"image {number} of the data set cannot be decoded: {error}. Remove it, or set decode='worker' of MultiCrop, "
            'which replaces unreadable images by others'
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


@lru_cache(maxsize=8)
def warn_of_refusal(reason: str) -> None:
    """Logs each reason once."""
    print_log(
        f'TorchCodec rejected a batch of JPEG files, decoding on the CPU instead: {reason}', 'current', logging.WARNING
    )
