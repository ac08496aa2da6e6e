"""UltraIF (arXiv 2502.04153) on Ray: wild prompts in, judged instruction-following data out."""

__version__ = "0.1.0"
