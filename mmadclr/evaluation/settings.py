"""Config fragments of the k-NN evaluation."""

from __future__ import annotations


def knn_settings(
    train: str,
    val: str,
    img_size: int = 224,
    resize: int | None = None,
    batch_size: int = 128,
    num_workers: int = 4,
    k: tuple[int, ...] = (10, 20),
    temperature: float = 0.07,
) -> dict:
    """``val_dataloader``, ``val_cfg`` and ``val_evaluator`` for k-NN between two class-folder data sets.

    Images are resized to ``resize`` pixels (8/7 of ``img_size`` by default: 256 for 224) and cropped at the centre.
    """

    dataset = dict(
        type='ImageDataset',
        data_root=val,
        with_label=True,
        transform=dict(type='ResizeCentreCrop', resize=resize or round(img_size * 8 / 7), size=img_size),
    )
    return dict(
        val_dataloader=dict(
            batch_size=batch_size,
            num_workers=num_workers,
            sampler=dict(type='EpochSampler', shuffle=False),
            collate_fn=dict(type='mmadclr.collate_samples'),
            dataset=dataset,
        ),
        val_cfg=dict(type='FeatureEvalLoop', bank=dict(data_root=train)),
        val_evaluator=dict(type='WeightedKNN', k=k, temperature=temperature),
    )
