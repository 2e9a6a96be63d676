from mmadclr.evaluation.dense_probe import DenseProbe
from mmadclr.evaluation.frozen import RawPixels
from mmadclr.evaluation.knn import WeightedKNN, knn_votes, top_accuracies

__all__ = ['DenseProbe', 'RawPixels', 'WeightedKNN', 'knn_votes', 'top_accuracies']
