"""Code that logs and prints as if it stood in a module of a given name."""

from mmengine.logging import print_log


def speak(module, statement, **names):
    """Runs a statement in a function of ``module``."""
    scope = {'__name__': module, 'print_log': print_log, **names}
    exec(f'def speak():\n    {statement}', scope)
    scope['speak']()
