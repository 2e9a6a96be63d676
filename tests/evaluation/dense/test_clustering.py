"""k-means, matched clusters and their scores against the published code's numbers, scipy and plain forms."""

import numpy as np
import pytest
import torch

from mmadclr.evaluation.dense import kmeans as km
from mmadclr.evaluation.dense.clustering import evaluate_clustering, reduce_patches, resized_nearest, score_clusters
from mmadclr.evaluation.dense.matching import matched_counts
from mmadclr.evaluation.dense.segmentation_scores import class_counts

RUNS = ('clustering', 'overclustering')


@pytest.fixture
def neco(golden):
    return golden('dense_eval/neco_linear_clustering')


def of(arrays, key):
    return torch.from_numpy(np.asarray(arrays[key]))


@pytest.mark.parametrize('run', RUNS)
def test_subsets_and_starts_are_those_that_faiss_draws_from_a_seed(neco, run):
    k, subsets, starts = int(neco[f'{run}/k']), of(neco, f'{run}/train_subset'), of(neco, f'{run}/initial_index')
    total = len(neco['pca_features'])
    assert len(subsets) == neco.config['num_seeds']
    for seed, (subset, start) in enumerate(zip(subsets, starts, strict=True)):
        drawn = km.training_subset(total, k, seed, neco.config['max_points_per_centroid'])
        assert drawn.tolist() == subset.tolist()
        assert km.initial_points(len(drawn), k, seed, neco.config['nredo']).tolist() == start.tolist()


@pytest.mark.parametrize('run', RUNS)
def test_clusters_and_scores_are_those_of_the_published_code(neco, run):
    config, k = neco.config, int(neco[f'{run}/k'])
    points, masks = of(neco, 'pca_features').double(), of(neco, 'val_masks')
    assert k == (config['num_classes'] if run == 'clustering' else config['k_over'])
    for seed in range(config['num_seeds']):
        settings = dict(steps=config['niter'], redos=config['nredo'])
        found = km.kmeans(points, k, seed, points_per_center=config['max_points_per_centroid'], **settings)
        np.testing.assert_allclose(found.centers, neco[f'{run}/centroids'][seed], rtol=0, atol=1e-3)
        assert found.objective == pytest.approx(neco[f'composed/{run}/redo_objective'][seed].min(), rel=1e-4)
        assignment = of(neco, f'{run}/assignment')[seed]
        assert km.nearest_centers(points, found.centers)[0].tolist() == assignment.flatten().tolist()
        how = 'hungarian' if run == 'clustering' else 'precision'
        scored = score_clusters(
            assignment, masks, config['num_classes'], k, how, side=config['mask_size'], ignore=(config['ignore_index'],)
        )
        miou, mapping, counts = scored
        assert miou == pytest.approx(neco[f'{run}/miou'][seed], abs=1e-9)
        expected = neco[f'{run}/mapping'][seed]
        assert (mapping[expected[1]] if run == 'clustering' else mapping).tolist() == (
            expected[0] if run == 'clustering' else expected
        ).tolist()
        found = class_counts(matched_counts(counts.confusion, mapping))
        for name, values in zip(('tp', 'fp', 'fn'), found, strict=True):
            assert values.tolist() == neco[f'{run}/{name}'][seed].tolist()


def test_patches_are_reduced_as_published_up_to_signs(neco):
    features = of(neco, 'val_features').flatten(0, 1)
    found, expected = reduce_patches(features, neco.config['pca_dim']).numpy(), neco['pca_features']
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, rtol=0, atol=2e-4)


def test_the_whole_protocol_gives_the_published_mean(neco):
    config, grid = neco.config, (neco.config['spatial_resolution'],) * 2
    for run in RUNS:
        k = int(neco[f'{run}/k'])
        found = evaluate_clustering(
            of(neco, 'val_features'), of(neco, 'val_masks'), grid, config['num_classes'], k,
            seeds=range(config['num_seeds']), channels=config['pca_dim'], side=config['mask_size'],
        )  # fmt: skip
        name = f'{"" if run == "clustering" else "over"}cluster{k}_mIoU'
        assert found.metrics == {name: pytest.approx(100 * float(neco[f'{run}/mean_miou']), abs=0.05)}


@pytest.mark.parametrize('number', [1, 5, 40])
def test_the_start_of_a_permutation_is_that_of_all_of_it(number):
    whole = km.first_of_permutation(40, 40, 3)
    assert sorted(whole.tolist()) == list(range(40))
    assert km.first_of_permutation(number, 40, 3).tolist() == whole[:number].tolist()


def test_empty_clusters_are_split_off_others():
    generator = torch.Generator().manual_seed(0)
    points = torch.cat((torch.zeros(5, 3), torch.randn(60, 3, generator=generator) + 5)).double()
    found = km.lloyd(points, points[[0, 1, 2, 10]])  # three starts in one place: two of them get nothing
    numbers = km.nearest_centers(points, found.centers)[0]
    assert numbers.unique().numel() == 4
    assert found.objective < ((points[5:] - points[5:].mean(dim=0)) ** 2).sum()


def test_more_clusters_than_patches_are_refused():
    with pytest.raises(ValueError, match='9 clusters of 8 patches'):
        evaluate_clustering(torch.randn(2, 4, 3), torch.zeros(2, 4, 4).long(), (2, 2), 2, 9, channels=None)
    with pytest.raises(ValueError, match='PCA to 50 channels: must be at most the 8 patches and 3 channels'):
        evaluate_clustering(torch.randn(2, 4, 3), torch.zeros(2, 4, 4).long(), (2, 2), 2)
    with pytest.raises(ValueError, match='seeds is empty'):
        evaluate_clustering(torch.randn(2, 4, 3), torch.zeros(2, 4, 4).long(), (2, 2), 2, seeds=())
    with pytest.raises(ValueError, match='not finite'):
        km.kmeans(torch.full((8, 2), torch.nan), 2)


def test_unmatched_clusters_are_class_0_or_missed():
    masks = torch.tensor([[[0, 0, 1, 1]]])
    assignment = torch.tensor([[[0, 1, 2, 2]]])
    as_published = score_clusters(assignment, masks, 2, 3, 'hungarian', side=4)[0]
    missed = score_clusters(assignment, masks, 2, 3, 'hungarian', side=4, unmatched_as=None)[0]
    assert (as_published, missed) == (1.0, 0.75)


def test_maps_are_resized_by_torchs_nearest():
    maps = torch.arange(56 * 56).view(1, 56, 56)
    rows = (np.arange(100, dtype=np.float32) * np.float32(56 / 100)).astype(int)
    assert resized_nearest(maps)[0].tolist() == maps[0][rows][:, rows].tolist()
