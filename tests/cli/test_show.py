"""``mmadclr show``: its grammar, the files it writes, and its messages."""

import json
import re

import pytest
import torch
from PIL import Image
from program import mmadclr
from programs import python

from mmadclr.cli.parsers import command_parser
from mmadclr.cli.show import make_study, possible
from mmadclr.models.backbones.feature_vit import FeatureViT


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two checkpoints, one without class token, three images of different sizes, and one in a folder of its own."""
    folder = tmp_path_factory.mktemp('show')
    for name, settings in (('a', {}), ('b', {}), ('plain', dict(class_token=False))):
        torch.manual_seed(len(name) + ord(name[0]))
        arch = dict(embed_dim=64, depth=2, num_heads=1, patch_size=8)
        torch.save(FeatureViT(arch, img_size=32, init='xavier', **settings).state_dict(), folder / f'{name}.pth')
    for name, size in (
        ('photos/1.jpg', (64, 48)),
        ('photos/2.png', (40, 64)),
        ('photos/in/3.jpg', (50, 50)),
        ('one/4.png', (64, 32)),
    ):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        noise = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(size[0]))
        Image.fromarray(noise.numpy()).resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder


def arguments(*words):
    return command_parser('show', 'mmadclr show').parse_args(list(map(str, words)))


def show(folder, *words, check=True):
    return python('-m', 'mmadclr', 'show', *words, '--size', 64, '--out', folder / 'out', check=check)


def files(folder):
    return {path.name for path in (folder / 'out').iterdir()}


def test_checkpoint_then_images_then_what_to_compare():
    args = arguments(
        'a.pth', 'x.jpg', 'photos', '--against', 'b.pth', '--against', 'c.pth', '--names', 'a,b, c', '--what', 'pca'
    )
    assert (args.checkpoint, args.images, args.against) == ('a.pth', ['x.jpg', 'photos'], ['b.pth', 'c.pth'])
    assert (args.names, args.what, args.size, args.html) == (['a', 'b', 'c'], ['pca'], 448, False)
    assert arguments('a.pth', '--what', 'queries,pca,queries', 'x.jpg').what == ['queries', 'pca']


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['a.pth'], 'the following arguments are required: IMAGES'),
        (
            ['a.pth', 'x.jpg', '--what', 'pca,atention'],
            "argument --what: 'atention' is unknown; choose some of attention,pca,",
        ),
        (['a.pth', 'x.jpg', '--what', ','], "argument --what: ',' is unknown; choose some of attention,"),
        (['a.pth', 'x.jpg', '--names', 'a,a'], "argument --names: 'a,a' must be different names, separated by commas"),
        (['a.pth', 'x.jpg', '--names', 'a,'], "argument --names: 'a,' must be different names, separated by commas"),
    ],
)
def test_mistakes_in_words_are_told_at_once(words, message):
    done = mmadclr('show', *words)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.long
def test_all_figures_of_two_checkpoints_and_a_folder(folder):
    done = show(folder, folder / 'a.pth', folder / 'photos', '--against', folder / 'b.pth', '--box', 0, 0, 0.5, 0.5)
    expected = {
        'attention.png',
        'pca.png',
        'neighbors_1.png',
        'neighbors_2.png',
        'correspondence.png',
        'queries.png',
        'segmentation.png',
    }
    assert files(folder) == expected
    assert {line.rpartition('/')[2] for line in done.stdout.splitlines() if line.endswith('.png')} == expected
    for name in expected:
        with Image.open(folder / 'out' / name) as image:
            assert min(image.size) > 300
            assert len(image.convert('RGB').getcolors(1 << 24)) > 100


def test_a_page_instead_of_figures_and_with_those_asked_for(folder, tmp_path):
    for words, expected in (([], {'explore.html'}), (['--what', 'pca'], {'explore.html', 'pca.png'})):
        done = show(tmp_path, folder / 'a.pth', folder / 'photos', '--html', '--names', 'mine', *words)
        assert files(tmp_path) == expected
    assert re.search(r'explore.html: 0\.\d MB; mine: 64 of 64 dimensions, 8 bits; cosines off by ', done.stdout)
    text = (tmp_path / 'out' / 'explore.html').read_text()
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    assert [image['name'] for image in data['images']] == ['1.jpg', '2.png', '3.jpg']


def test_what_is_possible_with_one_image_or_without_class_token(folder, capsys):
    study = make_study(arguments(folder / 'plain.pth', folder / 'one'))
    assert possible(study) == ['pca', 'queries', 'segmentation']
    said = capsys.readouterr().out
    assert 'note: neighbors and correspondence need at least two images and are left out\n' in said
    assert 'note: attention is left out: plain without class token\n' in said


def test_more_images_than_wanted_are_told(folder, capsys):
    study = make_study(arguments(folder / 'a.pth', folder / 'photos', '--max-images', '2'))
    assert [picture.name for picture in study.pictures] == ['1.jpg', '3.jpg']
    assert 'note: 2 of 3 images are shown, evenly spread; --max-images shows more\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['a.pth', 'one', '--what', 'neighbors'], 'error: neighbors: needs at least two images, and there is only 4.png'),
        (['plain.pth', 'one', '--what', 'attention'], 'error: plain has no class token, so there is no attention of [CLS]'),
        (['a.pth', 'gone.jpg'], 'error: image {folder}/gone.jpg does not exist'),
        (['gone.pth', 'one'], 'error: '),
        (['a.pth', 'one', '--names', 'a,b'], 'error: --names gives 2 names for 1 checkpoints'),
        (['a.pth', 'one', '--what', 'queries', '--query-size', '12'], 'error: query size 12 must be a multiple of 8'),
        (['a.pth', 'a.pth'], 'error: image {folder}/a.pth cannot be read ('),
    ],
)
def test_errors_are_one_line(folder, tmp_path, words, message):
    words = [folder / word if (folder / word).exists() or word.startswith('gone') else word for word in words]
    done = show(tmp_path, *words, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message.format(folder=folder))
    assert 'Traceback' not in done.stderr


def test_pictures_are_seen_upright(tmp_path, folder):
    image, exif = Image.open(folder / 'photos/1.jpg'), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / 'turned.jpg', exif=exif)
    study = make_study(arguments(folder / 'a.pth', tmp_path / 'turned.jpg', '--size', '64'))
    assert study.image(0, 0).size == (48, 64)
    assert study.tokens(0, 0).patches.shape == (8, 6, 64)


@pytest.mark.long
def test_figures_of_1024_pixels(folder, tmp_path):
    """8,192 patches of one image."""
    figures = {'attention', 'pca', 'queries', 'segmentation'}
    out = tmp_path / 'out'
    done = mmadclr('show', folder / 'a.pth', folder / 'one', '--size', 1024, '--what', ','.join(figures), '--out', out)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in out.glob('*.png')} == figures
