from mmadclr.models.preprocessors.view_preprocessor import ViewPreprocessor

__all__ = ['ViewPreprocessor']
