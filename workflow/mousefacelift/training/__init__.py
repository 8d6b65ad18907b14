"""Fine-tuning of GS-LRM: data, losses, guards, checks before the first step, and the loop around them."""
