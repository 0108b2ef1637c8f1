"""Whatever disturbs a sample: noise and missing modalities, in training as in evaluation."""
