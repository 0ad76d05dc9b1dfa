"""Compile the loss's Triton kernel for an NVIDIA GPU of a compute capability, which need not be there."""

import sys
from math import comb

from jaxtyping import install_import_hook
from triton import compile as compile_kernel
from triton import next_power_of_2
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

with install_import_hook("knot_fed", "beartype.beartype"):
    from knot_fed.transport.solvers.gpu_kernel import BLOCK, _table_loss

POINTERS = ("logits", "soft_labels", "weights", "vertices", "rows", "gradients")

if __name__ == "__main__":
    signature = dict.fromkeys(POINTERS, "*fp32") | {"examples": "i32", "teachers": "i32"}
    for classes in range(2, 9):
        fixed = {"classes": classes, "candidates": comb(classes - 2, (classes - 2) // 2), "block": BLOCK}
        fixed |= {"width": next_power_of_2(classes)}
        source = ASTSource(_table_loss, signature | dict.fromkeys(fixed, "constexpr"), fixed)
        compiled = compile_kernel(source, target=GPUTarget("cuda", int(sys.argv[1]), 32))
        assert compiled.asm["cubin"]
        print(classes)  # noqa: T201  (a command)
