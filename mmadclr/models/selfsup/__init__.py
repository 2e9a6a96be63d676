from mmadclr.models.selfsup.adclr import ADCLR
from mmadclr.models.selfsup.base import SelfDistillation, update_teacher
from mmadclr.models.selfsup.dino import DINO

__all__ = ['ADCLR', 'DINO', 'SelfDistillation', 'update_teacher']
