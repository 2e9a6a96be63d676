"""Continues pretraining from public weights on a folder of images, and says whether it helped."""

from mmadclr.adaptation.run import adapt

__all__ = ['adapt']
