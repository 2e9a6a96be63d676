from mmadclr.evaluation.features import RawPixels, extract_features
from mmadclr.evaluation.knn import WeightedKNN, knn_votes, top_accuracies

__all__ = ['RawPixels', 'WeightedKNN', 'extract_features', 'knn_votes', 'top_accuracies']
