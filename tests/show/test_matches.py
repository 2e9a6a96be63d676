"""Neighbors and matches against searches one by one."""

import torch
import torch.nn.functional as F

from mmadclr.show.matches import Matches, mutual_matches, nearest_elsewhere, nearest_images, spread_matches


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nearest_images_are_never_the_image_itself():
    features = random(6, 5)
    features[3] = 2 * features[1]
    cosines, order = nearest_images(features, 2)
    for i in range(6):
        others = sorted((-F.cosine_similarity(features[i], features[j], dim=0).item(), j) for j in range(6) if j != i)
        assert order[i].tolist() == [j for _, j in others[:2]]
        torch.testing.assert_close(cosines[i].float(), torch.tensor([-value for value, _ in others[:2]]))
    assert order[1, 0] == 3


def test_nearest_patches_are_of_other_images_one_of_each():
    grids = [random(3, 4, 6, seed=1), random(5, 2, 6, seed=2), random(2, 2, 6, seed=3)]
    found = nearest_elsewhere(grids, 0, [0, 7], 5)
    for number, places in zip((0, 7), found, strict=True):
        query = grids[0].flatten(0, 1)[number]
        best = {}
        for picture in (1, 2):
            cosines = F.cosine_similarity(grids[picture], query, dim=2)
            row, column = divmod(int(cosines.argmax()), cosines.shape[1])
            best[picture] = (row, column, float(cosines.max()))
        assert [place.picture for place in places] == sorted(best, key=lambda picture: -best[picture][2])
        for place in places:
            assert (place.row, place.column) == best[place.picture][:2]
            assert abs(place.cosine - best[place.picture][2]) < 1e-5
    assert [len(places) for places in nearest_elsewhere(grids, 0, [0], 1)] == [1]


def test_mutual_matches_are_those_of_brute_force():
    left, right = random(40, 8, seed=1), random(55, 8, seed=2)
    cosines = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T
    expected = {(i, int(cosines[i].argmax())) for i in range(40) if int(cosines[:, int(cosines[i].argmax())].argmax()) == i}
    found = mutual_matches(left, right)
    assert set(zip(found.left.tolist(), found.right.tolist(), strict=True)) == expected
    assert 0 < len(expected) < 40
    torch.testing.assert_close(found.cosines.float(), cosines[found.left, found.right])
    assert (found.cosines.diff() <= 0).all()


def test_matches_are_apart_in_both_pictures_and_the_best_come_first():
    #                      next to the first on the left; near it on the right; far from both
    matches = Matches(torch.tensor([0, 1, 9, 39]), torch.tensor([0, 29, 1, 17]), torch.tensor([0.9, 0.8, 0.7, 0.6]))
    kept = spread_matches(matches, (10, 6), 10, 2.0)
    assert kept.left.tolist() == [0, 39]
    assert spread_matches(matches, (10, 6), 1, 2.0).left.tolist() == [0]
    assert spread_matches(matches, (10, 6), 3, 0.5).left.tolist() == [0, 1, 9]
