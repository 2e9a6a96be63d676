"""DenseViT against a slow float64 transformer with its own position resizing; the pyramid against mmseg's."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from references import layer_norm, resized_positions, vit_tokens
from torch import nn

from mmadclr.models.backbones import DenseViT, QueryViT
from mmadclr.models.necks import ViTPyramid

ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=16)
# timm resizes positions in single precision.
ATOL = {'dino': 1e-9, 'size': 1e-5}
SMALL = dict(arch={**ARCH, 'patch_size': 8}, img_size=32)


def spread(model: nn.Module) -> nn.Module:
    """Weights so large that every tensor moves the result."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def build(dtype=torch.float64, **kwargs) -> DenseViT:
    return spread(DenseViT(**{'arch': ARCH, 'img_size': 224, 'out_indices': (0, 1), **kwargs})).to(dtype).eval()


def small(**kwargs) -> DenseViT:
    return build(**SMALL, **kwargs)


def reference(model: DenseViT, images: torch.Tensor, rule: str = 'dino', state: dict | None = None) -> list[torch.Tensor]:
    """Maps of all blocks for images that are padded already, from the weights alone."""
    state = state or model.state_dict()
    patch = state['patch_embed.proj.weight'].shape[-1]
    stored, grid = model.patch_embed.grid_size, tuple(side // patch for side in images.shape[-2:])
    prefix = int('cls_token' in state)
    positions = state['pos_embed'] if grid == stored else resized_positions(state['pos_embed'], stored, grid, prefix, rule)
    outputs = vit_tokens(state, images.double(), positions.double(), num_heads=3)
    if 'norm.weight' in state:
        outputs = [layer_norm(x, state['norm.weight'], state['norm.bias']) for x in outputs]
    return [x[:, prefix:].transpose(1, 2).unflatten(2, grid) for x in outputs]


def assert_maps(got, want, atol=1e-9) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=atol)


@pytest.fixture
def images():
    return torch.randn(2, 3, 48, 40, dtype=torch.float64)


@pytest.fixture
def resizes(monkeypatch):
    """Grids that positions were resized to, in order."""
    calls = []
    original = QueryViT.position_embedding

    def counted(self, height, width):
        calls.append((height, width))
        return original(self, height, width)

    monkeypatch.setattr(QueryViT, 'position_embedding', counted)
    return calls


# --- feature maps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('rule', ['dino', 'size'])
@pytest.mark.parametrize('size', [(224, 224), (512, 512), (800, 1333)])
@torch.no_grad()
def test_maps_equal_the_reference(rule, size):
    model = build(pos_embed_resize=rule)
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    got = model(images)
    padded = torch.zeros(1, 3, *(-(-side // 16) * 16 for side in size), dtype=torch.float64)
    padded[..., : size[0], : size[1]] = images
    assert [tuple(m.shape) for m in got] == [(1, 24, -(-size[0] // 16), -(-size[1] // 16))] * 2
    assert all(m.is_contiguous() for m in got)
    assert_maps(got, reference(model, padded, rule), atol=ATOL[rule])


@torch.no_grad()
def test_the_rules_of_resizing_differ():
    model = build(out_indices=(1,))
    images = torch.randn(1, 3, 512, 512, dtype=torch.float64)
    (got,) = model(images)
    for rule in ('plain', 'size'):
        assert (got - reference(model, images, rule)[1]).abs().max() > 1e-3


@pytest.mark.parametrize('size', [(41, 33), (48, 40), (7, 95), (16, 16)])
@torch.no_grad()
def test_padding_is_zeros_at_the_right_and_the_bottom(size):
    model, images = small(), torch.randn(2, 3, *size, dtype=torch.float64)
    padded = F.pad(images, (0, -size[1] % 8, 0, -size[0] % 8))
    assert_maps(model(images), reference(model, padded))


@pytest.mark.parametrize('out_norm', [True, False])
@torch.no_grad()
def test_taps_are_the_blocks_asked_for(images, out_norm):
    model = small(out_norm=out_norm, out_indices=(0, 1))
    assert ('norm.weight' in model.state_dict()) == out_norm
    maps = reference(model, images)
    assert_maps(model(images), maps)
    for indices in ((0,), (1,), (0, 1, 1), (0, 0, 1)):
        other = small(out_norm=out_norm, out_indices=indices)
        other.load_state_dict(model.state_dict())
        assert_maps(other(images), [maps[i] for i in indices])


@pytest.mark.parametrize('class_token', [True, False])
@torch.no_grad()
def test_normed_taps_are_the_intermediate_tokens_of_pretraining(images, class_token):
    model = small(out_norm=True, class_token=class_token)
    pretrained = QueryViT(**SMALL, class_token=class_token).double().eval()
    pretrained.load_state_dict(model.state_dict())
    tokens = pretrained.intermediate_tokens(images, n=2)
    expected = [x[:, int(class_token) :].transpose(1, 2).unflatten(2, (6, 5)) for x in tokens]
    assert_maps(model(images), expected, atol=1e-12)


@pytest.mark.parametrize('size', [(32, 32), (48, 40)])
@torch.no_grad()
def test_models_without_class_token(size):
    model = small(class_token=False)
    assert model.pos_embed.shape == (1, 16, 24)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    assert_maps(model(images), reference(model, images))


@torch.no_grad()
def test_positions_of_a_grid_that_is_not_square(images):
    model = build(arch=SMALL['arch'], img_size=(24, 64))
    assert_maps(model(images), reference(model, images))
    stored = torch.randn(1, 3, 24, 64, dtype=torch.float64)
    assert_maps(model(stored), reference(model, stored))


@torch.no_grad()
def test_single_precision_is_close(images):
    model = small()
    got = model.float()(images.float())
    assert_maps(
        got, reference(model, images.float(), state={k: v.double() for k, v in model.state_dict().items()}), atol=1e-4
    )


# --- gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('rule', ['dino', 'size'])
@pytest.mark.parametrize('grad_checkpointing', [False, True])
def test_gradients_equal_those_of_the_reference(images, rule, grad_checkpointing):
    """Those of positions pass the resizing."""
    model = small(pos_embed_resize=rule, out_norm=True, grad_checkpointing=grad_checkpointing).train()
    upstream = torch.randn(2, 2, 24, 6, 5, dtype=torch.float64)
    state = {name: tensor.clone().requires_grad_() for name, tensor in model.state_dict().items()}
    got, want = model(images), reference(model, images, rule, state)
    assert_maps(got, want, atol=ATOL[rule])
    (torch.stack(got) * upstream).sum().backward()
    (torch.stack(want) * upstream).sum().backward()
    for name, parameter in model.named_parameters():
        scale = state[name].grad.abs().max().item()
        torch.testing.assert_close(
            parameter.grad, state[name].grad, rtol=0, atol=ATOL[rule] * scale, msg=lambda text, name=name: f'{name}: {text}'
        )
    assert model.pos_embed.grad.abs().min() > 0


def test_gradient_checkpointing_with_dropped_paths(images):
    models = [small(drop_path_rate=0.5, grad_checkpointing=saving).train() for saving in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    results = []
    for model in models:
        torch.manual_seed(3)
        maps = model(images)
        sum(m.square().sum() for m in maps).backward()
        results.append((maps, {name: p.grad for name, p in model.named_parameters()}))
    assert_maps(results[1][0], results[0][0], atol=1e-12)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=1e-9)


def test_blocks_after_the_last_tap_wait_for_no_gradient(images):
    model = small(out_indices=(0,))
    model(images)[0].sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {
        name for name, p in model.named_parameters() if not p.requires_grad
    }
    assert {name.split('.')[1] for name, p in model.named_parameters() if not p.requires_grad} == {'1'}


# --- frozen stages --------------------------------------------------------------------------------------------------------

FROZEN = {
    -1: (),
    0: ('pos_embed', 'cls_token', 'patch_embed'),
    1: ('pos_embed', 'cls_token', 'patch_embed', 'blocks.0'),
    2: ('pos_embed', 'cls_token', 'patch_embed', 'blocks.0', 'blocks.1', 'norm'),
}


@pytest.mark.parametrize('stages', FROZEN)
@pytest.mark.parametrize('class_token', [True, False])
def test_frozen_stages_get_no_gradient_and_stay_in_eval_mode(images, stages, class_token):
    model = small(frozen_stages=stages, out_norm=True, drop_path_rate=0.5, class_token=class_token).train()
    frozen = {name for name, _ in model.named_parameters() if name.startswith(FROZEN[stages])}
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    modules = {name: m for name, m in model.named_modules() if name.startswith(('patch_embed', 'blocks.')) or name == 'norm'}
    assert {name for name, module in modules.items() if not module.training} == {
        name for name in modules if name.startswith(FROZEN[stages])
    }
    images.requires_grad_()
    sum(m.square().sum() for m in model(images)).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == frozen
    model.eval()
    assert not any(module.training for module in model.modules())


def test_frozen_blocks_drop_no_paths_in_training(images):
    model = small(frozen_stages=2, drop_path_rate=0.9)
    expected = model(images)
    assert_maps(model.train()(images), expected, atol=0)
    free = small(drop_path_rate=0.9)
    assert not torch.allclose(free(images)[1], free.train()(images)[1])


def test_optimizer_leaves_frozen_stages_alone(images):
    model = small(frozen_stages=1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(images)[1].square().sum().backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith('blocks.1.')}


# --- resized positions are kept -------------------------------------------------------------------------------------------


def small_images(height, width):
    return torch.randn(1, 3, height, width, dtype=torch.float64)


def test_frozen_positions_are_resized_once_per_size(resizes):
    model = small(frozen_stages=0).train()
    for size in ((48, 40), (48, 40), (40, 48), (48, 40), (47, 33)):
        model(small_images(*size))
    assert resizes == [(6, 5), (5, 6)]


def test_positions_are_resized_once_per_size_without_gradients(resizes):
    model = small()
    with torch.no_grad():
        for size in ((48, 40), (48, 40), (40, 48), (48, 40)):
            model(small_images(*size))
    with torch.inference_mode():
        model(small_images(48, 40))
    assert resizes == [(6, 5), (5, 6)]


def test_trained_positions_are_resized_every_time(resizes):
    model = small().train()
    for _ in range(3):
        model(small_images(48, 40))
    assert resizes == [(6, 5)] * 3


def replace_by_load(model, weights):
    model.load_state_dict(weights)


def replace_by_assignment(model, weights):
    model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)


def replace_in_place(model, weights):
    for name, parameter in model.named_parameters():
        parameter.detach().copy_(weights[name])


def replace_by_step(model, weights):
    for name, parameter in model.named_parameters():
        parameter.grad = parameter.detach() - weights[name]
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    model.zero_grad()


def replace_behind_autograd(model, weights):
    """As hooks for averaged weights do before evaluation."""
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
    model.eval()


@pytest.mark.parametrize(
    'replace', [replace_by_load, replace_by_assignment, replace_in_place, replace_by_step, replace_behind_autograd]
)
@pytest.mark.parametrize('frozen_stages', [-1, 0])
def test_resized_positions_follow_the_weights(images, replace, frozen_stages):
    model = small(frozen_stages=frozen_stages)
    for _ in range(2):
        weights = small().state_dict()
        with torch.no_grad():
            model(images)
            before = model.position_embedding(6, 5).clone()
            replace(model, weights)
            assert (model.position_embedding(6, 5) - before).abs().max() > 0.1
            assert_maps(model(images), reference(model, images, state=weights))


def test_looks_without_gradients_between_steps_of_training_see_the_new_positions(images):
    """A fused optimizer changes weights without counting it."""
    model = small().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    with torch.no_grad():
        model(images)
    model(images)[1].square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert_maps(model(images), reference(model, images))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_resized_positions_follow_the_type(images, dtype):
    model = small()
    with torch.no_grad():
        model(images)
        model.to(dtype)
        assert model.position_embedding(6, 5).dtype == dtype
        assert [m.dtype for m in model(images.to(dtype))] == [dtype] * 2


# --- arguments and initial weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(out_indices=()), r'out_indices=\(\) must be blocks from 0 to 1 in ascending order'),
        (dict(out_indices=(0, 2)), r'out_indices=\(0, 2\) must be blocks from 0 to 1'),
        (dict(out_indices=(-1,)), r'out_indices=\(-1,\) must be blocks from 0 to 1'),
        (dict(out_indices=(1, 0)), r'out_indices=\(1, 0\) .*ascending'),
        (dict(frozen_stages=3), r'frozen_stages=3 must be between -1 \(none\) and 2 \(all blocks\)'),
        (dict(frozen_stages=-2), r'frozen_stages=-2'),
        (dict(init_cfg=dict(type='TruncNormal', std=0.02)), r"DenseViT accepts dict\(type='Pretrained', checkpoint=PATH\)"),
        (dict(init_cfg=dict(checkpoint='a.pth')), r"DenseViT accepts dict\(type='Pretrained'"),
        (
            dict(init_cfg=dict(type='Pretrained', chekpoint='a.pth')),
            r'the keys allow, checkpoint, facts, prefix, type, which',
        ),
        (dict(pos_embed_resize='bilinear'), 'pos_embed_resize'),
        (dict(mask_token=True), 'mask_token has no effect on DenseViT, which does not pretrain: remove it'),
    ],
)
def test_bad_arguments_are_explained(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DenseViT(**{**SMALL, 'out_indices': (0, 1), **kwargs})


@pytest.fixture
def checkpoint(tmp_path):
    """A file with teacher and student, and the weights of the two."""
    states = {which: spread(QueryViT(**SMALL)).state_dict() for which in ('teacher', 'student')}
    torch.save(states, tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth'), states


def pretrained(file, **settings):
    return dict(type='Pretrained', checkpoint=file, **settings)


def assert_holds(model, state):
    differing = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])]
    assert not differing


@pytest.mark.parametrize('out_norm', [True, False])
def test_checkpoint_is_loaded_by_init_weights_only(checkpoint, out_norm):
    file, states = checkpoint
    torch.manual_seed(1)
    model = DenseViT(**SMALL, out_indices=(0, 1), out_norm=out_norm, init_cfg=pretrained(file))
    torch.manual_seed(1)
    plain = DenseViT(**SMALL, out_indices=(0, 1), out_norm=out_norm)
    assert_holds(model, plain.state_dict())
    model.init_weights()
    assert_holds(model, states['teacher'])


def test_settings_of_init_cfg_reach_the_loader(checkpoint):
    file, states = checkpoint
    for settings in (dict(which='student'), dict(prefix='student.')):
        model = DenseViT(**SMALL, out_indices=(0, 1), init_cfg=pretrained(file, **settings))
        model.init_weights()
        assert_holds(model, states['student'])
    kwargs = dict(SMALL, out_indices=(0, 1), class_token=False)
    with pytest.raises(ValueError, match=r'1 not in the model \(cls_token\)'):
        DenseViT(**kwargs, init_cfg=pretrained(file)).init_weights()
    DenseViT(**kwargs, init_cfg=pretrained(file, allow=['cls_token'])).init_weights()


def test_final_norm_must_be_in_the_file_if_it_is_applied(tmp_path):
    torch.save(small(out_norm=False).state_dict(), tmp_path / 'a.pth')
    model = DenseViT(**SMALL, out_indices=(0, 1), out_norm=True, init_cfg=pretrained(str(tmp_path / 'a.pth')))
    with pytest.raises(ValueError, match=r'2 missing from the file \(norm\.weight, norm\.bias\)'):
        model.init_weights()


def test_files_are_looked_for_by_init_weights():
    model = DenseViT(**SMALL, out_indices=(0, 1), init_cfg=pretrained('nowhere.pth'))
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth does not exist'):
        model.init_weights()


def test_no_checkpoint_means_random_weights():
    model = DenseViT(**SMALL, out_indices=(0, 1), init_cfg=pretrained(None))
    before = model.pos_embed.detach().clone()
    model.init_weights()
    assert not torch.equal(model.pos_embed, before)


def test_positions_of_the_file_are_resized_to_the_size_of_the_model(checkpoint):
    file, states = checkpoint
    model = DenseViT(SMALL['arch'], img_size=(48, 56), out_indices=(0, 1), init_cfg=pretrained(file))
    model.init_weights()
    expected = resized_positions(states['teacher']['pos_embed'], (4, 4), (6, 7))
    torch.testing.assert_close(model.pos_embed.double(), expected, rtol=0, atol=2e-6)


# --- pyramid --------------------------------------------------------------------------------------------------------------


@pytest.mark.dense
@pytest.mark.parametrize('training', [True, False])
def test_pyramid_is_that_of_mmseg(training):
    importlib.import_module('mmadclr.ops')
    mmseg = importlib.import_module('mmseg.models')
    norm = dict(type='BN', momentum=0.3)
    theirs, ours = spread(mmseg.Feature2Pyramid(12, norm_cfg=norm)), ViTPyramid(12, norm_cfg=norm)
    nn.init.uniform_(theirs.upsample_4x[1].running_var)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    maps = [torch.randn(2, 12, 6, 4) for _ in range(4)]
    got, want = ours.train(training)(maps), theirs.train(training)(maps)
    assert [m.shape[-2:] for m in got] == [(24, 16), (12, 8), (6, 4), (3, 2)]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert ours.upsample_4x[1].num_batches_tracked == int(training)


@pytest.mark.dense
def test_pyramid_norm_runs_over_all_processes_by_default():
    assert isinstance(ViTPyramid(12).upsample_4x[1], nn.SyncBatchNorm)
    with pytest.raises(ValueError, match='zip'):
        ViTPyramid(12)([torch.randn(1, 12, 4, 4)] * 3)
