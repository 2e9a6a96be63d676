"""``tools/pack_shards.py`` as users meet it."""

from programs import python


def pack(*arguments):
    return python('tools/pack_shards.py', *arguments, check=False)


def test_the_tool_packs_and_explains(image_folder, tmp_path):
    root, out = image_folder(count=6), tmp_path / 'out'
    done = pack(root, out, '--images-per-shard', 4, '--with-label')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('2 shards, ')
    assert f'{out}/000000.tar to 000001.tar' in done.stdout
    smaller = pack(root, tmp_path / 'small', '--max-side', 24, '--quality', 80)
    assert smaller.returncode == 0, smaller.stderr
    assert (
        '6 of 6 images were larger than 24 pixels and converted to JPEG with quality 80 (4:2:0)'
        in smaller.stdout + smaller.stderr
    )
    again = pack(root, out)
    assert again.returncode != 0
    assert again.stderr.strip() == f'error: {out} exists and is not an empty folder: choose another one for the shards'
