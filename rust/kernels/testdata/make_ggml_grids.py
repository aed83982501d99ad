"""Writes src/cpu/ggml/grids.bin: the codebooks of ggml's IQ types, as the `gguf` package has them.

Little-endian u16 entries of IQ2_XXS [256], IQ2_XS [512], IQ2_S [1024], IQ3_XXS [256], IQ3_S [512] and IQ1_S [2048]: the
numbers of an entry as indices into the type's few values, the first one lowest: 8 of 2 bits, or 4 of 3 bits.
"""

import pathlib
import sys

import numpy as np
from gguf import quants

GRIDS = {"IQ2_XXS": 2, "IQ2_XS": 2, "IQ2_S": 2, "IQ3_XXS": 3, "IQ3_S": 3, "IQ1_S": 2}

with pathlib.Path(sys.argv[1]).open("wb") as out:
    for name, bits in GRIDS.items():
        kind = getattr(quants, name)
        kind.init_grid()
        values = list(kind.grid_map)
        rows = np.array(kind.grid).reshape(kind.grid_shape)
        words = [sum(values.index(int(v)) << bits * i for i, v in enumerate(row)) for row in rows]
        out.write(np.array(words, "<u2").tobytes())
