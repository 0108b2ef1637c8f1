"""Late fusion: one encoder per modality, and a head on what they say together."""
