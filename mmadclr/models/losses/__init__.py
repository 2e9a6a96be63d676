from mmadclr.models.losses.self_distillation import SelfDistillationLoss

__all__ = ['SelfDistillationLoss']
