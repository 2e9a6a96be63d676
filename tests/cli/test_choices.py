"""What help offers is what the modules that read it take."""

from mmadclr import push
from mmadclr.checkpoint import networks
from mmadclr.cli import choices, demo
from mmadclr.cli.linear import recipe_of
from mmadclr.cli.parsers import command_parser
from mmadclr.compare.dense_tasks import DENSE_TASKS
from mmadclr.datasets import center_crop
from mmadclr.evaluation import extraction, extractor
from mmadclr.evaluation.linear import LinearRecipe
from mmadclr.hub import conversion
from mmadclr.hub.export import FORMATS
from mmadclr.precision import PRECISIONS
from mmadclr.show.plots import KINDS


def test_choices_are_those_of_the_modules():
    assert choices.WHICH == networks.WHICH
    assert tuple(conversion.LAYOUTS) == choices.LAYOUTS
    assert tuple(FORMATS) == choices.FORMATS
    assert choices.HUB_FORMATS == push.FORMATS
    assert choices.BACKENDS == center_crop.BACKENDS
    assert tuple(PRECISIONS) == choices.PRECISIONS
    assert choices.FEATURES == extractor.FEATURES
    assert choices.DTYPES == extraction.DTYPES
    assert tuple(KINDS) == choices.SHOWN
    assert ('pretraining', *DENSE_TASKS) == demo.PARTS


def linear(*options):
    return command_parser('linear', 'mmadclr').parse_args(['a.pth', '--train', 'x', '--val', 'y', *options])


def test_the_recipe_of_linear_classifiers_is_the_default_where_nothing_is_given():
    assert recipe_of(linear()) == LinearRecipe()
    given = linear('--lr', '0.1', '0.2', '--epochs', '3', '--train-batch-size', '7', '--held-out', '0.1', '--seed', '4')
    assert recipe_of(given) == LinearRecipe((0.1, 0.2), 3, 7, held_out=0.1, seed=4)


def test_help_says_the_defaults_of_the_recipe():
    text = ' '.join(command_parser('linear', 'mmadclr').format_help().split())
    recipe = LinearRecipe()
    assert f'epochs of training (default: {recipe.epochs})' in text
    assert f'features per step (default: {recipe.batch_size})' in text
    assert f'default: the {len(recipe.learning_rates)} of iBOT' in text
