"""Weights by the name of a public model: from the library's cache, from a server, or a line that says what to do."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from public_backbones import randomize, timm_eva, transformers_model

from mmadclr.checkpoint import public
from mmadclr.checkpoint.public import Repository
from mmadclr.checkpoint.reading import weights_of
from mmadclr.hub.conversion import convert
from mmadclr.hub.export import export_backbone
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones import DenseViT
from mmadclr.models.backbones.query_vit import QueryViT

ARCH = dict(embed_dim=64, depth=1, num_heads=1, patch_size=8)
DINOV3 = dict(rope=True, reg_tokens=4, layer_scale=1e-5, qkv_bias='qv', norm_eps=1e-5)
GATED = 'facebook/dinov3-vits16-pretrain-lvd1689m'
COMMIT = '0' * 40


def dinov3() -> QueryViT:
    torch.manual_seed(0)
    return randomize(QueryViT(ARCH, img_size=32, **DINOV3))


def write(repository: str, folder: Path, max_shard_size='1GB') -> None:
    """Files of a repository: of transformers, or of timm if its owner is timm."""
    model = dinov3()
    if repository.startswith('timm/'):
        args = dict(embed_dim=64, depth=1, num_heads=1, patch_size=8)
        theirs = timm.create_model('vit_small_patch16_dinov3_qkvb', num_classes=0, global_pool='token', **args)
        theirs.load_state_dict(timm_eva(model).state_dict())
        timm.models.save_for_hf(theirs, folder, model_args=args, safe_serialization=True)
    else:
        transformers_model(model).save_pretrained(folder, max_shard_size=max_shard_size)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Puts repositories into a cache as the library does, in offline mode."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)

    def put(repository: str, commit: str = COMMIT, ref: str = 'main', **kwargs) -> Path:
        folder = tmp_path / 'cache' / f'models--{repository.replace("/", "--")}'
        (folder / 'refs').mkdir(parents=True, exist_ok=True)
        (folder / 'refs' / ref).write_text(commit)
        write(repository, folder / 'snapshots' / commit, **kwargs)
        return folder / 'snapshots' / commit

    return put


def assert_same(opened) -> None:
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(opened.model(images).patches, dinov3()(images).patches, rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', ['1GB', '50KB'])
def test_what_is_in_the_cache_is_opened(cache, size, tmp_path):
    folder = cache(GATED, max_shard_size=size)
    assert (folder / 'model.safetensors.index.json').exists() == (size == '50KB')
    opened = open_backbone(f'hf:{GATED}')
    assert_same(opened)
    assert opened.origin == dict(family='dinov3', source=f'hf:{GATED}', license='dinov3-license')
    assert weights_of(f'hf:{GATED}') == sorted(folder.glob('model*.safetensors'))


def test_weights_of_timm_are_opened_by_their_name(cache):
    cache('timm/vit_small_patch16_dinov3_qkvb.lvd1689m')
    for name in ('vit_small_patch16_dinov3_qkvb', 'vit_small_patch16_dinov3_qkvb.lvd1689m'):
        opened = open_backbone(f'timm:{name}')
        assert_same(opened)
        assert opened.origin['source'] == 'timm/vit_small_patch16_dinov3_qkvb.lvd1689m'


def test_revisions_are_told_apart(cache):
    cache(GATED)
    other = cache(GATED, commit='1' * 40, ref='v2')
    assert public.local_path(f'hf:{GATED}@v2') == other
    assert public.local_path(f'hf:{GATED}') == other.parent / COMMIT
    assert public.local_path(f'hf:{GATED}@{"1" * 40}') == other
    with pytest.raises(FileNotFoundError, match='HF_HUB_OFFLINE is set'):
        public.local_path(f'hf:{GATED}@v3')


def test_names_are_taken_wherever_a_path_is(cache, tmp_path):
    cache(GATED)
    name = f'hf:{GATED}'
    convert(name, tmp_path / 'a.pth', 'mmadclr')
    assert open_backbone(tmp_path / 'a.pth').origin['source'] == name
    export_backbone(name, tmp_path / 'out', 'timm')
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert f'`{name}`' in card
    task = DenseViT(ARCH, img_size=32, out_indices=(0,), init_cfg=dict(type='Pretrained', checkpoint=name), **DINOV3)
    task.init_weights()
    assert torch.equal(task.cls_token, dinov3().cls_token)


def test_incomplete_caches_are_not_opened(cache):
    folder = cache(GATED, max_shard_size='50KB')
    sorted(folder.glob('model-*.safetensors'))[1].unlink()
    with pytest.raises(FileNotFoundError, match='is not in the local cache .* and HF_HUB_OFFLINE is set'):
        open_backbone(f'hf:{GATED}')


@pytest.mark.parametrize(
    ('name', 'error', 'message'),
    [
        ('hf:user/model', FileNotFoundError, r'user/model is not in the local cache \(.*cache\) and HF_HUB_OFFLINE is set; '
         r'elsewhere, download config\.json, .*model\.safetensors from .*/user/model into a folder, and give the path of'),
        ('hf:model', ValueError, 'must be hf:USER/NAME or hf:USER/NAME@REVISION'),
        ('hf:a/b/c', ValueError, 'must be hf:USER/NAME'),
        ('hf:a/../b', ValueError, 'must be hf:USER/NAME'),
        ('hf:a/b@', ValueError, 'must be hf:USER/NAME'),
        ('timm:vit_smal_patch14_dinov2', FileNotFoundError, 'did you mean timm:vit_small_patch14_dinov2.lvd142m'),
        ('timm:vit_small_patch14_dinov2.x', FileNotFoundError, 'has no pretrained weights of this name; did you mean'),
        ('timm:test_vit', FileNotFoundError, 'timm/test_vit.r160_in1k is not in the local cache'),
        ('timm:vit_huge_patch14_gap_224.in1k_ijepa', FileNotFoundError, 'download .*IN1K-vit.h.14-300e.pth.tar and give'),
        ('timm:', FileNotFoundError, 'has no pretrained weights of this name'),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_one_line(cache, name, error, message):
    with pytest.raises(error, match=message) as caught:
        open_backbone(name)
    assert str(caught.value).startswith(f'{name}: ')
    assert len(str(caught.value).splitlines()) == 1


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download takes: ``/USER/NAME/resolve/REVISION/FILE``."""

    folder: Path
    asked: list

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        user, name, _, revision, file = self.path.lstrip('/').split('/', 4)
        type(self).asked.append(f'{user}/{name}/{file}')
        refused = {'gated': (403, 'GatedRepo'), 'missing': (404, 'RepoNotFound')}.get(name)
        if refused is None and revision not in ('main', COMMIT):
            refused = 404, 'RevisionNotFound'
        if refused is None and not (self.folder / file).is_file():
            refused = 404, 'EntryNotFound'
        content = b'' if refused else (self.folder / file).read_bytes()
        self.send_response(refused[0] if refused else 200)
        if refused:
            self.send_header('X-Error-Code', refused[1])
        self.send_header('ETag', f'"{file}"')
        self.send_header('X-Repo-Commit', COMMIT)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


SCRIPT = """
import json, sys
from mmadclr.checkpoint.public import local_path
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = str(local_path(name))
    except (FileNotFoundError, ValueError) as error:
        found[name] = f'{type(error).__name__}: {error}'
print(json.dumps(found))
"""


def ask(names, **environment):
    """Paths or errors in another process, whose hub is that of its environment."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith('HF_') and 'proxy' not in key.lower()}
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, *names], env=inherited | environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == '' or 'Retrying' not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_downloads_and_refusals_of_a_server(tmp_path, monkeypatch):
    write('user/model', tmp_path / 'served', max_shard_size='50KB')
    Hub.folder, Hub.asked = tmp_path / 'served', []
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    where = dict(HF_HOME=str(tmp_path / 'home'), HF_ENDPOINT=address)
    names = [f'hf:{name}' for name in ('user/model', 'user/gated', 'user/missing', 'user/model@v9')]
    try:
        found = ask(names, **where)
        first = list(Hub.asked)
        again = ask(names[:1], **where)
    finally:
        server.shutdown()
        server.server_close()
    folder = Path(found['hf:user/model'])
    assert_same(open_backbone(folder))
    assert found['hf:user/gated'] == (
        f'FileNotFoundError: hf:user/gated: ask for access to these weights at {address}/user/gated, then run '
        '`hf auth login` and try again'
    )
    assert f'there is no {address}/user/missing, or it is private' in found['hf:user/missing']
    assert f"{address}/user/model has no revision 'v9'" in found['hf:user/model@v9']
    assert all(len(text.splitlines()) == 1 for text in found.values())
    assert again == {'hf:user/model': str(folder)}
    assert Hub.asked[len(first) :] == []  # from the cache alone, with its note that there is no preprocessor


def test_errors_of_a_connection_are_told_whatever_their_type(monkeypatch, tmp_path):
    """Version 1 of the library passes on those of httpx, which are no OSErrors."""

    class ReadError(Exception):
        pass

    def broken(*args, **kwargs):
        raise ReadError('peer closed the connection\nwithout more')

    monkeypatch.setattr(public.huggingface_hub, 'hf_hub_download', broken)
    with pytest.raises(
        FileNotFoundError, match=r'^hf:user/other: config.json of .* cannot be downloaded \(ReadError: peer closed'
    ):
        Repository('hf:user/other', 'user/other').download('config.json')


@pytest.mark.slow  # the client of the hub tries six times
def test_without_a_network_the_cache_is_enough(tmp_path):
    where = dict(HF_HOME=str(tmp_path / 'home'), HF_ENDPOINT='http://127.0.0.1:9')  # a port without a server
    found = ask(['hf:user/other'], **where)['hf:user/other']
    assert f'is not in the local cache ({tmp_path / "home" / "hub"}) and http://127.0.0.1:9 cannot be reached' in found
    folder = tmp_path / 'home' / 'hub' / 'models--user--model'
    write('user/model', folder / 'snapshots' / COMMIT)
    (folder / 'refs').mkdir()
    (folder / 'refs' / 'main').write_text(COMMIT)
    assert ask(['hf:user/model'], **where)['hf:user/model'] == str(folder / 'snapshots' / COMMIT)
