"""``benchmarks/gpu.py``: every part at toy size, and what becomes of results when something is missing or goes wrong."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import kernels
import pytest
import torch
from gpu_parts import context as context_module
from gpu_parts import dense, page, steps, training
from gpu_parts import tests as gpu_tests
from gpu_parts.context import Context, Record, one_line
from PIL import Image
from places import REPO
from programs import python

PROGRAM = [sys.executable, str(REPO / 'benchmarks' / 'gpu.py')]
FORKING = REPO / 'tests/benchmarks/forking_gpu.py'
PARTS = ['ceilings', 'tests', 'steps', 'profile', 'loading', 'whole', 'dense', 'training', 'levers']


def call(*arguments, program=PROGRAM[1], **kwargs):
    return python(program, *arguments, check=False, **kwargs)


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp('gpu')
    done = call('--smoke', '--out', out, '--minutes', 15, timeout=600, program=FORKING)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, json.loads((out / 'gpu.json').read_text()), done.stdout


def numbers(node):
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        return [number for child in node for number in numbers(child)]
    return [node] if isinstance(node, (int, float)) else []


@pytest.mark.long
@pytest.mark.dense
@pytest.mark.parametrize('part', PARTS)
def test_every_part_runs_at_toy_size(smoke, part):
    out, record, _ = smoke
    content = record['parts'][part]
    assert content['state'] == 'done', (content, (out / 'gpu.log').read_text()[-3000:])
    assert content['rows']
    assert all(math.isfinite(number) for number in numbers(content['rows']))
    assert f'## {importlib.import_module(f"gpu_parts.{part}").TITLE}' in (out / 'gpu.md').read_text()


@pytest.mark.long
@pytest.mark.dense
def test_terminal_has_figures_alone(smoke):
    _, _, stdout = smoke
    lines = [line for line in stdout.splitlines() if line and not line.startswith('  ')]
    assert [line.split(' (')[0] for line in lines[:-1]] == PARTS
    assert len(stdout.splitlines()) < 40


@pytest.mark.long
@pytest.mark.dense
def test_the_forms_of_a_step_are_one_method(smoke):
    _, record, _ = smoke
    for row in record['parts']['steps']['rows'].values():
        assert max(row['losses'].values()) - min(row['losses'].values()) < 1e-4
        assert row['forms']['reference']['times_reference'] == 1


@pytest.mark.long
@pytest.mark.dense
def test_a_second_call_measures_nothing_again(smoke):
    out, record, _ = smoke
    done = call('--smoke', '--out', out, timeout=300)
    assert done.stdout.count('known from before') == len(PARTS)
    assert json.loads((out / 'gpu.json').read_text()) == record


def test_without_a_gpu_each_part_costs_a_line(tmp_path):
    arguments = ['--out', tmp_path, '--parts', 'ceilings', 'steps', '--minutes', 2]
    done = call(*arguments, timeout=200, program=FORKING)
    assert done.returncode == 0
    assert done.stdout.count(f'no GPU that torch {torch.__version__} can use') == 2
    parts = json.loads((tmp_path / 'gpu.json').read_text())['parts']
    assert {part['state'] for part in parts.values()} == {'partial'}
    text = (tmp_path / 'gpu.md').read_text()
    assert text.count('* no GPU that torch') == 2
    assert 'Traceback' not in done.stdout + done.stderr


@pytest.mark.long
def test_a_part_that_is_ended_leaves_its_rows(tmp_path):
    """The machine is taken away: SIGTERM to the program alone. The part at work ends, too."""
    command = [*PROGRAM, '--smoke', '--out', str(tmp_path), '--parts', 'steps']
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | dict(CUDA_VISIBLE_DEVICES=''))
    end = time.monotonic() + 240
    while time.monotonic() < end and not Record.of(tmp_path).rows('steps'):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    rows = Record.of(tmp_path).rows('steps')
    assert 'mini, 2 images, ADCLR' in rows
    left = subprocess.run(['pgrep', '-f', f'--run steps --out {tmp_path}'], capture_output=True, text=True).stdout
    assert not left.strip()


@pytest.mark.long
def test_results_of_another_machine_are_put_aside(tmp_path):
    record = Record(tmp_path)
    record.content |= {'machine': {'card': 'Another Card', 'torch': '1.0'}, 'settings': {'smoke': True, 'images': ''}}
    record.part('ceilings')['rows']['product'] = {'value': 12.5}
    record.save()
    done = call('--smoke', '--out', tmp_path, '--parts', 'ceilings', '--minutes', 2, timeout=200, program=FORKING)
    assert 'results of Another Card with 1.0' in done.stdout
    (aside,) = tmp_path.glob('gpu-*.json')
    assert json.loads(aside.read_text()) == record.content
    assert json.loads((tmp_path / 'gpu.json').read_text())['parts']['ceilings']['rows']['product']['value'] != 12.5


def test_what_is_no_record_is_left_alone(tmp_path):
    (tmp_path / 'gpu.json').write_text('{"parts": 1')
    done = call('--smoke', '--out', tmp_path, '--parts', 'ceilings', timeout=200)
    assert done.returncode == 1
    assert 'gpu.json is no record of this program' in done.stderr
    assert (tmp_path / 'gpu.json').read_text() == '{"parts": 1'


@pytest.fixture
def context(tmp_path):
    return Context(Record(tmp_path), 'steps', time.monotonic() + 60, smoke=True)


def test_rows_that_fail_do_not_take_others_with_them(context):
    def broken():
        raise ModuleNotFoundError("No module named 'mmdet'", name='mmdet')

    assert context.measure('first', broken) is None
    assert context.measure('second', lambda: {'value': 1.0}) == {'value': 1.0}
    rows = json.loads(context.record.path.read_text())['parts']['steps']['rows']
    assert rows['first'] == {'problem': 'the package mmdet is missing: see requirements/gpu.txt'}
    assert context.measure('first', lambda: {'value': 2.0}) == {'value': 2.0}  # tried again by the next call
    assert context.measure('second', broken) == {'value': 1.0}  # not measured again


def test_rows_the_time_does_not_allow_are_not_begun(context):
    assert context.measure('long', lambda: pytest.fail('begun'), needs=1000) is None
    assert 'not reached: 60 s were left, about 1000 s are needed' in context.record.part('steps')['rows']['long']['problem']


def test_memory_that_is_too_small_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda index: type('P', (), {'total_memory': 8 * 2**30}))
    assert one_line(torch.OutOfMemoryError('CUDA out of memory. Tried ...\nmore')) == (
        'too little memory: more than the 8 GiB of this GPU'
    )


def test_a_form_without_memory_leaves_the_others(context, monkeypatch):
    def greedy(args, views, **kwargs):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(steps, 'reference_form', greedy)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda index: type('P', (), {'total_memory': 2**30}))
    unit = steps.Unit(context, steps.arguments_of(context, 'mini', 2, 'ADCLR'))
    row = unit.compare(('ours', 'reference'))
    assert row['forms']['reference'] == {'problem': 'too little memory: more than the 1 GiB of this GPU'}
    assert row['forms']['ours']['images_per_s'] > 0
    assert row['forms']['ours']['times_reference'] is None
    assert any('too little memory' in line for line in steps.section({'row': row}))


def test_forms_that_disagree_are_no_figures(context, monkeypatch):
    monkeypatch.setattr(steps, 'AGREEMENT', -1)
    with pytest.raises(ValueError, match='the forms disagree: first losses ours .*, reference'):
        steps.Unit(context, steps.arguments_of(context, 'mini', 2, 'DINO')).compare(('ours', 'reference'))


def test_kernels_have_a_kind():
    kinds = {
        'void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>': 'attention',
        'nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT': 'products',
        'sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n': 'products',
        'void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>': 'norms and activations',
        'triton_per_fused__to_copy_add_addmm_native_layer_norm_0': 'fused: norms, activations, residuals',
        'triton_poi_fused__scaled_dot_product_flash_attention_backward_clone_5': 'fused: norms, activations, residuals',
        'triton_tem_fused_addmm_7': 'products',
        'void at::native::GammaBetaBackwardCUDAKernelTemplate<float>': 'norms and activations',
        'void (anonymous namespace)::softmax_warp_forward<float>': 'softmax of the loss',
        'void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>': 'optimizer, clipping, teacher',
        'Memcpy HtoD (Pinned -> Device)': 'copies',
        'void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>': 'elementwise and sums',
        'ncclDevKernel_AllReduce_Sum_f32_RING_LL': 'communication',
    }
    assert {name: kernels.kind_of(name) for name in kinds} == kinds
    assert kernels.short_name('void at::native::f<float, g<1>>(int*)') == 'at::native::f'
    assert kernels.short_name('void at::native::(anonymous namespace)::f<float>(int)') == 'at::native::f'


def test_gaps_are_what_no_kernel_covers():
    """Two kernels overlap by 2 us, then 5 us of nothing: 8 + 4 us busy."""
    found = [('gemm', 0.0, 6.0), ('copy', 4.0, 4.0), ('gemm', 13.0, 4.0)]
    figures = kernels.summary(found, wall_ms=0.017, steps=1)
    assert figures['busy_ms'] == pytest.approx(0.012)
    assert figures['gaps_ms'] == pytest.approx(0.005)
    assert figures['kinds'] == pytest.approx({'products': 0.010, 'copies': 0.004})
    assert figures['launches'] == 3
    assert [row['calls'] for row in figures['kernels']] == [2, 1]


def test_targets_are_judged(tmp_path):
    record = Record(tmp_path)
    record.content['machine']['card'] = 'NVIDIA H200'
    form = dict(images_per_s=1600.0, times_reference=2.5)
    rows = record.part('steps')['rows']
    rows['ViT-S/16, 64 images, ADCLR, compiled'] = {'forms': {'compiled': form}, 'memory_share': 40.0}
    lines = page.target_lines(record)
    assert '| ViT-S/16, 64 images, ADCLR | >= 1,500 images/s | 1,600 | met |' in lines
    assert '| ViT-S/16, 64 images, ADCLR: times the reference form | >= 3 | 2.5 | **missed** |' in lines
    assert '| ViT-S/16, 64 images, ADCLR: memory, share of the reference form | <= 50 % | 40 | met |' in lines
    assert '| ViT-B/16, 64 images, ADCLR | >= 700 images/s |  | not measured |' in lines


@pytest.mark.slow
def test_all_tests_for_gpus_are_run():
    """Those that pytest finds under the mark are in the files that the part names."""
    command = [sys.executable, '-m', 'pytest', '--collect-only', '-q', '-m', 'gpu', '-o', 'addopts=']
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True).stdout.splitlines()
    files = {line.partition('::')[0] for line in listed if '::' in line}
    assert files == set(gpu_tests.files_with_gpu_tests())
    assert 'tests/test_gpu.py' in files


@pytest.mark.long
def test_a_failing_test_is_known_before_the_time_is_over(context, tmp_path, monkeypatch):
    """The second test hangs: what the first one said is in the record all the same, and pytest does not live on."""
    tests = tmp_path / 'test_two.py'
    tests.write_text(
        'def test_a():\n    assert 1 == 2, "of it"\n\ndef test_compiled():\n    __import__("time").sleep(900)\n'
    )
    rows = context.record.part('steps')['rows']
    monkeypatch.setattr(context, 'left', lambda: 0.0 if rows.get('pytest -m gpu', {}).get('failed') else 1.0)
    command = [sys.executable, '-m', 'pytest', '-q', '--tb=short', '-p', 'no:cacheprovider', '-p', 'gpu_parts.tests']
    results, ended = gpu_tests.run_tests(context, [*command, str(tests)])
    assert not ended
    gpu_tests.store(context, results, ended)
    row = context.record.part('steps')['rows']['pytest -m gpu']
    assert row['failed'] == 1
    ((name, reason),) = row['failures'].items()
    assert name.endswith('test_two.py::test_a')
    assert 'of it' in reason or 'assert 1 == 2' in reason
    assert 'the time was over' in '\n'.join(gpu_tests.section({'pytest -m gpu': row}))


@pytest.mark.long
def test_results_of_several_processes_are_counted_once(context, tmp_path, monkeypatch):
    """Also where this process is itself one of several of pytest's."""
    monkeypatch.setenv('PYTEST_XDIST_WORKER', 'gw0')
    (tmp_path / 'test_four.py').write_text(
        '\n'.join(f'def test_{i}():\n    assert {i} != 2\n' for i in range(4)), encoding='utf-8'
    )
    command = [sys.executable, '-m', 'pytest', '-q', '-n', '2', '-p', 'no:cacheprovider', '-p', 'gpu_parts.tests']
    monkeypatch.setattr(context, 'left', lambda: 60.0)
    results, ended = gpu_tests.run_tests(context, [*command, str(tmp_path / 'test_four.py')])
    assert ended
    assert sorted(result['outcome'] for result in results) == ['failed', 'passed', 'passed', 'passed']


@pytest.mark.parametrize('several', [False, True])
def test_tests_that_compile_come_last_and_first_on_several_processes(several):
    items = [type('Item', (), {'name': name}) for name in ('test_compiled_a', 'test_b', 'test_c[compiled]', 'test_d')]
    gpu_tests.pytest_collection_modifyitems(SimpleNamespace(**({'workerinput': {}} if several else {})), items)
    compiled, others = ['test_compiled_a', 'test_c[compiled]'], ['test_b', 'test_d']
    assert [item.name for item in items] == (compiled + others if several else others + compiled)


def test_a_section_that_cannot_be_made_is_a_line(tmp_path):
    def section_of(name, rows):
        raise KeyError('forms')

    record = Record(tmp_path)
    record.part('steps')['rows']['x'] = {'value': 1}
    assert "This section could not be made: KeyError: 'forms'" in page.page(record, section_of)


def test_length_of_the_training_runs():
    """Two runs with two evaluations each in nine tenths of the time; four epochs at least, 200 at most."""
    assert training.epochs_for(left=200, epoch=2, evaluation=10) == 35
    assert 2 * (35 * 2 + 2 * 10) <= 0.9 * 200
    assert training.epochs_for(left=10, epoch=2, evaluation=10) == 4
    assert training.epochs_for(left=10**6, epoch=2, evaluation=10) == 200


def test_workers_fit_into_shared_memory(monkeypatch):
    monkeypatch.setattr(context_module.shutil, 'disk_usage', lambda path: type('U', (), {'free': 64 * 2**20}))
    monkeypatch.setattr(context_module.os, 'sched_getaffinity', lambda pid: set(range(16)))
    assert context_module.workers_that_fit(14, 10**3) == 14
    assert context_module.workers_that_fit(14, 10 * 2**20) == 2  # two batches ready each, four fifths of it
    assert context_module.workers_that_fit(14, 100 * 2**20) == 0


def test_images_of_ones_own_and_masks_beside_them(tmp_path):
    for folder in ('cls/train/a', 'cls/val/a', 'seg/images/training', 'seg/images/validation'):
        (tmp_path / folder).mkdir(parents=True)
    context = Context(Record(tmp_path / 'out'), 'training', 0, smoke=True, images=tmp_path)
    assert training.images_of(context) == tmp_path / 'cls'
    assert training.dense_probe(context) is None
    for split, label in (('training', 3), ('validation', 255)):
        (tmp_path / f'seg/annotations/{split}').mkdir(parents=True)
        Image.new('L', (4, 4), label).save(tmp_path / f'seg/annotations/{split}/a.png')
    assert training.dense_probe(context)['train']['num_classes'] == 4
    with pytest.raises(FileNotFoundError, match='has no class folders below train and val'):
        training.images_of(Context(Record(tmp_path), 'training', 1, images=tmp_path / 'seg'))


@pytest.mark.dense
def test_detectors_of_the_coco_config_are_built(context):
    """At the published size, on no device: what the part needs on a GPU is there."""
    from mmengine.config import Config

    cfg = Config.fromfile(dense.CONFIGS / 'benchmarks/coco/mask-rcnn_vits16_fpn_1x.py')
    assert cfg.model.roi_head.bbox_head.num_classes == 80
    assert cfg.model.backbone.arch == 'vit_small_patch16_224'
