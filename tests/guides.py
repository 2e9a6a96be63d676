"""The guides of the documentation as a user follows them: their files in a folder like the clone, and their commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from places import REPO

NAMED_BLOCK = re.compile(r'^`([\w/]+\.py)`:\n\n```python\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r'^```bash\n(.*?)^```$', re.MULTILINE | re.DOTALL)
# What configs of the tree get at their end, so that runs of those that inherit them take seconds.
SMALL = """
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(
    schedule=dict(warmup_epochs=1, teacher_temp_warmup_epochs=1, freeze_last_layer_epochs=1),
    checkpoint=dict(interval=1, max_keep_ckpts=-1),
    logger=dict(interval=1),
)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
"""
SMALLER = {
    'configs/adclr/vits16_small.py': """
model['backbone']['arch'] = dict(_delete_=True, embed_dim=24, depth=2, num_heads=3, patch_size=16)
model['head']['out_dim'] = 32
train_dataloader.update(batch_size=4, num_workers=1, pin_memory=False)
val_dataloader = dict(num_workers=0)
val_evaluator = dict(knn=dict(k=5))
"""
    + SMALL,
    'configs/demo/dino_vittiny_shapes.py': """
model = dict(backbone=dict(arch=dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)))
drawn = dict(num_train=24, num_val=10, image_size=32)
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=drawn)
val_dataloader = dict(dataset=drawn)
val_evaluator = dict(dense=None)
"""
    + SMALL,
}


def text_of(guide: str) -> str:
    return (REPO / 'docs' / guide).read_text()


def follow(guide: str, folder: Path) -> list[Path]:
    """Writes the files of a guide into a folder, beside configs of small runs and the tools; returns its configs."""
    shutil.copytree(REPO / 'configs', folder / 'configs')
    shutil.copytree(REPO / 'tools', folder / 'tools')
    for name, addition in SMALLER.items():
        path = folder / name
        path.write_text(path.read_text() + addition)
    written = {folder / name: text for name, text in NAMED_BLOCK.findall(text_of(guide))}
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [path for path in written if 'configs' in path.parts]


def commands(guide: str) -> list[str]:
    return [line for block in COMMANDS.findall(text_of(guide)) for line in block.splitlines()]


def run(command: str, folder: Path) -> str:
    """What a command of a guide prints, run in the folder; its runs end with epoch 2."""
    program, *arguments = shlex.split(re.sub(r'epoch_\d+', 'epoch_2', command))
    assert program == 'python'
    environment = os.environ | {'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout
