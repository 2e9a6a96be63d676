"""Folders with an exported program, which runs without a Python class on images of any size."""

from __future__ import annotations

import io
import json
import warnings
from abc import abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from mmadclr.annotations import MaybeNone
from mmadclr.hub.export.formats import CONFIG, Features, Format, require
from mmadclr.hub.export.plain import plain_vit
from mmadclr.hub.export.program import PortableViT
from mmadclr.hub.opening import OpenedBackbone

ONNX_FILE, TORCHSCRIPT_FILE = 'model.onnx', 'model.pt'
LARGEST_ONNX = 2**31 - 2**20  # bytes of one ONNX file; larger models store weights in a second file


class Program(Format):
    """Base class of program formats."""

    any_side = True

    def check(self, opened: OpenedBackbone) -> None:
        if opened.model.rope is not None:
            raise ValueError(
                'the formats onnx and torchscript do not support rotary positions (rope); use one of the formats timm, '
                'safetensors and hf'
            )

    def write(self, opened: OpenedBackbone, folder: Path) -> None:
        model = PortableViT(plain_vit(opened.model), opened.model.pos_embed_resize)
        # Two images, because exporters treat a batch size of 1 as a constant.
        self.record(model, torch.zeros(2, 3, *opened.img_size), folder)
        config = dict(
            input='images (batch, 3, height, width), normalized',
            outputs=output_names(opened),
            img_size=list(opened.img_size),
            mean=opened.mean,
            std=opened.std,
            patch_size=opened.model.patch_size,
        )
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + '\n')

    @abstractmethod
    def record(self, model: PortableViT, images: Tensor, folder: Path) -> None:
        """Exports a model, traced with the example ``images``."""

    def keeps_rule(self, opened: OpenedBackbone) -> bool:
        return True


class TorchScriptFolder(Program):
    """``model.pt``, loaded by ``torch.jit.load``."""

    loaders = 'torch'

    def record(self, model: PortableViT, images: Tensor, folder: Path) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')  # about constants and deprecation; sizes and batches are verified
            program = torch.jit.trace(model, images)
        # Saved through memory: torch aborts the process if it writes to a full disk itself.
        content = io.BytesIO()
        torch.jit.save(program, content)
        (folder / TORCHSCRIPT_FILE).write_bytes(content.getvalue())

    def load(self, folder: Path) -> Features:
        program = torch.jit.load(str(folder / TORCHSCRIPT_FILE))
        return lambda images: _as_tuple(program(images))

    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        return (
            f"import torch\nmodel = torch.jit.load('{folder}/{TORCHSCRIPT_FILE}')\n"
            f'{", ".join(output_names(opened))} = model(images)\n'
        )


class OnnxFolder(Program):
    """``model.onnx``, loaded by onnxruntime."""

    packages, loaders = ('onnx', 'onnxscript', 'onnxruntime'), 'onnxruntime'

    def record(self, model: PortableViT, images: Tensor, folder: Path) -> None:
        dynamic = torch.export.Dim.DYNAMIC
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torch's warnings about its own code
            program: torch.onnx.ONNXProgram | MaybeNone = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=['images'],
                output_names=['cls', 'patches'] if model.has_cls else ['patches'],
                dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
            )
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        program.save(folder / ONNX_FILE, external_data=size > LARGEST_ONNX)

    def load(self, folder: Path) -> Features:
        onnxruntime = require('onnxruntime', 'the format onnx')
        session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=['CPUExecutionProvider'])
        return lambda images: tuple(map(torch.from_numpy, session.run(None, {'images': images.numpy()})))

    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        return (
            f"import onnxruntime\nsession = onnxruntime.InferenceSession('{folder}/{ONNX_FILE}')\n"
            f'{", ".join(output_names(opened))}{"" if _has_cls(opened) else ","} = '
            "session.run(None, {'images': images})  # float32 array\n"
        )


def output_names(opened: OpenedBackbone) -> list[str]:
    """``cls`` (B, D), if there is a class token, and ``patches`` (B, N, D)."""
    return ['cls', 'patches'] if _has_cls(opened) else ['patches']


def _has_cls(opened: OpenedBackbone) -> bool:
    return opened.model.cls_token is not None


def _as_tuple(outputs: tuple[Tensor, ...] | Tensor) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
