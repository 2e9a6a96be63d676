"""Raw headers against tarfile: the same members of the same files, whole and damaged."""

import io
import os
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from shards import image_bytes, write_tar

from mmadclr.datasets.tar_headers import FILE, LINK, OTHER, SPARSE, TarBytes, members
from mmadclr.datasets.tar_index import scan_shard

FORMATS = {'ustar': tarfile.USTAR_FORMAT, 'gnu': tarfile.GNU_FORMAT, 'pax': tarfile.PAX_FORMAT}
NAMES = ['a.jpg', 'ä/é.jpg', os.fsdecode(b'caf\xe9.png'), 'd' * 90 + '/' + 'n' * 90 + '.jpg', '.hidden', 'b c\n.cls']
LONG = ['x/' * 90 + 'long.jpg', 'ü' * 120 + '.jpg', 'n' * 101, os.fsdecode(b'\xff') * 130 + '.jpg']


def reference(path):
    """The members as tarfile reads them."""
    found = []
    try:
        with tarfile.open(path, 'r:') as tar:
            while (member := tar.next()) is not None:
                kind = FILE if member.isfile() else LINK if member.islnk() or member.issym() else OTHER
                kind = SPARSE if member.issparse() else kind
                found.append((os.fsencode(member.name), kind, member.offset_data, member.size, tar.offset))
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        pass
    return without_names_of_folders(found)


def raw(path):
    with open(path, 'rb') as file:
        return without_names_of_folders(members(TarBytes(file.fileno())))


def without_names_of_folders(found):
    """Which nobody asks for: tarfile takes off the slash at their end, raw headers keep it."""
    return [(b'' if kind is OTHER else name, kind, *rest) for name, kind, *rest in found]


def random_tar(path, kind, rng):
    names = NAMES + (LONG if kind != 'ustar' else [])
    with tarfile.open(path, 'w', format=FORMATS[kind]) as tar:
        for number in range(12):
            member = tarfile.TarInfo(f'{number}-{rng.choice(names)}' if rng.random() < 0.5 else str(rng.choice(names)))
            member.type = rng.choice(
                [tarfile.REGTYPE] * 5 + [tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]
            )
            member.linkname = (
                str(rng.choice(NAMES[:3] if kind == 'ustar' else names)) if member.issym() or member.islnk() else ''
            )
            member.size = int(rng.choice([0, 1, 511, 512, 513, 5000])) if member.isreg() else 0
            member.mtime = float(rng.choice([0, 1.5, 1e9])) if kind == 'pax' else int(rng.integers(1 << 31))
            member.uid = int(rng.choice([0, 1000] if kind == 'ustar' else [0, 1 << 21, 1 << 40]))
            if kind == 'pax' and rng.random() < 0.3:
                member.pax_headers = {
                    'comment': 'é' * 20,
                    'path' if rng.random() < 0.5 else 'SCHILY.x': str(rng.choice(names)),
                }
            tar.addfile(member, io.BytesIO(rng.bytes(member.size)))
    return path


@pytest.mark.parametrize('kind', FORMATS)
def test_random_tars_whole_and_damaged(tmp_path, kind):
    rng = np.random.default_rng(len(kind))
    for number in range(15):
        path = random_tar(tmp_path / f'{number}.tar', kind, rng)
        expected = reference(path)
        assert raw(path) == expected
        assert len(expected) == 12
        data = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(data)
            for place in rng.integers(len(data) // 2, size=rng.integers(1, 4)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(len(data))] if rng.random() < 0.3 else damaged)
            assert raw(path) == reference(path)


@pytest.mark.parametrize('kind', FORMATS)
def test_plain_members_never_go_to_tarfile(tmp_path, kind, monkeypatch):
    names = NAMES[:3] + (LONG if kind != 'ustar' else [])
    path = write_tar(tmp_path / '0.tar', dict.fromkeys(names, b'x' * 700), FORMATS[kind])
    expected = reference(path)
    monkeypatch.setattr(tarfile, 'open', None)
    assert raw(path) == expected
    assert [name for name, *_ in expected] == [os.fsencode(name) for name in names]


def checksummed(block):
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


def test_odd_headers_with_valid_sums(tmp_path):
    """Every byte of a header changed to several others, the sum put right; two members behind it."""
    plain = bytearray(write_tar(tmp_path / 'p.tar', {'a.jpg': b'1' * 600, 'b.jpg': b'2', 'c.jpg': b''}).read_bytes())
    path = tmp_path / 'o.tar'
    for place in range(512):
        # All values where numbers and the kind are, few in names.
        for value in b'\0 17xLKSg/\x80\xff' if 100 <= place < 160 or 328 < place < 346 else b'\0x\xff':
            block = bytearray(plain[:512])
            block[place] = value
            path.write_bytes(checksummed(block) + plain[512:])
            assert raw(path) == reference(path), (place, value)


def records(*pairs):
    data = b''
    for key, value in pairs:
        rest = b' ' + key + b'=' + value + b'\n'
        size = next(size for size in range(3, 999) if len(b'%d' % size) + len(rest) == size)
        data += b'%d' % size + rest
    return data


@pytest.mark.parametrize('kind', [b'x', b'g', b'X', b'L', b'K'])
@pytest.mark.parametrize(
    'data',
    [
        *(
            records((b'path', b'new/a.jpg')),
            records((b'size', b'3')),
            records((b'size', b'x')),
            records((b'size', b'99999')),
        ),
        *(records((b'path', b'')), records((b'path', b'a/')), records((b'comment', b'two\nlines'), (b'path', b'z.jpg'))),
        records((b'GNU.sparse.major', b'1'), (b'GNU.sparse.minor', b'0'), (b'GNU.sparse.name', b's.jpg')),
        *(records((b'GNU.sparse.size', b'7')), records((b'hdrcharset', b'BINARY'), (b'path', b'\xff.jpg'))),
        *(b'9 path=a\n', b'99 path=a\n', b'0 path=a\n', b'11 path=abcdefg', b'\0' * 40, b'', b'name.jpg\0rest', b'n' * 600),
    ],
)
def test_headers_before_a_member(tmp_path, kind, data):
    member = write_tar(tmp_path / 'p.tar', {'a.jpg': b'1' * 600, 'b.jpg': b'2'}).read_bytes()
    header = tarfile.TarInfo('header')
    header.type, header.size = kind, len(data)
    extended = header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    other = tarfile.TarInfo('l')
    other.type, other.size = b'L', 12
    path = tmp_path / 'o.tar'
    for parts in (
        [extended, member],
        [extended, extended, member],
        [extended],
        [extended[:700]],
        [member[:1536], extended, member],
    ):
        path.write_bytes(b''.join(parts))
        assert raw(path) == reference(path)
    path.write_bytes(extended + other.tobuf(tarfile.GNU_FORMAT) + b'inner/l.jpg\0'.ljust(512, b'\0') + member)
    assert raw(path) == reference(path)


def test_archives_one_after_the_other_end_with_the_first(tmp_path):
    one, two = (write_tar(tmp_path / f'{n}.tar', {f'{n}.jpg': b'x'}).read_bytes() for n in range(2))
    (tmp_path / 'c.tar').write_bytes(one + two)
    assert [name for name, *_ in raw(tmp_path / 'c.tar')] == [b'0.jpg']
    for content in (b'', bytes(10240), bytes(100), b'no tar' * 300):
        (tmp_path / 'c.tar').write_bytes(content)
        assert raw(tmp_path / 'c.tar') == reference(tmp_path / 'c.tar') == []


def test_sizes_beyond_octal(tmp_path):
    member = tarfile.TarInfo('huge.jpg')
    member.size = 9 << 30
    path = tmp_path / 'h.tar'
    with path.open('wb') as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.seek(member.size, os.SEEK_CUR)
        file.write(write_tar(tmp_path / 's.tar', {'b.jpg': b'x'}).read_bytes())
    assert raw(path) == reference(path)
    assert [size for *_, size, _ in raw(path)] == [9 << 30, 1]


@pytest.mark.skipif(shutil.which('tar') is None, reason='no tar command')
@pytest.mark.parametrize('format', ['v7', 'oldgnu', 'gnu', 'ustar', 'pax'])
def test_tars_of_the_tar_command(tmp_path, format):
    root = tmp_path / 'files'
    long = 'deep' * 30 if format != 'v7' else 'deep'
    (root / 'a').mkdir(parents=True)
    for number, name in enumerate(['a/1.jpg', 'a/2.png', *([] if format in ('v7', 'ustar') else [f'a/{long}.jpg'])]):
        (root / name).write_bytes(image_bytes(number))
    (root / 'a' / '1.cls').write_text('3')
    (root / 'link.jpg').symlink_to('a/1.jpg')
    os.link(root / 'a' / '1.jpg', root / 'hard.jpg')
    path = tmp_path / 't.tar'
    subprocess.run(['tar', '--create', f'--format={format}', '-f', path, '-C', root, '.'], check=True)
    assert raw(path) == reference(path)
    assert len(raw(path)) >= 7


@pytest.mark.skipif(shutil.which('tar') is None, reason='no tar command')
@pytest.mark.parametrize('format', ['gnu', 'pax'])
def test_sparse_images_are_an_error(tmp_path, format):
    (tmp_path / 'f').mkdir()
    with (tmp_path / 'f' / 'a.jpg').open('wb') as file:
        file.write(image_bytes(0))
        file.truncate(1 << 20)
    path = tmp_path / 't.tar'
    subprocess.run(['tar', '--create', '--sparse', f'--format={format}', '-f', path, '-C', tmp_path / 'f', '.'], check=True)
    assert raw(path) == reference(path)
    with pytest.raises(ValueError, match=r't\.tar: \./a\.jpg is stored sparse, .*without tar --sparse'):
        scan_shard(str(path))
