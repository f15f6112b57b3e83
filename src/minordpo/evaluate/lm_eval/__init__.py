"""The task `gsm8k` for EleutherAI's lm-eval: name this folder as its --include_path."""
