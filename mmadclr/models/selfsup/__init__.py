from mmadclr.models.selfsup.adclr import ADCLR
from mmadclr.models.selfsup.base import SelfDistillation, update_teacher
from mmadclr.models.selfsup.dino import DINO
from mmadclr.models.selfsup.ibot import IBOT
from mmadclr.models.selfsup.selfpatch import SelfPatch

__all__ = ['ADCLR', 'DINO', 'IBOT', 'SelfDistillation', 'SelfPatch', 'update_teacher']
