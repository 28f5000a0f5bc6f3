"""The network: from the inputs of each modality to tokens, their fusion, and logits."""
