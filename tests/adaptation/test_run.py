"""``mmadclr adapt`` from the command line to its verdict, its continuation, and what it says of bad input."""

import json

import pytest
import timm
import torch
from comparisons import assert_same_state
from evaluation.adaptation.small_models import paint_masks
from mmengine.config import Config
from public_folders import write_folder

from mmadclr.adaptation import plan, run
from mmadclr.checkpoint import read_checkpoint
from mmadclr.cli.main import main
from mmadclr.cli.parsers import command_parser
from mmadclr.config.check import check_config
from mmadclr.datasets.remote import StoreError
from mmadclr.engine.runners.epoch_loop import ResumableEpochLoop
from mmadclr.evaluation.adaptation import FolderProbe, encoder_of
from mmadclr.hub.opening import open_backbone

KNN_OF_MASKS = 'patch_knn20_T0.07_miou'


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    _shorten(monkeypatch)


def stop():
    raise StoreError('the machine went away')


def _shorten(monkeypatch):
    monkeypatch.setattr(plan, 'LEAST_STEPS', 4)
    monkeypatch.setattr(plan, 'MOST_EPOCHS', 2)


@pytest.fixture
def weights(tmp_path):
    return write_folder(tmp_path / 'weights')


@pytest.fixture
def arguments(weights, image_folder, tmp_path):
    """The arguments of the command; overrides by option."""

    def make(**overrides):
        options = dict(weights=weights, data=image_folder(count=20, size=(40, 44)), size=28, budget='10m', workers=0)
        options |= {'work-dir': tmp_path / 'out'} | overrides
        return ['adapt', *(str(part) for name, value in options.items() for part in (f'--{name}', value))]

    return make


def states_of(folder, epoch):
    return read_checkpoint(folder / f'epoch_{epoch}.pth')['state_dict']


@pytest.mark.parametrize(
    'method', [pytest.param('adclr', marks=pytest.mark.slow), 'dino', pytest.param('ibot', marks=pytest.mark.slow)]
)
def test_it_ends_with_table_and_verdict(method, arguments, tmp_path, capsys, weights):
    main(arguments(method=method))
    text = capsys.readouterr().out
    for part in (
        'weights  ',
        'steps of 8 images',
        's a step (measured)',
        'retrieval',
        'original',
        'random',
        'mmadclr export',
        '.pth (after epoch ',
    ):
        assert part in text
    result = json.loads((tmp_path / 'out' / 'adaptation.json').read_text())
    assert result['verdict'] in ('better', 'same', 'worse', 'mixed')
    assert result['summary'].splitlines()[0][:40] in text
    cfg = Config.fromfile(tmp_path / 'out' / 'adapt.py')
    check_config(cfg)
    assert cfg.model.backbone.arch.patch_size == 7
    adapted = open_backbone(tmp_path / 'out' / f'best_{cfg.custom_hooks[0].measure}.pth')
    assert adapted.img_size == open_backbone(weights).img_size
    if method == 'ibot':
        assert not cfg.model.mask_student
        assert 'its mask token was never trained, so no patches are masked' in text


@pytest.mark.slow
def test_a_trained_mask_token_is_used(arguments, tmp_path):
    main([*arguments(method='ibot', weights=write_folder(tmp_path / 'trained', mask_token=0.5)), '--dry-run'])
    assert not (tmp_path / 'out').exists()
    main(arguments(method='ibot', weights=tmp_path / 'trained'))
    assert Config.fromfile(tmp_path / 'out' / 'adapt.py').model.mask_student


def test_a_dry_run_prints_the_plan_and_writes_nothing(arguments, tmp_path, capsys, monkeypatch):
    main([*arguments(), '--dry-run'])
    assert 'steps of 8 images' in capsys.readouterr().out
    assert not (tmp_path / 'out').exists()
    monkeypatch.setattr(run, 'continued', lambda folder, args: print('there is a run'))
    monkeypatch.setattr(run, 'train', lambda cfg, folder: pytest.fail('trains'))
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'adapt.py').write_text('')
    main([*arguments(), '--dry-run'])
    assert 'there is a run' in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_run_continues_where_it_was(arguments, tmp_path, monkeypatch, capsys):
    main(arguments(**{'work-dir': tmp_path / 'whole'}))
    run_epoch = ResumableEpochLoop.run_epoch
    monkeypatch.setattr(ResumableEpochLoop, 'run_epoch', lambda loop: stop() if loop.epoch else run_epoch(loop))
    with pytest.raises(SystemExit, match='the machine went away'):
        main(arguments())
    monkeypatch.undo()
    _shorten(monkeypatch)
    assert not (tmp_path / 'out' / 'adaptation.json').exists()
    main(arguments())
    assert 'continuing the run in' in capsys.readouterr().out
    last = max(int(path.stem.partition('_')[2]) for path in (tmp_path / 'whole').glob('epoch_*.pth'))
    assert_same_state(*(states_of(tmp_path / name, last) for name in ('whole', 'out')))
    results = [json.loads((tmp_path / name / 'adaptation.json').read_text()) for name in ('whole', 'out')]
    assert results[0]['measures'] == results[1]['measures']


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(arguments, tmp_path, monkeypatch):
    main(arguments())
    first = json.loads((tmp_path / 'out' / 'adaptation.json').read_text())
    monkeypatch.setattr(run.Runner, 'train', lambda self: pytest.fail('trains again'))
    main(arguments())
    assert json.loads((tmp_path / 'out' / 'adaptation.json').read_text()) == first


@pytest.mark.slow
def test_a_run_with_other_arguments_is_refused(arguments, tmp_path):
    main(arguments(method='dino'))
    with pytest.raises(SystemExit, match='has a run with --method dino, not adclr: choose another --work-dir'):
        main(arguments())


@pytest.mark.slow
def test_labels_of_folders_decide_if_asked_for(arguments, tmp_path, image_folder):
    main([*arguments(method='dino'), '--labels'])
    result = json.loads((tmp_path / 'out' / 'adaptation.json').read_text())
    assert 'knn' in result['measures']
    assert Config.fromfile(tmp_path / 'out' / 'adapt.py').custom_hooks[0].measure == 'knn'


@pytest.mark.slow
def test_masks_choose_the_checkpoint_and_decide(arguments, tmp_path, capsys):
    paint_masks(tmp_path / 'masked', side=28)
    main(arguments(method='dino', masks=tmp_path / 'masked'))
    told = capsys.readouterr().out
    assert 'masks    mIoU of 7 images, learned from 12 others; in the run of 7, from 12' in told
    result = json.loads((tmp_path / 'out' / 'adaptation.json').read_text())
    assert {name for name, each in result['measures'].items() if each['decides']} == {KNN_OF_MASKS, 'patch_linear_miou'}
    cfg = Config.fromfile(tmp_path / 'out' / 'adapt.py')
    check_config(cfg)
    assert {hook.measure for hook in cfg.custom_hooks} == {KNN_OF_MASKS}
    best = tmp_path / 'out' / f'best_{KNN_OF_MASKS}.pth'
    assert f'adapted  {best}' in told
    probe = FolderProbe(str(tmp_path / 'masked'), 28)
    for model, opened in (('original', cfg.val_evaluator.adaptation.original), ('adapted', best)):
        values = probe.of_model(encoder_of(open_backbone(opened)))
        assert {name: result['measures'][name][model]['value'] for name in values} == pytest.approx(values, rel=1e-3)
    with pytest.raises(SystemExit, match=r'has a run with --masks .*masked, not None: choose another --work-dir'):
        main(arguments(method='dino'))


@pytest.mark.slow
def test_labels_choose_the_checkpoint_also_with_masks(arguments, tmp_path):
    paint_masks(tmp_path / 'masked', side=28)
    main([*arguments(method='dino', masks=tmp_path / 'masked'), '--labels'])
    assert Config.fromfile(tmp_path / 'out' / 'adapt.py').custom_hooks[0].measure == 'knn'
    measures = json.loads((tmp_path / 'out' / 'adaptation.json').read_text())['measures']
    assert {name for name, each in measures.items() if each['decides']} == {'knn', KNN_OF_MASKS, 'patch_linear_miou'}


def test_runs_from_before_masks_and_changes_continue(tmp_path):
    """Their config records neither, nor the images of a step."""
    recorded = dict(weights='w', data='d', method='dino', seed=0, size=None, labels=False, low_rank=None)
    cfg = Config(dict(adaptation=recorded, train_dataloader=dict(batch_size=16)))
    args = command_parser('adapt', 'mmadclr adapt').parse_args(['--weights', 'w', '--data', 'd', '--method', 'dino'])
    assert run.check_continued(cfg, tmp_path, args, 1) == run.check_continued(cfg, tmp_path, args, 4) == 16
    args.cfg_options = {'model.anchor': None}
    with pytest.raises(ValueError, match=r'has a run with --cfg-options None, not model\.anchor=None: choose another'):
        run.check_continued(cfg, tmp_path, args, 1)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (dict(masks='nowhere'), 'error: .*nowhere'),
        (dict(budget='1s'), r'error: --budget is too short: .*a step of 8 images takes .* s \(measured\)'),
        (dict(size=30), 'error: --size 30 must be a multiple of the patch size 7 of the weights, at least 14: 28 or 35'),
        (dict(weights='nowhere'), 'error: .*nowhere'),
        (dict(data='nowhere'), 'error: .*nowhere'),
    ],
)
def test_bad_input_is_refused_in_one_line(overrides, message, arguments):
    with pytest.raises(SystemExit, match=message) as caught:
        main(arguments(**overrides))
    assert '\n' not in str(caught.value.code)


def test_too_few_images_are_refused(arguments, image_folder):
    data = image_folder(count=6, size=(40, 44), name='few')
    with pytest.raises(SystemExit, match='images are too few to adapt to: at least 16'):
        main(arguments(data=data))


def test_losses_that_are_not_finite_end_it_before_training(arguments, tmp_path, monkeypatch):
    from mmadclr.models.losses import original_anchor

    monkeypatch.setattr(original_anchor, 'gram_distance', lambda student, original: student.sum() * torch.nan)
    with pytest.raises(SystemExit, match='error: .*loss_anchor_gram.* not finite in the first steps, before any training'):
        main(arguments())
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_low_rank_updates_are_all_that_changes(arguments, tmp_path, weights):
    main(arguments(**{'low-rank': 2, 'method': 'dino'}))
    cfg = Config.fromfile(tmp_path / 'out' / 'adapt.py')
    best = open_backbone(tmp_path / 'out' / f'best_{cfg.custom_hooks[0].measure}.pth', which='student').model.state_dict()
    original = open_backbone(weights).model.state_dict()
    moved = {name for name in best if not torch.equal(best[name], original[name])}
    assert moved <= {'blocks.1.attn.qkv.weight', 'blocks.1.attn.proj.weight'}


def test_what_a_file_does_not_say_is_given_and_holds_for_run_and_measures(arguments, tmp_path, capsys):
    sizes = dict(img_size=28, patch_size=7, embed_dim=24, depth=2, num_heads=4, num_classes=0)
    model = timm.models.VisionTransformer(**sizes)
    torch.save(
        {'teacher': model.state_dict(), 'student': timm.models.VisionTransformer(**sizes).state_dict()}, tmp_path / 'w'
    )
    given = ['--num-heads', '4', '--which', 'student', '--fact', 'mean=(0.5,0.4,0.3)', '--fact', 'std=(0.5,0.5,0.5)']
    given += ['--fact', 'norm_eps=1e-5', '--fact', 'pos_embed_resize=dino']
    still = ['--cfg-options', 'optim_wrapper.optimizer.lr=1e-12', 'train_cfg.max_epochs=1']
    main([*arguments(weights=tmp_path / 'w', method='dino'), *given, *still])
    cfg = Config.fromfile(tmp_path / 'out' / 'adapt.py')
    backbone = cfg.model.backbone
    assert (backbone.arch.num_heads, backbone.norm_eps, backbone.pos_embed_resize) == (4, 1e-5, 'dino')
    assert cfg.model.data_preprocessor.mean == pytest.approx((127.5, 102, 76.5))
    result = json.loads((tmp_path / 'out' / 'adaptation.json').read_text())
    assert result['verdict'] == 'same'
    for name, value in drifts(tmp_path / 'out').items():
        assert value == pytest.approx(1, abs=1e-6), name
    trained, original = states_of(tmp_path / 'out', 1), torch.load(tmp_path / 'w')['student']
    assert torch.allclose(trained['teacher.backbone.pos_embed'], original['pos_embed'], atol=1e-6)
    with pytest.raises(SystemExit, match='has a run with --num-heads 4, not 2'):
        main([*arguments(weights=tmp_path / 'w', method='dino'), '--num-heads', '2', *given[2:], *still])


def drifts(folder):
    """Similarities to the original in the last evaluation of a run."""
    lines = [json.loads(line) for path in folder.glob('*/vis_data/scalars.json') for line in path.read_text().splitlines()]
    (*_, last) = [line for line in lines if any('drift' in name for name in line)]
    return {name: value for name, value in last.items() if 'drift' in name}


@pytest.mark.parametrize('change', ['model.backbone.norm_eps=1e-5', 'model.data_preprocessor.mean=[1,2,3]'])
def test_properties_of_the_weights_are_no_settings(change, arguments):
    with pytest.raises(SystemExit, match=r'is a property of the weights; .* --num-heads, or --fact KEY=VALUE'):
        main([*arguments(), '--cfg-options', change])
