"""Child registries of mmengine's, all under the scope ``mmadclr``.

``locations`` lets mmengine import the modules of a registry the first time a config asks for a name, so neither
configs nor tools need import statements for their side effects. Importing this module also has mmengine understand
``_base_ = 'mmadclr::adclr/vits16_in1k.py'``.
"""

from typing import NamedTuple

from mmengine import registry as root
from mmengine.registry import Registry

from mmadclr.shipped import register_configs

SCOPE = 'mmadclr'
register_configs()


class ConfigOf(NamedTuple):
    """Annotation of an argument that is the config of a part, without a type: ``Annotated[dict, ConfigOf('DINOHead')]``.

    A class declares with it what its argument takes, so that a key nothing would read is found before anything is built.

    Attributes:
        component: Name in a registry, or a class, whose arguments are the keys.
        like: The argument whose type is meant, if it has one, as for what a second head differs in from the first.
    """

    component: str | type
    like: str | None = None


MODELS = Registry('model', parent=root.MODELS, scope=SCOPE, locations=['mmadclr.models'])
DATASETS = Registry('dataset', parent=root.DATASETS, scope=SCOPE, locations=['mmadclr.datasets'])
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope=SCOPE, locations=['mmadclr.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=root.DATA_SAMPLERS, scope=SCOPE, locations=['mmadclr.datasets'])
FUNCTIONS = Registry('function', parent=root.FUNCTIONS, scope=SCOPE, locations=['mmadclr.datasets'])
HOOKS = Registry('hook', parent=root.HOOKS, scope=SCOPE, locations=['mmadclr.engine'])
LOOPS = Registry('loop', parent=root.LOOPS, scope=SCOPE, locations=['mmadclr.engine'])
RUNNERS = Registry('runner', parent=root.RUNNERS, scope=SCOPE, locations=['mmadclr.engine'])
OPTIM_WRAPPERS = Registry('optim wrapper', parent=root.OPTIM_WRAPPERS, scope=SCOPE, locations=['mmadclr.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optim wrapper constructor', parent=root.OPTIM_WRAPPER_CONSTRUCTORS, scope=SCOPE, locations=['mmadclr.engine']
)
WEIGHT_INITIALIZERS = Registry('weight initializer', parent=root.WEIGHT_INITIALIZERS, scope=SCOPE, locations=['mmadclr.hub'])
METRICS = Registry('metric', parent=root.METRICS, scope=SCOPE, locations=['mmadclr.evaluation', 'mmadclr.engine'])

# Kinds of which we have none of our own: children all the same, so that mmengine finds its own without a warning.
OPTIMIZERS = Registry('optimizer', parent=root.OPTIMIZERS, scope=SCOPE, locations=['mmadclr.engine'])
PARAM_SCHEDULERS = Registry('parameter scheduler', parent=root.PARAM_SCHEDULERS, scope=SCOPE, locations=['mmadclr.engine'])
LOG_PROCESSORS = Registry('log_processor', parent=root.LOG_PROCESSORS, scope=SCOPE, locations=['mmadclr.engine'])
MODEL_WRAPPERS = Registry('model_wrapper', parent=root.MODEL_WRAPPERS, scope=SCOPE, locations=['mmadclr.engine'])
VISUALIZERS = Registry('visualizer', parent=root.VISUALIZERS, scope=SCOPE, locations=['mmadclr.engine'])
VISBACKENDS = Registry('vis_backend', parent=root.VISBACKENDS, scope=SCOPE, locations=['mmadclr.engine'])
