"""Records read in pieces are those of ``json.load``, wherever the pieces end."""

import json
import random
import tracemalloc

import pytest

from mmadclr.datasets.benchmarks.json_records import json_records

DOCUMENT = {
    'info': {'url': 'http://x/"y"\\', 'year': 2017, 'none': None},
    'annotations': [
        {'id': 1, 'bbox': [1.5, -2e-3, 300, 4], 'name': 'blank \u00e9 \U0001f600 "quoted" \\ [ ] { } , :', 'more': [[], {}]},
        {'id': 22, 'iscrowd': True, 'segments_info': [{'id': 16777215}, {'id': 0}]},
        17,
        'text',
        None,
        [1, 2],
        -1.25e10,
    ],
    'empty': [],
    'number': 12345.5,
    'flag': False,
    'images': [{'id': number} for number in range(30)],
    'last': 'a string',
}


def expected(content, parts):
    return [(name, element) for name, elements in content.items() if name in parts for element in elements]


@pytest.mark.parametrize('indent', [None, 1])
@pytest.mark.parametrize('ascii_only', [True, False])
def test_records_equal_those_of_json_at_any_size_of_pieces(indent, ascii_only, tmp_path):
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(DOCUMENT, indent=indent, ensure_ascii=ascii_only), encoding='utf-8')
    for parts in (('annotations',), ('images', 'annotations'), ('empty', 'images')):
        for chunk in (*range(1, 40), 10_000):
            assert list(json_records(path, parts, chunk)) == expected(DOCUMENT, parts)


def test_random_documents(tmp_path):
    rng = random.Random(0)

    def value(depth):
        kind = rng.randrange(7 if depth else 5)
        text = ''.join(rng.choice('a"\\/\n\té\U0001f600{}[],: ') for _ in range(rng.randrange(12)))
        simple = (rng.randrange(-1000, 1000), rng.uniform(-1, 1), text, None, rng.random() < 0.5)
        if kind < 5:
            return simple[kind]
        values = [value(depth - 1) for _ in range(rng.randrange(4))]
        return values if kind == 5 else {f'{number}{text}': each for number, each in enumerate(values)}

    for _ in range(60):
        content = {'a': [value(3) for _ in range(rng.randrange(8))], 'x': value(3), 'b': [value(2)], 'y': value(1)}
        path = tmp_path / 'x.json'
        path.write_text(json.dumps(content, ensure_ascii=rng.random() < 0.5), encoding='utf-8')
        assert list(json_records(path, ('a', 'b'), rng.randrange(1, 60))) == expected(content, ('a', 'b'))


def test_a_file_that_ends_early_is_never_taken_for_whole(tmp_path):
    text, path = json.dumps(DOCUMENT), tmp_path / 'x.json'
    for end in (*range(40), *range(40, len(text) - 40, 5), *range(len(text) - 40, len(text))):
        path.write_text(text[:end])
        with pytest.raises(ValueError, match='x.json is broken: .*character'):
            list(json_records(path, ('images',), 50))


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (b'[1, 2]', r"'\[' instead of '\{' \(character 0\)"),
        (b'{"images": [1 2]}', r"'2' instead of ',' \(character 14\)"),
        (b'{"images": [{"id": }]}', r'Expecting value \(character 19\)'),
        (b'{"images": [' + b'{"id": 1}, ' * 100 + b'nonsense]}', r'Expecting value \(character 1112\)'),
        (b'{"images": ["\xff"]}', "can't decode byte 0xff"),
        (b'{"images": {"id": 1}}', 'has no list of images'),
        (b'{}', 'has no list of images'),
        (b'', 'ends too early'),
        (b'{"images": [' + b'[' * 200_000, 'broken'),
    ],
)
def test_broken_text(text, words, tmp_path):
    path = tmp_path / 'x.json'
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f'{path} .*{words}'):
        list(json_records(path, ('images',), 30))


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for records in (1000, 10_000):
        path = tmp_path / f'{records}.json'
        record = {'id': 1, 'segmentation': [[float(each) for each in range(40)]]}
        path.write_text(json.dumps({'annotations': [record] * records}))
        tracemalloc.start()
        assert sum(1 for _ in json_records(path, ('annotations',), 1 << 14)) == records
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 20 * max(peaks)
    assert peaks[1] < 1.2 * peaks[0]


def test_byte_order_mark(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text('{"images": [3]}', encoding='utf-8-sig')
    assert list(json_records(path, ('images',))) == [('images', 3)]
