"""Files that are no checkpoints are called by what they are; folders and shards are read whole or not at all."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from mmadclr.checkpoint.reading import read_checkpoint, weights_of
from mmadclr.checkpoint.weights import read_backbone
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones import QueryViT

ARCH = dict(embed_dim=64, depth=1, num_heads=1, patch_size=8)


def state():
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in QueryViT(ARCH, img_size=16).state_dict().items()}


def written(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def archive(**files):
    def write(buffer):
        with zipfile.ZipFile(buffer, 'w') as content:
            for name, data in files.items():
                content.writestr(name.replace('__', '.'), data)

    return written(write)


def tar():
    def write(buffer):
        with tarfile.open(fileobj=buffer, mode='w') as content:
            content.addfile(tarfile.TarInfo('weights.pth'), io.BytesIO())

    return written(write)


WHOLE = written(lambda buffer: torch.save(state(), buffer))
LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 343270012\n'
FILES = {
    'empty': (b'', 'it is empty'),
    'zeros': (bytes(4096), 'starts with zeros'),
    'lfs': (LFS, 'a Git LFS pointer, .* `git lfs pull`'),
    'login': (b'<!DOCTYPE html>\n<html><head><title>Sign in</title>', r'a web page \(HTML\) .* logging in'),
    'login after blanks': (b'\xef\xbb\xbf\n  <html lang="en">', r'a web page \(HTML\)'),
    'denied': (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', r'a web page \(HTML\)'),
    'text': ('wget: Länge unbekannt\n'.encode(), r"it is text \('wget: Länge unbekannt'\)"),
    'json': (b'{"error": "not found"}', r'it is text'),
    'truncated': (WHOLE[: len(WHOLE) // 2], rf'it is truncated at {len(WHOLE) // 2} bytes'),
    'zip of others': (archive(readme__txt='hello'), r'a zip archive of other files \(readme\.txt\)'),
    'npz': (written(lambda buffer: np.savez(buffer, a=np.zeros(2))), 'an archive of NumPy arrays'),
    'npy': (written(lambda buffer: np.save(buffer, np.zeros(2))), 'a NumPy array'),
    'gzip': (gzip.compress(WHOLE), 'a gzip archive: unpack it'),
    'tar': (tar(), 'a tar archive: unpack it'),
    'hdf5': (b'\x89HDF\r\n\x1a\n' + bytes(100), 'an HDF5 file'),
    'image': (b'\x89PNG\r\n\x1a\n' + bytes(100), 'an image'),
    'gguf': (b'GGUF\x03\x00' + bytes(100), 'a GGUF file'),
}


@pytest.mark.parametrize('kind', FILES)
@pytest.mark.parametrize('name', ['a.pth', 'a.bin', 'a.ckpt', 'a.safetensors'])
def test_files_of_other_kinds_are_named(kind, name, tmp_path):
    data, message = FILES[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf'{name} cannot be read as a checkpoint: .*{message}') as caught:
        read_checkpoint(tmp_path / name)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['a.pth', 'a.bin', 'model', 'a.safetensors'])
@pytest.mark.parametrize('data', [WHOLE, save(state())], ids=['torch', 'safetensors'])
def test_the_content_of_a_file_counts_not_its_name(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    read = read_checkpoint(tmp_path / name)
    assert all(torch.equal(read[key], tensor) for key, tensor in state().items())


def test_whole_models_are_no_checkpoints(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'a.pth')
    with pytest.raises(
        ValueError, match=r'a\.pth is not a checkpoint: it holds a Linear, not a dict of tensors; save the state_dict\(\)'
    ):
        read_checkpoint(tmp_path / 'a.pth')


# --- folders -------------------------------------------------------------------------------------------------------------


def write_shards(folder, kind='safetensors', config=None):
    """A folder with three shards and their index; returns the index."""
    folder.mkdir()
    name = {'safetensors': 'model', 'bin': 'pytorch_model'}[kind]
    places = {}
    for number in range(3):
        part = dict(list(state().items())[number::3])
        path = folder / f'{name}-{number + 1:05}-of-00003.{kind}'
        (save_file if kind == 'safetensors' else torch.save)(part, path)
        places |= dict.fromkeys(part, path.name)
    index = folder / f'{name}.{kind}.index.json'
    index.write_text(json.dumps({'metadata': {}, 'weight_map': places}))
    if config is not None:
        (folder / 'config.json').write_text(json.dumps(config))
    return index


@pytest.mark.parametrize('kind', ['safetensors', 'bin'])
def test_shards_are_read_by_folder_or_index(kind, tmp_path):
    index = write_shards(tmp_path / 'model', kind)
    for path in (tmp_path / 'model', index):
        found = read_backbone(path).state
        assert found.keys() == state().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in state().items())
        assert weights_of(path) == sorted(index.parent.glob(f'*of-00003.{kind}'))


def test_one_shard_is_not_taken_for_the_model(tmp_path):
    write_shards(tmp_path / 'model')
    with pytest.raises(ValueError, match='model-00002-of-00003.safetensors is one of 3 shards of a model: use the folder'):
        read_checkpoint(tmp_path / 'model' / 'model-00002-of-00003.safetensors')


@pytest.mark.parametrize(
    ('spoil', 'error', 'message'),
    [
        (
            lambda f: (f / 'model-00002-of-00003.safetensors').unlink(),
            FileNotFoundError,
            r'3 shards; 1 are missing',
        ),
        (lambda f: (f / 'model.safetensors.index.json').write_text('{'), ValueError, 'is not a JSON file'),
        (lambda f: (f / 'model.safetensors.index.json').write_text('{}'), ValueError, 'it has no weight_map'),
        (lambda f: (f / 'model.safetensors.index.json').write_text('[]'), ValueError, 'contains a list, not a JSON object'),
        (
            lambda f: redirect(f, '../a.pth'),
            ValueError,
            r"cls_token is listed in '\.\./a\.pth', which must be a file name",
        ),
        (lambda f: redirect(f, 'model-00002-of-00003.safetensors'), ValueError, 'lacks cls_token and 0 more tensors'),
    ],
)
def test_shards_that_do_not_fit_are_explained(spoil, error, message, tmp_path):
    write_shards(tmp_path / 'model')
    torch.save(state(), tmp_path / 'a.pth')
    spoil(tmp_path / 'model')
    with pytest.raises(error, match=message):
        read_checkpoint(tmp_path / 'model')


def redirect(folder, file):
    index = folder / 'model.safetensors.index.json'
    content = json.loads(index.read_text())
    content['weight_map']['cls_token'] = file
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ([], r'is a folder without weights: it must contain one of model\.safetensors, pytorch_model\.bin'),
        (['notes.txt'], 'is a folder without weights'),
        (['epoch_1.pth', 'epoch_2.pth'], r'is a folder with epoch_1\.pth, epoch_2\.pth: use one of them'),
        (['.metadata', '__0_0.distcp'], 'is a folder with a sharded checkpoint .* dcp_to_torch FOLDER FILE'),
        (['snapshots/1a/config.json'], 'a model hub cache: use the folder below snapshots'),
        (['adapter_model.safetensors'], 'adapters without the base model'),
        (['model.onnx', 'config.json'], 'an exported program, not weights'),
        (['tf_model.h5'], 'a TensorFlow model'),
    ],
)
def test_folders_of_other_things_are_named(files, message, tmp_path):
    for name in files:
        path = tmp_path / 'folder' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('x')
    (tmp_path / 'folder').mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=rf'folder {message}' if message.startswith('is') else message):
        open_backbone(tmp_path / 'folder')


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'model_type': 'dinov3_vit', 'rope_theta': 0}, r'rope_theta=0 must be a positive number'),
        ({'model_type': 'swin'}, r"model_type 'swin' is not a supported plain vision transformer; supported: vit,"),
        ({'model_type': 'vit', 'num_attention_heads': 'six'}, r"num_attention_heads='six' must be an integer"),
        ({'model_type': 'vit', 'num_attention_heads': 3}, r'num_heads=3 does not divide the 64 channels'),
        ({'model_type': 'vit', 'hidden_act': 'quick_gelu'}, r"hidden_act 'quick_gelu' is not supported; .*gelu"),
        ({'model_type': 'vit', 'layer_norm_eps': 0}, r'layer_norm_eps=0 must be a positive number'),
        ({'model_type': 'vit', 'image_size': 224}, r'images of 224x224 pixels, .* have 784 patches of 8 .* has 4'),
        (
            {'model_type': 'vit', 'image_size': [1, 2, 3]},
            r'image_size=\[1, 2, 3\] must be one side length, or height and width',
        ),
        (
            {'model_type': 'vit', 'mmadclr': {'pos_embed_resize': 'x'}},
            r"pos_embed_resize='x' must be one of 'dino',",
        ),
    ],
)
def test_configurations_that_cannot_be_are_explained(config, message, tmp_path):
    write_shards(tmp_path / 'model', config={'num_attention_heads': 1, **config})
    with pytest.raises(ValueError, match=rf'model: .*{message}'):
        open_backbone(tmp_path / 'model')
