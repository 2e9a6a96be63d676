"""Child registries of mmengine's, all in the scope ``mmadclr``.

With ``locations``, mmengine imports the modules of a registry when a config first requests a name, so neither
configs nor tools need imports for their side effects. Importing this module also enables
``_base_ = 'mmadclr::adclr/vits16_in1k.py'`` in mmengine.
"""

from typing import NamedTuple

from mmengine import registry as root
from mmengine.registry import Registry

from mmadclr.shipped import register_configs

SCOPE = 'mmadclr'
register_configs()


class ConfigOf(NamedTuple):
    """Annotation of an argument that is the config of a component without a type: ``Annotated[dict, ConfigOf('DINOHead')]``.

    A class uses it to declare which keys the argument accepts, so that unknown keys are found before anything is built.

    Attributes:
        component: Name in a registry, or a class, whose arguments are the keys.
        like: Argument whose type takes precedence if set, as for overrides of a first head that define a second one.
    """

    component: str | type
    like: str | None = None


MODELS = Registry('model', parent=root.MODELS, scope=SCOPE, locations=['mmadclr.models'])
DATASETS = Registry('dataset', parent=root.DATASETS, scope=SCOPE, locations=['mmadclr.datasets'])
IMAGE_SOURCES = Registry('image source', scope=SCOPE, locations=['mmadclr.datasets'])  # of ImageDataset
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope=SCOPE, locations=['mmadclr.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=root.DATA_SAMPLERS, scope=SCOPE, locations=['mmadclr.datasets'])
FUNCTIONS = Registry('function', parent=root.FUNCTIONS, scope=SCOPE, locations=['mmadclr.datasets'])
HOOKS = Registry('hook', parent=root.HOOKS, scope=SCOPE, locations=['mmadclr.engine'])
LOOPS = Registry('loop', parent=root.LOOPS, scope=SCOPE, locations=['mmadclr.engine', 'mmadclr.evaluation'])
RUNNERS = Registry('runner', parent=root.RUNNERS, scope=SCOPE, locations=['mmadclr.engine'])
OPTIM_WRAPPERS = Registry('optim wrapper', parent=root.OPTIM_WRAPPERS, scope=SCOPE, locations=['mmadclr.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optim wrapper constructor',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=['mmadclr.engine', 'mmadclr.evaluation'],
)
WEIGHT_INITIALIZERS = Registry('weight initializer', parent=root.WEIGHT_INITIALIZERS, scope=SCOPE, locations=['mmadclr.hub'])
METRICS = Registry('metric', parent=root.METRICS, scope=SCOPE, locations=['mmadclr.evaluation'])

# Registries without components of our own, so that mmengine finds its own components without a warning.
OPTIMIZERS = Registry('optimizer', parent=root.OPTIMIZERS, scope=SCOPE, locations=['mmadclr.engine'])
PARAM_SCHEDULERS = Registry('parameter scheduler', parent=root.PARAM_SCHEDULERS, scope=SCOPE, locations=['mmadclr.engine'])
LOG_PROCESSORS = Registry('log_processor', parent=root.LOG_PROCESSORS, scope=SCOPE, locations=['mmadclr.engine'])
MODEL_WRAPPERS = Registry('model_wrapper', parent=root.MODEL_WRAPPERS, scope=SCOPE, locations=['mmadclr.engine'])
VISUALIZERS = Registry('visualizer', parent=root.VISUALIZERS, scope=SCOPE, locations=['mmadclr.engine'])
VISBACKENDS = Registry('vis_backend', parent=root.VISBACKENDS, scope=SCOPE, locations=['mmadclr.engine'])
