from mmadclr.evaluation.dense_probe import DenseProbe
from mmadclr.evaluation.features import RawPixels, extract_features, gather_features
from mmadclr.evaluation.knn import WeightedKNN, knn_votes, top_accuracies

__all__ = ['DenseProbe', 'RawPixels', 'WeightedKNN', 'extract_features', 'gather_features', 'knn_votes', 'top_accuracies']
