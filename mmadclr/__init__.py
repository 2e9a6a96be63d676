"""Dense self-supervised pretraining of vision transformers: ADCLR and the systems it is compared with."""

__version__ = '0.1.0'
