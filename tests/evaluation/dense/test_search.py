"""Exact neighbors against sorted distances in double precision, with ties, in blocks, and on a GPU."""

import pytest
import torch
import torch.nn.functional as F

from mmadclr.evaluation.dense.search import nearest_patches


def tied(bank=3000, queries=60, channels=48):
    """Features of which some are the same, at the border of the candidates and beyond it."""
    generator = torch.Generator().manual_seed(0)
    rows, asked = torch.randn(bank, channels, generator=generator), torch.randn(queries, channels, generator=generator)
    rows[100:400], rows[bank - 1] = rows[7], rows[50]
    asked[0], asked[1] = 3 * rows[7], rows[50]
    return rows, asked


def plain(bank, queries, metric):
    bank, queries = bank.double(), queries.double()
    if metric == 'L2':
        return torch.cdist(queries, bank, compute_mode='donot_use_mm_for_euclid_dist').sort(dim=1, stable=True)
    cosines = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T.contiguous()
    return (cosines * 2**40).round().div(2**40).sort(dim=1, stable=True, descending=True)  # equal rows, equal cosines


@pytest.mark.parametrize('metric', ['cosine', 'L2'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.float64])
def test_neighbors_are_those_of_sorted_distances(metric, dtype):
    bank, queries = (x.to(dtype) for x in tied())
    values, rows = nearest_patches(bank, queries, 30, metric)
    expected, order = plain(bank, queries, metric)
    if dtype == torch.float32:
        assert rows.tolist() == order[:, :30].tolist()
    assert rows[0].tolist() == [7, *range(100, 129)]  # of 301 equals the first
    torch.testing.assert_close(values, expected[:, :30], rtol=0, atol=5e-6)


@pytest.mark.parametrize('precision', ['highest', 'high', 'medium'])
def test_no_precision_of_products_changes_the_result(precision):
    bank, queries = tied()
    expected = nearest_patches(bank.double(), queries.double(), 20)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = nearest_patches(bank, queries, 20)
    finally:
        torch.set_float32_matmul_precision(before)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize('metric', ['cosine', 'L2'])
def test_the_order_of_channels_and_blocks_changes_nothing(monkeypatch, metric):
    bank, queries = tied()
    expected = nearest_patches(bank, queries, 30, metric)
    monkeypatch.setattr('mmadclr.evaluation.dense.search.GATHERED_BYTES', {'cpu': 1, 'cuda': 1})
    monkeypatch.setattr('mmadclr.evaluation.dense.search.PREPARED', 7)
    monkeypatch.setattr('mmadclr.evaluation.dense.search.QUERIES', 13)
    shuffled = torch.randperm(bank.shape[1])
    found = nearest_patches(bank[:, shuffled], queries[:, shuffled], 30, metric)
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[0], expected[0]) or metric == 'L2'


@pytest.mark.parametrize('metric', ['cosine', 'L2'])
def test_a_candidate_search_that_errs_is_noticed(monkeypatch, metric):
    """All are within the error of single precision, so nothing of it may be believed."""
    bank = torch.ones(200, 8)
    bank[150:, 0] += 1e-7 * torch.arange(50)
    spare = 'mmadclr.evaluation.dense.search.SPARE'
    monkeypatch.setattr(spare, 1000)  # no candidates: all products are exact
    expected = nearest_patches(bank, torch.ones(1, 8), 10, metric)
    monkeypatch.setattr(spare, 4)
    found = nearest_patches(bank, torch.ones(1, 8), 10, metric)
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[0], expected[0])


def test_bad_input_is_refused():
    bank = torch.randn(5, 3)
    with pytest.raises(ValueError, match='k=6 neighbors: must be between 1 and 5'):
        nearest_patches(bank, bank, 6)
    with pytest.raises(ValueError, match='queries of 2 channels, bank of 3'):
        nearest_patches(bank, bank[:, :2], 1)
    with pytest.raises(ValueError, match="metric='dot'"):
        nearest_patches(bank, bank, 1, 'dot')
    with pytest.raises(ValueError, match='query feature 2 of 5 is zero or not finite'):
        nearest_patches(bank, bank * torch.tensor([1, 1, 0, 1, 1])[:, None], 1)
    with pytest.raises(ValueError, match='bank feature 4 of 5 is not finite'):
        nearest_patches(torch.cat((bank[:4], torch.full((1, 3), torch.inf))), bank, 1, 'L2')
    assert nearest_patches(torch.zeros(3, 2), torch.zeros(1, 2), 2, 'L2')[1].tolist() == [[0, 1]]


@pytest.mark.gpu
@pytest.mark.parametrize('metric', ['cosine', 'L2'])
def test_a_gpu_finds_the_same_neighbors(metric):
    bank, queries = tied(20_000, 500, 384)
    here, there = (nearest_patches(bank.to(d), queries.to(d), 30, metric) for d in ('cpu', 'cuda'))
    assert torch.equal(here[1], there[1].cpu())
