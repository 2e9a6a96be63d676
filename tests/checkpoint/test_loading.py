"""Checkpoints either fit or are refused with what differs."""

import pytest
import torch
from torch import nn

from mmadclr.checkpoint import check_state_dict


def test_fitting_checkpoints_pass(tmp_path):
    model = nn.Linear(3, 2)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'a.pth')
    assert torch.equal(check_state_dict(model, tmp_path / 'a.pth')['weight'], model.weight)
    torch.save(model.state_dict(), tmp_path / 'flat.pth')
    assert torch.equal(check_state_dict(model, tmp_path / 'flat.pth')['bias'], model.bias)


def test_differences_are_named(tmp_path):
    torch.save(nn.Linear(3, 2, bias=False).state_dict(), tmp_path / 'a.pth')
    message = r'a\.pth does not match .*: 2 of 2 tensors differ \(bias: file -, model \(4,\); weight: file \(2, 3\), model'
    with pytest.raises(ValueError, match=message):
        check_state_dict(nn.Linear(3, 4), tmp_path / 'a.pth')


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        check_state_dict(nn.Linear(3, 2), tmp_path / 'a.pth')
    (tmp_path / 'a.pth').write_text('no checkpoint')
    with pytest.raises(ValueError, match=r'a\.pth cannot be read as a checkpoint'):
        check_state_dict(nn.Linear(3, 2), tmp_path / 'a.pth')


def test_a_checkpoint_of_another_method_names_both(tmp_path):
    model = nn.Linear(3, 2)
    torch.save({'state_dict': model.state_dict(), 'meta': {'method': 'SelfPatch'}}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth is a checkpoint of SelfPatch, but the config has model Linear: use'):
        check_state_dict(model, tmp_path / 'a.pth')


@pytest.mark.parametrize('method', ['Linear', 'FSDPLinear'])
def test_sharded_runs_are_of_the_same_method(tmp_path, method):
    model = nn.Linear(3, 2)
    torch.save({'state_dict': model.state_dict(), 'meta': {'method': method}}, tmp_path / 'a.pth')
    assert torch.equal(check_state_dict(model, tmp_path / 'a.pth')['weight'], model.weight)
