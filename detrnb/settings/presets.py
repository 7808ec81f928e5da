"""The presets: what each changes of the defaults, which are the reference's. No torch here."""

_TOY: dict[str, object] = {
    "model.num_classes": 4,
    "model.num_queries": 16,
    "model.backbone": "tf_efficientnet_lite0",
    "model.stride": 16,
    "model.d_model": 128,
    "model.num_heads": 4,
    "model.position_temperature": 20.0,
    "model.num_encoder_layers": 3,
    "model.num_decoder_layers": 3,
    "model.dim_feedforward": 512,
    "model.dropout": 0.0,
    "data.path": "data/toy",
    "data.toy": {},
    "data.train_sizes": None,
    "data.eval_size": None,
    "data.crop": False,
    "data.flip": False,  # a mirrored digit is another sign
    "data.num_workers": 0,
    "train.epochs": 6,
    "train.batch_size": 32,
    "train.lr": 5e-4,
    "train.lr_backbone": 0.0,
    "train.schedule": "cosine",
    "train.warmup": 0.1,
    "train.cache_features": True,
}

PRESETS: dict[str, dict[str, object]] = {
    "coco": {"data.contiguous_labels": False},
    # Rate: the reference's 1e-4 for 16 images, scaled to 4 by the square root; Hugging Face's guide
    # to fine-tuning DETR takes the same. The backbone's is a tenth of it, as in the reference.
    "finetune": {
        "model.num_classes": None,
        "train.init_from": "detr_resnet50",
        "train.epochs": None,
        "train.lr_drop": None,
        "train.warmup": None,
        "train.batch_size": 4,
        "train.lr": 5e-5,
        "train.lr_backbone": 5e-6,
    },
    "toy": _TOY,
    "smoke": {
        **_TOY,
        "model.d_model": 32,
        "model.dim_feedforward": 64,
        "data.path": "data/smoke",
        "data.toy.num_images": (32, 16, 16),
        "train.epochs": 2,
        "train.batch_size": 8,
    },
}
