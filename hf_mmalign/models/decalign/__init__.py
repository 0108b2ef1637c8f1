"""DecAlign (Qian et al.): hierarchical alignment of decoupled modality-unique and modality-common features."""
