"""AdamW with learning rate 1e-3 for the small detectors and segmentors, which set their own length and schedule."""

optim_wrapper = dict(
    type='mmadclr.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
)
