"""The benchmark of reading, small: the forms it compares are those it names."""

from scale_parts import reading

from mmadclr.datasets import ImageDataset, collate_samples


def test_all_figures_are_there():
    rows = reading.rows(0.05)
    assert [row.unit for row in rows] == ['images/s/core', 'levels'] * 2 + ['ms/image'] * 2
    assert all(row.ours > 0 for row in rows)


def test_the_reference_makes_arrays_anew(tmp_path):
    folder = reading.write_images(tmp_path / 'images', 2, 75)
    dataset = ImageDataset(folder, dict(type='mmadclr.MultiCrop', num_query=1))
    dataset.transform._arrays = reading.FreshArrays()
    assert all(array.is_shared() for array in dataset.transform.allocate(2, shared=True).values())
    assert type(collate_samples(dataset.__getitems__([0, 1]))) is dict
