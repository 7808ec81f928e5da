"""Looking into a trained model: recorded attention, the explorer, and what parts of it are for."""

from detrnb.look.batch import plot_batch
from detrnb.look.explore import AttentionExplorer
from detrnb.look.knock_outs import (
    PARTS,
    against_controls,
    ap_of_parts,
    energy_in_boxes,
    energy_table,
    intervals,
    keep_part,
    kept_triplets,
    observations,
)
from detrnb.look.recording import (
    Recording,
    Samples,
    attention_names,
    attention_of,
    record_attention,
    unrecorded_names,
)
from detrnb.look.views import Subject, View, object_shares

__all__ = [
    "AttentionExplorer",
    "PARTS",
    "Recording",
    "Samples",
    "Subject",
    "View",
    "against_controls",
    "ap_of_parts",
    "attention_names",
    "attention_of",
    "energy_in_boxes",
    "energy_table",
    "intervals",
    "keep_part",
    "kept_triplets",
    "object_shares",
    "observations",
    "plot_batch",
    "record_attention",
    "unrecorded_names",
]
