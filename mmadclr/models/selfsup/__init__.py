from mmadclr.models.selfsup.adclr import ADCLR
from mmadclr.models.selfsup.base import SelfDistillation, update_teacher
from mmadclr.models.selfsup.dino import DINO
from mmadclr.models.selfsup.ibot import IBOT
from mmadclr.models.selfsup.mocov3 import MoCoV3
from mmadclr.models.selfsup.pqcl import PQCL
from mmadclr.models.selfsup.query_ibot import QueryIBOT
from mmadclr.models.selfsup.selfpatch import SelfPatch

__all__ = ['ADCLR', 'DINO', 'IBOT', 'PQCL', 'MoCoV3', 'QueryIBOT', 'SelfDistillation', 'SelfPatch', 'update_teacher']
