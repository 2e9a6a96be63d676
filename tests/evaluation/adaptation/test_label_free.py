"""Label-free measures against closed forms and slow references."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmadclr.evaluation.adaptation.label_free import (
    alignment_distances,
    knn_hits,
    neighbor_agreement,
    rank_score,
    retrieval_hits,
    uniformity_score,
)
from mmadclr.evaluation.collapse import rank_me
from mmadclr.evaluation.knn import WeightedKNN


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def everything(features):
    return torch.arange(len(features))


def test_retrieval_by_hand():
    whole = torch.eye(4)
    crop = torch.stack([whole[0], 5 * whole[1], whole[3], whole[3] + 0.1 * whole[0]])
    # Crops 0, 1 and 3 find their image; images 0, 1 and 3 their crop; image 2 is orthogonal to all, so it finds the first.
    assert retrieval_hits(whole, crop).tolist() == [1, 1, 0, 0.5]
    assert retrieval_hits(crop, whole).tolist() == [1, 1, 0, 0.5]


def test_retrieval_of_constant_features_is_chance():
    assert retrieval_hits(torch.ones(10, 3), torch.ones(10, 3)).sum() == 1


def test_retrieval_is_that_of_all_distances():
    whole, crop = randn(200, 8), randn(200, 8) + randn(200, 8, seed=1)
    distances = torch.cdist(F.normalize(whole, dim=1), F.normalize(crop, dim=1))
    own = torch.arange(200)
    expected = ((distances.argmin(dim=0) == own).float() + (distances.argmin(dim=1) == own).float()) / 2
    assert torch.equal(retrieval_hits(whole, crop), expected)
    assert 0 < expected.mean() < 1


def test_alignment_of_equal_orthogonal_and_opposite_views():
    first = torch.tensor([[1.0, 0], [2, 0], [3, 0]])
    second = torch.tensor([[5.0, 0], [0, 1], [-1, 0]])
    assert alignment_distances(first, second).tolist() == pytest.approx([0, 2, 4], abs=1e-6)


def test_uniformity_is_the_published_formula():
    features = randn(50, 5)
    directions = F.normalize(features, dim=1)
    # Wang and Isola, figure 5: torch.pdist(x).pow(2).mul(-t).exp().mean().log()
    expected = torch.pdist(directions.double()).pow(2).mul(-2).exp().mean().log().item()
    assert uniformity_score(features)(everything(features)) == pytest.approx(expected, rel=1e-6)


def test_uniformity_of_samples_with_repetitions_leaves_out_pairs_of_an_image_with_itself():
    features, rows = randn(6, 3), torch.tensor([0, 0, 4, 2, 4, 4])
    directions = F.normalize(features.double(), dim=1)
    pairs = [(a, b) for i, a in enumerate(rows.tolist()) for j, b in enumerate(rows.tolist()) if i != j and a != b]
    potentials = [math.exp(-2 * (directions[a] - directions[b]).square().sum()) for a, b in pairs]
    assert uniformity_score(features)(rows) == pytest.approx(math.log(sum(potentials) / len(potentials)))
    assert math.isnan(uniformity_score(features)(torch.tensor([3, 3, 3])))


def test_uniformity_of_constant_features_is_zero_and_of_two_opposite_points_known():
    assert uniformity_score(torch.ones(5, 3))(everything(torch.ones(5))) == pytest.approx(0, abs=1e-9)
    assert uniformity_score(torch.tensor([[1.0, 0], [-1, 0]]))(torch.arange(2)) == pytest.approx(-8)


@pytest.mark.parametrize('shape', [(40, 8), (8, 40)])
def test_rank_is_rank_me(shape):
    features = randn(*shape) @ torch.diag(torch.linspace(0.1, 3, shape[1]))
    assert rank_score(features)(everything(features)) == pytest.approx(rank_me(features.double()).item(), rel=1e-6)
    assert rank_score(features)(torch.arange(5)) == pytest.approx(rank_me(features[:5].double()).item(), rel=1e-6)


def test_rank_of_constant_features_is_one_and_of_orthogonal_ones_their_number():
    assert rank_score(torch.ones(30, 7))(torch.arange(30)) == pytest.approx(1, abs=1e-4)
    assert rank_score(torch.eye(6))(torch.arange(6)) == pytest.approx(6)


def agreement_of(first, second, k):
    """One patch at a time."""
    count, each = first.shape[:2]
    found = torch.zeros(count, each)
    for image in range(count):
        others = torch.cat([first[:image], first[image + 1 :]]).flatten(0, 1)
        for place in range(each):
            near = [F.cosine_similarity(others, view[image, place][None]).topk(k).indices for view in (first, second)]
            found[image, place] = len(set(near[0].tolist()) & set(near[1].tolist())) / k
    return found.mean(dim=1)


def test_neighbor_agreement_is_that_of_sets():
    first = randn(12, 4, 6)
    second = first + 0.7 * randn(12, 4, 6, seed=1)
    expected = agreement_of(first, second, 5)
    assert neighbor_agreement(first, second).tolist() == pytest.approx(expected.tolist())
    assert 0.1 < expected.mean() < 0.9


def test_views_with_equal_patches_agree_fully_and_independent_ones_by_chance():
    first = randn(60, 8, 16)
    assert neighbor_agreement(first, 3 * first).mean() == 1
    assert neighbor_agreement(first, randn(60, 8, 16, seed=1)).mean() == pytest.approx(5 / 472, abs=0.01)


def test_neither_constant_patches_nor_mere_positions_agree():
    assert neighbor_agreement(torch.ones(20, 4, 6), torch.ones(20, 4, 6)).mean() == 0
    places = torch.arange(20 * 4).view(20, 4) % 16  # of a 4 x 4 grid; mirrored ones are in other columns
    codes = torch.eye(16)
    mirrored = places // 4 * 4 + 3 - places % 4
    assert neighbor_agreement(codes[places], codes[mirrored]).mean() < 0.05


def test_the_pool_of_neighbors_is_bounded_and_few_images_suffice():
    first, second = randn(400, 2, 8), randn(400, 2, 8) + 0.3 * randn(400, 2, 8, seed=1)
    assert neighbor_agreement(first, second, pool_rows=100).mean() == pytest.approx(
        neighbor_agreement(first, second).mean().item(), abs=0.15
    )
    assert len(neighbor_agreement(first[:2], first[:2])) == 2
    assert len(neighbor_agreement(first[:5], first[:5], pool_rows=1)) == 5
    with pytest.raises(ValueError, match=r'1 image\(s\): neighbors in other images need at least 2'):
        neighbor_agreement(first[:1], first[:1])


def test_leave_one_out_knn_is_knn_with_a_bank_of_the_others():
    labels = torch.arange(60) % 3
    features = randn(3, 5, seed=2)[labels] + 1.5 * randn(60, 5)
    found = knn_hits(features, labels, k=7)
    for image in range(60):
        others = torch.arange(60) != image
        one = WeightedKNN(7)(features[others], labels[others], features[~others], labels[~others])
        assert found[image] * 100 == one['knn7_T0.07_top1']
    assert 0 < found.mean() < 1


def test_leave_one_out_knn_of_duplicates_and_of_few_images():
    labels = torch.tensor([0, 0, 1, 1])
    features = torch.eye(2)[labels]
    assert knn_hits(features, labels, k=1).tolist() == [1, 1, 1, 1]  # the other duplicate, not the image itself
    assert knn_hits(features, torch.tensor([0, 1, 2, 3]), k=20).sum() == 0
    with pytest.raises(ValueError, match='needs at least 2'):
        knn_hits(features[:1], labels[:1])
