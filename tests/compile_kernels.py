"""Compile the query kernels for a GPU, which need not be here: `python -m tests.compile_kernels`.

The interpreter that runs them in tests accepts more than the compiler does.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from langsplat import _query_triton as kernels

HALVES, INTEGERS = {"rows", "plain"}, {"offsets", "members"}
FLOATS = {"support", "alpha_min", "alpha_max", "stop", "sharpness"}
ARRAYS = {"means2d", "conics", "opacities", "inverse", "best", "codes", "per_codeword", "out"}
ARRAYS |= {"dots", "image", "corners", "places", "maps"}
VIEW = {"TILE": kernels.VIEW_TILE, "LEVELS": 3, "COLUMNS": kernels.COLUMNS, "NEGATIVES": 4}
VIEW |= {"PLAIN": 16, "GROUP": kernels._GROUP, "STAGES": kernels._STAGES, "RUN": kernels._RUN}
BLOCK = {"BLOCK": kernels._BLOCK}
CONSTANTS = {
    "_view_kernel": VIEW | {"parts": 1},
    "_score_kernel": {"KEPT": 4, "TEXTS": 1, "BLOCK": kernels._PRODUCTS, "texts": 1},
    "_relevancy_kernel": BLOCK,
    "_place_kernel": BLOCK | {"LEVELS": 3},
    "_placed_kernel": BLOCK,
    "_box_kernel": {"ACROSS": True, "ROWS": kernels._BOX[0], "COLUMNS": kernels._BOX[1]},
}


def kind(name: str) -> str:
    if name in ARRAYS:
        return "*fp32"
    if name in HALVES | INTEGERS:
        return "*fp16" if name in HALVES else "*i32"
    return "fp32" if name in FLOATS else "i32"


def main() -> None:
    for name, constants in CONSTANTS.items():
        kernel = getattr(kernels, name)
        names = kernel.arg_names
        own = {arg: "constexpr" if arg in constants else kind(arg) for arg in names}
        fixed = {(names.index(arg),): value for arg, value in constants.items()}
        source = ASTSource(kernel, own, constexprs=fixed)
        options = {"num_warps": 4} | (
            {"maxnreg": kernels._REGISTERS} if name == "_view_kernel" else {}
        )
        found = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
        print(name, len(found.asm["cubin"]))


if __name__ == "__main__":
    main()
