from mmadclr.models.preprocessors.mmpretrain_preprocessor import MMPretrainPreprocessor
from mmadclr.models.preprocessors.query_box_preprocessor import QueryBoxPreprocessor
from mmadclr.models.preprocessors.view_preprocessor import ViewPreprocessor

__all__ = ['MMPretrainPreprocessor', 'QueryBoxPreprocessor', 'ViewPreprocessor']
