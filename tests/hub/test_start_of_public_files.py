"""What is read of weights besides the backbone: mask tokens, normalization, finished detectors, and whose they are."""

import pytest
import timm
import torch
from public_folders import write_folder

from mmadclr.checkpoint.families import completed_provenance
from mmadclr.hub import starting
from mmadclr.hub.conversion import convert
from mmadclr.hub.export.folder import export_backbone
from mmadclr.hub.opening import open_backbone
from mmadclr.hub.starting import read_start

SIZES = dict(img_size=28, patch_size=7, embed_dim=64, depth=2, num_heads=1, num_classes=0)


def network(**more):
    return {**timm.models.VisionTransformer(**SIZES).state_dict(), **more}


def saved(folder, content):
    torch.save(content, folder / 'weights.pth')
    return folder / 'weights.pth'


def test_the_mask_token_of_a_teacher_is_that_of_its_student(tmp_path):
    """As in iBOT's checkpoints, where only the student is masked."""
    token = torch.full((1, 64), 0.25)
    student = {f'module.backbone.{name}': tensor for name, tensor in network(masked_embed=token).items()}
    teacher = {f'backbone.{name}': tensor for name, tensor in network().items()}
    file = saved(tmp_path, {'student': student, 'teacher': teacher})
    assert read_start(file).mask_token_trained
    assert torch.equal(open_backbone(file).mask_token, token)
    assert open_backbone(saved(tmp_path, {'teacher': teacher})).mask_token is None


@pytest.mark.parametrize('width', [32, 64])
def test_the_mask_token_of_a_masked_autoencoder_is_that_of_its_decoder(width, tmp_path):
    decoder = {'mask_token': torch.ones(1, 1, width), 'decoder_embed.weight': torch.ones(width, 64)}
    file = saved(tmp_path, {'model': network(**decoder)})
    assert not read_start(file).mask_token_trained
    assert open_backbone(file).mask_token is None


def test_a_trained_mask_token_is_exported_and_converted(tmp_path):
    folder = write_folder(tmp_path / 'dinov2', mask_token=0.25)
    export_backbone(folder, tmp_path / 'hf', 'hf')
    kept = convert(folder, tmp_path / 'ours.pth', 'mmadclr')
    assert 'mask token' in kept.kept
    assert not any('mask_token' in name for name in kept.lost)
    for written in (tmp_path / 'hf', tmp_path / 'ours.pth'):
        assert torch.equal(open_backbone(written).mask_token, open_backbone(folder).mask_token), written
        assert read_start(written).mask_token_trained


def test_a_file_without_normalization_is_told_and_facts_give_it(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(starting, 'print_log', lambda text, logger: said.append(text))
    file = saved(tmp_path, network())
    assert read_start(file).normalization == {}
    assert any('does not say how images are normalized; assuming the mean and std of ImageNet' in text for text in said)
    said.clear()
    given = read_start(file, facts=dict(mean=(0.5,) * 3, std=(0.25,) * 3))
    assert given.normalization == {'mean': (127.5,) * 3, 'std': (63.75,) * 3}
    assert not any('normalized' in text for text in said)


def test_the_backbone_of_a_finished_detector_is_refused_unless_it_is_chosen(tmp_path):
    tensors = {f'backbone.{name}': tensor for name, tensor in network().items()}
    file = saved(tmp_path, {'state_dict': {**tensors, 'rpn_head.rpn_cls.weight': torch.ones(1)}})
    with pytest.raises(ValueError, match=r"it is a detector or segmentor, .* set prefix='.*backbone\.' \(--prefix\)"):
        read_start(file)
    assert read_start(file, prefix='state_dict.backbone').settings['arch']['embed_dim'] == 64


def test_weights_of_others_have_the_license_of_others():
    """An architecture says nothing of who trained it; a name of published weights does."""
    found = completed_provenance({'family': 'dinov2'}, 'hf:owkin/phikon-v2')
    assert found == {'source': 'hf:owkin/phikon-v2'}
    assert completed_provenance({'family': 'dinov2'}, 'hf:facebook/dinov2-small')['license'] == 'apache-2.0'
    assert completed_provenance({'family': 'dinov3'}, 'some/file.pth')['license'] == 'dinov3-license'
    of_others = completed_provenance({'family': 'dinov2', 'license': 'mit'}, 'hf:someone/theirs')
    assert of_others == {'source': 'hf:someone/theirs', 'license': 'mit'}


def test_satellite_weights_have_statistics_of_their_own():
    found = completed_provenance({}, 'weights/dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth')
    assert found['mean'] == (0.430, 0.411, 0.296)
    assert completed_provenance({'mean': (0.5,) * 3}, 'dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth')['mean'] == (0.5,) * 3


def test_a_name_of_the_hub_without_its_scheme_is_recognized():
    with pytest.raises(FileNotFoundError, match='for a model of the Hugging Face hub write hf:facebook/dinov2-small'):
        open_backbone('facebook/dinov2-small')
    with pytest.raises(FileNotFoundError, match=r'runs/epoch_3\.pth does not exist$'):
        open_backbone('runs/epoch_3.pth')
