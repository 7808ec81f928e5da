"""Data sets in COCO layout: made (`toy`), read (`coco`) and transformed (`transforms`)."""
