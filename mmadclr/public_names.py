"""Weights given by the name of a public model instead of a path."""

PUBLIC_SCHEMES = ('timm:', 'hf:')


def is_public_name(filename: str) -> bool:
    """Whether it is such a name: see :mod:`mmadclr.checkpoint.public`."""
    return filename.startswith(PUBLIC_SCHEMES)
