"""See what backbones have learned: figures of attention, features and matches, and a page to explore them.

    import mmadclr

    mmadclr.show.pca('checkpoint.pth', ['photos']).savefig('pca.png')

Every function takes models (a checkpoint, what ``load_backbone`` returns, a list of these, or a dict by name) and images
(files, folders, PIL images), and returns a matplotlib figure; no display is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from mmadclr.show import plots
from mmadclr.show.pictures import ImageLike
from mmadclr.show.query_crops import BOX
from mmadclr.show.study import SIZE, Models, Study

__all__ = ['Study', 'attention', 'correspondence', 'neighbors', 'pca', 'queries', 'segmentation']
Images = ImageLike | Sequence[ImageLike]


def attention(models: Models, images: Images, size: int = SIZE) -> Figure:
    """Attention of [CLS] to the patches in the last block, heads apart and their mean.

    Args:
        models, images: See the module.
        size: Pixels of the longer side of each image.

    Raises:
        FileNotFoundError, ValueError: See ``Study``; also a backbone without class token.
    """
    return plots.attention_figures(Study(models, images, size), rows=None)[0]


def pca(models: Models, images: Images, size: int = SIZE) -> Figure:
    """Principal components of the patches of all images as colors.

    Arguments and errors as of ``attention``; the class token is not needed.
    """
    return plots.pca_figures(Study(models, images, size), rows=None)[0]


def neighbors(models: Models, images: Images, size: int = SIZE, patches: bool = False) -> Figure:
    """The nearest images of each image, or with ``patches`` the nearest patches of five of its patches.

    Arguments as of ``attention``.

    Raises:
        FileNotFoundError, ValueError: See ``Study``; also a single image.
    """
    return plots.neighbors_figures(Study(models, images, size), rows=None)[int(patches)]


def correspondence(models: Models, images: Images, size: int = SIZE) -> Figure:
    """Mutual nearest patches of each image and the next, joined by lines.

    Arguments and errors as of ``neighbors``.
    """
    return plots.correspondence_figures(Study(models, images, size), rows=None)[0]


def queries(
    models: Models,
    images: Images,
    size: int = SIZE,
    box: Sequence[float] = BOX,
    query_size: int | None = None,
) -> Figure:
    """What a crop of each image attends to as query tokens, and where it is found in the other images.

    Args:
        models, images, size: See ``attention``.
        box: The crop: left, top, right, bottom in fractions of the sides.
        query_size: Pixels of the resized crop; one patch by default.

    Raises:
        FileNotFoundError, ValueError: See ``Study`` and ``mmadclr.show.query_crops.ask``.
    """
    return plots.queries_figures(Study(models, images, size), None, box, query_size)[0]


def segmentation(models: Models, images: Images, size: int = SIZE) -> Figure:
    """The object of each image by TokenCut, without labels.

    Arguments and errors as of ``pca``.
    """
    return plots.segmentation_figures(Study(models, images, size), rows=None)[0]
