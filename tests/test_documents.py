"""The README, the pages of the site and the READMEs of configs: short, linked, and with commands that exist."""

import ast
import math
import re
import tomllib
from argparse import Namespace

import pytest
import yaml
from documents import anchors, blocks, commands, documents, links, text_of, words
from guides import NAMED_BLOCK
from mmengine.config import Config
from mmengine.registry import init_default_scope
from places import REPO

from mmadclr.cli.parsers import COMMANDS, command_parser
from mmadclr.config.check import ConfigError
from mmadclr.config.loading import load_config
from mmadclr.shipped import find_config, shipped_configs

DOCUMENTS = documents()
# Scripts that start processes: the command, and of their first arguments the places of its own and of others.
LAUNCHERS = {
    'tools/dist_train.sh': ('train', [0], [1]),
    'tools/dist_test.sh': ('test', [0, 1], [2]),
    'tools/slurm_train.sh': ('train', [1], [0, 2]),
}
OTHERS = ('git', 'cd', '.venv/bin/pre-commit', 'pytest')
LINES = [(document, line) for document in DOCUMENTS for line in commands(document)]
INLINE = re.compile(r'`mmadclr ([^`\n]+)`')


@pytest.fixture(autouse=True)
def _scope():
    yield
    init_default_scope('mmadclr')


# --- README and links ------------------------------------------------------------------------------------------------------


def test_readme_is_short_and_has_its_parts():
    text = text_of('README.md')
    assert len(text.split()) <= 900
    assert re.findall(r'^## (.*)$', text, re.MULTILINE) == [
        'Install',
        'Ten lines',
        'Results',
        'Methods',
        'Main files to read',
        'Documentation',
        'License and citation',
    ]
    assert re.search(r'!\[[^\]]+\]\(docs/images/', text)
    ten = text[text.index('## Ten lines') : text.index('## Results')]
    lines = [line for block in re.findall(r'```\w+\n(.*?)```', ten, re.DOTALL) for line in block.splitlines()]
    assert len([line for line in lines if line]) == 10


def test_every_page_is_reached_from_the_readme_and_in_the_navigation():
    linked = {target for target in links('README.md') if target.startswith('docs/')}
    pages = {path.name for path in REPO.glob('docs/*.md')}
    assert pages - {target.removeprefix('docs/') for target in linked} <= {'gpu.md'}
    text = (REPO / 'mkdocs.yml').read_text()
    named = set(re.findall(r': ([\w/]+\.md)$', text, re.MULTILINE))
    generated = {'configs.md', *(f'methods/{path.parent.name}.md' for path in REPO.glob('configs/*/README.md'))}
    assert named == {path.relative_to(REPO / 'docs').as_posix() for path in REPO.glob('docs/**/*.md')} | generated


@pytest.mark.parametrize('document', DOCUMENTS)
def test_links_lead_somewhere(document):
    broken = []
    for target in links(document):
        place, _, anchor = target.partition('#')
        path = (REPO / document).parent / place if place else REPO / document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize('name', ['adclr', 'dino', 'ibot', 'selfpatch', 'pqcl', 'demo'])
def test_readme_of_a_method_has_its_parts_and_all_its_configs(name):
    text = text_of(f'configs/{name}/README.md')
    for heading in ('Idea', 'Equation', 'Configs', 'Numbers, and whose they are'):
        assert re.search(rf'^## {heading}', text, re.MULTILINE)
    assert 'docs/images/methods/' in text
    named = set()
    for pattern in re.findall(r'`((?:\w+/)+[\w{},*.]+)`', text[text.index('## Configs') :].partition('\n## ')[0]):
        (line,) = words(pattern)
        named |= {word.removesuffix('/*') for word in line}
    own = {config for config in shipped_configs() if config.startswith(f'{name}/')}
    assert {config for config in own if config not in named and config.rpartition('/')[0] not in named} == set()
    assert {word for word in named if word not in shipped_configs() and not (REPO / 'configs' / word).is_dir()} == set()


@pytest.mark.parametrize('name', ['adclr', 'dino', 'ibot', 'selfpatch', 'pqcl'])
def test_numbers_of_others_are_those_of_the_index(name):
    """Of rows that are not ours: those of the metafile, or of the docstring of a config where it has none."""
    table = text_of(f'configs/{name}/README.md').partition('## Numbers')[2]
    rows = [line for line in table.splitlines() if line.startswith('|') and '[ours]' not in line]
    found = {float(number) for line in rows for number in re.findall(r'\d+\.\d', line.rpartition('|')[0].rpartition('|')[0])}
    index = yaml.safe_load((REPO / f'configs/{name}/metafile.yml').read_text())
    known = {n for model in index['Models'] for result in model.get('Results', ()) for n in result['Metrics'].values()}
    text = (REPO / f'configs/{name}/vits16_in1k.py').read_text()
    assert found == (known or (found & {float(number) for number in re.findall(r'\d+\.\d', text)}))


def test_our_numbers_in_readmes_of_methods_are_those_of_the_comparison():
    measured = text_of('docs/comparison.md')
    rows = [line for d in DOCUMENTS if d.startswith('configs/') for line in text_of(d).splitlines() if '[ours]' in line]
    values = [value for line in rows for value in re.findall(r'\d+\.\d ± \d+\.\d', line)]
    assert len(values) > 15
    assert [value for value in values if value not in measured] == []


def test_logarithms_of_the_faq():
    rows = re.findall(r'^\| (\d+) \| (\d+\.\d{4}) \|', text_of('docs/faq.md'), re.MULTILINE)
    assert [(k, f'{math.log(int(k)):.4f}') for k, _ in rows] == rows
    assert ('4096', '8.3178') in rows
    for config, prototypes in (
        ('demo/adclr_vittiny_shapes', 64),
        ('adclr/vits16_folder', 1024),
        ('dino/vits16_in1k', 65536),
    ):
        assert Config.fromfile(find_config(config)).model.head.out_dim == prototypes
    assert Config.fromfile(find_config('selfpatch/vits16_in1k')).model.patch_head.out_dim == 4096


# --- commands --------------------------------------------------------------------------------------------------------------


def dense(lines):
    """Lines as parameters; configs of benchmarks need the packages of dense tasks."""
    marked = [pytest.param(*each, marks=pytest.mark.dense) if 'benchmarks/' in each[1] else each for each in lines]
    return [each if hasattr(each, 'marks') else pytest.param(*each) for each in marked]


@pytest.mark.parametrize(('document', 'line'), dense(LINES))
def test_commands_exist(document, line):
    for arguments in words(line):
        check(arguments, document)


def check(arguments, document):
    """Fails if there is no such program, command, option, config, key of a config, target or extra."""
    program, *rest = arguments
    if program in ('python', 'python3', '.venv/bin/python'):
        program, *rest = rest if rest[0] != '-m' else rest[1:]
    if program == 'mmadclr':
        check_command(*rest, document=document)
    elif program in LAUNCHERS:
        command, own, others = LAUNCHERS[program]
        check_command(command, *(rest[i] for i in own), *rest[len(own) + len(others) :], document=document)
    elif program.startswith(('tools/', 'benchmarks/')):
        called = re.search(r"run_tool\('([\w-]+)'\)", (REPO / program).read_text())
        if called:
            check_command(called[1], *rest, document=document)
    elif program == 'make':
        check_make(rest)
    elif program == 'pip':
        check_install(rest)
    else:
        assert program in OTHERS, program


def check_command(command, *arguments, document):
    if command in ('--help', '--version'):
        return
    assert command in COMMANDS
    args = command_parser(command, 'mmadclr').parse_args(arguments)
    own = {name for name, _ in NAMED_BLOCK.findall(text_of(document))}  # configs that the document tells to write
    named = (
        [args.config] if 'config' in args else [c for c in getattr(args, 'configs', ()) if not c.startswith('work_dirs/')]
    )
    for config in named:
        if config not in own and not config.startswith('work_dirs/'):
            load_config(Namespace(config=config, work_dir=None, **overrides(args)))


def overrides(args):
    """Options of a command that change the config, of which a folder may not exist here."""
    return {name: getattr(args, name) for name in ('cfg_options', 'data') if name in args}


def check_make(arguments):
    targets = re.findall(r'^([\w-]+):', (REPO / 'Makefile').read_text(), re.MULTILINE)
    called = [argument for argument in arguments if '=' not in argument]
    assert called
    assert set(called) <= set(targets)
    settings = dict(argument.split('=', 1) for argument in arguments if '=' in argument)
    assert set(settings) <= {'ARGS', 'VENV', 'PYTHON'}
    if called == ['demo'] and 'ARGS' in settings:
        command_parser('demo', 'mmadclr').parse_args(settings['ARGS'].split())


def check_install(arguments):
    extras = tomllib.loads((REPO / 'pyproject.toml').read_text())['tool']['setuptools']['dynamic']['optional-dependencies']
    for word in arguments:
        named = re.search(r'\[([\w,]+)\]', word)
        assert not named or set(named[1].split(',')) <= set(extras), word
        assert not word.startswith('requirements/') or (REPO / word).is_file(), word


@pytest.mark.parametrize(
    'arguments',
    [
        ['mmadclr', 'trian', 'adclr/vits16_folder'],
        ['mmadclr', 'train', 'adclr/vits16_foldr'],
        ['mmadclr', 'train', 'adclr/vits16_folder', '--gpu-number', '8'],
        ['mmadclr', 'train', 'adclr/vits16_folder', '--cfg-options', 'model.query_wieght=1'],
        ['python', 'tools/knn.py', 'x.pth', '--trian', 'a', '--val', 'b'],
        ['python', 'tools/tarin.py', 'configs/adclr/vits16_folder.py'],
        ['tools/dist_train.sh', 'configs/adclr/vits_16.py', '8'],
        ['make', 'dmeo'],
        ['make', 'demo', 'ARGS=--part detection --sed 1'],
        ['pip', 'install', '-e', '.[dens]'],
        ['mmadcrl', 'train'],
    ],
)
def test_mistakes_in_commands_are_found(arguments):
    with pytest.raises((SystemExit, AssertionError, FileNotFoundError, ConfigError)):
        check(arguments, 'README.md')


@pytest.mark.parametrize('document', DOCUMENTS)
def test_commands_in_sentences_exist(document):
    for text in INLINE.findall(text_of(document)):
        command, *rest = text.split()
        if command.startswith('-'):
            continue
        assert command in COMMANDS, text
        known = {option for action in command_parser(command, 'mmadclr')._actions for option in action.option_strings}
        assert {word for word in rest if word.startswith('--')} <= known, text


@pytest.mark.parametrize(
    'text', re.findall(r'`((?:\w+\.)+\w+=[^`]+|sharding=\w+)`', text_of('docs/faq.md') + text_of('docs/pretraining.md'))
)
def test_overrides_in_sentences_apply(text):
    (arguments,) = words(f'mmadclr train adclr/vits16_folder --cfg-options {text}')
    check(arguments, 'docs/faq.md')


# --- Python ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('document', DOCUMENTS)
def test_python_can_be_read_and_its_imports_exist(document):
    own = {name.partition('/')[0] for name, _ in NAMED_BLOCK.findall(text_of(document))}
    for block in blocks(document, 'python'):
        for node in ast.walk(ast.parse(block)):
            module = getattr(node, 'module', None) if isinstance(node, ast.ImportFrom) else None
            if isinstance(node, ast.Import) or (module and module.partition('.')[0] not in own):
                exec(compile(ast.Module([node], []), document, 'exec'), {})


def test_ablation_of_the_page_is_a_config(tmp_path):
    (text,) = [block for block in blocks('docs/pretraining.md', 'python') if block.startswith('_base_')]
    (tmp_path / 'mine.py').write_text(text.replace("'configs/", f"'{REPO}/configs/"))
    cfg = load_config(Namespace(config=str(tmp_path / 'mine.py'), work_dir=None, cfg_options={}))
    assert cfg.train_dataloader.dataset.transform.num_query == 20
    assert cfg.model.type == 'ADCLR'
