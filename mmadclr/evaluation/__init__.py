from mmadclr.evaluation.adaptation.evaluator import AdaptationMeasures
from mmadclr.evaluation.dense_probe import DenseProbe
from mmadclr.evaluation.feature_loop import FeatureEvalLoop
from mmadclr.evaluation.frozen import RawPixels
from mmadclr.evaluation.knn import WeightedKNN, knn_votes, top_accuracies
from mmadclr.evaluation.linear_sweep import LinearSweepLoop, LinearSweepOptimConstructor, SweepAccuracy
from mmadclr.evaluation.suite.evaluators import Hummingbird, PatchKNN

__all__ = [
    'AdaptationMeasures',
    'DenseProbe',
    'FeatureEvalLoop',
    'Hummingbird',
    'LinearSweepLoop',
    'LinearSweepOptimConstructor',
    'PatchKNN',
    'RawPixels',
    'SweepAccuracy',
    'WeightedKNN',
    'knn_votes',
    'top_accuracies',
]
