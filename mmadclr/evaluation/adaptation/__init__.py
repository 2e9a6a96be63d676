"""What adaptation does to a backbone on images of one's own: measures before, during and after, and a verdict."""

from mmadclr.evaluation.adaptation.comparison import Comparison, compare
from mmadclr.evaluation.adaptation.evaluator import AdaptationMeasures
from mmadclr.evaluation.adaptation.masks import FolderProbe
from mmadclr.evaluation.adaptation.measuring import Measured, drift_of, encoder_of, measure_backbone, random_twin
from mmadclr.evaluation.adaptation.outputs import FeatureError, Outputs, image_outputs, sample_images
from mmadclr.evaluation.adaptation.report import as_json, as_markdown, as_text
from mmadclr.evaluation.adaptation.views import Views

__all__ = [
    'AdaptationMeasures',
    'Comparison',
    'FeatureError',
    'FolderProbe',
    'Measured',
    'Outputs',
    'Views',
    'as_json',
    'as_markdown',
    'as_text',
    'compare',
    'drift_of',
    'encoder_of',
    'image_outputs',
    'measure_backbone',
    'random_twin',
    'sample_images',
]
