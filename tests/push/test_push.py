"""A backbone pushed to a stand-in of the hub with the hub's own client, and loaded by its name by each library."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import constants
from places import REPO
from stand_in import HAS_LFS, LARGE, Hub

from mmadclr.cli.main import main
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones.feature_vit import FeatureViT
from mmadclr.push import FORMATS, Sharing, push_backbone

ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)
SIZE = 32
LICENSE = 'The text of the license.\n'
LOADERS = """
import torch
torch.set_grad_enabled(False)
images = torch.load('images.pt')
exec(open('snippet.py').read())
from mmadclr import load_backbone
output = load_backbone('hf:me/vit')[0](images)
torch.save([tokens, torch.cat((output.cls[:, None], output.patches), 1)], 'tokens.pt')
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, where the client looks for the hub, with a token that may write."""
    served = Hub()
    monkeypatch.setattr(constants, 'ENDPOINT', served.url)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))
    monkeypatch.delenv('HUGGING_FACE_HUB_TOKEN', raising=False)
    monkeypatch.setenv('HF_TOKEN', 'hf_writer')
    yield served
    served.close()


def build(seed=0, **settings):
    torch.manual_seed(seed)
    model = FeatureViT(**{'arch': ARCH, 'img_size': SIZE, **settings})
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    return model.eval()


def write(file, model, epoch=3, data='/home/someone/photos', **about):
    """A checkpoint as runs write it, with a backbone of these facts."""
    facts = dict(img_size=(SIZE, SIZE), pos_embed_resize=model.pos_embed_resize, mean=(0.5,) * 3, std=(0.2,) * 3, **about)
    state = {f'teacher.backbone.{name}': tensor for name, tensor in model.state_dict().items()}
    heads = {'teacher.backbone.blocks.0.attn': ARCH['num_heads']}
    cfg = f'train_dataloader = dict(dataset=dict(data_root={data!r}))\n'
    torch.save({'state_dict': state, 'meta': dict(architecture=heads, backbone=facts, epoch=epoch, cfg=cfg)}, file)
    return file


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / 'epoch_3.pth', build())


def head(card):
    return yaml.safe_load(card.split('---')[1])


def push(file, name='me/vit', to='timm', dry_run=False, **sharing):
    """The push, and the lines that it said."""
    said = []
    done = push_backbone(file, name, to, Sharing(**sharing), dry_run, said.append)
    return SimpleNamespace(**done._asdict(), said=said)


def mmadclr(*arguments):
    main([str(argument) for argument in arguments])


# --- the whole way ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize('to', FORMATS)
def test_every_library_loads_what_was_pushed_by_its_name(hub, tmp_path, to, capsys):
    """With registers and layer scales, so that nothing has to be resized or left out."""
    if to == 'hf':
        pytest.importorskip('transformers')
    model = build(reg_tokens=2, layer_scale=1.0, pos_embed_resize='size')
    file = write(tmp_path / 'epoch_3.pth', model)
    mmadclr('push', file, 'me/vit', '--format', to, '--license', 'apache-2.0')
    assert capsys.readouterr().out.endswith(f'uploaded to {hub.url}/me/vit\n')
    images = torch.randn(2, 3, SIZE, SIZE)
    torch.save(images, tmp_path / 'images.pt')
    card = hub.repositories['me/vit']['files']['README.md'].decode()
    (tmp_path / 'snippet.py').write_text(card.split('```python\n')[1].split('```')[0])  # what the reader copies
    load(tmp_path, hub.url)
    wanted = model(images)
    for tokens in torch.load(tmp_path / 'tokens.pt'):
        torch.testing.assert_close(tokens[:, 0], wanted.cls, rtol=0, atol=1e-5)
        torch.testing.assert_close(tokens[:, -wanted.patches.shape[1] :], wanted.patches, rtol=0, atol=1e-5)
    assert head(card)['license'] == 'apache-2.0'
    assert head(card)['library_name'] == dict(timm='timm', hf='transformers')[to]
    name = "create_model('hf-hub:me/vit', pretrained=True)" if to == 'timm' else "AutoModel.from_pretrained('me/vit')"
    assert name in (tmp_path / 'snippet.py').read_text()


def load(folder, url):
    """Runs the snippet and our own loader where nothing is known but the address of the hub: no token, an empty cache."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(('HF_', 'HUGGING'))}
    given = dict(PYTHONPATH=str(REPO), OMP_NUM_THREADS='1', HF_HOME=str(folder / 'home'), HF_ENDPOINT=url)
    command = [sys.executable, '-c', LOADERS]
    done = subprocess.run(command, cwd=folder, env=kept | given, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not HAS_LFS, reason='this version of huggingface_hub does not upload by LFS')
def test_large_files_go_through_lfs_and_small_ones_into_the_commit(hub, file):
    done = push(file)
    (commit,) = hub.commits
    assert done.url == f'{hub.url}/me/vit'
    assert commit['header'] == ['vit, exported by mmadclr']
    assert commit['lfsFile'] == ['model.safetensors']
    assert sorted(commit['file']) == ['README.md', 'config.json']
    stored = hub.repositories['me/vit']['files']
    assert {name: len(content) for name, content in stored.items() if name != '.gitattributes'} == done.files
    assert done.files['model.safetensors'] >= LARGE
    assert stored['README.md'].decode() == done.card


def test_dry_run_needs_no_network_and_no_token(hub, file, monkeypatch, capsys):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.delenv('HF_TOKEN')
    mmadclr('push', file, 'me/vit', '--dry-run')
    assert hub.requests == []
    text = capsys.readouterr().out
    listed = dict(line.split(' bytes  ')[::-1] for line in text.splitlines() if ' bytes  ' in line)
    assert set(listed) == {'README.md', 'config.json', 'model.safetensors'}
    card = text[text.index('\n---\n') + 1 : text.index('\nnothing was uploaded (--dry-run)\n')]
    assert int(listed['README.md'].replace(',', '')) == len(card.encode())  # printed whole
    assert '| epochs | 3 |' in card


def test_private_repositories(hub, file):
    push(file, private=True)
    assert hub.repositories['me/vit']['private']
    push(file, 'me/open')
    assert not hub.repositories['me/open']['private']


def test_the_card_says_nothing_of_folders_of_this_machine(file):
    card = push(file, dry_run=True).card
    assert '| data | photos |' in card
    assert 'someone' not in card
    assert '| data | street scenes |' in push(file, dry_run=True, data='street scenes').card


# --- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name', ['vit', 'me/', '/vit', 'me/vit/b', 'me/v it', 'me/vit..b', '-me/vit', 'me/vit.git', f'me/{"x" * 94}', '']
)
def test_names_that_are_not_of_a_user(hub, file, name):
    with pytest.raises(ValueError, match='must be USER/NAME'):
        push(file, name)
    assert hub.requests == []


def test_a_repository_with_files_is_replaced_on_request_only(hub, file):
    hub.put('me/vit', {'pytorch_model.bin': b'old', 'README.md': b'old'})
    with pytest.raises(ValueError, match=r'me/vit is not empty \(pytorch_model.bin, README.md\): .* --overwrite'):
        push(file)
    assert hub.commits == []
    push(file, overwrite=True)
    assert set(hub.repositories['me/vit']['files']) == {'.gitattributes', 'README.md', 'config.json', 'model.safetensors'}
    assert hub.commits[0]['deletedFile'] == ['pytorch_model.bin']


def test_an_empty_repository_is_filled(hub, file):
    hub.put('me/vit', {})
    push(file)
    assert 'model.safetensors' in hub.repositories['me/vit']['files']


def test_nobody_is_logged_in(hub, file, monkeypatch):
    monkeypatch.delenv('HF_TOKEN')
    with pytest.raises(ValueError, match=r'^not logged in to http://127.*: run `hf auth login`, or set HF_TOKEN'):
        push(file)
    assert hub.requests == []


def test_a_token_that_is_not_valid(hub, file, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'hf_expired')
    with pytest.raises(ValueError, match=r'does not accept the token: run `hf auth login`'):
        push(file)


@pytest.mark.parametrize(('token', 'name'), [('hf_reader', 'me/vit'), ('hf_writer', 'others/vit')])
@pytest.mark.parametrize('exists', [False, True])
def test_no_right_to_write(hub, file, monkeypatch, token, name, exists):
    monkeypatch.setenv('HF_TOKEN', token)
    if exists:
        hub.put(name, {})
    with pytest.raises(
        ValueError, match=rf"^{name}: no right to write \(.*You don't have the rights.*\): run `hf auth login`"
    ) as error:
        push(file, name)
    assert '\n' not in str(error.value)
    assert hub.commits == []


def test_a_private_repository_of_others(hub, file, monkeypatch):
    hub.put('others/vit', {'README.md': b'theirs'}, private=True)
    with pytest.raises(ValueError, match='others/vit is not empty|no right to write'):
        push(file, 'others/vit', overwrite=True)
    assert hub.repositories['others/vit']['files']['README.md'] == b'theirs'


def test_offline(hub, file, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match='^HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it, or use --dry-run$'):
        push(file)


def test_a_hub_that_is_not_there(hub, file):
    hub.close()
    with pytest.raises(ValueError, match=r'^http://127.* cannot be reached \(Connect\w*Error\): .* --dry-run$'):
        push(file)


def test_what_the_hub_finds_wrong_in_the_card(hub, file):
    with pytest.raises(ValueError, match=r'^me/vit: http.* refuses it \("license" must be one of the known identifiers\)$'):
        push(file, license='my own')
    assert hub.commits == []


def test_a_missing_client_is_one_line(file, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(SystemExit, match='^error: mmadclr push needs huggingface_hub, .*: pip install huggingface_hub$'):
        mmadclr('push', file, 'me/vit', '--dry-run')


def test_weights_that_change_on_the_way_are_not_uploaded(hub, file, monkeypatch):
    from mmadclr.push import push as module

    monkeypatch.setattr(module, 'open_backbone', lambda name, *rest: open_backbone(*tampered(name, file), *rest))
    with pytest.raises(ValueError, match=r'read back from the folder to upload, features differ by .* nothing was uploaded'):
        push(file)
    assert hub.commits == []


def tampered(name, file):
    """Other weights in place of those of the exported folder."""
    return (file if name == file else write(file.with_name('other.pth'), build(seed=1)),)


# --- licenses --------------------------------------------------------------------------------------------------------------

DINOV3 = dict(family='dinov3', source='hf:facebook/dinov3-vits16-pretrain-lvd1689m', license='dinov3-license')
MAE = dict(family='mae', source='mae_pretrain_vit_base.pth', license='cc-by-nc-4.0')


def test_obligations_are_told_and_must_be_confirmed(hub, tmp_path):
    file = write(tmp_path / 'a.pth', build(), **DINOV3)
    message = r'published under DINOv3 License: share these weights .* repeat with --confirm-license --license-file FILE'
    with pytest.raises(ValueError, match=message):
        push(file)
    with pytest.raises(
        ValueError, match='DINOv3 License demands that its text accompanies the weights .* --license-file FILE'
    ):
        push(file, confirmed=True)
    with pytest.raises(ValueError, match='--license mit: the weights derive from .* published under DINOv3 License'):
        push(file, license='mit', confirmed=True)
    with pytest.raises(FileNotFoundError, match='--license-file .*none.md does not exist'):
        push(file, confirmed=True, license_file=tmp_path / 'none.md')
    (tmp_path / 'empty.md').write_text(' \n')
    with pytest.raises(ValueError, match='--license-file .*empty.md is empty'):
        push(file, confirmed=True, license_file=tmp_path / 'empty.md')
    assert 'me/vit' not in hub.repositories
    (tmp_path / 'terms.md').write_text(LICENSE)
    done = push(file, confirmed=True, license_file=tmp_path / 'terms.md')
    files = hub.repositories['me/vit']['files']
    assert files['LICENSE.md'].decode() == LICENSE
    found = head(done.card)
    assert (found['license'], found['license_name'], found['license_link']) == ('other', 'dinov3-license', 'LICENSE.md')
    assert found['base_model'] == 'facebook/dinov3-vits16-pretrain-lvd1689m'
    assert 'name DINOv3 in publications of results' in done.card


def test_obligations_without_a_text(hub, tmp_path):
    file = write(tmp_path / 'a.pth', build(), **MAE)
    with pytest.raises(
        ValueError, match=r'published under CC-BY-NC-4.0: no commercial use .* repeat with --confirm-license$'
    ):
        push(file)
    found = head(push(file, confirmed=True).card)
    assert found['license'] == 'cc-by-nc-4.0'
    assert 'base_model' not in found


def test_weights_of_others_without_a_known_license(hub, tmp_path):
    file = write(tmp_path / 'a.pth', build(), source='theirs.pth')
    with pytest.raises(ValueError, match='derive from theirs.pth, whose license is not recorded: ask its authors'):
        push(file)
    assert head(push(file, license='cc-by-4.0').card)['license'] == 'cc-by-4.0'


def test_that_there_is_no_license_is_said(file):
    done = push(file, dry_run=True)
    assert done.said[0] == 'license  none: without one, nobody may use the weights; name it with --license'
    assert 'license' not in head(done.card)
    assert not any(line.startswith('license') for line in push(file, dry_run=True, license='mit').said)


# --- results ---------------------------------------------------------------------------------------------------------------


def test_results_are_in_the_metadata_and_in_the_table(hub, file, tmp_path):
    metrics = {
        'voc/linear_mIoU': dict(value=54.25, low=52.5, high=56.0),
        'davis/davis_J': dict(value=41.125, low=None, high=None),
    }
    (tmp_path / 'result.json').write_text(json.dumps(dict(checkpoint=str(file), metrics=metrics, published=[], results={})))
    knn = {'knn20_T0.07_top1': 63.61, 'knn20_T0.07_top5': 80.1, 'size': 32, 'inputs': {'val': '/home/someone/birds/val'}}
    (tmp_path / 'knn.json').write_text(json.dumps(knn))
    done = push(file, evaluations=[tmp_path / 'knn.json'])
    (model,) = head(done.card)['model-index']
    assert model['name'] == 'vit'
    found = {
        (result['task']['type'], result['dataset']['name'], metric['type'], metric['name']): metric['value']
        for result in model['results']
        for metric in result['metrics']
    }
    assert found == {
        ('image-classification', 'birds', 'accuracy', 'knn20_T0.07_top1'): 63.61,
        ('image-classification', 'birds', 'knn20_T0.07_top5', 'knn20_T0.07_top5'): 80.1,
        ('image-segmentation', 'voc', 'mean_iou', 'linear_mIoU'): 54.25,
        ('image-feature-extraction', 'davis', 'davis_J', 'davis_J'): 41.125,
    }
    assert '| voc | linear_mIoU | 54.25 | 52.5 to 56 | result.json |' in done.card
    assert '| davis | davis_J | 41.12 |  | result.json |' in done.card
    assert done.said[1:] == [f'results  2 from {tmp_path / "knn.json"}', f'results  2 from {tmp_path / "result.json"}']


def test_without_results_there_is_no_table(file):
    done = push(file, dry_run=True)
    assert 'model-index' not in head(done.card)
    assert '## Evaluation' not in done.card
    assert done.said[1:] == ['results  none found; add files of evaluation tools with --evaluation']


def test_files_that_may_be_of_another_checkpoint_are_named_and_not_taken(file, tmp_path):
    (tmp_path / 'knn.json').write_text(json.dumps({'knn20_T0.07_top1': 63.61, 'inputs': {'val': 'x'}}))
    done = push(file, dry_run=True)
    assert done.results == []
    assert 'knn.json names no checkpoint; add it with --evaluation' in done.said[1]


def test_what_lies_beside_the_checkpoint_can_be_left_out(file, tmp_path):
    (tmp_path / 'result.json').write_text('{"checkpoint": ')
    with pytest.raises(ValueError, match=r'result.json is not a JSON file: .* --no-found-results'):
        push(file, dry_run=True)
    assert push(file, dry_run=True, find=False).results == []
