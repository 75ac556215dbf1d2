"""TokenBlocks in, Adapter out: continued masked-language modelling with LoRA."""
