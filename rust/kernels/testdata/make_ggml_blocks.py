"""Writes ggml_blocks.bin: for every quantised type two random blocks and their values as the `gguf` package gives them.

Little-endian records of: code u32, bytes of the blocks u32, the blocks, number of values u32, the values f32.
"""

import pathlib
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "MXFP4": (),
    "IQ1_M": (),
}
TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *(
        "IQ4_NL",
        "IQ4_XS",
        "MXFP4",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ2_S",
        "IQ3_XXS",
        "IQ3_S",
        "IQ1_S",
        "IQ1_M",
        "TQ1_0",
        "TQ2_0",
    ),
)

rng = np.random.default_rng(7)
with pathlib.Path(sys.argv[1]).open("wb") as out:
    for name in TYPES:
        kind = GGMLQuantizationType[name]
        _, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (2, size), dtype=np.uint8)
        for at in SCALES.get(name, (0,)):
            blocks[:, at : at + 2] = rng.normal(0, 0.05, (2, 1)).astype(np.float16).view(np.uint8)
        if name == "MXFP4":
            blocks[:, 0] = 3, 122
        if name == "IQ1_M":
            blocks[:, 49::2] = blocks[:, 49::2] & 15 | np.array([0, 8, 4, 2], np.uint8) << 4
        values = quants.dequantize(blocks, kind).astype("<f4")
        out.write(struct.pack("<II", kind.value, blocks.size) + blocks.tobytes())
        out.write(struct.pack("<I", values.size) + values.tobytes())
