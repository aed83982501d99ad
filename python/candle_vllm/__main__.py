"""`python -m candle_vllm` is the command `candle-vllm`."""

import sys

from candle_vllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
