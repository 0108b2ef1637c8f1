"""One-tower transformers with Wasserstein Modality Alignment (Zhi et al.): ViLT and BERT backbones."""
