"""What a modality becomes: tokens, their fusion, logits."""
